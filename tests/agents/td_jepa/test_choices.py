"""Actions that are choices: no actor, the choice of the largest value is taken."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents, keys, replay
from rlx.agents.td_jepa import ZeroShot, actor
from rlx.train import Options, run
from rlx.train.collect import collect, random
from rlx.types import Problem

from .test_agent import CLOCK, started
from .worlds import GRID, SHORT

PLACES = np.stack(np.meshgrid(range(5), range(5), indexing="ij"), -1).reshape(-1, 2)


@pytest.fixture(scope="module")
def problem():
    env = rlx.envs.make(GRID)
    data = replay.from_episodes(collect(random(env.spec), env, 6_000, 100, keys.root(0)))
    return Problem({"train": env}, {"data": data})


def made(problem, **settings):
    agent = agents.make("td_jepa", None, problem, **{**SHORT, **settings})
    return agent, started(agent)


@pytest.mark.slow
def test_the_choice_of_the_largest_value_is_taken(problem):
    agent, state = made(problem)
    net, p = agent.report.method.net, state.learned["params"]
    assert "actor" not in p and net.actions == 5
    rng = np.random.default_rng(0)
    x = net.phi(p, jnp.eye(25))
    z = jnp.float32(rng.normal(size=(25, 4)))
    one = lambda k: jnp.broadcast_to(jnp.eye(5)[k], (25, 5))
    q = np.stack([np.asarray((net.predict(p, x, z, one(k)) * z).sum(-1).mean(0)) for k in range(5)], -1)
    assert len(set(q.argmax(-1).tolist())) > 1
    np.testing.assert_array_equal(net.pi(p, x, z), np.eye(5)[q.argmax(-1)])
    act = lambda key, explore: np.asarray(actor.taken(net, p, jnp.eye(25), z, jax.random.key(key), 0.2, explore))
    np.testing.assert_array_equal(act(0, False), q.argmax(-1))
    other = np.mean([act(key, True) != q.argmax(-1) for key in range(200)])
    assert abs(other - actor.RANDOM * 4 / 5) < 4 * (0.08 * 0.92 / 5000) ** 0.5  # 4 in 5 of those at random are others
    np.testing.assert_array_equal(ZeroShot(agent, state).act(np.eye(25), np.asarray(z)), q.argmax(-1))


@pytest.mark.slow
@pytest.mark.parametrize("features", ["one_step_fb", "rldp"])
def test_what_was_chosen_is_told_to_networks_as_a_vector(problem, features):
    """Also what came next in the data, and what was done on the way."""
    agent, state = made(problem, features=features)
    method, phase = agent.report.method, agent.stages[0].phases[0]
    drawn = phase.sample(state.hyper, CLOCK, problem.data, jax.random.key(0))
    seen = method.features.view(drawn, state.hyper)
    batch = method.read(seen, jax.random.key(1))
    np.testing.assert_array_equal(batch.action, np.eye(5)[np.asarray(seen.action)])
    for name in {"following", "action"} & set(batch.more):
        np.testing.assert_array_equal(batch.more[name], np.eye(5)[np.asarray(seen.more[name])])
    new, out = jax.jit(phase.update)(state, CLOCK, drawn, jax.random.key(2))
    assert all(np.isfinite(v) for v in out.metrics.values())
    before, after = state.learned["params"], new.learned["params"]
    assert all(any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (before[k], after[k])), strict=True)) for k in before)


@pytest.mark.slow
def test_goals_are_reached_by_the_shortest_way(problem):
    wide = {"d_phi": 32, "d_psi": 24, **dict.fromkeys(("phi_hidden", "psi_hidden", "predictor_hidden"), 64), "batch": 128}
    rates = dict.fromkeys(("lr_phi", "lr_psi", "lr_predictor"), 3e-3)
    size = {"updates": 600, "eval_every": 600, "per_cycle": 100, "discount": 0.9, "tau": 0.02}
    rates |= {"lambda_phi": 1.0, "lambda_psi": 1.0}
    agent, _ = made(problem, **{**wide, **rates, **size})
    state = run(agent, problem, 0, options=Options(progress=False)).agent
    ask, moves = ZeroShot(agent, state), np.array([[0, 1], [0, -1], [1, 0], [-1, 0], [0, 0]])
    there = []
    for goal in range(25):
        z, place = ask.infer_goal(np.eye(25, dtype=np.float32)[goal]), PLACES.copy()
        for _ in range(8):  # the longest of the shortest ways
            place = np.clip(place + moves[ask.act(np.eye(25)[place @ [5, 1]], z)], 0, 4)
        there.append((place == PLACES[goal]).all(-1).mean())
    assert np.mean(there) > 0.85  # at random 1 in 25


@pytest.mark.slow
def test_a_run_adapts_its_choices(problem):
    agent, _ = made(problem, updates=4, adapt=8, adapt_online=True, adapt_prefill=16)
    lines = []
    state = run(agent, problem, 0, options=Options(progress=False), callback=lambda line, state: lines.append(dict(line)))
    assert int(state.counts["updates"]) == 12
    train = [line for line in lines if line["kind"] == "train" and line["stage"] == "adapt"]
    assert all(np.isfinite(line["critic/loss"]) and "actor/loss" not in line for line in train) and train
    chosen = np.asarray(state.sources["replay"].data.action)
    assert chosen.dtype == np.int32 and set(np.unique(chosen)) <= set(range(5))


def test_a_flow_of_vectors_is_refused(problem):
    with pytest.raises(ValueError, match="actor='flow' makes vectors; of choices"):
        made(problem, actor="flow")
