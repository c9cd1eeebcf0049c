"""TD-MPC's schedules, and what its searches begin with. Its losses and searches are tested where they stand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents
from rlx.agents import tdmpc
from rlx.agents.tdmpc import Config, Times
from rlx.types import Clock, Collect, Leaf, Problem, Spec, Step, Update

close = np.testing.assert_allclose
H = {"horizon_steps": 25_000.0, "std_steps": 12_500.0, "std_start": 0.5, "std": 0.05}
SPEC = Spec(Leaf((3,)), Leaf((1,)), horizon=50)


def clock(env_steps: int = 0, cycle: int = 0, updates: int = 0) -> Clock:
    return Clock(*map(jnp.int32, (cycle, env_steps, updates)))


@pytest.mark.parametrize(("k", "h"), [(0, 1), (6249, 1), (6250, 2), (12500, 3), (18750, 4), (24999, 4), (25000, 5), (10**6, 5)])
def test_the_horizon_grows(k, h):
    assert int(tdmpc.horizon_at(jnp.float32(k), H, 5)) == h


def test_the_least_deviation_falls():
    at = lambda k: tdmpc.settings_at(jnp.float32(k), {**H, "discount": 0.9, "temperature": 0.5, "momentum": 0.1}).std_min
    close([at(0), at(6250), at(12500), at(10**6)], [0.5, 0.275, 0.05, 0.05], rtol=1e-6)


def test_cycles_are_whole_episodes_and_updates_stand_among_their_decisions():
    times = Times.of(Config(env_steps=1_000, prefill=150, n_envs=2, utd=0.5), SPEC)
    assert (times.first, times.collect, times.cycles, times.updates) == (2 * 51, 51, 8, (100, 50))
    assert times.rows == 10 * 51
    close(times.acting(clock(env_steps=2 * 51 * 3)), 300, rtol=1e-6)
    close([times.learning(clock(updates=u)) for u in (0, 50, 100, 125, 150)], [0, 100, 200, 250, 300], rtol=1e-6)
    endless = Times.of(Config(env_steps=1_000, prefill=100, collect=10), Spec(Leaf((3,)), Leaf((1,))))
    assert (endless.first, endless.cycles, endless.share) == (100, 90, 1.0)
    with pytest.raises(ValueError, match="prefill=100 leaves nothing of env_steps=100"):
        Times.of(Config(env_steps=100, prefill=100), SPEC)


def test_stages_and_room():
    problem = Problem({"train": rlx.envs.make("rlx:pendulum", time_limit=50)})
    agent = agents.make("tdmpc", None, problem, env_steps=1_000, prefill=150, n_envs=2, eval_every=200, utd=0.5)
    prefill, learn = agent.stages
    assert prefill.phases[0] == Collect("train", 102, "replay", mode="random") and prefill.phases[1].n == 100
    assert learn.cycles == 8 and [type(p) for p in learn.phases] == [Collect, Update] and learn.phases[1].n == 50
    assert agent.evals[0].every == 2 and agent.buffers["replay"].capacity == 511
    with pytest.raises(ValueError, match="capacity=202 does not hold what one Collect gives; give at least 204"):
        agents.make("tdmpc", None, problem, env_steps=1_000, prefill=150, n_envs=2, capacity=202)
    with pytest.raises(ValueError, match="actions that are vectors"):
        tdmpc.Method.of(Config(), Spec(Leaf((3,)), Leaf((), np.int32, 0, 2)))


def test_each_camera_has_a_trunk_of_its_own():
    spec = Spec({"pixels": Leaf((32, 32, 6), np.uint8), "state": Leaf((4,))}, Leaf((2,)), horizon=50)
    own = tdmpc.Method.of(Config(latent=5, hidden=8, encoder_hidden=8), spec)
    shapes = jax.eval_shape(own.init, jax.random.key(0), dict.fromkeys(H, 0.0)).learned["params"]["encoder"]["params"]
    assert {k for k in shapes if k.startswith("view")} == {"view_pixels_0", "view_pixels_1"}


def test_a_search_begins_with_the_last_plan_except_where_an_episode_does():
    problem = Problem({"train": rlx.envs.make("rlx:pendulum", time_limit=50)})
    settings = {**agents.presets("tdmpc")["debug"], "momentum": 1.0}  # a search leaves its mean where it was
    agent = agents.make("tdmpc", None, problem, **settings)
    state = agent.init(jax.random.key(0), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    no = jnp.zeros(2, bool)
    step = Step(jnp.zeros((2, 3)), jnp.zeros(2), no, no, jnp.array([True, False]), {})
    carry = tdmpc.Carry(jnp.full((2, 2, 1), 0.25))
    act = jax.jit(agent.act, static_argnums=5)
    action, after, _ = act(state, clock(), carry, step, jax.random.key(1), "eval")
    close(action[:, 0], [0, 0.25])
    close(after.mean[:, :, 0], [[0, 0], [0.25, 0]])
    moved = act(state, clock(), carry, step, jax.random.key(1), "explore")[0]
    assert (np.asarray(moved) != np.asarray(action)).all()
