"""Running mean and variance, as explicit state."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from rlx.types import Array


class Normalizer(NamedTuple):
    """Of everything seen: how many, their mean, the sum of squared deviations (each [n])."""

    count: Array  # type: ignore[assignment]
    mean: Array
    m2: Array


def init(shape: tuple[int, ...]) -> Normalizer:
    return Normalizer(jnp.float32(0), jnp.zeros(shape), jnp.zeros(shape))


def update(state: Normalizer, x: Array, mask: Array) -> Normalizer:
    """Adds ``x`` [..., n] where ``mask`` [...] (Chan, Golub and LeVeque 1979, parallel merge); the rest may hold anything."""
    lead = tuple(range(mask.ndim))
    there = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
    total_of = lambda y: jnp.where(there, y, 0).sum(lead)
    count = mask.sum(dtype=jnp.float32)
    mean = total_of(x) / jnp.maximum(count, 1)
    m2 = total_of((x - mean) ** 2)
    total = state.count + count
    delta = mean - state.mean
    share = count / jnp.maximum(total, 1)
    return Normalizer(total, state.mean + delta * share, state.m2 + m2 + delta**2 * state.count * share)


def std(state: Normalizer) -> Array:
    """Standard deviation of everything seen, at least 1e-4. Numpy if the state is."""
    xp = np if isinstance(state.m2, np.ndarray) else jnp
    return xp.sqrt(state.m2 / xp.maximum(state.count, 1) + np.float32(1e-8))


def apply(state: Normalizer, x: Array, clip: float = 10.0) -> Array:
    """``x`` to zero mean and unit variance, within +-``clip``; as it is while fewer than two have been seen."""
    xp = np if isinstance(state.m2, np.ndarray) else jnp
    return xp.where(state.count > 1, xp.clip((x - state.mean) / std(state), -clip, clip), x)
