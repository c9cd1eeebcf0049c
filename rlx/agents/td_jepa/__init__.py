"""TD-JEPA and its family: see `rlx.agents.td_jepa.method`; `ZeroShot` asks a trained one for tasks."""

from __future__ import annotations

from rlx.agents.td_jepa.config import PRESETS, Config
from rlx.agents.td_jepa.method import make
from rlx.agents.td_jepa.tasks import relabelled
from rlx.agents.td_jepa.zero_shot import ZeroShot

OBSERVATIONS = "images"

__all__ = ["OBSERVATIONS", "PRESETS", "Config", "ZeroShot", "make", "relabelled"]
