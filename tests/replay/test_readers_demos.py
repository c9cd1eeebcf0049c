"""Demonstrations: rlx's own file, RoboHive's traces, and the first MoDem's episodes with their images."""

from __future__ import annotations

import json
import pickle

import h5py
import jax
import numpy as np
import pytest
from PIL import Image

from rlx import agents, replay
from rlx.replay import columns, datasets
from rlx.replay.datasets import found
from rlx.replay.datasets.pieces import Pieces
from rlx.types import Env, Leaf, Problem, Spec
from tests.agents.modem_v2.worlds import SIZES, clock
from tests.replay.test_unpickle import torch_archive

N = 4


def row(**changes):
    rng = np.random.default_rng(0)
    obs = {
        "proprio": rng.normal(size=(N + 1, 3)).astype("f4"),
        "rgb_top": rng.integers(0, 255, (N + 1, 6, 6, 3), dtype=np.uint8),
    }
    obs |= {"depth_top": rng.integers(0, 255, (N + 1, 6, 6, 1), dtype=np.uint8)}
    info = {"success": np.arange(N + 1) > 2, "force": np.arange(N + 1, dtype="f4")}
    ends = np.arange(N + 1) == N
    made = {
        "obs": obs,
        "action": rng.uniform(-1, 1, (N + 1, 2)),
        "reward": np.arange(N + 1.0),
        "terminated": ends,
        "info": info,
    }
    return made | changes


def test_own_files_come_back(tmp_path):
    given = row()
    datasets.write_demos(
        tmp_path / "demos.h5", [given, row(terminated=np.zeros(N + 1, bool))], {"env_id": "FrankaPick-v0", "seed": 3}
    )
    with h5py.File(tmp_path / "demos.h5") as file:  # shapes and dtypes of the form
        held = {k: (v.shape, v.dtype.str) for k, v in file["ep_00001"].items()}
    assert held == {
        "action": ((N, 2), "<f4"), "reward": ((N,), "<f4"), "success": ((N,), "|b1"), "force": ((N,), "<f4"),
        "proprio": ((N + 1, 3), "<f4"), "rgb_top": ((N + 1, 6, 6, 3), "|u1"), "depth_top": ((N + 1, 6, 6, 1), "|u1"),
    }  # fmt: skip
    data = replay.load(tmp_path / "demos.h5")
    assert (data.format, len(data), data.meta["env"], data.meta["seed"]) == ("demonstrations", 2, "FrankaPick-v0", 3)
    for name, values in given["obs"].items():
        np.testing.assert_array_equal(data[1].obs[name], values)
    np.testing.assert_array_equal(data[1].reward, given["reward"].astype("f4"))
    np.testing.assert_array_equal(data[0].action[:-1], given["action"][:-1].astype("f4"))
    assert data[0].terminated[-1] and data[1].truncated[-1] and data[0].info["force"].tolist() == [0, 1, 2, 3, 4]
    assert data[0].info["success"].tolist() == [False, False, False, True, True]
    assert set(replay.load(tmp_path / "demos.h5", keys="rgb_top").rows.obs) == {"rgb_top"}
    with pytest.raises(ValueError, match="ep_00000 lacks rgb_left"):
        replay.load(tmp_path / "demos.h5", keys="rgb_left")


def test_own_files_keep_all_that_the_environment_told(tmp_path):
    """What is priced or counted in the environment can then be in its demonstrations; the form's ``force`` is one of them."""
    force, torque = np.arange(N + 1, dtype="f4"), np.linspace(1, 2, N + 1, dtype="f4")
    told = {"success": row()["info"]["success"], "contact_force": force, "torque": torque}
    told |= {"physics": np.arange(2.0 * (N + 1), dtype="f4").reshape(-1, 2), "reward/reach": torque}
    datasets.write_demos(tmp_path / "x.h5", [row(info=told)] * 2)
    with h5py.File(tmp_path / "x.h5") as file:
        np.testing.assert_array_equal(file["ep_00001/force"], force[1:])
    found = replay.load(tmp_path / "x.h5")[1].info
    assert set(found) == set(told)
    for name, values in told.items():
        np.testing.assert_array_equal(found[name], values)
    with h5py.File(tmp_path / "x.h5", "a") as file:
        del file["ep_00000/info/torque"]
        file["ep_00000/info/torque"] = np.zeros(N, "f4")
    with pytest.raises(ValueError, match="x.h5: ep_00000/info tells something with each of the 5 observations"):
        replay.load(tmp_path / "x.h5")


