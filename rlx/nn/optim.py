"""Optimiser steps whose rates are traced, target networks, and schedules of the clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from rlx.types import Array, PyTree


def adam_init(params: PyTree) -> Any:
    return optax.scale_by_adam().init(params)


def adam(
    params: PyTree, grads: PyTree, state: Any, lr: Array, eps: float = 1e-8, max_norm: float | None = None
) -> tuple[PyTree, Any]:
    """One step of Adam with the traced rate ``lr``, after clipping the gradients to a global norm. Returns (params, state)."""
    if max_norm is not None:
        norm = optax.tree.norm(grads)
        grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, max_norm / (norm + 1e-6)), grads)
    step, state = optax.scale_by_adam(eps=eps).update(grads, state)
    return jax.tree.map(lambda p, s: p - lr * s, params, step), state


def packing(like: PyTree, most: int = 2**14) -> tuple[Callable[[PyTree], PyTree], Callable[[PyTree], PyTree]]:
    """(pack, unpack) for trees of the shapes of ``like``: leaves of up to ``most`` numbers become one vector, the larger ones
    stay as they are, where copying them would cost more than it saves. An optimiser's step on what is packed is a few
    operations instead of a few per leaf, which for small networks takes longer than their products."""
    leaves, structure = jax.tree.flatten(like)
    small = [x.size <= most for x in leaves]
    unravel = ravel_pytree([x for x, one in zip(leaves, small, strict=True) if one])[1]

    def pack(tree: PyTree) -> PyTree:
        pairs = list(zip(jax.tree.leaves(tree), small, strict=True))
        return ravel_pytree([x for x, one in pairs if one])[0], [x for x, one in pairs if not one]

    def unpack(packed: PyTree) -> PyTree:
        few, large = iter(unravel(packed[0])), iter(packed[1])
        return jax.tree.unflatten(structure, [next(few if one else large) for one in small])

    return pack, unpack


def polyak(target: PyTree, params: PyTree, tau: Array) -> PyTree:
    """``target`` moved by ``tau`` towards ``params``."""
    return jax.tree.map(lambda t, p: t + tau * (p - t), target, params)


def linear(start: Array, end: Array, share: Array) -> Array:
    """From ``start`` to ``end`` as ``share`` goes from 0 to 1."""
    return start + (end - start) * jnp.clip(share, 0.0, 1.0)
