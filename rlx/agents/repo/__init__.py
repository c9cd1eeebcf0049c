"""RePo and what it is compared with: see `rlx.agents.repo.method`."""

from __future__ import annotations

from rlx.agents.repo.config import PRESETS, Config
from rlx.agents.repo.method import make

OBSERVATIONS = "any"  # pictures, vectors, and dicts of both: of these the pictures where there are any

__all__ = ["OBSERVATIONS", "PRESETS", "Config", "make"]
