"""TD-MPC's schedules, and what its searches begin with. Its losses and searches are tested where they stand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents, replay
from rlx.agents import tdmpc
from rlx.agents.tdmpc import Config, Times
from rlx.config import hyper
from rlx.dynamics.told import Told
from rlx.replay import Index, Sequences
from rlx.types import AgentState, Clock, Collect, Leaf, Problem, Spec, Step, Update

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


def test_cycles_are_whole_episodes():
    times = Times.of(Config(env_steps=1_000, prefill=150, n_envs=2, utd=0.5), SPEC)
    assert (times.first, times.collect, times.cycles, times.updates) == (2 * 51, 51, 8, (100, 50))
    assert times.rows == 10 * 51
    close(times.acting(clock(env_steps=2 * 51 * 3)), 300, rtol=1e-6)
    endless = Times.of(Config(env_steps=1_000, prefill=100, collect=10), Spec(Leaf((3,)), Leaf((1,))))
    assert (endless.first, endless.cycles, endless.share) == (100, 90, 1.0)
    with pytest.raises(ValueError, match="prefill=100 leaves nothing of env_steps=100"):
        Times.of(Config(env_steps=100, prefill=100), SPEC)


def test_windows_fit_into_what_is_collected_first():
    """Or nothing could be drawn, and the first update would learn from no number."""
    long = Spec(Leaf((3,)), Leaf((1,)))
    Times.of(Config(horizon=50), SPEC), Times.of(Config(horizon=5, prefill=1, collect=5), long)
    for given, spec, has in ((Config(horizon=51), SPEC, 50), (Config(horizon=5, prefill=1, collect=4), long, 4)):
        with pytest.raises(ValueError, match=f"windows of horizon={given.horizon} are drawn after a prefill of {has}"):
            Times.of(given, spec)


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


PICTURES = Spec({"pixels": Leaf((24, 24, 3), np.uint8), "state": Leaf((4,))}, Leaf((2,)), horizon=50)
EMPTY = dict.fromkeys(("policies", "critics"), {})
SMALL = {
    "latent": 5,
    "hidden": 8,
    "encoder_hidden": 8,
    "horizon": 2,
    "samples": 8,
    "proposals": 2,
    "elites": 4,
    "iterations": 1,
}


class Shown(Exception):
    """Carries what a network would have been given: nothing is compiled."""


def shown(what):
    def stop(*args):
        raise Shown(what(*args))

    return stop


def test_of_images_several_frames_are_seen_while_acting_also_after_the_prefill(monkeypatch):
    own = tdmpc.Method.of(Config(**SMALL), PICTURES)
    state = AgentState({k: jnp.float32(v) for k, v in hyper(own.config).items()}, {"params": {"encoder": None} | EMPTY})
    shapes = jax.eval_shape(own.init, jax.random.key(0), state.hyper).learned["params"]["encoder"]["params"]
    assert own.frames == 3 and shapes["view_pixels"]["Conv_0"]["kernel"].shape[2] == 9
    rng, no = np.random.default_rng(0), jnp.zeros(1, bool)
    images = rng.integers(0, 255, (4, 1, 24, 24, 3)).astype(np.uint8)
    at = lambda t: Step(
        {"pixels": images[t], "state": np.full((1, 4), t, np.float32)}, jnp.zeros(1), no, no, jnp.full(1, t == 0), {}
    )
    carry = own.carry(state, 1)
    for t in range(3):
        _, carry, _ = own.act(state, clock(), carry, at(t), jax.random.key(1), "random")
    np.testing.assert_array_equal(carry.frames["pixels"], np.concatenate(images[:3], -1))
    monkeypatch.setattr(Told, "encode", shown(lambda self, params, obs: obs))
    with pytest.raises(Shown) as found:
        own.act(state, clock(), carry, at(3), jax.random.key(1), "eval")
    (obs,) = found.value.args
    np.testing.assert_array_equal(obs["pixels"], np.concatenate(images[1:], -1))
    np.testing.assert_array_equal(obs["state"], [[3] * 4])
    assert tdmpc.Method.of(Config(**SMALL), SPEC).carry(state, 1).frames == {}  # a state is seen once


def test_windows_hold_the_frames_that_networks_see_shifted_each_by_itself(monkeypatch):
    asked = []
    sequences = replay.sequences
    monkeypatch.setattr(replay, "sequences", lambda *a, **k: asked.append(k) or sequences(*a, **k))
    agents.make("tdmpc", None, Problem({"train": rlx.envs.make("rlx:push-toy", discs=24)}), **SMALL, frames=2)
    agents.make("tdmpc", None, Problem({"train": rlx.envs.make("rlx:push-toy")}), **SMALL, frames=2)
    assert [k["stack"] for k in asked] == [2, 1]
    own = tdmpc.Method.of(Config(**SMALL), PICTURES)
    rng, no = np.random.default_rng(0), jnp.zeros((3, 4), bool)
    images = rng.integers(0, 255, (3, 4, 24, 24, 9)).astype(np.uint8)
    obs = {"pixels": jnp.asarray(images), "state": jnp.asarray(rng.normal(size=(3, 4, 12)), jnp.float32)}
    state = AgentState({k: jnp.float32(v) for k, v in hyper(own.config).items()}, {"params": None, "opt": None, "target": None})
    monkeypatch.setattr(tdmpc.learning, "learn_model", shown(lambda *args: args[5]))
    index = Index(*[jnp.zeros(4, jnp.int32)] * 2)
    drawn = Sequences(obs, jnp.ones((3, 4)), no, no, no, {}, jnp.zeros((3, 4, 2)), {}, ~no, jnp.ones(4), index)
    with pytest.raises(Shown) as found:
        own.update(state, clock(), drawn, jax.random.key(2))
    looked = found.value.args[0].obs
    np.testing.assert_array_equal(looked["state"], obs["state"][..., 8:])
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")  # a 21st of 24
    shifts = set()
    for i in np.ndindex(3, 4):
        at = [(y, x) for y, x in np.ndindex(3, 3) if (looked["pixels"][i] == padded[i][y : y + 24, x : x + 24]).all()]
        assert len(at) == 1  # the same of all frames
        shifts |= set(at)
    assert len(shifts) > 3


def test_a_search_begins_with_the_last_plan_except_where_an_episode_does():
    problem = Problem({"train": rlx.envs.make("rlx:pendulum", time_limit=50)})
    settings = {**agents.presets("tdmpc")["debug"], "momentum": 1.0}  # a search leaves its mean where it was
    agent = agents.make("tdmpc", None, problem, **settings)
    state = agent.init(jax.random.key(0), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    no = jnp.zeros(2, bool)
    step = Step(jnp.zeros((2, 3)), jnp.zeros(2), no, no, jnp.array([True, False]), {})
    carry = tdmpc.Carry(jnp.full((2, 2, 1), 0.25), {})
    act = jax.jit(agent.act, static_argnums=5)
    action, after, _ = act(state, clock(), carry, step, jax.random.key(1), "eval")
    close(action[:, 0], [0, 0.25])
    close(after.mean[:, :, 0], [[0, 0], [0.25, 0]])
    moved = act(state, clock(), carry, step, jax.random.key(1), "explore")[0]
    assert (np.asarray(moved) != np.asarray(action)).all()
