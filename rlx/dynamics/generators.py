"""What plays against the discriminator of `rlx.dynamics.adversary`: a network of normal distributions of s' - s given (s, a).
It makes transitions one by one, or several in a row as a clone of the data's policy acts. It learns in one of two ways.

``pathwise``: down the gradient of softplus(-d(s, a, s')), through s', one step at a time                            (eq. 3)

``rl``, as the wording of inverse reinforcement learning has it: soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905)
where (s, a) is the state, s' the action, and what comes next is (s', a') with a' of the clone::

    y   <- softplus(d(s, a, s')) + discount (min_i Q'_i(s', a', s'') - alpha log G(s''|s', a')),   s'' ~ G(s', a')
    Q_i <- down the gradient of (Q_i(s, a, s') - y)^2
    G   <- down the gradient of alpha log G(s'|s, a) - min_i Q_i(s, a, s'),   s' ~ G(s, a)

on what the generator has just made. softplus(d) is -log(1 - D). Densities are of changes in units of the largest in the data,
so that an entropy means the same in any units, and changes are bounded in these.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx.dynamics.scorer import EDGE, FLAT, Ranges, inputs
from rlx.nn.distributions import Normal, tanh_log_det
from rlx.nn.mlp import MLP
from rlx.nn.optim import apply_gradients, optimizer, polyak
from rlx.types import Array, Key, PyTree

LOG_VARIANCE = (-10.0, 0.5)  # of the generator, and of the clone
REACH = 1.5  # times the largest change in the data, which an agent's are within
CLONE_LR, CRITIC_LR, TAU = 1e-3, 3e-4, 0.005
TEMPERATURE, ENTROPY = 0.1, -1.0  # at the start; the target for each number that changes


class Data(NamedTuple):
    """Real transitions."""

    obs: Array  # [N, n]
    action: Array  # [N, m]
    new: Array  # [N, n]
    mean: Array  # [n + m], which the generator takes away from what it reads
    std: Array  # [n + m], and divides by
    ranges: Ranges


class Made(NamedTuple):
    """Transitions that a generator made [B, ...]."""

    obs: Array
    action: Array
    new: Array
    after: Array  # [B, m], the clone's action at ``new``


def distribution(net: MLP, params: PyTree, x: Array) -> Normal:
    """What a network that gives mean and log-variance says of scaled ``x`` [..., v]."""
    mean, log_variance = jnp.split(net.apply(params, x), 2, -1)
    return Normal(mean, 0.5 * jnp.clip(log_variance, *LOG_VARIANCE))


def generate(net: MLP, params: PyTree, data: Data, obs: Array, action: Array, key: Key, squashed: bool) -> tuple[Array, Array]:
    """s' [..., n] ~ G(s, a), differentiable in the parameters, and the log of its density [...], of changes in `units`.
    ``squashed``: changes are within `REACH`, by tanh, as an agent's actions are: critics know nothing of what is far."""
    change = distribution(net, params, (jnp.concatenate([obs, action], -1) - data.mean) / data.std)
    noise, own = jax.random.normal(key, change.mean.shape), units(data.ranges)
    drawn = change.mean + jnp.exp(change.log_std) * noise
    if squashed:
        log_prob = change.log_prob(drawn) - (tanh_log_det(drawn) + math.log(REACH)).sum(-1)
        return obs + own * REACH * jnp.tanh(drawn), log_prob
    return obs + drawn, change.log_prob(drawn) + jnp.log(own).sum()


def units(ranges: Ranges) -> Array:
    """How much of a change [n] is 1 where a discriminator reads it; 1 of what is the same in all data."""
    size = ranges.obs_high - ranges.obs_low
    return jnp.where(size < FLAT, 1.0, size * ranges.change / (2 * EDGE))


def rollout(
    net: MLP, params: PyTree, clone: MLP, cloned: PyTree, data: Data, key: Key, batch: int, horizon: int, squashed: bool
) -> Made:
    """``horizon`` transitions from each of ``batch`` drawn (s, a), with actions of the clone after the first, [horizon x batch,
    ...], step by step; no gradient passes from one to the next."""
    start, *more = jax.random.split(key, 2 * horizon)
    more.append(jax.random.fold_in(key, 2 * horizon))
    at = jax.random.randint(start, (batch,), 0, data.obs.shape[0])
    obs, action, out = data.obs[at], data.action[at], []
    for h in range(horizon):
        new, _ = generate(net, params, data, obs, action, more[2 * h], squashed)
        after = act(clone, cloned, data, jax.lax.stop_gradient(new), more[2 * h + 1])
        out.append(Made(obs, action, new, after))
        obs, action = jax.lax.stop_gradient(new), after
    return jax.tree.map(lambda *x: jnp.concatenate(x), *out)


