"""Banks of frames, and what of a picture they replace."""

from __future__ import annotations

import os

import imageio
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rlx import envs, keys
from rlx.envs import wrappers
from rlx.envs.camera import Distractor, distractors, loader
from rlx.envs.camera.loader import load_background


@pytest.fixture(scope="module")
def bank():
    return distractors.video(0)


def test_a_seed_gives_the_same_bytes_and_another_one_other_pictures(bank):
    np.testing.assert_array_equal(distractors.video(0).frames, bank.frames)
    other = distractors.video(1, 40).frames.astype(float)
    assert np.abs(other - bank.frames[:40]).mean() > 20


def test_the_video_has_the_statistics_of_one(bank):
    """Mean and deviation, smooth within scenes of 250 frames, cut between them, and rough in space as 1/f. Of 1000 frames the
    mean is 127.6, the deviation 46.8 to 47.6, the correlation at 1, 5 and 10 frames some .995, .9 and .7."""
    frames = bank.frames[..., 0].astype(np.float32)
    assert bank.frames.shape == (1000, 64, 64, 1) and bank.frames.dtype == np.uint8
    assert abs(frames.mean() - 127.6) < 0.2 and 46.8 < frames.std() < 47.6
    like = lambda a, b: np.corrcoef(a.ravel(), b.ravel())[0, 1]
    scenes = frames.reshape(4, 250, 64, 64)
    for lag, low, high in ((1, 0.994, 1.0), (5, 0.88, 0.93), (10, 0.67, 0.77)):
        assert low < np.mean([like(x[:-lag], x[lag:]) for x in scenes]) < high
    assert abs(like(frames[249], frames[250])) < 0.6
    power = (np.abs(np.fft.fft2(frames[:250:10])) ** 2).mean(0)
    assert power[1:4, 0].mean() > 10 * power[10:16, 0].mean()


def test_waves_by_the_sum_of_sines():
    """One scene of two waves without blobs, against the formula in float64."""
    rng = np.random.default_rng(5)
    angle, phase = rng.uniform(0, 2 * np.pi, (2, 2))
    f = np.exp(rng.uniform(np.log(1 / 64), np.log(1 / 4), 2))
    speed, pan = rng.normal(0, 0.05, 2), rng.normal(0, 0.25, 2)
    t, row, column = np.mgrid[:6, :8, :10].astype(float)
    field = sum(
        np.sin(
            2 * np.pi * f[i] * (np.sin(angle[i]) * (row + pan[0] * t) + np.cos(angle[i]) * (column + pan[1] * t))
            + phase[i]
            + speed[i] * t
        )
        / f[i]
        for i in range(2)
    )
    expected = 128 + 48 * (field - field.mean()) / field.std()
    found = distractors.video(5, 6, (8, 10), waves=2, blobs=0).frames[..., 0]
    np.testing.assert_allclose(found, np.clip(expected, 0, 255), atol=1.01)


def test_blobs_are_where_the_bank_says():
    quiet = distractors.video(3, 5, (48, 48), waves=1, blobs=1)
    loud = quiet.frames[..., 0].astype(float)
    rows, columns = np.mgrid[:48, :48]
    for frame, (row, column) in zip(loud, quiet.blobs[:, 0], strict=True):
        away = [np.minimum(np.abs(a - b), 48 - np.abs(a - b)) for a, b in ((rows, row), (columns, column))]
        near = np.hypot(*away) < 3
        assert abs(frame[near].mean() - frame.mean()) > 10


def test_kinds_share_frames_or_have_none():
    size = (16, 16)
    make = lambda **more: distractors.bank(Distractor(frames=20, **more), size)
    video, shuffled = make(kind="video"), make(kind="shuffled")
    key = lambda frames: sorted(f.tobytes() for f in frames)
    assert key(video) == key(shuffled) and (video != shuffled).any()
    np.testing.assert_array_equal(make(kind="static"), video)
    np.testing.assert_array_equal(make(kind="video", held_out=True), distractors.video(100, 20, size).frames)  # no seed is 100
    assert not video.flags.writeable  # all environments look at the same
    assert make(kind="noise").std() > 40 and make(kind="video", colour=True).shape == (20, 16, 16, 3)


# ----------------------------------------------------------------------------------------------------------- environments

POINT = {"pixels": "sdf", "image": 24, "paired": True, "repeat": 2, "time_limit": 3}


