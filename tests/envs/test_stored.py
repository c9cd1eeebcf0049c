"""Pairs of pictures that replay keeps as the clean one, a mask and the number of a frame: the same bytes come out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rlx import agents, envs, keys, replay
from rlx.train import Options, Stop, run
from rlx.train.memory import unpacked
from rlx.types import Clock, Problem, Row

SEEN = {"pixels": "sdf", "image": [16, 13], "paired": True, "stored": "clean", "repeat": 2, "time_limit": 3}
CLOCK = Clock(*map(jnp.int32, (0, 0, 0)))
KINDS = [
    {"kind": "video", "frames": 7},
    {"kind": "video", "frames": 7, "held_out": True, "colour": True},
    {"kind": "shuffled", "frames": 7, "mask": "colour"},
    {"kind": "static", "frames": 7},
    {"kind": "noise", "frames": 7, "colour": True},
]


def collected(env, device=True, steps=11, n=2):
    """Rows [2 steps + 1, n] as they were emitted, numpy, and the replay that was given them, in two parts."""
    vec, key = envs.batch(env, n), keys.root(3)
    act = lambda carry, step, key: (np.full((n, *env.spec.action.shape), 0.3, np.float32), carry, {})
    play = lambda before, key: envs.rollout(vec, env.params, act, before, key, steps)
    play = play if vec.host else jax.jit(play)
    before, parts = envs.begin(vec, env.params, (), key), []
    buffer, state = replay.Replay(32, n, device, pack=env.spec.pack), None
    for k in range(2):
        before, rows, tail = play(before, keys.fold(key, k))
        state = buffer.add(state or buffer.init(jax.tree.map(lambda x: x[0, 0], rows)), rows, tail)
        parts.append(jax.tree.map(np.asarray, rows))
    vec.close()
    return jax.tree.map(lambda *x: np.concatenate([*x[:-1], np.asarray(x[-1])[None]]), *parts, tail), buffer, state


def the_same_bytes(env, device=True):
    """Stacks of three frames, which repeat the first of an episode, and whole episodes."""
    rows, buffer, state = collected(env, device)
    assert rows.first.sum() > 4 and (rows.obs["pixels"] != rows.obs["clean"]).any()
    sample, given = replay.sequences(6, 5, cross=True, stack=3), ({"replay": state}, {}, CLOCK, jax.random.key(1))
    drawn = jax.jit(sample.draw)(*given)
    found = jax.jit(sample.read)(given[0], drawn) if device else sample.read(given[0], jax.tree.map(np.asarray, drawn))
    w = np.asarray(found.index.w)
    begun = np.maximum.accumulate(np.where(rows.first, np.arange(len(rows.first))[:, None], 0))
    at = np.asarray(found.index.t) + np.arange(5)[:, None]
    for name, seen in found.obs.items():
        expected = [rows.obs[name][np.maximum(at - k, begun[at, w]), w] for k in (2, 1, 0)]
        np.testing.assert_array_equal(seen, np.concatenate(expected, -1))
    episode = buffer.export(state)[1]
    for name, x in episode.obs.items():
        np.testing.assert_array_equal(x, rows.obs[name][4:8, 0])
    return rows, buffer, state


@pytest.mark.slow
@pytest.mark.parametrize("distractor", KINDS, ids=lambda d: "-".join(map(str, d.values())))
def test_what_is_sampled_is_what_was_emitted(distractor):
    the_same_bytes(envs.make("rlx:point-mass", distractor=distractor, **SEEN))


@pytest.mark.slow
def test_of_files_too_and_of_grey_ones(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / f"{i}.png")
    the_same_bytes(envs.make("rlx:point-mass", distractor={"kind": "folder", "path": str(tmp_path)}, grey=True, **SEEN))


@pytest.mark.slow
@pytest.mark.parametrize("pixels", ["sdf", "gl"])
@pytest.mark.parametrize("device", [True, False])
def test_of_native_physics_two_cameras_and_rows_in_host_memory(pixels, device):
    options = {**SEEN, "pixels": pixels, "camera": [0, 1], "distractor": KINDS[0]}
    try:
        env = envs.make("dmc:point_mass-easy", **options)
    except ValueError as error:
        if "OpenGL" not in str(error) and "cannot be drawn" not in str(error):
            raise
        pytest.skip("no OpenGL")
    the_same_bytes(env, device)


def rows_of(shape, seed=0):
    """Made-up rows [4, 2]: a picture that shows a frame of the bank where a mask says."""
    env = envs.make("rlx:point-mass", distractor=KINDS[0], **SEEN)
    rng, frames = np.random.default_rng(seed), env.params["bank"]
    clean, at = rng.integers(0, 256, (*shape, 16, 13, 3), np.uint8), rng.integers(0, 10**6, shape).astype(np.int32)
    pixels = np.where(rng.random((*shape, 16, 13, 1)) < 0.5, frames[at % 7], clean)
    flag, zero = np.zeros(shape, bool), np.zeros(shape, np.float32)
    obs = {"pixels": pixels, "state": np.zeros((*shape, 4), np.float32), "clean": clean}
    return env, Row(obs, zero, flag, flag, flag, {"background": at}, np.zeros((*shape, 2), np.float32), {}, ~flag)


def test_packing_and_opening_give_the_bytes_back():
    env, rows = rows_of((4, 2))
    packed = env.spec.pack(rows)
    assert packed.info == {} and packed.obs.bits.shape == (4, 2, 26)
    for there in (packed.obs, jax.tree.map(jnp.asarray, packed.obs)):
        opened = there.opened()
        assert all(np.array_equal(opened[k], rows.obs[k]) for k in rows.obs) and set(opened) == set(rows.obs)


def test_a_replay_takes_half_the_room():
    env, rows = rows_of(())
    plain, lean = (replay.Replay(100, 2, pack=p).nbytes(rows) for p in (None, env.spec.pack))
    assert plain - lean == 200 * (16 * 13 * 3 - 26)
    state = replay.Replay(100, 2, pack=env.spec.pack).init(rows)
    assert lean == 200 + sum(x.nbytes for x in jax.tree.leaves(state.data))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stored": "clean", "distractor": "video"}, "paired=true"),
        ({"stored": "clean", "paired": True}, "without a distractor"),
        ({"stored": "poses"}, "is unknown"),
    ],
)
def test_what_saves_nothing_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        envs.make("rlx:pendulum", pixels="sdf", **options)


@pytest.mark.slow
def test_a_run_trains_the_same_and_resumes(tmp_path):
    """Bit for bit as without, and from a checkpoint."""
    sizes = {
        "env_steps": 40, "n_envs": 2, "prefill": 12, "collect": 4, "updates": 1, "batch": 3, "chunk": 4, "channels": (2, 2),
        "embedding": 8, "hidden": 8, "belief": 8, "state": 4, "horizon": 3, "eval_every": 10**6, "eval_episodes": 2,
    }  # fmt: skip

    def made(stored):
        env = envs.make("rlx:point-mass", distractor=KINDS[0], **{**SEEN, "image": 16, "stored": stored})
        problem = Problem({"train": env})
        agent = agents.make("repo", None, problem, **sizes)
        assert (unpacked(agent, problem) != {}) == (stored == "clean")
        return agent, problem

    def stop(line, state):
        if line["env_steps"] >= 20:
            raise Stop

    packed, options = made("clean"), Options(progress=False)
    begun = run(*packed, 1, tmp_path, options=options, callback=stop)
    resumed, plain = run(*packed, 1, tmp_path, options=options), run(*made("pixels"), 1, options=options)
    assert begun.counts["env_steps"] < resumed.counts["env_steps"] == plain.counts["env_steps"]
    learned = [jax.tree.leaves(done.agent.learned) for done in (resumed, plain)]
    assert all(np.array_equal(a, b) for a, b in zip(*learned, strict=True))
