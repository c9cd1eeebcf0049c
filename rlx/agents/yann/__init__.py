"""YANN-RL: an actor-critic that starts as exact explicit model predictive control. `method` reads from top to bottom."""

from rlx.agents.yann.config import PRESETS, Config
from rlx.agents.yann.method import make

__all__ = ["PRESETS", "Config", "make"]
