"""The formulas of the world model and of behaviour. Steps are time-major: [T, B] of windows, [J, N] of what is imagined."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from rlx.nn.distributions import Normal
from rlx.precision import exact
from rlx.types import Array

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def stopped(normal: Normal) -> Normal:
    return jax.tree.map(jax.lax.stop_gradient, normal)


def nll(predicted: Array, target: Array) -> Array:
    """Minus the log-likelihood of ``target`` under a Gaussian of variance 1, entry by entry."""
    return 0.5 * (predicted - target) ** 2 + _HALF_LOG_2PI


def masked_mean(x: Array, joined: Array) -> Array:
    """The mean over [T, B] of what is 0 where not ``joined``: divided by T B, not by how many are."""
    return jnp.where(joined, x, 0.0).mean()


def divergence(posterior: Normal, prior: Normal, prior_share: Array | float | None) -> Array:
    """KL(posterior || prior) [T, B]. Of its gradient ``prior_share`` goes to the prior, the rest to the posterior (None: both
    get all of it)."""
    if prior_share is None:
        return posterior.kl(prior)
    to_prior, to_posterior = stopped(posterior).kl(prior), posterior.kl(stopped(prior))
    return prior_share * to_prior + (1 - prior_share) * to_posterior


def prior_share(prior_train_steps: Array | float) -> Array | float:
    """k / (1 + k): the prior goes k times as far."""
    return prior_train_steps / (1 + prior_train_steps)


def dual_slope(violation: Array) -> Array:
    """Of -log(beta) (KL - target), whose descent raises beta where the divergence is above its bound."""
    return -violation


@exact
def barlow(features: Array, embedding: Array, redundancy: Array | float) -> Array:
    """sum_i (1 - C_ii)^2 + redundancy sum_{i != j} C_ij^2 of the correlations C of two views [N, d] (Zbontar et al. 2021,
    "Barlow Twins", arXiv:2103.03230, eq. 1). Entries that do not vary correlate with nothing."""
    normal = lambda x: (x - x.mean(0)) / jnp.sqrt(jnp.maximum(x.var(0), 1e-8))  # the root of 0 has no slope
    c = normal(features).T @ normal(embedding) / features.shape[0]
    diagonal = jnp.diagonal(c)
    return ((1 - diagonal) ** 2).sum() + redundancy * ((c**2).sum() - (diagonal**2).sum())


def cross_entropy(logit: Array, target: Array) -> Array:
    """Cross-entropy of ``target`` (bool) under the probability sigmoid(``logit``)."""
    return jax.nn.softplus(jnp.where(target, -logit, logit))
