"""Environments: one record, one contract, on a device or on the host.

``make(name)`` gives an environment, ``batch(env, n)`` streams of it, ``rollout`` rows, ``check`` says what is wrong with one.
"""

from rlx.envs.base import batch, begin, rollout
from rlx.envs.check import check
from rlx.envs.registry import make, names, register

list = names  # reads as rlx.envs.list()

__all__ = ["batch", "begin", "check", "list", "make", "names", "register", "rollout"]
