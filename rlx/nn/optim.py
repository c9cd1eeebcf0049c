"""Optimisers whose settings are traced, target networks, and schedules of the clock.

An optimiser is built where it is used, inside the update, from the values of that moment, so that one compiled program serves
all step sizes. What its state looks like depends on which settings are given, not on their values::

    chain = lambda h: optimizer(h["lr"], max_grad_norm=0.5)
    opt = chain(hyper).init(params)                                     # in init
    params, opt = apply_gradients(chain(hyper), params, grads, opt)     # in update
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from rlx.types import Array, PyTree


def optimizer(
    lr: Array | float | Mapping[str, Array | float],
    *,
    max_grad_norm: Array | float | None = None,
    b1: Array | float = 0.9,
    b2: Array | float = 0.999,
    eps: Array | float = 1e-8,
    weight_decay: Array | float | None = None,
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015), after clipping the gradients to a global norm of ``max_grad_norm`` and with decoupled
    ``weight_decay`` (Loshchilov and Hutter 2019), where these are given.

    ``lr`` is the step size, or one for each entry of the parameters, which are then a dictionary. All values may be traced.
    """
    clip = [] if max_grad_norm is None else [optax.clip_by_global_norm(max_grad_norm)]  # type: ignore[arg-type]
    decay = [] if weight_decay is None else [optax.add_decayed_weights(weight_decay)]  # type: ignore[arg-type]
    rate = _rates(lr) if isinstance(lr, Mapping) else optax.scale_by_learning_rate(lr)  # type: ignore[arg-type]
    return optax.chain(*clip, optax.scale_by_adam(b1, b2, eps), *decay, rate)  # type: ignore[arg-type]


def _rates(lr: Mapping[str, Array | float]) -> optax.GradientTransformation:
    scaled = lambda name, tree: jax.tree.map(lambda u: -lr[name] * u, tree)
    return optax.stateless(lambda updates, params: {name: scaled(name, tree) for name, tree in updates.items()})


def apply_gradients(chain: optax.GradientTransformation, params: PyTree, grads: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    """One step of an optimiser: (params, its state)."""
    updates, state = chain.update(grads, state, params)
    return optax.apply_updates(params, updates), state


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
