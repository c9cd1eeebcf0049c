"""Several host environments as one batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import rlx.envs
from rlx import keys
from rlx.envs.side_by_side import side_by_side

pytest.importorskip("gymnasium")


def test_streams_do_what_they_do_alone():
    """In blocks, of members one after another, with the randomness of their numbers in the whole."""
    envs = [rlx.envs.make("gym:Pendulum-v1", time_limit=n, g=g) for n, g in ((3, 10.0), (5, 1.0))]
    both = side_by_side(envs, 2)
    assert both.spec.horizon == 5 and both.light and both.name == "gym:Pendulum-v1 | gym:Pendulum-v1"
    key = keys.HostKey(np.array([[1, 2], [3, 4]], np.uint32), per=4)
    vec = both.make(8, "stop")
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 8, 1)).astype(np.float32)

    def played(vec, key, actions):
        state, step = vec.reset(None, key)
        steps = [step]
        for t, action in enumerate(actions):
            state, step = vec.step(None, state, action, key.at(t + 1))
            steps.append(step)
        vec.close()
        return steps

    found = played(vec, key, actions)
    for block in range(4):
        own = slice(2 * block, 2 * block + 2)
        alone = played(envs[block % 2].make(2, "stop"), replace(key, start=2 * block), actions[:, own])
        for one, whole in zip(alone, found, strict=True):
            for field in ("obs", "reward", "terminated", "truncated", "first"):
                np.testing.assert_array_equal(getattr(one, field), getattr(whole, field)[own], err_msg=field)
    assert len({tuple(x) for x in found[0].obs}) == 8
    assert found[3].truncated.tolist() == [True, True, False, False] * 2


def test_what_is_no_batch_is_refused():
    pendulum = rlx.envs.make("gym:Pendulum-v1")
    with pytest.raises(ValueError, match="differ in their observations or actions"):
        side_by_side([pendulum, rlx.envs.make("gym:CartPole-v1")], 1)
    with pytest.raises(ValueError, match="on the host; rlx:pendulum is one of the device"):
        side_by_side([rlx.envs.make("rlx:pendulum")], 1)
    with pytest.raises(ValueError, match="3 streams are no 2 of each"):
        side_by_side([pendulum], 2).make(3, "stop").reset(None, keys.HostKey(np.zeros((1, 2), np.uint32), 3))
