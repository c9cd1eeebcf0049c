"""Windows by priority from an online ring and from frozen demonstrations, in numbers."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import rlx
from rlx import replay
from rlx.replay.buffer import prioritise
from rlx.types import Agent, AgentState, Clock, Out, Problem, Stage, Update
from tests.dummies import AGENTS, dataset
from tests.replay.coded import sample

L, H = 50, 5
PER = {"priority_exponent": jnp.float32(0.6), "importance_exponent": jnp.float32(0.4), "discount": jnp.float32(0.95)}


def episodes(count, length):
    """Frames that are numbered through all episodes, [length + 1] of each."""
    frames = np.arange(count * (length + 1), dtype=np.uint8).reshape(count, -1, 1)
    each = {"action": np.zeros((length + 1, 1)), "reward": np.zeros(length + 1), "terminated": np.zeros(length + 1)}
    return replay.from_episodes([{"obs": f, **each} for f in frames])


def test_windows_leave_out_the_last_starts_of_an_episode():
    """Two episodes of 50 decisions, 51 rows each, windows of 5: they begin at 0 to 44, with the last one too at 45."""
    data = prioritise(episodes(2, L))
    for spare, last in ((1, 44), (0, 45)):
        sampler = replay.sequences(100_000, H + 1, priorities=True, stack=2, spare=spare)
        out = sample(sampler, {"replay": data}, hyper=PER)
        begun = np.unique(out.index.t)
        np.testing.assert_array_equal(begun, [*range(last + 1), *range(51, 51 + last + 1)])
        frames, at = np.asarray(out.obs), np.asarray(out.index.t)
        np.testing.assert_array_equal(frames[0, at == 51], [[51, 51]] * (at == 51).sum())  # none from the episode before
        np.testing.assert_array_equal(frames[1, at == 51], [[51, 52]] * (at == 51).sum())
        np.testing.assert_array_equal(frames[-1, at == last][0], [last + 4, last + 5])  # of 45: the final observation, 50


def test_priorities_and_weights_by_hand():
    """1, 2, 4 and 0 by the exponents 0.6 and 0.4."""
    data = episodes(1, 5)
    data = data._replace(index=data.index._replace(priority=jnp.array([1.0, 2, 4, 0, 9, 9])[:, None]))
    out = sample(replay.sequences(100_000, 2, priorities=True, spare=1), {"replay": data}, hyper=PER)
    at = np.asarray(out.index.t)
    share = np.bincount(at, minlength=4)[:4] / len(at)
    np.testing.assert_allclose(share, [0.207766, 0.314914, 0.477320, 0], atol=0.006)  # four standard errors
    weight = [float(out.weight[at == i][0]) for i in range(3)]
    np.testing.assert_allclose(weight, [1, 0.846745, 0.716978], atol=1e-6)


def test_weights_are_scaled_within_each_source():
    """Among the entries that are taken: the one of priority 1 is the first demonstration in some batches and none in others."""
    index = replay.Index
    batch = lambda weight: replay.Transitions(
        *[jnp.zeros(4)] * 6, {}, jnp.array(weight), index(jnp.arange(4), jnp.zeros(4, jnp.int32))
    )
    both = [batch([0.2, 0.1, 1.0, 0.4]), batch([1.0, 0.3, 0.1, 0.2])]
    mixed = replay.mixtures.blend(both, ["demos", "replay"], jnp.array([0.5]))
    np.testing.assert_allclose(mixed.weight, [1.0, 0.5, 0.5, 1.0], rtol=1e-6)
    for share, expected in ((0.0, both[1].weight), (1.0, both[0].weight)):
        mixed = replay.mixtures.blend(both, ["demos", "replay"], jnp.array([share]))
        np.testing.assert_allclose(mixed.weight, expected, rtol=1e-6)


def test_a_share_that_is_rounded_down_counts_as_the_schedule_says():
    data = prioritise(episodes(2, 20))

    def share(hyper, clock):  # from 0.75 to 0.25 over 50 000
        return jnp.floor((0.75 - 0.5 * jnp.clip(clock.updates / 50_000, 0, 1)) * 256) / 256

    sampler = replay.mix([replay.sequences(256, 3, source=s, priorities=True, spare=1) for s in ("demos", "replay")], share)
    for updates, count in ((5_000, 179), (25_000, 128), (50_000, 64), (80_000, 64)):
        clock = Clock(jnp.int32(0), jnp.int32(0), jnp.int32(updates))
        out = sample(sampler, {"demos": data, "replay": data}, hyper=PER, clock=clock)
        np.testing.assert_array_equal(out.index["demos"].t >= 0, np.arange(256) < count)
        np.testing.assert_array_equal(out.index["replay"].t >= 0, np.arange(256) >= count)


def test_frozen_rows_keep_priorities_that_updates_change():
    """Rows that come without priorities have 1 each; what updates say of them is in the run, not in the data given."""

    def update(state, clock, batch, key):
        return state, Out({"weight": batch.weight.mean()}, jnp.full(4, 7.0))

    data = dataset(episodes=2, length=5)
    sampler = replay.sequences(4, 2, source="data", priorities=True, spare=2)
    stage = Stage("learn", 1, (Update(8, sampler, update, priorities_of="data"),))
    agent = Agent("ranked", None, {k: float(v) for k, v in PER.items()}, lambda key, hyper: AgentState(hyper, ()),
                  lambda *a: None, (stage,), reads=("data",))  # fmt: skip
    run = rlx.train.run(agent, Problem(data={"data": data}), 0)
    expected = np.ones(data.index.flags.shape)
    expected[[0, 1, 5, 6]] = 7  # of 0 to 4 and 5 to 9, where two more rows follow a window of two
    np.testing.assert_array_equal(run.sources["data"].index.priority, expected)
    assert not data.index.priority.size


def test_priorities_of_what_keeps_none_are_refused_before_anything_runs():
    problem = Problem({"train": rlx.envs.make("rlx:pendulum", time_limit=8)}, {"data": dataset()})
    agent = AGENTS["modem_v2"](problem)
    plain = dataclasses.replace(agent, buffers={"replay": replay.ring(64, 4)})
    with pytest.raises(ValueError, match="priorities=True"):
        rlx.train.run(plain, problem, 0)
    stage = dataclasses.replace(agent.stages[0], phases=(dataclasses.replace(agent.stages[0].phases[0], priorities_of="date"),))
    with pytest.raises(ValueError, match="Did you mean 'data'"):
        rlx.train.run(dataclasses.replace(agent, stages=(stage,)), problem, 0)
    with pytest.raises(ValueError, match="spare=-1"):
        replay.sequences(4, 2, spare=-1)
