"""SINDy-RL: readable dynamics, rewards and policies from little data. Start with `rlx.agents.sindy_rl.method`."""

from rlx.agents.sindy_rl.config import PRESETS, Config
from rlx.agents.sindy_rl.method import make

__all__ = ["PRESETS", "Config", "make"]
