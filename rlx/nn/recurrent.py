"""Recurrent cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlx.nn.mlp import within
from rlx.types import Array


class GRU(nn.Module):
    """(x [..., n], h [..., width]) to the next h (Cho et al. 2014, with the reset gate behind the product, as in PyTorch)::

        r, z = sigmoid(W x + b + U h);   n = tanh(W_n x + b_n + r (U_n h + c_n));   h' = (1 - z) n + z h

    The gates share two products. All weights are drawn in +-1/sqrt(width)."""

    width: int

    @nn.compact
    def __call__(self, x: Array, h: Array) -> Array:
        init = within(self.width**-0.5)
        dense: Any = lambda name, bias: nn.Dense(
            3 * self.width, bias, kernel_init=init, bias_init=init, param_dtype=float, name=name
        )
        given, back = (jnp.split(y, 3, -1) for y in (dense("input", True)(x), dense("recurrent", False)(h)))
        inner = self.param("inner_bias", init, (self.width,), float)
        r, z = jax.nn.sigmoid(given[0] + back[0]), jax.nn.sigmoid(given[1] + back[1])
        n = jnp.tanh(given[2] + r * (back[2] + inner))
        return (1 - z) * n + z * h

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...
