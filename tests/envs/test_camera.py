"""The rasteriser against rays traced in float64, against MuJoCo's own renderer, and as the observation of environments."""

from __future__ import annotations

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import envs, keys
from rlx.envs import tasks
from rlx.envs.camera import Camera, Poses, Scene, Shape, Texture, draw
from rlx.envs.camera.mujoco import MujocoView
from rlx.envs.tasks.kinematics import rotation

mujoco = pytest.importorskip("mujoco")  # after rlx, which chooses its renderer where there is no screen
shot = jax.jit(draw, static_argnums=(0, 2, 3))
SIZES = {
    "sphere": (0.5,),
    "capsule": (0.2, 0.6),
    "cylinder": (0.3, 0.5),
    "ellipsoid": (0.3, 0.5, 0.7),
    "box": (0.3, 0.5, 0.4),
    "plane": (0.8, 0.6, 0.0),
}


def distance(kind, size, p):
    """Signed distance (of an ellipsoid: a number of the same sign) of points ``p`` [..., 3] in the shape's axes."""
    norm = lambda x: np.sqrt((x**2).sum(-1))
    if kind == "sphere":
        return norm(p) - size[0]
    if kind == "ellipsoid":
        return norm(p / np.array(size)) - 1
    if kind == "capsule":
        along = np.clip(p[..., 2:], -size[1], size[1])
        return norm(p - along * np.array([0, 0, 1])) - size[0]
    if kind == "cylinder":
        q = np.stack([norm(p[..., :2]) - size[0], np.abs(p[..., 2]) - size[1]], -1)
    else:
        q = np.abs(p) - np.array(size if kind == "box" else (*size[:2], 1e-3))
    return norm(np.maximum(q, 0)) + np.minimum(q.max(-1), 0)


def traced(shape, place, turned, camera, n):
    """[n, n]: the least distance along each ray, and the depth where it enters the shape, both in float64."""
    pitch = 2 * camera.half / n
    y, x = (n / 2 - 0.5 - np.mgrid[:n, :n][0]) * pitch, (np.mgrid[:n, :n][1] + 0.5 - n / 2) * pitch
    t = np.linspace(0.5, 5, 3000)
    grow = np.ones_like(t) if camera.planar else t
    p = np.stack([x[..., None] * grow, y[..., None] * grow, np.broadcast_to(-t, (n, n, t.size))], -1)
    d = distance(shape.kind, shape.size, (p - place) @ turned)
    return d.min(-1), t[np.argmax(d < 0, -1)]


@pytest.mark.parametrize("planar", [False, True], ids=["perspective", "planar"])
@pytest.mark.parametrize("kind", SIZES)
def test_a_shape_is_in_front_where_rays_enter_it(kind, planar):
    camera, n = Camera(1.0 if planar else 0.4, planar), 20
    turned = rotation(np.array([0.8, 0.3, -0.4, 0.2]))
    place = np.array([0.15, -0.1, -2.5])
    shape = Shape(kind, SIZES[kind])
    if kind == "plane":
        turned = rotation(np.array([0.95, -0.2, 0.25, 0.1]))
    poses = Poses(*(jnp.asarray(x, jnp.float32) for x in (place[None], turned[None], np.zeros(3), np.eye(3))))
    front = np.asarray(shot(Scene((shape,), camera), poses, (n, n)).front) == 0
    least, _ = traced(shape, place, turned, camera, n)
    clear = np.abs(least) > 0.02 if kind != "plane" else np.abs(least) > -1  # near its edge a ray may do either
    hit = least < 0
    assert 20 < hit.sum() < 0.8 * n * n
    assert (front != hit)[clear].sum() <= (6 if kind == "plane" else 0)


