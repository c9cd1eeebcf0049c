"""Behaviour by latent imagination (Hafner et al. 2020, "Dream to Control", arXiv:1912.01603): the actor climbs lambda-returns
through the model, the value regresses on them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlx.agents.repo import losses
from rlx.agents.repo.networks import Net, Params
from rlx.dynamics.rssm import Latent, LatentDynamics, drawn
from rlx.nn.distributions import Normal, tanh_log_det, tanh_normal_entropy
from rlx.nn.returns import lambda_returns
from rlx.planning import mppi, planner
from rlx.planning.planner import Plans
from rlx.precision import exact
from rlx.types import Array, Key

TRIES = 100  # actions that the likeliest is chosen of


class Noise(NamedTuple):
    """Standard normal, of each imagined step."""

    state: Array  # [J, N, S]
    action: Array  # [J, N, A]


def noise(net: Net, key: Key, n: int) -> Noise:
    steps = net.config.horizon - 1
    state, action = jax.random.split(key)
    return Noise(jax.random.normal(state, (steps, n, net.config.state)), jax.random.normal(action, (steps, n, net.actions)))


def imagined(net: Net, p: Params, start: Latent, noise: Noise) -> Latent:
    """Where the actor leads from ``start`` [N, ...]: [J, N, ...], the start left out. Gradients reach the actor through its
    actions, not through what it was shown."""

    def one(latent: Latent, x: Noise) -> tuple[Latent, Latent]:
        action = jnp.tanh(drawn(net.policy(p, jax.lax.stop_gradient(latent.features)), x.action))
        latent = net.rssm.imagine(p["rssm"], latent, action, x.state)
        return latent, latent

    return jax.lax.scan(one, start, noise)[1]


@exact
def returns(reward: Array, goes_on: Array, value: Array, lambda_: Array | float) -> Array:
    """G_j = r_j + d_j ((1 - lambda) v_{j+1} + lambda G_{j+1}), G_J = v_J, all [J, N]: reward and value are of the same state,
    ``goes_on`` is the discount after it."""
    return jnp.concatenate([lambda_returns(reward[:-1], goes_on[:-1], value[1:], lambda_), value[-1:]])


def loss(
    own: Params, net: Net, world: Params, slow: Params, start: Latent, alive: Array, noise: Noise, h: dict[str, Array]
) -> tuple[Array, dict[str, Array]]:
    """Of actor and value (``own``); the model (``world``) is as it is, and so is the value in returns (``slow``). ``start``
    [N, ...]; what was imagined from where the task had ended (not ``alive`` [N]) counts for nothing."""
    c = net.config
    latent = imagined(net, {**world, **own}, start, noise)
    features = latent.features
    reward, value = net.head(world, "reward", features), net.head(slow, "value", features)
    goes_on, weight = jnp.full_like(reward, h["discount"]), jnp.ones_like(reward)
    if c.continues:
        go = jax.nn.sigmoid(net.head(world, "continue", features))
        goes_on = h["discount"] * go
        here = jnp.concatenate([alive[None].astype(go.dtype), go[:-1]])
        weight = jax.lax.stop_gradient(jnp.cumprod(here, 0))
    target = returns(reward, goes_on, value, h["return_lambda"])
    policy = net.policy(own, features)
    entropy = tanh_normal_entropy(policy.mean, policy.log_std, c.entropy_nodes)
    actor = -(weight * (target + h["entropy_coef"] * entropy)).mean()
    judged = net.head(own, "value", jax.lax.stop_gradient(features[:-1]))
    critic = (weight[:-1] * losses.nll(judged, jax.lax.stop_gradient(target[:-1]))).mean()
    metrics = {"actor/return": target.mean(), "actor/entropy": entropy.mean(), "critic/loss": critic}
    return actor + critic, {**metrics, "actor/reward": reward.mean(), "critic/value": value.mean()}


def likeliest(policy: Normal, key: Key) -> Array:
    """Of `TRIES` draws of the actions [W, A] before tanh those whose squashed density is the highest."""
    x = drawn(policy, jax.random.normal(key, (TRIES, *policy.mean.shape)))
    density = policy.log_prob(x) - tanh_log_det(x).sum(-1)
    best = jnp.argmax(density, 0)
    return jnp.tanh(jnp.take_along_axis(x, best[None, :, None], 0)[0])


def planned(
    net: Net, p: Params, latent: Latent, plans: Plans, first: Array, explore: Array | float, h: dict[str, Array], key: Key
) -> tuple[Array, Plans]:
    """Actions [W, A] by plans in the model, from ``latent`` [W, ...] on; the actor proposes, and the value says what is behind
    the horizon."""
    own, model = net.config.planner, LatentDynamics(net.rssm, net.modules["reward"])

    def imagine(p: Params) -> mppi.Imagination:
        def policy(features: Array, key: Key) -> Array:
            normal = net.policy(p, features)
            return jnp.tanh(drawn(normal, jax.random.normal(key, normal.mean.shape)))

        value = lambda features, key: net.head(p, "value", features)[None]
        goes_on = lambda features: jax.nn.sigmoid(net.head(p, "continue", features))
        options = value if own.value else None, policy if own.proposals else None, goes_on if net.config.continues else None
        return mppi.imagined(model, p, *options)

    states = jax.vmap(lambda features: mppi.imagined_state(model, p, features, key))(latent.features)
    return planner.decide(own, imagine, p, states, plans, first, h["discount"], explore, key)
