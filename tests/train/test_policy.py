"""Policies act on what environments emit, in the units that environments take."""

from __future__ import annotations

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents
from rlx import config as configs
from rlx.keys import HostKey
from rlx.train import Options, run
from rlx.train.policy import Policy
from rlx.train.run_config import RunConfig
from rlx.types import Agent, AgentState, Problem, Stage

KEY = HostKey(np.array([[3, 4]], np.uint32), 1)
MODULE = "tests.envs.gym_fixtures:"


def policy_of(name: str, **options) -> Policy:
    env = agents.seen_by("sac", rlx.envs.make(f"gym:{name}", **options))
    problem = Problem({"train": env})
    agent = agents.make("sac", None, problem, hidden=(8,))
    state = agent.init(jax.random.key(1), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    return Policy(agent, state, problem)


def chooser() -> Policy:
    """Pushes the cart to where the pole leans."""
    env = rlx.envs.make("gym:CartPole-v1")
    act = lambda state, clock, carry, step, key, mode: ((step.obs[:, 2] > 0).astype(jnp.int32), carry, {})
    agent = Agent("chooser", None, {}, lambda key, hyper: AgentState(hyper, {}), act, (Stage("stand", 1, ()),))
    return Policy(agent, AgentState({}, {}), Problem({"train": env}))


@pytest.mark.parametrize("name", ["Pendulum-v1", f"{MODULE}RlxArm-v0", "CartPole-v1"])
def test_gymnasiums_environment_and_ours_are_acted_on_alike(name):
    policy = chooser() if name == "CartPole-v1" else policy_of(name)
    ours, theirs = policy.problem.envs["train"].make(1, "reset"), gymnasium.make(name)
    state, step = ours.reset(None, KEY)
    obs, _ = theirs.reset(seed=KEY.seed(0) % 2**31)
    for _ in range(4):
        native, _ = policy.act(obs, units="env")
        assert theirs.action_space.contains(native)
        obs, reward, *_ = theirs.step(native)
        state, step = ours.step(None, state, policy.act(step)[0], KEY)
        assert step.reward[0] == pytest.approx(reward, rel=1e-4, abs=1e-6)
    ours.close()


def test_units_are_those_of_the_action_space():
    policy, obs = policy_of("Pendulum-v1"), np.array([[1, 0, 2], [0, 1, -3]], np.float32)
    np.testing.assert_allclose(policy.act(obs, units="env")[0], 2 * policy.act(obs)[0])
    with pytest.raises(ValueError, match="units='torque' is unknown; give 'agent' or 'env'"):
        policy.act(obs, units="torque")
    choice, _ = chooser().act(np.array([0, 0, 0.1, 0]))
    assert choice == 1 and choice.dtype == np.int32


def test_dicts_single_and_batched():
    policy, rng = policy_of(f"{MODULE}RlxArm-v0"), np.random.default_rng(0)
    batch = {
        "goal": rng.normal(size=(3, 1)),
        "arm": {"velocity": rng.normal(size=(3, 2)), "position": rng.normal(size=(3, 2))},
    }
    actions, _ = policy.act(batch)
    assert actions.shape == (3, 2)
    vectors = np.concatenate([batch["arm"]["position"], batch["arm"]["velocity"], batch["goal"]], 1)
    np.testing.assert_array_equal(policy.act(vectors)[0], actions)
    one = jax.tree.map(lambda x: x[1], batch)
    np.testing.assert_allclose(policy.act(one)[0], actions[1], rtol=1e-5, atol=1e-7)
    for bad in ({**batch, "goal": batch["goal"][:2]}, {"arm": batch["arm"]}, {**batch, "goal": rng.normal(size=(3, 2))}):
        with pytest.raises(ValueError, match="an observation of sac here has shape .*goal"):
            policy.act(bad)


def test_runs_flatten_dicts_of_floats_by_themselves():
    preset = {**agents.presets("sac")["debug"], "env_steps": 60, "prefill": 20, "eval_every": 40, "eval_episodes": 1}
    config = configs.replace(agents.config("sac"), preset)
    chosen = RunConfig("sac", f"gym:{MODULE}RlxArm-v0", config, time_limit=5)
    problem = chosen.problem()
    agent = chosen.make(problem)
    state = run(agent, problem, chosen.key(), options=Options(progress=False))
    assert state.sources["replay"].data.obs.shape[-1] == 5
    with pytest.raises(ValueError, match="^sac takes observations that are vectors: .*camera"):
        RunConfig("sac", f"gym:{MODULE}RlxCamera-v0", config).problem()


def test_a_policy_moves_to_an_environment_that_emits_dicts():
    moved = policy_of(f"{MODULE}RlxArm-v0").on(rlx.envs.make(f"gym:{MODULE}RlxArm-v0", time_limit=3))
    assert moved.spec.obs.shape == (5,) and moved.spec.horizon == 3 and len(moved.evaluate(2)["returns"]) == 2


@pytest.mark.parametrize(("name", "high"), [("dmc:cartpole-swingup", 1), ("dmc:hopper-hop", 1), ("rlx:cstr", None)])
def test_other_rooms_say_their_native_range(name, high):
    spec = rlx.envs.make(name).spec
    if high is None:
        control = spec.task.control
        np.testing.assert_array_equal([spec.native_action.low, spec.native_action.high], [control.u_low, control.u_high])
    else:
        assert spec.native_action.shape == spec.action.shape and (np.asarray(spec.native_action.high) == high).all()
