"""A sparse model: f(z) = Xi theta(z), linear in the terms of a dictionary, as a pytree and as a file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from rlx.dynamics.dictionary import Dictionary
from rlx.precision import exact
from rlx.types import Array

Aggregate = Literal["median", "mean"] | int  # a number: that member


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SparseModel:
    """``members`` of one dictionary, and what stands for them all. ``continuous``: what it predicts is the time derivative of
    a state, not what comes next."""

    members: Array  # [E, q, d]
    coef: Array  # [q, d]
    library: Dictionary = dataclasses.field(metadata={"static": True})
    continuous: bool = dataclasses.field(default=False, metadata={"static": True})

    @exact
    def __call__(self, z: Array) -> Array:
        """The aggregate's f(z) [..., q] for z [..., v]."""
        return self.library(z) @ self.coef.T

    def member(self, index: Array) -> SparseModel:
        """The model whose aggregate is one member."""
        return dataclasses.replace(self, coef=self.members[index])

    @exact
    def each(self, z: Array) -> Array:
        """The prediction of each member [E, ..., q]."""
        return jnp.einsum("...d,eqd->e...q", self.library(z), self.members)

    def variance(self, z: Array) -> Array:
        """Over the members, of each output [..., q]: theta' Cov theta, Cov that of the coefficients (SINDy-RL, eq. 7)."""
        return self.each(z).var(0)

    @property
    def covariance(self) -> np.ndarray:
        """Of the members' coefficients, per output: float64 [q, d, d], divided by E."""
        members = np.asarray(self.members, np.float64)
        off = members - members.mean(0)
        return np.einsum("eqi,eqj->qij", off, off) / len(off)

    @property
    def terms(self) -> int:
        """How many coefficients of the aggregate are not 0."""
        return int(np.count_nonzero(np.asarray(self.coef)))


def aggregated(members: np.ndarray, how: Aggregate = "median") -> np.ndarray:
    """One coefficient each of those of the members [E, ...]: a term stays in the median where half of the members have it.

    Raises:
        ValueError: an unknown aggregate, or the number of a member that there is not.
    """
    if how == "median":
        return np.median(members, 0)
    if how == "mean":
        return members.mean(0)
    if isinstance(how, bool) or not isinstance(how, int) or not 0 <= how < len(members):
        raise ValueError(f"aggregate={how!r} is unknown; give 'median', 'mean' or a member, 0 to {len(members) - 1}.")
    return members[how]
