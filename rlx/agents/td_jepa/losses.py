"""Losses that several methods of the family are made of. Features are [B, d], what has heads is [H, B, d]."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlx.precision import exact
from rlx.types import Array


class Orthonormality(NamedTuple):
    """R(X) and its two parts."""

    total: Array
    off_diagonal: Array  # d / 2 where features of norm sqrt(d) are spread evenly, d^2 / 2 where they are all one
    diagonal: Array  # -d for features of norm sqrt(d)


@exact
def orthonormality(x: Array) -> Orthonormality:
    """R(X) = 1 / (2 B (B - 1)) sum_{i != j} (x_i' x_j)^2 - 1 / B sum_i ||x_i||^2 of features ``x`` [B, d], which is least where
    their second moment is the identity. Over pairs it would cost B^2 d; sum_{i, j} (x_i' x_j)^2 = ||X' X||_F^2."""
    size = x.shape[0]
    squares = (x**2).sum(-1)
    gram = x.T @ x
    off = ((gram**2).sum() - (squares**2).sum()) / (2 * size * (size - 1))
    return Orthonormality(off - squares.mean(), off, -squares.mean())


@exact
def participation(x: Array) -> Array:
    """(sum of eigenvalues)^2 / sum of their squares, of the second moment of ``x`` [B, d]: in how many directions they lie, d
    at most."""
    moment = x.T @ x
    return jnp.trace(moment) ** 2 / jnp.maximum((moment**2).sum(), 1e-12)


def disagreement(x: Array) -> Array:
    """Mean |x_i - x_j| over ordered pairs of different heads: [H, ...] to [...]; 0 for one head."""
    heads = x.shape[0]
    if heads == 1:
        return jnp.zeros_like(x[0])
    return jnp.abs(x[:, None] - x[None]).sum((0, 1)) / (heads**2 - heads)


def reduced(x: Array, pessimism: Array | float) -> Array:
    """The mean of heads [H, ...] less ``pessimism`` times their `disagreement`; for two heads and 0.5 that is their minimum."""
    return x.mean(0) - pessimism * disagreement(x)


def squared_error(prediction: Array, target: Array) -> Array:
    """Squares summed over features, averaged over batch and heads. The target has no gradient."""
    return ((prediction - jax.lax.stop_gradient(target)) ** 2).sum(-1).mean()


def successor_loss(prediction: Array, target: Array) -> Array:
    """H / 2 times the mean of squares, over features too: the scale of methods whose features have a loss of their own."""
    return 0.5 * prediction.shape[0] * ((prediction - jax.lax.stop_gradient(target)) ** 2).mean()


def measure_loss(measure: Array, target: Array) -> Array:
    """The temporal-difference loss of a successor measure's density, a mean over heads: 1/2 mean_{i != j} (M_ij - y_ij)^2
    - mean_i (M_ii - y_ii), with ``measure`` M [H, B, B] of (s_i, a_i) at s'_j and y [B, B] = discount times its target (Blier
    et al. 2021; Touati and Ollivier 2021, arXiv:2103.07945)."""
    size = measure.shape[-1]
    difference = measure - jax.lax.stop_gradient(target)
    diagonal = jnp.diagonal(difference, axis1=-2, axis2=-1)
    off = ((difference**2).sum((-2, -1)) - (diagonal**2).sum(-1)) / (size * (size - 1))
    return (0.5 * off - diagonal.mean(-1)).mean()


def expectile(weight_by: Array, error: Array, tau: Array | float) -> Array:
    """|tau - 1[weight_by < 0]| error^2, averaged: least at the tau-expectile (Kostrikov et al. 2021, arXiv:2110.06169)."""
    return (jnp.where(weight_by < 0, 1 - tau, tau) * error**2).mean()
