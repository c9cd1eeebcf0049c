"""What is done, and how the actor learns: up the values of its actions, near the data where that is asked for. Where actions
are choices there is no actor: the one of the largest value is taken."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlx.agents.td_jepa.features.base import Batch
from rlx.agents.td_jepa.losses import reduced
from rlx.agents.td_jepa.networks import Net, Params
from rlx.types import Array, Key

EDGE = 1 - 1e-6  # actions stay within
RANDOM = 0.1  # share of choices that are taken at random to explore


def straight(x: Array) -> Array:
    """``x`` within +-`EDGE`, with the gradient of the identity."""
    return x + jax.lax.stop_gradient(jnp.clip(x, -EDGE, EDGE) - x)


def drawn(mean: Array, key: Key, std: Array | float, clip: Array | float = jnp.inf) -> Array:
    """An action of a Gaussian actor, its noise within +-``clip``."""
    return straight(mean + jnp.clip(std * jax.random.normal(key, mean.shape), -clip, clip))


def acted(net: Net, p: Params, x: Array, z: Array, h: dict[str, Array], key: Key) -> Array:
    """Actions [B, m] while training; ``x`` is what the actor sees."""
    if net.noise:
        return net.pi(p, x, z, jax.random.normal(key, (*z.shape[:-1], net.noise)))
    mean = net.pi(p, x, z)
    return mean if net.discrete else drawn(mean, key, h["actor_std"], h["actor_clip"])


def taken(net: Net, p: Params, obs: Array, z: Array, key: Key, std: Array, explore: bool) -> Array:
    """What is done at ``obs`` [N, ...]: vectors [N, m], or numbers of choices [N]."""
    x = net.actor_sees(p, net.see(p, "phi", obs))
    if net.noise:
        return net.pi(p, x, z, jax.random.normal(key, (x.shape[0], net.noise)))
    best = net.pi(p, x, z)
    if not net.discrete:
        return drawn(best, key, std) if explore else best
    choice = best.argmax(-1).astype(jnp.int32)
    if not explore:
        return choice
    k_which, k_any = jax.random.split(key)
    anything = jax.random.randint(k_any, choice.shape, 0, net.actions)
    return jnp.where(jax.random.uniform(k_which, choice.shape) < RANDOM, anything, choice)


def integrated(net: Net, p: Params, h: Array, noise: Array) -> Array:
    """Actions [B, m] of the flow from ``noise``: Euler steps, and bounds once at the end."""
    steps = net.config.flow_steps

    def step(place: Array, i: Array) -> tuple[Array, None]:
        time = jnp.full((*place.shape[:-1], 1), i / steps)
        return place + net.modules["flow"].apply(p["flow"], h, place, time) / steps, None

    return jnp.clip(jax.lax.scan(step, noise, jnp.arange(steps))[0], -1.0, 1.0)


def loss(
    own: Params, net: Net, p: Params, h: Array, batch: Batch, z: Array, hyper: dict[str, Array], key: Key
) -> tuple[Array, dict[str, Array]]:
    """Of the actor's parameters ``own`` (and the flow model's); ``p`` are those of all networks, ``h`` [B, n] what the state
    encoder sees. Values are divided by their mean size, but for a Gaussian actor where the weight ``bc`` of the data is 0."""
    k_act, k_flow, k_time = jax.random.split(key, 3)
    h, p = jax.lax.stop_gradient((h, p))
    x, state = net.actor_sees(p, h), net.phi(p, h)
    noise = jax.random.normal(k_act, (h.shape[0], net.noise)) if net.noise else None
    action = acted(net, own, x, z, hyper, k_act) if noise is None else net.pi(own, x, z, noise)
    q = net.values(p, state, z, action)
    scaled = (hyper["bc"] > 0) | (noise is not None)
    scale = jax.lax.stop_gradient(jnp.where(scaled, jnp.maximum(jnp.abs(q).mean(), 1e-6), 1.0))
    climb = -reduced(q, hyper["actor_pessimism"]).mean() / scale
    metrics = {"actor/q_mean": q.mean()}
    if noise is None:
        near = ((action - batch.action) ** 2).mean()
        return climb + hyper["bc"] * near, {**metrics, "actor/loss": climb, "actor/bc": near}
    goal = jax.lax.stop_gradient(integrated(net, own, h, noise))
    near = ((action - goal) ** 2).mean()
    start, time = jax.random.normal(k_flow, batch.action.shape), jax.random.uniform(k_time, (h.shape[0], 1))
    place = (1 - time) * start + time * batch.action
    flow = ((net.modules["flow"].apply(own["flow"], h, place, time) - (batch.action - start)) ** 2).mean()
    total = climb + hyper["bc"] * near + flow
    return total, {**metrics, "actor/loss": climb, "actor/bc": near, "actor/flow_loss": flow}