def test_of_two_shapes_the_nearer_one_is_in_front_at_each_pixel():
    n, camera = 24, Camera(0.5)
    shapes = (Shape("capsule", (0.2, 0.8)), Shape("capsule", (0.2, 0.8)), Shape("box", (0.3, 0.3, 0.3)))
    turned = np.stack([rotation(np.array(q)) for q in ([0.9, 0.5, 0.1, 0.0], [0.6, 0.1, 0.7, 0.3], [0.9, 0.2, 0.3, 0.1])])
    place = np.array([[0.0, 0.1, -2.5], [0.1, 0.0, -2.6], [-0.3, -0.2, -2.4]])
    poses = Poses(*(jnp.asarray(x, jnp.float32) for x in (place, turned, np.zeros(3), np.eye(3))))
    front = np.asarray(shot(Scene(shapes, camera), poses, (n, n)).front)
    found = [traced(s, p, t, camera, n) for s, p, t in zip(shapes, place, turned, strict=True)]
    depth = np.stack([np.where(least < 0, at, np.inf) for least, at in found])
    expected = np.where(np.isfinite(depth.min(0)), depth.argmin(0), -1)
    nearest = np.sort(np.where(np.isfinite(depth), depth, 99.0), 0)
    clear = (np.abs(np.stack([least for least, _ in found])) > 0.01).all(0) & (
        (nearest[1] - nearest[0] > 0.03) | (expected < 0)
    )
    assert set(expected[clear]) == {-1, 0, 1, 2} and clear.mean() > 0.7
    np.testing.assert_array_equal(front[clear], expected[clear])


def test_soft_edges_cover_as_much_as_the_shape_does():
    """A white disc of 0.5 m on black, and a line of a third of a pixel, by their areas."""
    white, black = (1.0, 1.0, 1.0), ((0.0,) * 3,) * 2
    still = lambda turned: Poses(
        jnp.array([[0.013, 0.021, -2.0]]), jnp.asarray(turned, jnp.float32)[None], jnp.zeros(3), jnp.eye(3)
    )
    area = lambda shape, turned, n: (
        shot(Scene((shape,), Camera(1.0, True), black), still(turned), (n, n), True).image.sum() / 254
    )
    across = rotation(np.array([0.5, 0.5, 0.5, 0.5]))
    bright = 1 / 0.55  # no darker towards the edges than white can be
    disc = area(Shape("sphere", (0.5,), tuple(bright * x for x in white)), np.eye(3), 40) * (2 / 40) ** 2
    assert disc == pytest.approx(np.pi / 4, rel=0.01)
    thin = area(Shape("capsule", (1 / 120, 0.6), tuple(bright * x for x in white)), across, 40) * (2 / 40) ** 2
    assert thin == pytest.approx(2 * 0.6 * 2 / 120, rel=0.05)


def test_checks_and_stripes_by_hand():
    """Fields of 1 m from the corner at (-1, -1) on: dark, light; light, dark."""
    for pattern, second_row in (("checks", [100, 0]), ("stripes", [0, 100])):
        ground = Shape("plane", (1, 1, 0), (0, 0, 0), Texture(pattern, (0.5, 0.5, 0.5), 1.0, (-1, -1)))
        poses = Poses(jnp.zeros((1, 3)), jnp.eye(3)[None], jnp.array([0, 0, 3.0]), jnp.eye(3))
        image = np.asarray(shot(Scene((ground,), Camera(1.0, True)), poses, (2, 2), True).image)[..., 0]
        lit = 0.5 * 1.25 * 254
        np.testing.assert_allclose(image, np.array([second_row, [0, 100]]) * lit / 100, atol=1.5)


def test_grey_is_what_bt601_makes_of_colours():
    scene = Scene((Shape("sphere", (0.5,), (0.6, 0.3, 0.1)),), Camera(1.0, True), ((0.2, 0.4, 0.6), (0.1, 0.2, 0.3)))
    poses = Poses(jnp.array([[0, 0, -2.0]]), jnp.eye(3)[None], jnp.zeros(3), jnp.eye(3))
    colour, grey = (np.asarray(shot(scene, poses, (12, 16), g).image) for g in (False, True))
    assert colour.shape == (12, 16, 3) and grey.shape == (12, 16, 1) and grey.dtype == np.uint8
    np.testing.assert_allclose(grey[..., 0], colour @ np.array([0.299, 0.587, 0.114]), atol=2)


