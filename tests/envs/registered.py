"""A module that registers an environment on the host and a Gymnasium id when it is imported."""

from __future__ import annotations

import gymnasium

import rlx.envs
from rlx.envs.wrappers import on_host
from tests.envs.foreign import Plain


def make(repeat=1, time_limit=5):
    return on_host(rlx.envs.make("rlx:pendulum", repeat=repeat, time_limit=time_limit))


rlx.envs.register("outside:pendulum", make)
gymnasium.register("RlxByImport-v0", Plain)