def played(name, steps=8, n=2, **options):
    """Steps of random actions, and how far backgrounds have run: [T, n] each."""
    env = envs.make(name, **{**POINT, **options})
    vec = envs.batch(env, n)
    key = keys.root(3)
    host = keys.HostKey.of(key, n)
    state, step = vec.reset(vec.params, host if vec.host else key)
    move = vec.step if vec.host else jax.jit(vec.step)
    frame = lambda state: np.asarray(state.frame if vec.host else state.env.frame)
    out, frames = [step], [frame(state)]
    for t in range(1, steps):
        action = np.full((n, 2), 0.3, np.float32)
        state, step = move(vec.params, state, action, host.at(t) if vec.host else keys.fold(key, t))
        out.append(step)
        frames.append(frame(state))
    return env, jax.tree.map(lambda *x: np.stack(x), *out), np.stack(frames)


@pytest.mark.parametrize("name", ["rlx:point-mass", "dmc:point_mass-easy"])
def test_a_background_runs_by_the_action_repeat_and_over_the_ends_of_episodes(name):
    env, steps, frames = played(name, distractor={"kind": "video", "frames": 30})
    assert steps.first.sum() == 4  # two starts of each stream
    np.testing.assert_array_equal(np.diff(frames, axis=0), 2)
    assert frames[0, 0] % 30 != frames[0, 1] % 30
    bank = distractors.bank(Distractor("video", frames=30), (24, 24))
    pixels, clean = steps.obs["pixels"], steps.obs["clean"]
    behind = bank[frames % 30]
    changed = (pixels != clean).any(-1)
    assert 0.6 < changed.mean() < 1
    np.testing.assert_array_equal(pixels, np.where((pixels == behind).all(-1, keepdims=True), behind, clean))


@pytest.mark.slow
@pytest.mark.parametrize("redraw", [False, True])
def test_a_device_environment_stepped_from_python_keeps_its_background(redraw):
    env = envs.make("rlx:point-mass", host=True, **{**POINT, "distractor": {"kind": "video", "frames": 30, "redraw": redraw}})
    vec, key = envs.batch(env, 2), keys.HostKey.of(keys.root(3), 2)
    state, step = vec.reset(vec.params, key)
    frames = distractors.bank(Distractor("video", frames=30), (24, 24))
    for t in range(1, 6):
        before = state[0].frame
        state, step = vec.step(vec.params, state, np.zeros((2, 2), np.float32), key.at(t))
        goes_on = (state[0].frame == before + 2).all()
        assert goes_on != (redraw and step.first.all())
        pixels, clean, behind = step.obs["pixels"], step.obs["clean"], frames[state[0].frame % 30]
        assert (pixels != clean).any()
        np.testing.assert_array_equal(pixels, np.where((pixels == behind).all(-1, keepdims=True), behind, clean))


@pytest.mark.parametrize("kind", ["static", "video"])
@pytest.mark.parametrize("name", ["rlx:point-mass", "dmc:point_mass-easy"])
def test_each_episode_may_have_a_background_of_its_own(name, kind):
    _, steps, frames = played(name, steps=13, distractor={"kind": kind, "frames": 1000, "redraw": True})
    assert steps.first.sum() == 8
    moved, new = np.diff(frames, axis=0), np.asarray(steps.first)[1:]
    assert set(moved[~new]) == {2 if kind == "video" else 0}
    begun = frames[np.asarray(steps.first)] % 1000
    assert len(set(begun)) > 5 and not (moved[new] == (2 if kind == "video" else 0)).any()


def test_wrappers_and_members_keep_what_outlives_episodes():
    """Around the pixels: a shorter limit and scaled rewards, and two members of a population as one program."""
    options = {"pixels": "sdf", "image": 8, "distractor": {"kind": "noise", "frames": 8}}
    env = wrappers.scale_reward(wrappers.time_limit(envs.make("rlx:point-mass", **options), 2), 3.0)
    vec = envs.batch(env, 2)
    roots = keys.roots([0, 1])
    state, step = jax.vmap(vec.reset, (None, 0))(vec.params, roots)
    move = jax.jit(jax.vmap(vec.step, (None, 0, 0, 0)))
    frames, firsts = [state.env[0].frame], []
    for _ in range(5):
        state, step = move(vec.params, state, jnp.zeros((2, 2, 2)), roots)
        frames.append(state.env[0].frame)
        firsts.append(bool(step.first.all()))
    assert firsts == [False, False, True, False, False]
    np.testing.assert_array_equal(np.diff(np.array(frames), axis=0), 1)
    corner = np.asarray(vec.params["bank"])[np.asarray(frames[-1]) % 8][..., 0, 0, :]
    np.testing.assert_array_equal(step.obs["pixels"][..., 0, 0, :], np.broadcast_to(corner, (2, 2, 3)))


