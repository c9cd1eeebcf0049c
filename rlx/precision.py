"""How exactly devices compute: in float32 (`in_float32`), and in products with all of its bits where that matters (`exact`).
Accelerators round the factors of a float32 product unless told otherwise: NVIDIA's to ten bits behind the leading one (TF32),
TPUs' to seven. Networks learn as well so, and faster; whatever else is computed is `exact`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import numpy as np

Precision = Literal["default", "highest"]  # of networks: as JAX has it, or of all bits
Fn = TypeVar("Fn", bound=Callable[..., Any])


def exact(fn: Fn) -> Fn:
    """``fn`` with all of its products, those of functions that it calls and of gradients through it too, in all bits of their
    type, whatever JAX's default is. It costs nothing outside of tracing."""

    @functools.wraps(fn)
    def whole(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return fn(*args, **kwargs)

    return whole  # type: ignore[return-value]


def in_float32(fn: Fn) -> Fn:
    """``fn`` without JAX's 64-bit mode, where somebody switched it on (``JAX_ENABLE_X64=1``): constants and numpy's float64
    would else make parts of a run float64, while rows, states and records are float32. What is needed in float64 is computed
    with numpy."""

    @functools.wraps(fn)
    def inside(*args: Any, **kwargs: Any) -> Any:
        if jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
            return fn(*args, **kwargs)
        with jax.enable_x64(False):
            return fn(*args, **kwargs)

    return inside  # type: ignore[return-value]
