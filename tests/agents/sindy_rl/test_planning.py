"""Model predictive control in the equations: it heeds the box and its price, and what it decides is learned from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import export, replay
from rlx.agents import ppo
from rlx.agents.sindy_rl import planning
from rlx.agents.sindy_rl.config import Config
from rlx.agents.sindy_rl.world import World
from rlx.config import replace
from rlx.dynamics.sparse import SparseModel, affine
from rlx.nn import normalize
from rlx.planning import planner
from rlx.train import Policy, logging, run

from .test_agent import QUIET, made

SEARCH = {"planner.horizon": 2, "planner.samples": 200, "planner.proposals": 0, "planner.value": False}
SEARCH |= {"planner.elites": 20, "planner.iterations": 8, "planner.temperature": 20.0, "planner.std_min": 0.001}
SEARCH |= {"planner.use": "eval", "ppo.discount": 1.0}


def chosen(high: float, **changes) -> float:
    """The first action at x = 0 where x' = x + u / 2 pays -(x' - 0.4)^2, up to ``high``, which costs 5."""
    config = replace(Config(), {"dynamics.degree": 1, **SEARCH, **changes})
    world = World(config, 1, 1, None, lambda xp, obs, action: -((obs[..., 0] - 0.4) ** 2))
    library = affine(1, 1, 1, config.dynamics.interact, config.tensor)
    row = np.float32([[{(0,): 1.0, (1,): 0.5}.get(term, 0.0) for term in library.factors]])
    model = {"model": {"dynamics": SparseModel(jnp.asarray(row)[None], jnp.asarray(row), library)}}
    params = {"model": {**model, "uncertainty_penalty": jnp.float32(0)}, "exit_reward": jnp.float32(-5)}
    params |= {"low": jnp.full(1, -9.0), "high": jnp.full(1, high)}
    h = {"ppo.discount": jnp.float32(1), "ppo.value_bound": jnp.float32(1e9)}
    net = ppo.actor_critic(config.ppo, 1, categorical=False)
    keys = jax.random.split(jax.random.key(1), 2)
    learned = {"actor": net.actor.init(keys[0], jnp.zeros(1)), "critic": net.critic.init(keys[1], jnp.zeros(1))}
    learned |= {"log_std": jnp.zeros(1), "obs_stats": normalize.init((1,)), "return_stats": ()}
    blank = planner.blank(config.planner, 1, 1)
    given = (world, learned, h, params, blank, jnp.zeros((1, 1)), jnp.zeros(1, bool), jax.random.key(0))
    return float(jax.jit(lambda key: planning.decided(*given[:-1], key)[0])(given[-1])[0, 0])


def test_it_goes_where_the_equations_pay_most():
    assert chosen(9.0) == pytest.approx(0.8, abs=0.05)


def test_it_stays_inside_the_box_where_leaving_has_a_price():
    assert 0.5 < chosen(0.3) < 0.6


def test_where_leaving_costs_nothing_it_leaves():
    """All rewards are negative, and none comes after the end."""
    assert chosen(0.3, exit="terminate") > 0.6


def test_what_the_policy_proposes_and_the_critic_says_are_options():
    for changes in ({"planner.proposals": 4}, {"planner.value": True}, {"planner.hold": 2}):
        assert np.isfinite(chosen(9.0, **changes))


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "planned"
    small = {"planner.use": "act", "planner.hold": 2, "planner.horizon": 3, "planner.samples": 16, "planner.proposals": 2}
    agent, problem = made(**small, **{"planner.elites": 4, "planner.iterations": 2}, distil=False)
    return agent, problem, folder, run(agent, problem, jax.random.key(0), folder, options=QUIET)


@pytest.mark.slow
def test_what_it_decides_is_learned_from_and_it_is_evaluated_beside_the_policy(planned):
    agent, _, folder, state = planned
    assert {line["eval"] for line in logging.read(folder) if line["kind"] == "eval"} == {"main", "planner"}
    assert [p.mode for s in agent.stages for p in s.phases if getattr(p, "into", None) == "online"] == ["planner"]
    actions = np.concatenate([e.action[:-1, 0] for e in replay.export(state.sources["online"])]).reshape(3, 20)
    np.testing.assert_array_equal(actions[:, ::2], actions[:, 1::2])  # each is held for two decisions
    assert len(np.unique(actions)) > 20


@pytest.mark.slow
def test_its_policy_leaves_as_a_file_and_its_plans_do_not(planned):
    agent, problem, _, state = planned
    policy = Policy(agent, state.agent, problem, len(agent.stages) - 1)
    obs = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    np.testing.assert_allclose(export.law_of(policy).act(obs), policy.act(obs, units="env")[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="depends on memory from decision to decision"):
        export.law_of(policy, "planner")
    carry, shape = None, policy.carry(4).mean.shape
    for _ in range(2):
        action, carry = policy.act(obs, carry, mode="planner", key=jax.random.key(0))
        assert action.shape == (4, 1) and carry.mean.shape == shape == (4, 3, 1)
