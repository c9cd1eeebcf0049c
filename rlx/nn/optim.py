"""Optimiser steps whose rates are traced, target networks, and schedules of the clock."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

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


def polyak(target: PyTree, params: PyTree, tau: Array) -> PyTree:
    """``target`` moved by ``tau`` towards ``params``."""
    return jax.tree.map(lambda t, p: t + tau * (p - t), target, params)


def linear(start: Array, end: Array, share: Array) -> Array:
    """From ``start`` to ``end`` as ``share`` goes from 0 to 1."""
    return start + (end - start) * jnp.clip(share, 0.0, 1.0)
