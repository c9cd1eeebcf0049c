"""The same method with networks for the dynamics: what changes, and that nothing else does."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents
from rlx.agents.sindy_rl import Config
from rlx.agents.sindy_rl.report import markdown, models
from rlx.agents.sindy_rl.world import World, refitted
from rlx.config import apply, replace
from rlx.dynamics.ensemble import Ensemble
from rlx.dynamics.sparse import SparseModel
from rlx.train import run
from rlx.types import Problem

from .test_agent import QUIET, SMALL
from .test_world import line, rows_of, transitions

TOY = {**SMALL, "distil": False, "network.hidden": (16,), "network.batch": 64}
SETTINGS = {"model": "mlp", "ensemble_size": 5, "network.hidden": (16,), "network.batch": 120, "reward": "sparse", "drop": 0}
SETTINGS |= {"network.lr": 1e-2, "network.epochs": 200, "network.patience": 20, "seed_steps": 200, "online": 100}
SETTINGS |= {"rewards.threshold": 0.05, "seed_episode": 50}
WORLD = World(replace(Config(), SETTINGS), 1, 1, None, None)


def decay():
    """x' = 0.9 x + 0.1 u, r = 2 x'^2."""
    e = line(300)
    return transitions(rows_of(e | {"reward": 2 * e["obs"][:, 0].astype(float) ** 2}))


@pytest.fixture(scope="module")
def fitted():
    return refitted(WORLD, WORLD.blank(), decay(), np.random.default_rng(0), ("x",), first=True)


@pytest.mark.slow
def test_networks_predict_and_the_reward_is_still_an_equation(fitted):
    found, error, refused = fitted
    assert not refused and error < 0.3 and isinstance(found["dynamics"], Ensemble) and isinstance(found["reward"], SparseModel)
    np.testing.assert_allclose(found["reward"].coef, [[0, 2]], atol=1e-3)
    assert jax.tree.structure(found) == jax.tree.structure(WORLD.blank())
    shapes = lambda tree: [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]
    assert shapes(found) == shapes(WORLD.blank())
    z = jnp.array([0.2, 0.5])
    every = np.asarray(found["dynamics"].each(z), np.float64)
    said = WORLD.predict(found, (), z[:1], z[1:], jax.random.key(0))
    np.testing.assert_allclose(said.obs, every.mean(0), atol=1e-6)
    np.testing.assert_allclose(said.obs, 0.9 * 0.2 + 0.1 * 0.5, atol=0.03)
    np.testing.assert_allclose(said.reward, 2 * every.mean(0)[0] ** 2, rtol=0.01)
    np.testing.assert_allclose(WORLD.disagreement(found, z[:1], z[1:]), every.std(), rtol=1e-3)


def test_one_network_may_rule_an_episode(fitted):
    world = WORLD._replace(config=replace(WORLD.config, aggregate="sample"))
    drawn = {int(world.begin(fitted[0], jax.random.key(k))) for k in range(40)}
    assert drawn == set(range(5))
    z = jnp.array([0.2, 0.5])
    said = [world.predict(fitted[0], jnp.int32(e), z[:1], z[1:], jax.random.key(0)).obs for e in range(5)]
    np.testing.assert_allclose(said, fitted[0]["dynamics"].each(z), atol=1e-6)


def test_where_all_agree_uncertainty_has_a_gradient(fitted):
    """The root of 0 has none."""
    one = jax.tree.map(lambda x: jnp.repeat(x[:1], 2, 0), fitted[0]["dynamics"].params)
    alike = {**fitted[0], "dynamics": dataclasses.replace(fitted[0]["dynamics"], params=one)}
    disagreement = lambda x: WORLD.disagreement(alike, x, jnp.ones(1))
    assert disagreement(jnp.ones(1)) == 0 and jax.grad(disagreement)(jnp.ones(1)).tolist() == [0.0]


def test_a_refit_goes_on_from_the_networks_before(fitted):
    """With a step size of 0: the same networks again, where a first fit draws new ones."""
    still = WORLD._replace(config=replace(WORLD.config, {"network.lr": 0.0}))
    again = refitted(still, fitted[0], decay(), np.random.default_rng(1), ("x",), first=False)
    assert not again[2] and again[1] == pytest.approx(fitted[1])
    jax.tree.map(np.testing.assert_array_equal, again[0]["dynamics"], fitted[0]["dynamics"])
    assert refitted(still, fitted[0], decay(), np.random.default_rng(1), ("x",), first=True)[1] > 2 * fitted[1]


def test_a_refit_that_is_far_worse_or_fails_is_not_taken(fitted):
    rows = decay()
    wild = WORLD._replace(config=replace(WORLD.config, {"network.lr": 1e3}))
    kept, error, refused = refitted(wild, fitted[0], rows, np.random.default_rng(0), ("x",), first=False)
    assert "over 20 decisions" in refused["dynamics"] and kept["dynamics"] is fitted[0]["dynamics"] and error == fitted[1]
    assert kept["reward"] is not fitted[0]["reward"]  # its refit is its own
    few = rows._replace(**{k: getattr(rows, k)[:2] for k in rows._fields})
    said = refitted(WORLD, fitted[0], few, np.random.default_rng(0), ("x",), first=False)[2]
    assert "2 rows are too few" in said["dynamics"]
    with pytest.raises(ValueError, match="2 rows are too few"):
        refitted(WORLD, fitted[0], few, np.random.default_rng(0), ("x",), first=True)


@pytest.fixture(scope="module")
def trained():
    problem = Problem({"train": rlx.envs.make("rlx:cartpole-swingup", time_limit=60)})
    config = replace(apply(agents.config("sindy_rl"), agents.presets("sindy_rl"), ["dyna_nn"]), TOY)
    agent = agents.make("sindy_rl", config, problem)
    return agent, run(agent, problem, jax.random.key(0), options=QUIET)


@pytest.mark.slow
def test_the_preset_runs(trained):
    """Four random episodes of 50, then 20 before each of three refits, as with equations."""
    agent, state = trained
    assert agent.config.model == "mlp" and agent.config.ensemble_size == 5
    assert state.counts["env_steps"] == 200 + 3 * 20 and state.counts["updates"] == 6
    learned = state.agent.learned
    assert learned["fits"]["done"] == 4 and np.isfinite(learned["error"])
    network = models(state.agent)["dynamics"]
    assert set(models(state.agent)) == {"dynamics"} and network.sizes == (6, 16, 5) and network.count == 5


def test_the_page_says_that_there_are_no_equations(trained):
    state = trained[1].agent
    names = ("x", "cos", "sin", "v", "w", "u")
    page = markdown(state, names)
    assert f"There are no equations: these are 5 networks 6-16-5 (tanh), {5 * (7 * 16 + 17 * 5)} parameters." in page
    assert "## Dynamics" in page and "Standard deviations" not in page and "## Policy" not in page
    policy = state.learned["sparse"]
    state = state._replace(learned={**state.learned, "sparse": jax.tree.map(lambda x: x + 0.5, policy)})
    page = markdown(state, names)
    assert "There are no equations" in page and "## Standard deviations over the members" in page and "u = " in page


def test_an_unknown_activation_is_named():
    problem = Problem({"train": rlx.envs.make("rlx:cartpole-swingup")})
    with pytest.raises(ValueError, match="'soft' is unknown"):
        agents.make("sindy_rl", None, problem, **{"model": "mlp", "network.activation": "soft"})