def test_bodies_are_not_touched_and_gray_floors_stay():
    """The mask of the segmentation leaves out all of the body; of a walker on a gray floor the floor too."""
    from rlx.envs import tasks
    from rlx.envs.camera.mujoco import MujocoView
    from rlx.envs.camera.picture import behind, free
    from rlx.envs.camera.raster import draw
    from rlx.envs.camera.scene import on_floor

    view = MujocoView("walker", tasks.get("walker-walk").model())
    qpos = view.model.qpos0[None]
    poses = jax.tree.map(lambda x: x[0], view.poses(np, qpos))
    frames = jnp.full((1, 48, 48, 1), 255, jnp.uint8)
    shares = {}
    for floor in ("stock", "gray"):
        scene = on_floor(view.scene, floor)
        picture = draw(scene, poses, (48, 48))
        for mask in ("segmentation", "colour"):
            image = np.asarray(behind(jnp, picture.image, free(scene, picture.front), frames, jnp.int32(7), mask))
            replaced = (image == 255).all(-1)
            body = np.array([*(s.kind != "plane" for s in view.scene.shapes), False])[np.asarray(picture.front)]
            assert not (replaced & body).any()
            np.testing.assert_array_equal(image[~replaced], np.asarray(picture.image)[~replaced])
            shares[floor, mask] = replaced.mean()
    assert shares["stock", "segmentation"] > 0.85 and shares["stock", "colour"] > 0.85
    assert abs(shares["gray", "segmentation"] - shares["gray", "colour"]) < 0.05
    assert shares["gray", "segmentation"] < shares["stock", "segmentation"] - 0.1


def test_a_bank_is_a_parameter():
    """Held-out banks at evaluation: the program is the same, and so are the bodies."""
    env, steps, _ = played("rlx:point-mass", steps=1, distractor={"kind": "noise", "frames": 4})
    white = {**env.params, "bank": np.full_like(env.params["bank"], 255)}
    _, step = envs.batch(env, 2).reset(white, keys.root(3))
    np.testing.assert_array_equal(step.obs["clean"], steps.obs["clean"][0])
    assert (np.asarray(step.obs["pixels"]) == 255).mean() > 0.6


# ------------------------------------------------------------------------------------------------------------------ files


def test_images_and_films_become_a_bank(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / f"{i}.png")
    film = [np.full((16, 16, 3), 10 * k, np.uint8) for k in range(5)]
    imageio.mimsave(tmp_path / "film.gif", film)
    np.save(tmp_path / "array.npy", np.full((2, 8, 8), 77, np.uint8))
    found = load_background(str(tmp_path), (64, 48), grey=True)
    assert found.shape == (10, 64, 48, 1) and found.dtype == np.uint8
    np.testing.assert_array_equal(found, load_background(f"{tmp_path}/*", (64, 48)))
    assert load_background(f"{tmp_path}/*.png", (64, 48), 2, grey=False).shape == (2, 64, 48, 3)
    means = found.reshape(10, -1).mean(1)
    at = int(np.flatnonzero(means == 0)[0])  # frames of a film stay in order
    np.testing.assert_allclose(means[at : at + 5], np.arange(5) * 10, atol=1)
    assert (found == 77).all((1, 2, 3)).sum() == 2
    env = envs.make("rlx:pendulum", pixels="sdf", image=16, distractor={"kind": "folder", "path": str(tmp_path), "frames": 6})
    assert env.params["bank"].shape == (6, 16, 16, 1)


