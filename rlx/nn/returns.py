"""Multistep, lambda and generalised-advantage maths: one place, time-major [T, ...].

Index ``t`` of rewards, discounts and next values belongs to the transition from step ``t`` to ``t + 1``. A ``discount`` of 0
ends the task (terminated). Where an episode was cut or rows do not join (``joined`` False) the recursion stops, and the value
of the next observation stands for the rest.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlx.types import Array


def lambda_returns(
    reward: Array, discount: Array, next_value: Array, lambda_: Array | float, joined: Array | None = None
) -> Array:
    """G_t = r_t + d_t ((1 - lambda) v_{t+1} + lambda G_{t+1}), with G_T = v_T (Sutton and Barto 2018, eq. 12.18).

    All [T, ...]; ``next_value[t]`` is the value of the observation at ``t + 1``.
    """
    mix = jnp.broadcast_to(jnp.asarray(lambda_, reward.dtype), reward.shape)
    if joined is not None:
        mix = mix * joined

    def back(following: Array, x: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        r, d, v, m = x
        g = r + d * ((1 - m) * v + m * following)
        return g, g

    return jax.lax.scan(back, next_value[-1], (reward, discount, next_value, mix), reverse=True)[1]


def gae(reward: Array, discount: Array, value: Array, next_value: Array, lambda_: Array | float, joined: Array) -> Array:
    """Advantages A_t = delta_t + d_t lambda A_{t+1}, delta_t = r_t + d_t v_{t+1} - v_t (Schulman et al. 2016, eq. 16)."""
    delta = reward + discount * next_value - value

    def back(following: Array, x: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        d, step, on = x
        a = step + d * lambda_ * on * following
        return a, a

    return jax.lax.scan(back, jnp.zeros_like(value[-1]), (discount, delta, joined.astype(reward.dtype)), reverse=True)[1]


def running_returns(reward: Array, first: Array, discount: Array | float, before: Array) -> Array:
    """R_t = r_t + discount R_{t-1}: what has been paid so far, forward in time, with R = 0 at ``first``.

    ``reward`` and ``first`` [T, ...]; ``before`` [...] is R of the row before these.
    """

    def on(total: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        r, new = x
        total = jnp.where(new, 0.0, r + discount * total)
        return total, total

    return jax.lax.scan(on, before, (reward, first))[1]


def n_step_returns(reward: Array, discount: Array, next_value: Array, n: int) -> Array:
    """r_t + d_t r_{t+1} + ... + d_t ... d_{t+n-1} v_{t+n}, with fewer steps at the end of the sequence."""
    length = reward.shape[0]
    index = jnp.minimum(jnp.arange(length) + n - 1, length - 1)
    target = next_value[index]
    for k in reversed(range(n)):
        at = jnp.arange(length) + k
        there = (at < length).reshape(-1, *[1] * (reward.ndim - 1))
        at = jnp.minimum(at, length - 1)
        target = jnp.where(there, reward[at] + discount[at] * target, target)
    return target