def test_what_an_environment_emits_comes_back_as_it_was(tmp_path):
    """In the form, two cameras are an image each and the state is what the robot knows of itself."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 255, (N + 1, 6, 6, 6), dtype=np.uint8)
    state, clean = rng.normal(size=(N + 1, 3)).astype("f4"), image[..., :3] // 2
    meta = {"env": "rlx:push-lite", "env_options": {"pixels": "sdf", "camera": ["top", "a/right"]}, "repeat": 2, "seed": 2**63}
    given = row(obs={"pixels": image, "state": state, "clean": clean})
    datasets.write(tmp_path / "demos.h5", [given], {**meta, "time_limit": None})
    with h5py.File(tmp_path / "demos.h5") as file:
        group = file["ep_00000"]
        np.testing.assert_array_equal(group["rgb_top"], image[..., :3])
        np.testing.assert_array_equal(group["rgb_a_right"], image[..., 3:])
        np.testing.assert_array_equal(group["proprio"], state)
        assert json.loads(file.attrs["cameras"]) == ["clean", "top", "a_right"] and file.attrs["env_id"] == meta["env"]
        assert (file.attrs["action_repeat"], file.attrs["seed"]) == (2, 2**63) and "time_limit" not in file.attrs
    data = replay.load(tmp_path / "demos.h5")
    assert {k: data.meta[k] for k in meta} == meta and set(data.rows.obs) == {"pixels", "state", "clean"}
    for name, values in given["obs"].items():
        np.testing.assert_array_equal(data.rows.obs[name], values)
    assert set(replay.load(tmp_path / "demos.h5", keys="rgb_top,proprio").rows.obs) == {"rgb_top", "proprio"}
    datasets.write(tmp_path / "again.hdf5", data, data.meta)  # and a copy is alike
    again = replay.load(tmp_path / "again.hdf5")
    jax.tree.map(np.testing.assert_array_equal, data.rows, again.rows)
    assert again.meta == data.meta
    for obs in (state, image):  # observations that are one array
        datasets.write(tmp_path / "one.h5", [row(obs=obs)] * 2)
        np.testing.assert_array_equal(replay.load(tmp_path / "one.h5")[1].obs, obs)
    with h5py.File(tmp_path / "one.h5", "a") as file:
        file.attrs["observations"] = '{"pixels": "rgb_top"}'
    with pytest.raises(ValueError, match="one.h5: it has the attribute observations=.*list arrays by observation"):
        replay.load(tmp_path / "one.h5")


@pytest.mark.parametrize(
    ("obs", "camera", "message"),
    [
        ({"goal": np.zeros((N + 1, 2), "f4")}, None, r"'goal', float32\[2\] a step, has no place .* ends in .npz"),
        ({"pixels": np.zeros((N + 1, 4, 4, 3), "f4")}, None, "'pixels', float32.* has no place"),
        (
            {"pixels": np.zeros((N + 1, 4, 4, 3), "u1")},
            ["a", "b"],
            "3 channels of 'pixels' are no equal shares",
        ),
        ({"pixels": np.zeros((N + 1, 4, 4, 6), "u1")}, ["a", "a"], "two images would be 'rgb_a': name each camera once"),
    ],
)
def test_what_has_no_place_in_the_form(obs, camera, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        datasets.write(tmp_path / "x.h5", [row(obs=obs)], {"env_options": {"camera": camera}})
    assert not list(tmp_path.iterdir())


def test_own_files_are_whole_or_not_there(tmp_path):
    for wrong, message in (([], "no episodes"), ([row(), row(obs=np.zeros((N + 1, 2)))], "it is to be a dict of rgb_")):
        with pytest.raises(ValueError, match=message):
            datasets.write_demos(tmp_path / "x.h5", wrong)
    assert not list(tmp_path.iterdir())
    datasets.write_demos(tmp_path / "x.h5", [row()])
    with h5py.File(tmp_path / "x.h5", "a") as file:
        del file["ep_00000/reward"]
        file["ep_00000/reward"] = np.zeros(N + 1, "f4")
    with pytest.raises(ValueError, match="x.h5: ep_00000: all arrays must have one length.*'reward': 5"):
        replay.load(tmp_path / "x.h5")


def test_observations_are_called_as_is_asked(tmp_path, monkeypatch):
    """Of a file, of its episodes one by one, of a folder of shards; dicts in dicts too. All at once, so two may swap."""
    datasets.write_demos(tmp_path / "x.h5", [row(), row()])
    given = row()["obs"]
    new = {"pixels": "rgb_top", "arm/state": "proprio", "depth_top": "depth_top"}
    names = "rgb_top:pixels,proprio:arm/state"

    def same(rows, wanted=new):
        found = {columns.path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(rows.obs)}
        assert set(found) == set(wanted)
        for name, old in wanted.items():
            np.testing.assert_array_equal(found[name][N + 1 :], given[old])

    same(replay.load(tmp_path / "x.h5", names=names).rows)
    monkeypatch.setattr(found, "PIECE", 1)
    pieces = list(Pieces(tmp_path / "x.h5", datasets.Reading(names=tuple(names.split(","))), free=1))
    assert len(pieces) == 2
    same(datasets.join(pieces).rows)
    datasets.write(tmp_path / "shards", replay.load(tmp_path / "x.h5", names=names))
    for where in ("disk", "host"):
        data = datasets.replay_of(tmp_path / "shards", where, names="arm/state:proprio,pixels:depth_top,depth_top:pixels").data
        same(jax.tree.map(lambda x: np.asarray(x[:])[:, 0], data),
             {"depth_top": "rgb_top", "proprio": "proprio", "pixels": "depth_top"})  # fmt: skip


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("rgb:pixels", "x.h5: there is no observation 'rgb' to be called 'pixels'; there is .*rgb_top"),
        ("rgb_top:depth_top", "x.h5: two observations would be called 'depth_top' of .*; each needs its own name"),
        ("rgb_top:proprio/a", "x.h5: two observations would be called 'proprio/a'"),
        ("rgb_top:a,rgb_top:b", "names=rgb_top:a,rgb_top:b names an observation twice"),
        ("rgb_top:a,proprio:a", "x.h5: two observations would be called 'a'"),
        ("rgb_top", "names=rgb_top is not OLD:NEW"),
        (":pixels", "names=:pixels is not OLD:NEW"),
    ],
)
def test_names_that_cannot_be(names, message, tmp_path):
    datasets.write_demos(tmp_path / "x.h5", [row()])
    with pytest.raises(ValueError, match=message):
        replay.load(tmp_path / "x.h5", names=names)


def test_one_array_has_no_name(tmp_path):
    datasets.write(tmp_path / "x.npz", [row(obs=np.zeros((N + 1, 2), "f4"))])
    with pytest.raises(
        ValueError, match="x.npz: there is no observation 'state' to be called 'x'; there is one array, without a name"
    ):
        replay.load(tmp_path / "x.npz", names="state:x")


# ------------------------------------------------------------------------------------------------------------- RoboHive


def trial(count=N, **changes):
    rng = np.random.default_rng(count)
    vectors = {"qp": 2, "qv": 2, "grasp_pos": 3, "grasp_rot": 3, "object_err": 3, "target_err": 3, "other": 5}
    arrays = {"actions": rng.uniform(-1, 1, (count, 7)).astype("f4")}
    arrays |= {f"env_infos/obs_dict/{k}": rng.normal(size=(count, n)) for k, n in vectors.items()}
    arrays |= {"env_infos/visual_dict/rgb:left_cam:224x224:2d": rng.integers(0, 255, (count, 224, 224, 3), dtype=np.uint8)}
    arrays |= {"env_infos/visual_dict/d:left_cam:224x224:2d": rng.integers(0, 255, (count, 1, 224, 224), dtype=np.uint8)}
    arrays |= {"env_infos/solved": np.arange(count) > 1, "env_infos/rwd_dense": np.arange(count)[:, None] * 1.0}
    return {k: v for k, v in (arrays | changes).items() if v is not None}


def nested(arrays):
    tree: dict = {}
    for path, values in arrays.items():
        *groups, name = path.split("/")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = values
    return tree


def hdf5(path, **trials):
    with h5py.File(path, "w") as file:
        for name, arrays in trials.items():
            for k, v in arrays.items():
                file[f"{name}/{k}"] = v
    return path


def test_traces_of_robohive(tmp_path):
    """Entry t is an observation and its action, with what that brought, which rlx keeps at the arrival."""
    given = trial()
    data = replay.load(hdf5(tmp_path / "trace.h5", Trial0=given, Trial1=trial(5)))
    assert (data.format, data.lengths.tolist()) == ("RoboHive", [3, 4])
    one = data[0]
    vectors = ("qp", "qv", "grasp_pos", "grasp_rot")  # where object and target are is for pictures to show
    wanted = np.concatenate([given[f"env_infos/obs_dict/{k}"] for k in vectors], -1).astype("f4")
    np.testing.assert_array_equal(one.obs["proprio"], wanted)
    np.testing.assert_array_equal(one.obs["rgb_left_cam"], given["env_infos/visual_dict/rgb:left_cam:224x224:2d"])
    depth = given["env_infos/visual_dict/d:left_cam:224x224:2d"]
    assert one.obs["depth_left_cam"].shape == (N, 224, 224, 1)
    np.testing.assert_array_equal(one.obs["depth_left_cam"][..., 0], depth[:, 0])
    np.testing.assert_array_equal(one.action[:-1], given["actions"][:-1])
    assert one.reward.tolist() == [0, 0, 1, 2] and one.info["success"].tolist() == [0, 0, 0, 1] and one.truncated[-1]
    assert replay.load(tmp_path / "trace.h5", keys="other").rows.obs["proprio"].shape == (9, 5)
    told = replay.load(tmp_path / "trace.h5", keys="qp,object_err")[0].obs["proprio"]
    np.testing.assert_array_equal(told[:, 2:], given["env_infos/obs_dict/object_err"].astype("f4"))
    cut = replay.load(tmp_path / "trace.h5", horizon=2, ignore="rwd_dense")
    assert cut.lengths.tolist() == [2, 2] and cut[1].truncated.tolist() == [False, False, True]
    np.testing.assert_array_equal(cut[0].obs["proprio"], wanted[:3])
    assert all(replay.load(tmp_path / "trace.h5", ignore="rwd_dense")[1].reward == [0, 0, 0, 1, 1])


def test_traces_of_robohive_as_pickles_are_the_same(tmp_path):
    wanted = replay.load(hdf5(tmp_path / "trace.h5", Trial0=trial(), Trial1=trial(5)))
    for i, form in enumerate((nested, dict)):
        path = tmp_path / f"{i}.pickle"
        path.write_bytes(pickle.dumps({"Trial0": form(trial()), "Trial1": form(trial(5))}))
        with pytest.raises(ValueError, match="is a pickle.*--trust-arrays"):
            replay.load(path)
        data = replay.load(path, trust_arrays=True)
        assert (data.format, data.offsets.tolist()) == (wanted.format, wanted.offsets.tolist())
        for k, values in wanted.rows.obs.items():
            np.testing.assert_array_equal(data.rows.obs[k], values)
        for k in ("action", "reward", "truncated"):
            np.testing.assert_array_equal(getattr(data.rows, k), getattr(wanted.rows, k))


def test_odd_traces_of_robohive(tmp_path):
    """Of real robots, with a last action that is none, without images, of one entry; and what is refused."""
    actions = trial()["actions"]
    actions[-1] = np.nan
    real = {"env_infos/solved": None, "env_infos/success": np.arange(N) > 2, "env_infos/rwd_dense": None, "actions": actions}
    data = replay.load(hdf5(tmp_path / "real.h5", Trial10=trial(5), Trial0=trial(**real), Trial1=trial(1)))
    assert data.lengths.tolist() == [3, 4] and "Trial1 has no whole transition and is left out" in data.notes
    assert data[0].reward.tolist() == [0, 0, 0, 0] and np.isfinite(data[0].action).all()
    for name, changes, message in (
        ("wide", {"actions": trial()["actions"] * 50}, "Trial0/actions goes to .*bounds=LOW,HIGH"),
        ("unsolved", {"env_infos/solved": None}, "Trial0 has no env_infos/solved; it has actions"),
        ("short", {"env_infos/obs_dict/qp": np.zeros((N + 3, 2))}, "one length, .*'Trial0/env_infos/obs_dict/qp': 7"),
        ("long", {"env_infos/rwd_dense": np.zeros(N + 2)}, "arrays of Trial0 are to be of one length, 2 or more"),
    ):
        path = hdf5(tmp_path / f"{name}.h5", Trial0=trial(**changes))
        with pytest.raises(ValueError, match=f"{name}.h5: .*{message}"):
            replay.load(path)
    wide = replay.load(tmp_path / "wide.h5", bounds="-50,50")
    np.testing.assert_allclose(wide[0].action[:-1], trial()["actions"][:-1], atol=1e-6)


@pytest.mark.parametrize(
    ("ignore", "width", "kept", "turned"),
    [
        ("roll,pitch,fingers", 7, [0, 1, 2], True),  # planar pushing
        ("roll,pitch,yaw,fingers", 7, [0, 1, 2], False),  # pushing in a bin
        ("roll,pitch", 7, [0, 1, 2, 6], True),  # picking
        ("roll,pitch", 16, [0, 1, 2, *range(6, 16)], True),  # turning, by a hand of ten joints
    ],
)
def test_hands_of_robohive_are_commanded_as_agents_do(ignore, width, kept, turned, tmp_path):
    """A yaw of -1, 0, 0.5 between -90 and 90 degrees is -90, 0, 45."""
    actions = np.random.default_rng(0).uniform(-1, 1, (N, width)).astype("f4")
    actions[:3, 5], actions[0, 0] = [-1, 0, 0.5], 1.7
    path = hdf5(tmp_path / "x.h5", T=trial(actions=actions))
    bounds = {"bounds": f"{-np.pi / 2},{np.pi / 2}"} if turned else {}
    got = replay.load(path, ignore=ignore, **bounds)[0].action[:-1]
    half = np.sqrt(0.5)
    wanted = np.clip(actions[:3, kept], -1, 1)
    if turned:
        wanted = np.insert(wanted, [3, 3], [[0, -1], [1, 0], [half, half]], 1)
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert got.dtype == np.float32 and got.shape[1] == {3: 3 + 2 * turned, 4: 6, 13: 15}[len(kept)]


def test_hands_of_robohive_that_cannot_be(tmp_path):
    path = hdf5(tmp_path / "x.h5", T=trial())
    for bounds in (None, "clip", "1,-1"):
        with pytest.raises(ValueError, match="x.h5: T/actions has a yaw, and bounds=.* give bounds=LOW,HIGH in radians"):
            replay.load(path, ignore="roll,pitch", bounds=bounds)
    with pytest.raises(ValueError, match="T/actions: bounds=-1,1 are those of the yaw, which is ignored"):
        replay.load(path, ignore="yaw", bounds="-1,1")
    arm = hdf5(tmp_path / "arm.h5", T=trial(actions=np.zeros((N, 4), "f4")))
    with pytest.raises(ValueError, match=r"arm.h5: T/actions is float32\[3, 4\]; ignore=roll is for hands' actions of seven"):
        replay.load(arm, ignore="roll")


# ------------------------------------------------------------------------------------------------------- the first MoDem


def episode(path, frames=None, **more):
    names = [f"{path.stem}_{i}.png" for i in range(N + 1)]
    folder = path.parent / "frames"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (N + 1, 224, 224, 3), dtype=np.uint8)
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / name)
    states, actions = rng.normal(size=(N + 1, 6)).astype("f4"), rng.uniform(-1, 1, (N, 4)).astype("f4")
    tensors = {"states": ("FloatStorage", "0", 0, (N + 1, 6), (6, 1)), "actions": ("FloatStorage", "1", 0, (N, 4), (4, 1))}
    given = {"frames": frames or names, **more}
    path.write_bytes(torch_archive(tensors, {"0": states, "1": actions}, **given))
    return images, states, actions


@pytest.mark.parametrize("key", ["success", "goal_achieved"])
def test_episodes_of_the_first_modem(key, tmp_path):
    infos = [{key: t > 2, "other": 1.0} for t in range(N)]
    images, states, actions = episode(tmp_path / "0.pt", infos=infos)
    with pytest.raises(ValueError, match="0.pt is a pickle.*--trust-arrays"):
        replay.load(tmp_path / "0.pt")
    data = replay.load(tmp_path / "0.pt", trust_arrays=True)
    (one,) = data
    assert data.format == "MoDem"
    np.testing.assert_array_equal(one.obs["rgb"], images)
    np.testing.assert_array_equal(one.obs["state"], states)
    np.testing.assert_array_equal(one.action[:-1], actions)
    assert one.reward.tolist() == [0, 0, 0, 0, 1] == one.info["success"].tolist() and one.truncated[-1]
    assert set(replay.load(tmp_path / "0.pt", keys="state", trust_arrays=True)[0].obs) == {"state"}
    episode(tmp_path / "1.pt", rewards=[0.5] * N)  # of the DeepMind control suite
    assert replay.load(tmp_path / "1.pt", trust_arrays=True)[0].reward.tolist() == [0, 0.5, 0.5, 0.5, 0.5]
    assert len(replay.load(str(tmp_path / "0*.pt"), trust_arrays=True)) == 1


def test_an_agent_of_pictures_and_state_learns_from_episodes_of_the_first_modem(tmp_path):
    """Their names are not those of environments with a camera: the message says how to rename them."""
    images, states, _ = episode(tmp_path / "0.pt", infos=[{"success": t > 1} for t in range(N)])
    obs = {"pixels": Leaf((224, 224, 3), np.uint8), "state": Leaf((6,))}
    env = Env("mine:door", Spec(obs, Leaf((4,), low=-1, high=1), horizon=N), {}, lambda p, k: None, lambda p, s, a, k: None)
    data = lambda **options: datasets.replay_of(tmp_path / "0.pt", trust_arrays=True, **options)
    settings = {**SIZES, "env_steps": 0}
    with pytest.raises(ValueError, match=r"that of mine:door is pixels .* read the data with names=rgb:pixels \("):
        agents.make("modem_v2", None, Problem({"train": env}, {"data": data()}), **settings)
    given = data(names="rgb:pixels")
    agent = agents.make("modem_v2", None, Problem({"train": env}, {"data": given}), **settings)
    (phase,) = agent.stages[0].phases
    batch = phase.sample(agent.hyper, clock(), {"data": given}, jax.random.key(0))
    last = images.reshape(N + 1, -1)
    for image, state in zip(np.asarray(batch.obs["pixels"][0]), np.asarray(batch.obs["state"][0]), strict=True):
        (at,) = np.flatnonzero((last == image[..., 3:].reshape(-1)).all(1))
        np.testing.assert_array_equal(state[6:], states[at])


def test_frames_are_images_in_their_folder(tmp_path):
    (tmp_path / "frames").mkdir()
    Image.new("RGB", (224, 224)).save(tmp_path / "secret.png")
    Image.new("RGB", (8000, 8000)).save(tmp_path / "frames" / "huge.png")
    Image.new("RGB", (10, 10)).save(tmp_path / "frames" / "other.png")
    (tmp_path / "frames" / "text.png").write_text("text")
    Image.new("RGB", (10, 10)).save(tmp_path / "frames" / "x.gif")
    for frames, message in (
        (["../secret.png"], "names of images in"),
        ([str(tmp_path / "secret.png")], "names of images in"),
        ([3], "names of images in"),
        (["none.png"], "none.png cannot be read"),
        (["text.png"], "text.png cannot be read"),
        (["x.gif"], "x.gif cannot be read"),
        (["huge.png"], "larger than frames are"),
        (["other.png", "0_1.png"], "of one size"),
        (["0_1.png"] * 3, "one length"),
    ):
        episode(tmp_path / "0.pt", frames=frames, rewards=[0.0] * N)
        with pytest.raises(ValueError, match=message):
            replay.load(tmp_path / "0.pt", trust_arrays=True)
    episode(tmp_path / "0.pt", infos=[{}] * N)
    with pytest.raises(ValueError, match="neither rewards nor infos"):
        replay.load(tmp_path / "0.pt", trust_arrays=True)
