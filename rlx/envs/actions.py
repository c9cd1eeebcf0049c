"""Actions as agents give them, and as environments take them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlx.types import Array, Key, Spec


def to_native(spec: Spec, action: Array) -> np.ndarray:
    """``action`` [..., *shape] of `Spec.action` in the environment's own units and dtype, those of `Spec.native_action`.

    Float actions are clipped to [-1, 1] and scaled, choices are counted from the native ``low``.
    """
    native = spec.native_action or spec.action
    if spec.action.choices is not None:
        return np.asarray(native.low + np.asarray(action), native.dtype)[()]  # one choice: a number, which may be a dict's key
    low, high = (np.asarray(x, native.dtype) for x in (native.low, native.high))
    middle, half = (high + low) / 2, (high - low) / 2
    return (middle + half * np.clip(action, -1, 1)).astype(native.dtype)


def sample(spec: Spec, key: Key, *lead: int) -> Array:
    """Uniformly random actions [*lead, *shape] in the dtype of `Spec.action`."""
    leaf = spec.action
    shape = (*lead, *leaf.shape)
    if leaf.choices is not None:
        return jax.random.randint(key, shape, int(leaf.low), int(leaf.high) + 1, leaf.dtype)
    return jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)