def test_what_took_long_is_kept_until_a_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RLX_CACHE", raising=False)
    paths, kept = [tmp_path / "a.npy", tmp_path / "b.npy"], tmp_path / "cache" / "rlx" / "films"
    for i, path in enumerate(paths):
        np.save(path, np.full((2, 8, 8), 50 * i, np.uint8))
    read = lambda **more: load_background(f"{tmp_path}/*.npy", (8, 8), **more)
    first = read()
    assert not list(kept.iterdir())  # that was quick
    monkeypatch.setattr(loader, "WORTH", 0.0)
    np.testing.assert_array_equal(read(), first)
    (file,) = kept.iterdir()
    np.save(file, first + 1)  # so that one sees where frames come from
    np.testing.assert_array_equal(read(), first + 1)
    assert read(grey=False).shape[-1] == 3 and len(read(total_frames=3)) == 3  # kept apart
    orders = {read(seed=seed)[0, 0, 0, 0] for seed in range(9)}
    assert len(orders) > 1
    file.write_bytes(b"torn")
    np.testing.assert_array_equal(read(), first)
    np.save(paths[0], np.full((2, 8, 8), 77, np.uint8))
    os.utime(paths[0], ns=(0, 0))
    assert (read() == 77).any()
    monkeypatch.setenv("RLX_CACHE", "off")
    assert (read() == 77).any()


def test_a_film_is_read_in_order(tmp_path):
    imageio.mimsave(tmp_path / "film.mp4", [np.full((32, 32, 3), 60 * k, np.uint8) for k in range(4)], fps=4)
    means = load_background(f"{tmp_path}/*.mp4", (16, 16)).reshape(4, -1).mean(1)
    np.testing.assert_allclose(means, [0, 60, 120, 180], atol=6)


def test_areas_are_averaged(tmp_path):
    board = np.indices((8, 8)).sum(0) % 2 * 200
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "b.png")
    np.testing.assert_array_equal(load_background(f"{tmp_path}/b.png", (4, 2)), np.full((1, 4, 2, 1), 100))


def test_folders_may_have_the_signs_of_a_glob_and_pictures_sixteen_bits(tmp_path, monkeypatch):
    (tmp_path / "clips[1]").mkdir()
    level = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    Image.fromarray(level).save(tmp_path / "clips[1]" / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (tmp_path / "clips[1]", tmp_path / "clips[1]" / "a.png", "~/clips[1]", "~/clips*/*.png"):
        np.testing.assert_array_equal(load_background(str(path), (8, 8))[0, ..., 0], level // 256)


def test_files_that_do_not_do_are_named(tmp_path):
    with pytest.raises(ValueError, match="finds no file.*but an empty folder"):
        load_background(str(tmp_path))
    with pytest.raises(ValueError, match="finds no file.*but nothing at all"):
        load_background(str(tmp_path / "none"))
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="finds no file.*but 1 of other kinds"):
        load_background(str(tmp_path))
    with pytest.raises(ValueError, match="finds no file"):
        envs.make("rlx:pendulum", pixels="sdf", distractor={"kind": "folder", "path": f"{tmp_path}/*.mp4"})
    for name, said in (("a.mp4", "a.mp4 cannot be read"), ("a.png", "cannot be read"), ("a.npz", "a.npz cannot be read")):
        (tmp_path / name).write_bytes(b"no frames in here")
        with pytest.raises(ValueError, match=said):
            load_background(str(tmp_path / name))
        (tmp_path / name).unlink()
    np.save(tmp_path / "f.npy", np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match="must hold uint8 frames"):
        load_background(str(tmp_path))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("film", "one of none, video"),
        (3, "one of none, video"),
        ({"kind": "video", "mask": "blue"}, "mask one of"),
        ({"held_out": True}, "has no kind, which would be none"),
        (Distractor("vidoe"), "one of none, video"),
        ({"kind": "video", "frames": 0}, "frames one from 1 on"),
        ({"kind": "video", "frames": None}, "frames one from 1 on"),
        ({"kind": "video", "seed": 100}, "seed is a whole number from 0 to 99"),
        ({"kind": "video", "path": "x"}, "goes with kind 'folder'"),
        ({"kind": "folder"}, "goes with kind 'folder'"),
        ({"kind": "video", "seed": "a"}, "seed is a whole number"),
        ({"kind": "video", "seed": -1}, "seed is a whole number"),
        ({"kind": "video", "held_out": "no"}, "true or false"),
        ({"kind": "video", "colour": 3}, "true or false"),
        ({"kind": "video", "redraw": "yes"}, "true or false"),
        ({"kind": "folder", "path": 5}, "path is text"),
        ({"kind": "folder", "path": "clips", "held_out": True}, "give another path"),
    ],
)
def test_unknown_distractors_are_refused(given, said):
    with pytest.raises(ValueError, match=said) as error:
        Distractor.of("rlx:pendulum", given)
    assert str(error.value).startswith("rlx:pendulum: distractor=")
