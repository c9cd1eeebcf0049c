"""Policies as distributions: Gaussian, categorical, and Gaussian squashed by tanh."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.types import Array, Key

_LOG_2PI = math.log(2 * math.pi)


class Normal(NamedTuple):
    """A diagonal Gaussian over the last axis, [..., A] each; densities and their like are [...]."""

    mean: Array
    log_std: Array

    def mode(self) -> Array:
        return self.mean

    def sample(self, key: Key) -> Array:
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape)

    def log_prob(self, x: Array) -> Array:
        z = (x - self.mean) * jnp.exp(-self.log_std)
        return (-0.5 * z**2 - self.log_std - 0.5 * _LOG_2PI).sum(-1)

    def entropy(self) -> Array:
        return (self.log_std + 0.5 * (1 + _LOG_2PI)).sum(-1)

    def kl(self, other: Normal) -> Array:
        """KL(self || other)."""
        ratio = jnp.exp(2 * (self.log_std - other.log_std))
        away = ((self.mean - other.mean) * jnp.exp(-other.log_std)) ** 2
        return (0.5 * (ratio + away - 1) + other.log_std - self.log_std).sum(-1)


class Categorical(NamedTuple):
    """One of n choices, whose numbers are int32 [...]."""

    logits: Array  # [..., n]

    def mode(self) -> Array:
        return jnp.argmax(self.logits, -1).astype(jnp.int32)

    def sample(self, key: Key) -> Array:
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def log_prob(self, x: Array) -> Array:
        return jnp.take_along_axis(jax.nn.log_softmax(self.logits), x[..., None], -1)[..., 0]

    def entropy(self) -> Array:
        log_p = jax.nn.log_softmax(self.logits)
        return -(jnp.exp(log_p) * log_p).sum(-1)

    def kl(self, other: Categorical) -> Array:
        """KL(self || other)."""
        log_p = jax.nn.log_softmax(self.logits)
        return (jnp.exp(log_p) * (log_p - jax.nn.log_softmax(other.logits))).sum(-1)


def tanh_log_det(x: Array) -> Array:
    """log(1 - tanh(x)^2), exact for large |x| too: 2 (log 2 - x - softplus(-2 x))."""
    return 2 * (math.log(2) - x - jax.nn.softplus(-2 * x))


def tanh_normal_sample(key: Key, mean: Array, log_std: Array) -> tuple[Array, Array]:
    """(action in (-1, 1), its log-density) of tanh of a diagonal Gaussian."""
    noise = jax.random.normal(key, mean.shape)
    x = mean + jnp.exp(log_std) * noise
    log_prob = (-0.5 * noise**2 - log_std - 0.5 * _LOG_2PI - tanh_log_det(x)).sum(-1)
    return jnp.tanh(x), log_prob


def tanh_normal_entropy(mean: Array, log_std: Array, nodes: int) -> Array:
    """The entropy [...] of tanh of a diagonal Gaussian [..., A]: that of the Gaussian, and the mean of log(1 - tanh(x)^2), for
    each entry by a quadrature of so many ``nodes`` (Gauss-Hermite) instead of samples."""
    at, weight = np.polynomial.hermite_e.hermegauss(nodes)
    x = mean[..., None] + jnp.exp(log_std)[..., None] * at.astype(np.float32)
    stretched = (tanh_log_det(x) * (weight / weight.sum()).astype(np.float32)).sum(-1)
    return Normal(mean, log_std).entropy() + stretched.sum(-1)