# ---------------------------------------------------------------------------------------------------------------- the clone


def act(net: MLP, params: PyTree, data: Data, obs: Array, key: Key) -> Array:
    """a [..., m] of the clone of the data's policy."""
    return jnp.clip(_policy(net, params, data, obs).sample(key), -1.0, 1.0)


def _policy(net: MLP, params: PyTree, data: Data, obs: Array) -> Normal:
    n = obs.shape[-1]
    return distribution(net, params, (obs - data.mean[:n]) / data.std[:n])


@partial(jax.jit, static_argnames=("net", "steps", "batch"))
def clone(net: MLP, data: Data, key: Key, steps: int, batch: int) -> PyTree:
    """The parameters of ``net`` after ``steps`` of Adam on -log N(a; what it says of s), on batches of the data."""
    adam = optimizer(CLONE_LR)

    def loss(params: PyTree, at: Array) -> Array:
        return -_policy(net, params, data, data.obs[at]).log_prob(data.action[at]).mean()

    def step(i: Array, carry: tuple) -> tuple:
        params, opt = carry
        at = jax.random.randint(jax.random.fold_in(key, i), (batch,), 0, data.obs.shape[0])
        return apply_gradients(adam, params, jax.grad(loss)(params, at), opt)

    params = net.init(jax.random.fold_in(key, steps), jnp.zeros(data.obs.shape[1]))
    return jax.lax.fori_loop(0, steps, step, (params, adam.init(params)))[0]


# -------------------------------------------------------------------------------------------------------- two ways to learn


def pathwise_loss(logits: Array) -> Array:
    """(eq. 3) of what a discriminator says of generated transitions."""
    return jax.nn.softplus(-logits).mean()


class Critic(NamedTuple):
    """What a generator has that learns by soft actor-critic."""

    params: PyTree  # of two networks, of [s, a, s'] as a discriminator reads it
    target: PyTree
    log_temperature: Array
    opt: PyTree
    temperature_opt: PyTree


def critic(net: Any, key: Key, size: int) -> Critic:
    """Before the game, for transitions [size]."""
    params, log_temperature = net.init(key, jnp.zeros(size)), jnp.log(jnp.float32(TEMPERATURE))
    adam = optimizer(0.0)
    return Critic(params, jax.tree.map(jnp.copy, params), log_temperature, adam.init(params), adam.init(log_temperature))


def values(net: Any, params: PyTree, ranges: Ranges, delta: bool, obs: Array, action: Array, new: Array) -> Array:
    """Q [2, ...] of transitions."""
    return net.apply(params, inputs(ranges, delta, obs, action, new))[..., 0]


def soft_targets(logits: Array, following: Array, log_prob: Array, temperature: Array, discount: float) -> Array:
    """y [B] of transitions with these ``logits``, where the next one has the values ``following`` [2, B] and density."""
    return jax.lax.stop_gradient(jax.nn.softplus(logits) + discount * (following.min(0) - temperature * log_prob))


def soft_loss(q: Array, log_prob: Array, temperature: Array) -> Array:
    """What a generator goes down whose transitions have the values ``q`` [2, B]."""
    return (temperature * log_prob - q.min(0)).mean()


def learn_critic(own: Critic, net: Any, made: Made, y: Array, ranges: Ranges, delta: bool) -> Critic:
    """One step of both networks towards ``y`` [B], and of their targets towards them."""
    loss = lambda params: ((values(net, params, ranges, delta, made.obs, made.action, made.new) - y) ** 2).mean(1).sum()
    params, opt = apply_gradients(optimizer(CRITIC_LR), own.params, jax.grad(loss)(own.params), own.opt)
    return own._replace(params=params, target=polyak(own.target, params, jnp.float32(TAU)), opt=opt)


def learn_temperature(own: Critic, log_prob: Array, n: int) -> Critic:
    """Up where the entropy, minus the mean ``log_prob``, is below its target, for ``n`` numbers."""
    chain = optimizer(CRITIC_LR)
    slope = -(jax.lax.stop_gradient(log_prob) + ENTROPY * n)
    log_temperature, opt = apply_gradients(chain, own.log_temperature, slope, own.temperature_opt)
    return own._replace(log_temperature=log_temperature, temperature_opt=opt)
