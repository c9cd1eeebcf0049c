"""How exactly products are computed. Accelerators round the factors of a float32 product unless told otherwise: NVIDIA's to ten
bits behind the leading one (TF32), TPUs' to seven. Networks learn as well so, and faster; whatever else is computed is `exact`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax

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
