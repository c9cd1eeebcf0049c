"""Random network distillation: its formulas in float64, that rewards of the environment are not looked at, what it covers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents, keys
from rlx.agents import rnd
from rlx.nn import normalize
from rlx.nn.mlp import MLP
from rlx.replay.buffer import export
from rlx.train import run
from rlx.train.collect import collect, random
from rlx.types import Clock, Problem, Step

from .numpy_nets import double, forward, slopes
from .test_sac import N, transitions

pytestmark = pytest.mark.usefixtures("all_bits")
SMALL = {"hidden": (5,), "predictor_hidden": (6,), "features": 3, "predictor_lr": 0.01}
CLOCK = Clock(*[jnp.int32(0)] * 3)


@pytest.fixture(scope="module")
def agent():
    return agents.make("rnd", None, Problem({"train": rlx.envs.make("rlx:point-mass")}), **SMALL)


@pytest.fixture(scope="module")
def update(agent):
    return jax.jit(agent.stages[1].phases[1].update)


def started(agent):
    return agent.init(jax.random.key(1), {k: jnp.float32(v) for k, v in agent.hyper.items()})


def test_errors_and_their_gradient_equal_float64():
    net, x = MLP((6, 3), kernel_init="orthogonal"), np.random.default_rng(0).normal(size=(5, N))
    predictor, fixed = (net.init(jax.random.key(i), jnp.zeros(N)) for i in range(2))
    wide, goal = double(predictor), forward(double(fixed), x)
    (loss, e), grads = jax.value_and_grad(rnd.prediction_loss, has_aux=True)(predictor, net, fixed, jnp.float32(x))
    np.testing.assert_allclose(e, ((forward(wide, x) - goal) ** 2).mean(-1), rtol=1e-4)
    np.testing.assert_allclose(loss, np.mean(e), rtol=1e-5)
    slopes(lambda p: ((forward(p, x) - goal) ** 2).mean(), wide, grads, every=3)


def test_rewards_are_errors_by_the_spread_of_all_so_far():
    first, second = np.array([1.0, 3.0, 2.0]), np.array([10.0, 0.5])
    r, seen = rnd.rewards(jnp.float32(first), normalize.init((1,)))
    np.testing.assert_allclose(r, first / np.std(first), rtol=1e-4)
    r, _ = rnd.rewards(jnp.float32(second), seen)
    np.testing.assert_allclose(r, second / np.std([1, 3, 2, 10, 0.5]), rtol=1e-4)


def test_an_update_is_sacs_with_the_reward_in_its_place(agent, update):
    state, batch, key = started(agent), transitions(4), jax.random.key(2)
    new, out = update(state, CLOCK, batch, key)
    old, x = state.learned, np.asarray(batch.next_obs, np.float64)
    on_scale = lambda s: np.clip((np.asarray(s, np.float64) - x.mean(0)) / np.sqrt(x.var(0) + 1e-8), -5, 5)  # of a first batch
    e = ((forward(double(old["predictor"]), on_scale(x)) - forward(double(old["random"]), on_scale(x))) ** 2).mean(-1)
    np.testing.assert_allclose(out.metrics["predictor/loss"], e.mean(), rtol=1e-4)
    np.testing.assert_allclose(out.metrics["explore/reward"], (e / e.std()).mean(), rtol=1e-3)
    plain = agents.make("sac", None, Problem({"train": rlx.envs.make("rlx:point-mass")}), hidden=(5,))
    names = set(old) - {"predictor", "random", "predictor_opt", "obs_stats", "error_stats"}
    of_sac = lambda learned: {k: learned[k] for k in names}
    there = {"obs": on_scale(batch.obs), "next_obs": on_scale(x), "reward": e / e.std()}
    paid = batch._replace(**{k: jnp.float32(v) for k, v in there.items()})
    theirs, _ = jax.jit(plain.stages[1].phases[1].update)(state._replace(learned=of_sac(old)), CLOCK, paid, key)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, of_sac(new.learned), of_sac(theirs.learned))
    assert float(new.learned["obs_stats"].count) == len(x) and float(new.learned["error_stats"].count) == len(x)


def test_it_acts_on_normalised_observations(agent, update):
    state = update(started(agent), CLOCK, transitions(4), jax.random.key(2))[0]
    n, obs = len(transitions().obs), transitions(7).obs
    step = lambda s: Step(s, jnp.zeros(n), *jnp.zeros((3, n), bool), {})
    plain = agents.make("sac", None, Problem({"train": rlx.envs.make("rlx:point-mass")}), hidden=(5,))
    seen = normalize.apply(state.learned["obs_stats"], obs, 5.0)
    mine = agent.act(state, CLOCK, (), step(obs), jax.random.key(0), "eval")[0]
    np.testing.assert_allclose(mine, plain.act(state, CLOCK, (), step(seen), jax.random.key(0), "eval")[0], rtol=1e-6)


def test_the_random_network_stays_and_the_other_comes_to_know_what_it_has_seen(agent, update):
    state, batch, losses = started(agent), transitions(5), []
    for i in range(60):
        state, out = update(state, CLOCK, batch, jax.random.key(i))
        losses.append(float(out.metrics["predictor/loss"]))
    assert losses[-1] < 0.3 * losses[0]
    jax.tree.map(np.testing.assert_array_equal, state.learned["random"], started(agent).learned["random"])


def test_rewards_of_the_environment_are_not_looked_at(agent, update):
    batch = transitions(6)
    other = update(started(agent), CLOCK, batch._replace(reward=batch.reward * 7 - 3), jax.random.key(0))[0]
    jax.tree.map(np.testing.assert_array_equal, other, update(started(agent), CLOCK, batch, jax.random.key(0))[0])


def test_it_is_paid_for_single_steps():
    with pytest.raises(ValueError, match="rnd is paid .* n_step=1, not 3"):
        agents.make("rnd", None, Problem({"train": rlx.envs.make("rlx:point-mass")}), n_step=3)


@pytest.mark.slow
def test_it_gets_around_more_than_random_actions():
    """Out of the first room of a maze, whose ball is slow. Cells of 6 cm that were visited, over two seeds."""
    env = rlx.envs.make("rlx:pointmass-maze", time_limit=300)
    sizes = {"env_steps": 8_000, "prefill": 800, "n_envs": 8, "batch": 128, "utd": 0.5, "hidden": (64, 64)}
    rates = {k: 1e-3 for k in ("actor_lr", "critic_lr", "temperature_lr", "predictor_lr")}
    rates |= {"tau": 0.02, "eval_every": 10**6, "eval_episodes": 1}
    problem = Problem({"train": env})
    agent = agents.make("rnd", None, problem, predictor_hidden=(64,), features=32, **sizes, **rates)

    def visited(episodes) -> int:
        places = np.concatenate([e.obs[:, :2] for e in episodes])
        return len(np.unique(np.floor((places + 0.3) / 0.06), axis=0))

    mine = [visited(export(run(agent, problem, keys.root(seed)).sources["replay"])) for seed in range(2)]
    theirs = [visited(collect(random(env.spec), env, 8_000, 8, seed)) for seed in range(2)]
    assert sum(mine) > 2 * sum(theirs), (mine, theirs)
