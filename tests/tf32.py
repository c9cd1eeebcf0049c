"""What NVIDIA's devices do to products, on the CPU: where JAX's precision is the default one, the factors of a float32 product
are rounded to ten bits behind the leading one (TF32) before they are multiplied. `RLX_TEST_TF32=1` runs the tests so."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax._src.lax import lax as internal
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import mlir

EXPONENT, MANTISSA = 8, 10  # bits
ROUNDED = (None, jax.lax.Precision.DEFAULT)


def _lower(ctx: Any, lhs: Any, rhs: Any, *, precision: Any, **params: Any) -> Any:
    each = precision if isinstance(precision, tuple) else (precision, precision)
    if set(each) <= set(ROUNDED) and all(x.dtype == np.float32 for x in ctx.avals_in):
        lhs, rhs = (stablehlo.reduce_precision(x, EXPONENT, MANTISSA) for x in (lhs, rhs))
    return internal._dot_general_lower(ctx, lhs, rhs, precision=precision, platform="cpu", **params)


def emulate() -> None:
    """From now on, for this process."""
    mlir.register_lowering(jax.lax.dot_general_p, _lower, platform="cpu")
