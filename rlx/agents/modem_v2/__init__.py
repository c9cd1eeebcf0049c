"""MoDem-V2 and what it is compared with: see `rlx.agents.modem_v2.method`."""

from __future__ import annotations

from rlx.agents.modem_v2.config import PRESETS, Config
from rlx.agents.modem_v2.method import make

OBSERVATIONS = "views"

__all__ = ["OBSERVATIONS", "PRESETS", "Config", "make"]
