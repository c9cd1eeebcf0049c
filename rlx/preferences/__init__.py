"""Preferences: pairs of pieces of episodes, labels carried from task to task by transport, rewards learned from them."""

from __future__ import annotations

from rlx.preferences.alignment import Alignment, Settings, align, transfer
from rlx.preferences.toy import toy_quality

__all__ = ["Alignment", "Settings", "align", "toy_quality", "transfer"]