# --------------------------------------------------------------------------------------------------------- MuJoCo's models


def at_random(name, seed=1):
    task = tasks.get(name)
    model = task.model()
    rng = np.random.default_rng(seed)
    data = mujoco.MjData(model)
    uniforms, normals = task.draws(model)
    data.qpos[:] = task.init(np, task.find(model), rng.random(uniforms), rng.standard_normal(normals))[0]
    mujoco.mj_forward(model, data)
    return model, data


@pytest.mark.parametrize("name", ["walker-walk", "cheetah-run", "reacher-easy", "pendulum-swingup"])
def test_places_follow_from_positions_for_every_camera(name):
    """As MuJoCo has them: cameras that follow a body or its centre of mass, are fixed to it or look at it."""
    model, data = at_random(name)
    for camera in range(model.ncam):
        view = MujocoView(name, model, camera)
        expected = view.poses_of([data])
        for xp, kind in ((np, np.float64), (jnp, np.float32)):
            found = view.poses(xp, xp.asarray(data.qpos[None], kind))
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("name", ["walker-walk", "cheetah-run", "cartpole-swingup", "hopper-stand", "reacher-easy"])
def test_masks_are_those_of_mujocos_renderer(name):
    model, data = at_random(name)
    try:
        renderer = mujoco.Renderer(model, 84, 84)
    except Exception as error:
        pytest.skip(f"no OpenGL: {error}")
    with renderer:
        renderer.enable_segmentation_rendering()
        renderer.update_scene(data, camera=tasks.get(name).camera)
        theirs = renderer.render()[..., 0]
    view = MujocoView(name, model)
    front = np.asarray(shot(view.scene, jax.tree.map(lambda x: x[0], view.poses_of([data])), (84, 84)).front)
    mine = np.array([*(o.index for o in view.objects), -1])[front]
    body = lambda ids: (ids >= 0) & (model.geom_type[np.maximum(ids, 0)] != mujoco.mjtGeom.mjGEOM_PLANE)
    both, either = body(mine) & body(theirs), body(mine) | body(theirs)
    assert both.sum() / either.sum() >= 0.97
    assert (mine == theirs).mean() >= 0.995


# ------------------------------------------------------------------------------------------------------------ environments


def begun(env, n=2, seed=0):
    vec = envs.batch(env, n)
    key = keys.root(seed)
    return vec, *vec.reset(vec.params, keys.HostKey.of(key, n) if vec.host else key)


@pytest.mark.parametrize("name", ["rlx:point-mass", "dmc:pendulum-swingup"])
def test_environments_with_pixels_keep_the_contract(name):
    env = envs.make(name, pixels="sdf", image=[16, 20], grey=True, distractor={"kind": "noise", "frames": 8}, time_limit=6)
    assert env.spec.obs["pixels"].shape == (16, 20, 1)
    report = envs.check(env, steps=8)
    assert report.exact_resume


def test_the_state_beside_the_picture_is_the_former_observation_and_rewards_are_the_same():
    plain, seen = (envs.make("rlx:pendulum", repeat=2, time_limit=5, **o) for o in ({}, {"pixels": "sdf", "image": 16}))
    rows = []
    for env in (plain, seen):
        vec = envs.batch(env, 3)
        state, _ = vec.reset(vec.params, keys.root(0))
        act = lambda carry, step, key: (jnp.full((3, 1), 0.5), carry, {})
        loop = envs.begin(vec, vec.params, (), keys.root(0))
        rows.append(jax.jit(partial(envs.rollout, vec, vec.params, act, steps=8))(loop, keys.root(1))[1])
    np.testing.assert_array_equal(rows[0].obs, rows[1].obs["state"])
    np.testing.assert_array_equal(rows[0].reward, rows[1].reward)
    assert rows[1].obs["pixels"].dtype == jnp.uint8 and rows[1].obs["pixels"].shape == (8, 3, 16, 16, 3)


