"""PEARL: preferences of one task for another, a robust reward, and IQL; `method` reads from top to bottom."""

from __future__ import annotations

from rlx.agents.pearl.config import PRESETS, Config
from rlx.agents.pearl.method import make

__all__ = ["PRESETS", "Config", "make"]
