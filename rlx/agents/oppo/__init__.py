"""OPPO: a policy from preferences without a reward; `method` reads from top to bottom."""

from __future__ import annotations

from rlx.agents.oppo.method import PRESETS, Config, make

__all__ = ["PRESETS", "Config", "make"]
