"""The recurrent state-space model: sizes, the cell's convention, what is taken out of the scan, and where episodes begin."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.dynamics import RSSM, LatentDynamics, as_env
from rlx.dynamics.rssm import Latent, drawn, gaussian
from rlx.envs import check
from rlx.nn.mlp import MLP
from rlx.nn.recurrent import GRU

pytestmark = pytest.mark.usefixtures("all_bits")
T, B = 6, 2
MODEL = RSSM(actions=2, embedding=5, belief=4, state=3, hidden=4)


@functools.cache
def params():
    return MODEL.init(jax.random.key(0))


def draw(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


def chunk():
    joined = jnp.ones((T, B), bool).at[3, 0].set(False)
    return draw(1, T, B, 5), jnp.tanh(draw(2, T, B, 2)), joined, draw(3, T, B, 3)


def test_sizes_are_those_of_the_paper():
    shapes = jax.eval_shape(RSSM(actions=6, embedding=1024).init, jax.random.key(0))
    count = lambda *names: sum(x.size for name in names for x in jax.tree.leaves(shapes[name]))
    assert count("state_in", "action_in") == 7_400 and count("gru") == 240_800 and count("prior") == 52_260
    assert count("belief_in", "embedding_in", "posterior") == 257_060 and count(*shapes) == 557_520


def test_the_cell_has_the_convention_of_pytorch():
    cell = GRU(1)
    own = {
        "input": {"kernel": jnp.float32([[0.1, 0.2, 0.3]]), "bias": jnp.zeros(3)},
        "recurrent": {"kernel": jnp.float32([[0.4, 0.5, 0.6]])},
        "inner_bias": jnp.float32([0.1]),
    }
    assert jax.tree.structure(own) == jax.tree.structure(cell.init(jax.random.key(0), jnp.ones(1), jnp.ones(1))["params"])
    np.testing.assert_allclose(cell.apply({"params": own}, jnp.ones(1), jnp.float32([0.5])), 0.4942416, rtol=1e-6)


def test_weights_are_drawn_as_those_of_the_layer_that_they_are_parts_of():
    model = RSSM(actions=6, embedding=1024)
    own = model.init(jax.random.key(0))
    bounds = {"state_in": 36, "action_in": 36, "gru": 200, "prior": 200, "belief_in": 1224, "embedding_in": 1224}
    for name, fan_in in bounds.items():
        largest = max(np.abs(x).max() for x in jax.tree.leaves(own[name]))
        assert 0.95 * fan_in**-0.5 < largest <= fan_in**-0.5


def unrolled(model, p, embedding, action, joined, noise):
    """As the equations stand, one step after another, each with layers of what they are given side by side."""
    beside = lambda a, b: np.concatenate([p[a]["params"]["kernel"], p[b]["params"]["kernel"]])
    latent, out = model.blank(B), []
    for t in range(len(action)):
        on = joined[t][:, None]
        state, belief, act = latent.state * on, latent.belief, action[t]
        if model.reset == "full":
            belief, act = belief * on, act * on
        enter = jnp.concatenate([state, act], -1) @ beside("state_in", "action_in") + p["action_in"]["params"]["bias"]
        belief = model.modules["gru"].apply(p["gru"], jax.nn.elu(enter), belief)
        prior = gaussian(model.modules["prior"].apply(p["prior"], belief), model.min_std)
        seen = jnp.concatenate([belief, embedding[t]], -1) @ beside("belief_in", "embedding_in")
        seen = jax.nn.elu(seen + p["embedding_in"]["params"]["bias"])
        posterior = gaussian(model.modules["posterior"].apply(p["posterior"], seen), model.min_std)
        latent = Latent(belief, drawn(posterior, noise[t]))
        out.append((latent, posterior, prior))
    return jax.tree.map(lambda *x: jnp.stack(x), *out)


@pytest.mark.parametrize("reset", ["full", "paper"])
def test_filtering_equals_the_equations_step_by_step(reset):
    model = RSSM(2, 5, 4, 3, 4, reset=reset)
    found = jax.jit(model.filter)(params(), *chunk())
    wanted = unrolled(model, params(), *chunk())
    for a, b in zip(jax.tree.leaves(tuple(found)), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_acting_takes_the_same_steps():
    embedding, action, joined, noise = chunk()
    found = MODEL.filter(params(), embedding, action, jnp.ones_like(joined), noise)
    latent = MODEL.blank(B)
    for t in range(T):
        latent = MODEL.observe(params(), latent, action[t], embedding[t], noise[t])
        np.testing.assert_allclose(latent.features, found.latent.features[t], rtol=1e-5, atol=1e-6)
    imagined = MODEL.imagine(params(), Latent(*(x[0] for x in found.latent)), action[1], noise[1])
    prior = found.prior.mean[1] + jnp.exp(found.prior.log_std[1]) * noise[1]
    np.testing.assert_allclose(imagined.features, jnp.concatenate([found.latent.belief[1], prior], -1), rtol=1e-5, atol=1e-6)


def test_an_episode_that_begins_inside_is_as_one_that_begins_afresh():
    embedding, action, joined, noise = chunk()
    whole = MODEL.filter(params(), embedding, action, joined, noise)
    blank = action.at[3].set(0.0)
    fresh = MODEL.filter(params(), *(x[3:] for x in (embedding, blank, jnp.ones_like(joined), noise)))
    np.testing.assert_allclose(whole.latent.features[3:, 0], fresh.latent.features[:, 0], rtol=1e-6)
    assert np.abs(whole.latent.features[3:, 1] - fresh.latent.features[:, 1]).max() > 1e-3  # the other goes on

    paper = RSSM(2, 5, 4, 3, 4, reset="paper")  # the belief goes on, the state is 0
    kept = paper.filter(params(), embedding, action, joined, noise)
    assert np.abs(kept.latent.belief[3, 0] - fresh.latent.belief[0, 0]).max() > 1e-3
    before = Latent(kept.latent.belief[2], jnp.zeros((B, 3)))
    stepped = paper.observe(params(), before, action[3], embedding[3], noise[3])
    np.testing.assert_allclose(kept.latent.belief[3, 0], stepped.belief[0], rtol=1e-5)


def test_deviations_of_a_head_without_weights():
    np.testing.assert_allclose(jnp.exp(gaussian(jnp.zeros(2), 0.1).log_std), 0.7931472, rtol=1e-6)


def test_the_model_is_an_environment():
    reward = MLP((4, 1), "elu")
    own = {"rssm": params(), "reward": reward.init(jax.random.key(1), jnp.zeros(7))}
    env = as_env(LatentDynamics(MODEL, reward), own, draw(4, 3, 7), actions=2, horizon=4)
    assert check(env).exact_resume
    key = jax.random.key(5)
    state, first = env.reset(env.params, key)
    action = jnp.float32([0.3, -0.8])
    _, step = env.step(env.params, state, action, key)
    latent = Latent(first.obs[:4], first.obs[4:])
    new = MODEL.imagine(own["rssm"], latent, action, jax.random.normal(key, (3,)))
    np.testing.assert_allclose(step.obs, new.features, rtol=1e-5)
    np.testing.assert_allclose(step.reward, reward.apply(own["reward"], new.features)[0], rtol=1e-5)


def test_imagined_tasks_end_as_often_as_the_model_says():
    reward, goes_on = MLP((4, 1), "elu"), MLP((1,), "elu")
    own = {"rssm": params(), "reward": reward.init(jax.random.key(1), jnp.zeros(7))}
    likely = goes_on.init(jax.random.key(2), jnp.zeros(7))  # of nothing but its bias: goes on with a probability of .8
    own["continue"] = jax.tree.map(lambda x: jnp.full_like(x, jnp.log(4.0)) if x.ndim == 1 else jnp.zeros_like(x), likely)
    env = as_env(LatentDynamics(MODEL, reward, goes_on), own, draw(4, 3, 7), actions=2, horizon=4, stop="terminate")
    state, _ = env.reset(env.params, jax.random.key(5))
    steps = jax.vmap(lambda key: env.step(env.params, state, jnp.zeros(2), key)[1])(jax.random.split(jax.random.key(6), 1_000))
    np.testing.assert_allclose(steps.terminated.mean(), 0.2, atol=0.04)  # three deviations
    np.testing.assert_allclose(steps.info["score"], 0.8, rtol=1e-5)