def test_the_same_state_gives_one_picture_on_a_device_and_on_the_host():
    device, host = (envs.make("rlx:point-mass", pixels="sdf", image=24, **o) for o in ({}, {"host": True}))
    _, _, step = begun(device)
    _, _, other = begun(host)
    draw_at = lambda state: device.view(device.params, *2 * (state,), other_step(state))[1].obs["pixels"]
    assert other.obs["pixels"].shape == step.obs["pixels"].shape

    def other_step(state):
        return jax.tree.map(lambda x: x[0], step)._replace(obs={"pixels": (), "state": other.obs["state"][0]})

    from rlx.envs.camera.device import Seen
    from rlx.envs.control.base import Plant

    state = Seen(Plant(jnp.asarray(other.obs["state"][0]), jnp.int32(0)), jnp.int32(0))
    np.testing.assert_array_equal(draw_at(state), other.obs["pixels"][0])


def test_the_picture_alone_and_the_pair_of_pictures():
    alone = envs.make("rlx:point-mass", pixels="sdf", image=16, state=False)
    assert alone.spec.obs.shape == (16, 16, 3) and alone.spec.obs.dtype == np.uint8
    env = envs.make("rlx:point-mass", pixels="sdf", image=16, paired=True, distractor={"kind": "noise", "frames": 4})
    _, _, step = begun(env)
    assert set(step.obs) == {"pixels", "state", "clean"}
    assert (np.asarray(step.obs["pixels"]) != np.asarray(step.obs["clean"])).mean() > 0.5
    _, _, plain = begun(envs.make("rlx:point-mass", pixels="sdf", image=16))
    np.testing.assert_array_equal(step.obs["clean"], plain.obs["pixels"])


def test_reachers_target_is_where_the_goal_is():
    env = envs.make("dmc:reacher-easy", pixels="sdf", image=64)
    vec, state, step = begun(env, 3)
    pink = (step.obs["pixels"][..., 0].astype(int) - step.obs["pixels"][..., 2]) > 40
    model = tasks.get("reacher-easy").model()
    half = model.cam_pos0[0, 2] * np.tan(np.deg2rad(model.cam_fovy[0] / 2))
    for i in range(3):
        rows, columns = np.nonzero(pink[i])
        middle = np.array([columns.mean() + 0.5 - 32, 32 - rows.mean() - 0.5]) * half / 32
        assert np.abs(middle - state.env.goal[i]).max() < 0.05
    vec.close()


def test_models_have_the_sizes_and_colours_that_an_episode_of_dm_control_has():
    """Some of its tasks give them at an episode's beginning."""
    suite = pytest.importorskip("dm_control.suite")
    for name in ("reacher-easy", "reacher-hard", "point_mass-easy", "cartpole-swingup_sparse"):
        theirs = suite.load(*name.split("-"))
        theirs.reset()
        for field in ("geom_size", "geom_rgba", "site_size", "mat_rgba", "cam_pos"):
            np.testing.assert_allclose(
                getattr(tasks.get(name).model(), field), getattr(theirs.physics.model, field), err_msg=f"{name}: {field}"
            )


@pytest.mark.slow
def test_cameras_of_a_model_lie_one_behind_another():
    both, top, right = (
        envs.make("rlx:push-lite", pixels="sdf", image=24, camera=c) for c in (["top", "right"], "top", "right")
    )
    assert both.spec.obs["pixels"].shape == (24, 24, 6)
    found = [begun(env, 1)[2].obs["pixels"] for env in (both, top, right)]
    np.testing.assert_array_equal(found[0], np.concatenate(found[1:], -1))


