"""Gaussian policies, plain and squashed by tanh."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from rlx.types import Array, Key

_LOG_2PI = math.log(2 * math.pi)


def normal_log_prob(x: Array, mean: Array, log_std: Array) -> Array:
    """Log-density of a diagonal Gaussian, summed over the last axis."""
    z = (x - mean) * jnp.exp(-log_std)
    return (-0.5 * z**2 - log_std - 0.5 * _LOG_2PI).sum(-1)


def normal_entropy(log_std: Array) -> Array:
    return (log_std + 0.5 * (1 + _LOG_2PI)).sum(-1)


def normal_kl(mean: Array, log_std: Array, other_mean: Array, other_log_std: Array) -> Array:
    """KL(p || q) of diagonal Gaussians p and the other q, summed over the last axis."""
    ratio = jnp.exp(2 * (log_std - other_log_std))
    away = ((mean - other_mean) * jnp.exp(-other_log_std)) ** 2
    return (0.5 * (ratio + away - 1) + other_log_std - log_std).sum(-1)


def tanh_log_det(x: Array) -> Array:
    """log(1 - tanh(x)^2), exact for large |x| too: 2 (log 2 - x - softplus(-2 x))."""
    return 2 * (math.log(2) - x - jax.nn.softplus(-2 * x))


def tanh_normal_sample(key: Key, mean: Array, log_std: Array) -> tuple[Array, Array]:
    """(action in (-1, 1), its log-density) of tanh of a diagonal Gaussian."""
    noise = jax.random.normal(key, mean.shape)
    x = mean + jnp.exp(log_std) * noise
    log_prob = (-0.5 * noise**2 - log_std - 0.5 * _LOG_2PI - tanh_log_det(x)).sum(-1)
    return jnp.tanh(x), log_prob
