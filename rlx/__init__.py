"""rlx: reinforcement learning for control and world models in JAX.

Importing it is cheap: ``rlx.envs``, ``rlx.agents``, ``rlx.load(run_dir)`` and the other rooms load when first used.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pkgutil
import sys
from typing import TYPE_CHECKING, Any

from rlx import _versions
from rlx._version import __version__

if TYPE_CHECKING:
    from rlx.train import load

__all__ = ["__version__", "load"]

_ROOMS = frozenset(module.name for module in pkgutil.iter_modules(__path__))

_versions.check()


def _choose_renderer() -> None:
    """MuJoCo picks its renderer when it is imported. Without a screen that has to be EGL, but only where EGL is installed:
    asking for one that is missing breaks the import itself, and training needs none."""
    if not sys.platform.startswith("linux") or "MUJOCO_GL" in os.environ or "DISPLAY" in os.environ:
        return
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError:
        return
    os.environ["MUJOCO_GL"] = "egl"


_choose_renderer()


def __getattr__(name: str) -> Any:
    if name == "load":
        return importlib.import_module("rlx.train").load
    if name in _ROOMS:
        return importlib.import_module(f"rlx.{name}")
    raise AttributeError(f"module 'rlx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({"__version__", "load"} | {room for room in _ROOMS if not room.startswith("_")})
