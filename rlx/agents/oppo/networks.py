"""OPPO's two transformers: what a trajectory was about, and a policy that does what it is told to be about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax.numpy as jnp

from rlx.nn.transformer import Block, interleaved, layer_norm, visible
from rlx.types import Array


def _dense(width: int, name: str) -> nn.Dense:
    return nn.Dense(width, param_dtype=float, name=name)


def _time(steps: int, width: int, like: Array) -> Array:
    """A learned vector for each step of a window, [K, E]."""
    return nn.Embed(steps, width, param_dtype=float, name="time")(jnp.arange(like.shape[1]))


class Encoder(nn.Module):
    """I(tau): windows of observations [B, K, n] and actions [B, K, m] -> z [B, d]. All tokens (s, a) see each other; they are
    summed over the steps that are there, ``mask`` [B, K], before the last layer."""

    size: int = 8  # d
    width: int = 128
    layers: int = 3
    heads: int = 2
    steps: int = 20  # of the longest window
    dropout: float = 0.1

    @nn.compact
    def __call__(self, obs: Array, action: Array, mask: Array, train: bool = False) -> Array:
        time = _time(self.steps, self.width, obs)
        x = interleaved(_dense(self.width, "state")(obs) + time, _dense(self.width, "action")(action) + time)
        x, allowed = layer_norm("norm_in")(x), visible(mask, 2, causal=False)
        for i in range(self.layers):
            x = Block(self.heads, self.dropout, name=f"block_{i}")(x, allowed, train)
        x = layer_norm("norm_out")(x) * jnp.repeat(mask, 2, -1)[..., None]
        return _dense(self.size, "context")(x.sum(-2))

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...


class Policy(nn.Module):
    """pi(a | s, z): contexts z [B, d] and windows -> actions [B, K, m] in [-1, 1]. The tokens of a step are (z, s, a), each
    sees those before it, and the action is read where the state is: it depends on no later step, and not on itself."""

    actions: int
    width: int = 128
    layers: int = 3
    heads: int = 1
    steps: int = 20
    dropout: float = 0.1

    @nn.compact
    def __call__(self, z: Array, obs: Array, action: Array, mask: Array, train: bool = False) -> Array:
        time = _time(self.steps, self.width, obs)
        context = jnp.broadcast_to(_dense(self.width, "context")(z)[:, None], (*obs.shape[:2], self.width))
        x = interleaved(context + time, _dense(self.width, "state")(obs) + time, _dense(self.width, "action")(action) + time)
        x, allowed = layer_norm("norm_in")(x), visible(mask, 3, causal=True)
        for i in range(self.layers):
            x = Block(self.heads, self.dropout, name=f"block_{i}")(x, allowed, train)
        return jnp.tanh(_dense(self.actions, "mean")(layer_norm("norm_out")(x)[:, 1::3]))

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...
