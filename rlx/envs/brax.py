"""brax's environments: ``brax:ant``, ``brax:inverted_pendulum``, ...

Time limits and the next episode are rlx's own; brax's wrappers are not used (they want raw keys and forget the last
observation of an episode).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rlx.envs.brax_like import from_brax
from rlx.envs.options import positive, unknown
from rlx.types import Env, PyTree

HORIZON = 1000  # brax's own episodes


def names() -> list[str]:
    from brax import envs

    return sorted(envs._envs)


def make(name: str, *, repeat: int = 1, time_limit: int | None = None, backend: str = "generalized", **options: Any) -> Env:
    """``backend``: "generalized", "spring", "positional" or "mjx". Other options go to the environment's class.

    Raises:
        ValueError: unknown environment or backend.
    """
    from brax import envs

    positive(repeat=repeat, time_limit=time_limit)
    if name not in envs._envs:
        raise unknown("brax", name, names())
    backends = ("generalized", "spring", "positional", "mjx")
    if backend not in backends:
        raise ValueError(f"brax:{name}: backend={backend!r}; there are {', '.join(backends)}.")
    inner = envs.get_environment(name, **({} if name == "fast" else {"backend": backend}), **options)
    limit = time_limit or -(-HORIZON // repeat)

    def render(params: PyTree, state: PyTree) -> np.ndarray:
        from brax.io import image

        return np.asarray(image.render_array(inner.sys, [state[0].pipeline_state], height=256, width=256)[0], np.uint8)

    return from_brax(f"brax:{name}", inner, limit, repeat, render if name != "fast" else None)