@pytest.mark.slow
def test_pictures_of_mjx_are_those_of_native_physics():
    """Of the same angle, which the state beside the picture tells."""
    vec = envs.batch(envs.make("mjx:pendulum-swingup", pixels="sdf", image=24, time_limit=4), 2)

    @jax.jit
    def played(key):
        return vec.step(vec.params, vec.reset(vec.params, key)[0], jnp.full((2, 1), 0.9), key)[1]

    step = played(keys.root(0))
    model = tasks.get("pendulum-swingup").model()
    view, data = MujocoView("pendulum-swingup", model, tasks.get("pendulum-swingup").camera), mujoco.MjData(model)
    for picture, told in zip(np.asarray(step.obs["pixels"]), np.asarray(step.obs["state"]), strict=True):
        data.qpos[0] = np.arctan2(told[1], told[0])
        mujoco.mj_forward(model, data)
        same = np.asarray(shot(view.scene, jax.tree.map(lambda x: x[0], view.poses_of([data])), (24, 24)).image)
        assert picture.std() > 5 and np.abs(picture.astype(int) - same).max() <= 2
    assert (step.obs["pixels"][0] != step.obs["pixels"][1]).any()


# ------------------------------------------------------------------------------------------------------------------ OpenGL


@pytest.fixture
def opengl():
    try:
        mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).close()
    except Exception as error:
        pytest.skip(f"no OpenGL: {error}")


