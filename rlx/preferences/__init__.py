"""Preferences: pairs of pieces of episodes, labels carried from task to task by transport, rewards learned from them."""

from __future__ import annotations

from rlx.preferences.alignment import Alignment, Settings, align, transfer
from rlx.preferences.labels import Source, source_of
from rlx.preferences.pairs import Preferences, episodes, from_segments, preferences
from rlx.preferences.toy import toy_quality

__all__ = [
    "Alignment",
    "Preferences",
    "Settings",
    "Source",
    "align",
    "episodes",
    "from_segments",
    "preferences",
    "source_of",
    "toy_quality",
    "transfer",
]
