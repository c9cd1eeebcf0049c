"""Compilation: the persistent cache, and the seconds spent."""

from __future__ import annotations

import os
from pathlib import Path

import jax

_EVENTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)
_spent = 0.0


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    global _spent
    if event in _EVENTS:
        _spent += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


def compile_seconds() -> float:
    """Seconds of tracing, lowering and compiling in this process so far."""
    return _spent


def use_persistent_cache() -> None:
    """Keep compiled programs between processes, unless JAX was already told where (``JAX_COMPILATION_CACHE_DIR``) or
    ``RLX_CACHE=off``. The default folder is ``$XDG_CACHE_HOME/rlx/xla`` (``~/.cache/rlx/xla``)."""
    if jax.config.values["jax_compilation_cache_dir"] or os.environ.get("RLX_CACHE") == "off":
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(home / "rlx" / "xla"))
    jax.config.update(
        "jax_persistent_cache_min_compile_time_secs", 0.0
    )  # most programs compile in less than the default of 1 s