@pytest.mark.parametrize("name", ["dmc:reacher-hard", "dmc:finger-turn_hard", "gym:HalfCheetah-v5", "gym:InvertedPendulum-v5"])
def test_opengl_sees_what_the_rasteriser_sees(name, opengl):
    """Not the light, but where bodies are, and targets too, which an episode places anew; of a model without cameras by the
    viewer's."""
    options = {"image": 48, "floor": "stock", "distractor": {"kind": "noise", "frames": 4}}
    masks = []
    for way in ("gl", "sdf"):
        env = envs.make(name, pixels=way, **options)
        vec, seen = envs.batch(env, 2), []
        for level in (0, 255):  # bodies are what stays
            params = {**env.params, "bank": np.full_like(env.params["bank"], level)}
            seen.append(np.asarray(vec.reset(params, keys.HostKey.of(keys.root(2), 2))[1].obs["pixels"]))
        masks.append((seen[0] == seen[1]).all(-1))
        vec.close()
    assert masks[0].any() and (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum() > 0.9


def test_streams_of_opengl_keep_the_contract(opengl):
    noise = {"kind": "noise", "frames": 8, "mask": "colour"}
    report = envs.check(envs.make("dmc:pendulum-swingup", pixels="gl", image=16, distractor=noise, time_limit=6), steps=8)
    assert report.exact_resume


@pytest.mark.slow
def test_adroits_hand_is_seen_beside_its_forces(opengl):
    """A limit of the forces is a violation; the hand moves in the picture."""
    pytest.importorskip("gymnasium_robotics")
    env = envs.make("gym:AdroitHandDoor-v1", pixels="gl", image=32, forces=True, force_limit=100.0)
    vec, state, step = begun(env, 1)
    before = step.obs["pixels"]
    assert before.shape == (1, 32, 32, 3) and before.std() > 20 and step.obs["state"].shape == (1, 39)
    told = []
    for _ in range(5):
        state, step = vec.step(vec.params, state, np.ones((1, 28), np.float32), keys.HostKey.of(keys.root(0), 1))
        told.append((float(step.info["contact_force"][0]), bool(step.info["violation"][0])))
    assert 0.05 < (before != step.obs["pixels"]).mean() < 0.9
    assert all(broken == (force > 100) for force, broken in told) and any(broken for _, broken in told)
    assert {"success", "solved", "solved_sticky", "saturation", "torque"} <= set(step.info)
    vec.close()


def test_gray_floors_of_opengl_are_gray_and_stay(opengl):
    options = {"image": 32, "floor": "gray", "paired": True, "distractor": {"kind": "noise", "frames": 4}}
    vec, _, step = begun(envs.make("dmc:walker-walk", pixels="gl", **options), 1)
    floor = step.obs["clean"][0, -3:]
    assert np.ptp(floor.astype(int), -1).max() <= 3
    np.testing.assert_array_equal(floor, step.obs["pixels"][0, -3:])
    vec.close()
    with pytest.raises(ValueError, match="the ground fills the picture"):
        envs.make("dmc:reacher-easy", pixels="gl", **options)
    vec, _, step = begun(
        envs.make("gym:HalfCheetah-v5", pixels="gl", **options), 1
    )  # whose episodes bring colours of their own
    assert np.ptp(step.obs["clean"][0, -3:].astype(int), -1).max() <= 3
    vec.close()


def test_without_opengl_a_message_says_what_to_install(monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("Cannot initialize a EGL device display.")

    monkeypatch.setattr(mujoco, "Renderer", missing)
    with pytest.raises(ValueError, match="install EGL.*pixels='sdf' needs none"):
        envs.make("dmc:walker-walk", pixels="gl")


FROM_ABOVE = ("rlx:cartpole-swingup", "dmc:reacher-easy", "mjx:reacher-easy")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("dmc:walker-walk", {"pixels": "ogl"}, "give 'sdf'"),
        (
            "dmc:walker-walk",
            {"pixels": "sdf", "camera": "top"},
            "it has 'side', 'back', or a number from 0 to 1",
        ),
        ("rlx:pendulum", {"pixels": "sdf", "camera": [[0]]}, "give a name, a number from 0 on"),
        ("gym:InvertedPendulum-v5", {"pixels": "sdf", "camera": 1}, "has no camera 1; leave camera out"),
        ("rlx:pendulum", {"pixels": "sdf", "camera": "top"}, "leave camera out"),
        ("rlx:pendulum", {"pixels": "sdf", "image": 0}, "side of 8 to 512"),
        ("rlx:pendulum", {"pixels": "sdf", "image": [64]}, "side of 8 to 512"),
        ("rlx:pendulum", {"pixels": "sdf", "image": "big"}, "side of 8 to 512"),
        ("rlx:pendulum", {"pixels": "sdf", "floor": "blue"}, "stock or gray"),
        ("rlx:pendulum", {"pixels": "sdf", "grey": 1}, "true or false"),
        ("rlx:cstr", {"pixels": "sdf"}, "there are pictures of cartpole-swingup"),
        ("rlx:pendulum", {"pixels": "sdf", "distractor": "films"}, "one of none, video"),
        ("rlx:pendulum", {"pixels": "sdf", "distractor": {"kind": "video", "speed": 2}}, "a dict of kind"),
        (
            "rlx:pendulum",
            {"pixels": "sdf", "grey": True, "distractor": {"kind": "noise", "mask": "colour"}},
            "grey pictures have no colour",
        ),
        ("brax:fast", {"pixels": "sdf"}, "has no pixels"),
        ("rlx:pendulum", {"pixels": "gl"}, "give pixels='sdf'"),
        ("gym:CartPole-v1", {"pixels": "sdf"}, "no environment on MuJoCo"),
        *((n, {"pixels": "sdf", "floor": "gray", "distractor": "noise"}, "give floor='stock'") for n in FROM_ABOVE),
    ],
)
def test_what_is_not_there_is_said_in_one_message(name, options, said):
    with pytest.raises(ValueError, match=r".+") as error:
        envs.make(name, **json.loads(json.dumps(options)))
    assert said in str(error.value) and len(str(error.value).splitlines()) == 1


def test_a_scene_has_no_more_shapes_than_a_byte_can_number():
    scene = Scene(tuple(Shape("sphere", (0.1,)) for _ in range(256)), Camera(1.0))
    with pytest.raises(ValueError, match="at most 255 shapes, this one has 256"):
        jax.eval_shape(lambda: draw(scene, Poses(*(jnp.zeros((256, *s)) for s in ((3,), (3, 3), (), ()))), (8, 8)))


def test_meshes_are_for_opengl():
    xml = """<mujoco><asset><mesh name="m" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/></asset><worldbody><camera pos="0 0 3"/>
    <body><freejoint/><geom type="mesh" mesh="m"/></body></worldbody></mujoco>"""
    with pytest.raises(ValueError, match="form mesh, which pixels='sdf' cannot draw: use pixels='gl'"):
        MujocoView("dmc:own", mujoco.MjModel.from_xml_string(xml))
