"""What transformers are made of: `Block`, tokens of several kinds in one sequence, and which of them may look at which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlx.types import Array

MASKED = -1e9  # instead of a logit, where a token may not be looked at


def layer_norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, param_dtype=float, name=name)


def interleaved(*kinds: Array) -> Array:
    """Tokens [..., T, E] of k kinds as one sequence [..., k T, E]: all of the first step, then all of the second."""
    x = jnp.stack(kinds, -2)
    return x.reshape(*x.shape[:-3], -1, x.shape[-1])


def visible(mask: Array, kinds: int, causal: bool) -> Array:
    """bool [..., k T, k T]: which tokens each may see: of steps there, ``mask`` [..., T]; ``causal``: none after it."""
    there = jnp.repeat(mask.astype(bool), kinds, -1)[..., None, :]
    n = there.shape[-1]
    return jnp.broadcast_to(there, (*there.shape[:-2], n, n)) & (jnp.tril(jnp.ones((n, n), bool)) if causal else True)


class Block(nn.Module):
    """Attention and two dense layers, each with normalisation before and a sum around it (GPT-2's, with ReLU)."""

    heads: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, allowed: Array, train: bool = False) -> Array:
        """``x`` [..., T, E], ``allowed`` bool [..., T, T]; E is a multiple of ``heads``."""
        width = x.shape[-1]
        dense = lambda n, name: nn.Dense(n, param_dtype=float, name=name)
        drop = lambda y: nn.Dropout(self.dropout, deterministic=not train)(y)

        def split(y: Array) -> Array:  # [..., T, E] -> [..., heads, T, E / heads]
            return jnp.swapaxes(y.reshape(*y.shape[:-1], self.heads, -1), -2, -3)

        q, k, v = map(split, jnp.split(dense(3 * width, "qkv")(layer_norm("norm_1")(x)), 3, -1))
        scores = jnp.where(allowed[..., None, :, :], q @ jnp.swapaxes(k, -1, -2) / q.shape[-1] ** 0.5, MASKED)
        y = jnp.swapaxes(drop(jax.nn.softmax(scores, -1)) @ v, -2, -3)
        x = x + drop(dense(width, "out")(y.reshape(x.shape)))
        y = jax.nn.relu(dense(4 * width, "up")(layer_norm("norm_2")(x)))
        return x + drop(dense(width, "down")(y))

    if TYPE_CHECKING:  # flax's own type allows for pairs, which come where collections are mutable

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...
