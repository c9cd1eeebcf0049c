"""The contracts hold: seven dummy agents, each solo, as two members, killed and resumed, and with another chunk length."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx.train import Options, run
from rlx.types import Agent, Members, Problem, ReplayState, RunState
from tests.dummies import AGENTS, HORIZON, OFFLINE, dataset
from tests.train.toys import evaluations

QUIET = Options(progress=False, keep_best=True, log_every=1)
ENVS = {"device": "rlx:pendulum", "host": "gym:Pendulum-v1"}


def problem(kind: str, name: str) -> Problem:
    env = rlx.envs.make(ENVS[kind], time_limit=HORIZON)
    envs = {"train": env, "shifted": env}
    return Problem(envs, {"data": dataset()} if name in OFFLINE else {})


@functools.cache
def made(name: str, kind: str) -> tuple[Agent, Problem]:
    """Once, so that all runs of the agent share its compiled programs."""
    given = problem(kind, name)
    return AGENTS[name](given), given


def train(name: str, kind: str, key, run_dir=None, **options) -> RunState:
    return run(*made(name, kind), key, run_dir, options=Options(**{**vars(QUIET), **options}))


def result(state: RunState) -> dict:
    """Everything that a run computed, as numpy."""
    replays = {k: s for k, s in state.sources.items() if k != "data" and isinstance(s, ReplayState)}
    shared = {k: (s.index, s.overlay) for k, s in state.sources.items() if k == "data"}
    parts = (
        state.agent,
        replays,
        shared,
        state.counts,
        state.best,
        {k: (rollout_state.step, rollout_state.carry) for k, rollout_state in state.rollouts.items()},
    )
    return jax.tree.map(np.asarray, parts)


def assert_same(a, b, exactly: bool = True):
    flat_a, flat_b = jax.tree_util.tree_flatten_with_path(a), jax.tree_util.tree_flatten_with_path(b)
    assert flat_a[1] == flat_b[1]
    for (path, x), (_, y) in zip(flat_a[0], flat_b[0], strict=True):
        where = jax.tree_util.keystr(path)
        if exactly:
            np.testing.assert_array_equal(x, y, err_msg=where)
        else:
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5, err_msg=where)


class Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.usefixtures("all_bits")
@pytest.mark.parametrize("kind", ENVS)
@pytest.mark.parametrize("name", AGENTS)
def test_solo_members_resumed_and_rechunked_agree(name, kind, tmp_path):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), jnp.arange(2))
    solo = result(train(name, kind, keys[1]))

    rechunked = result(train(name, kind, keys[1], chunk_cycles=1, log_every=2))
    assert_same(solo, rechunked)

    def kill(report):
        raise Killed

    options = Options(**{**vars(QUIET), "checkpoint_cycles": 1})
    with pytest.raises(Killed):  # at the first evaluation, whatever was saved before it
        run(*made(name, kind), keys[1], tmp_path, options=options, callback=evaluations(kill))
    resumed = result(train(name, kind, keys[1], tmp_path, checkpoint_cycles=1))
    assert_same(solo, resumed)
    again = result(train(name, kind, keys[1], tmp_path))  # a finished run is read back, not run again
    assert_same(solo, again)

    both = result(train(name, kind, Members(keys)))
    second = jax.tree.map(lambda x: x[1], both)
    assert_same(solo, second, exactly=False)
    differs = [not np.array_equal(x[0], x[1]) for x in jax.tree.leaves(both[0].learned)]
    assert any(differs), "two seeds learned the same"
