"""Pairs of pictures that replay keeps as the clean one, a mask and the number of a frame: the same bytes come out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rlx import agents, envs, keys, replay
from rlx.envs import wrappers
from rlx.train import Options, run
from rlx.train.memory import needs
from rlx.types import Clock, Problem

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
    """Rows [steps + 1, n] as they were emitted, numpy, and the replay that was given them, in two parts."""
    vec, key = envs.batch(env, n), keys.root(3)
    act = lambda carry, step, key: (jnp.full((n, *env.spec.action.shape), 0.3), carry, {})
    before, parts = envs.begin(vec, env.params, (), key), []
    buffer = replay.Replay(32, n, device, pack=env.spec.pack)
    state = None
    for k in range(2):
        before, rows, tail = envs.rollout(vec, env.params, act, before, keys.fold(key, k), steps)
        if state is None:
            state = buffer.init(jax.tree.map(lambda x: x[0, 0], rows))
        state = buffer.add(state, rows, tail)
        parts.append(jax.tree.map(np.asarray, rows))
    vec.close()
    rows = jax.tree.map(lambda *x: np.concatenate([*x[:-1], np.asarray(x[-1])[None]]), *parts, tail)
    return rows, buffer, state


def the_same_bytes(env, device=True):
    rows, buffer, state = collected(env, device)
    assert rows.first.sum() > 4 and (rows.obs["pixels"] != rows.obs["clean"]).any()
    sources = {"replay": state}
    for stack in (1, 3):
        sample = replay.sequences(6, 5, cross=True, stack=stack)
        read = sample if device else lambda *given, s=sample: s.read(sources, jax.tree.map(np.asarray, s.draw(*given[2:3], *given[:2], given[3])))
        batch = read({}, CLOCK, sources, jax.random.key(stack))
        at = np.asarray(batch.index.t) + np.arange(5)[:, None]
        for name, found in batch.obs.items():
            newest = found if stack == 1 else found[..., -rows.obs[name].shape[-1] :]
            np.testing.assert_array_equal(newest, rows.obs[name][at, np.asarray(batch.index.w)])
    return rows, buffer, state


@pytest.mark.parametrize("distractor", KINDS, ids=lambda d: "-".join(map(str, d.values())))
def test_what_is_sampled_is_what_was_emitted(distractor):
    the_same_bytes(envs.make("rlx:point-mass", distractor=distractor, **SEEN))
