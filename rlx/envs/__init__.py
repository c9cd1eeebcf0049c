"""Environments: one record, one contract, on a device or on the host.

``make(name)`` gives an environment, ``batch(env, n)`` streams of it, ``rollout`` rows, ``check`` finds what is wrong with one.
``register(name, make)`` gives one of yours a name, ``plant`` makes it from its equations.
"""

from rlx.envs.base import batch, begin, rollout
from rlx.envs.check import check
from rlx.envs.control.base import plant
from rlx.envs.registry import make, names, register

list = names  # reads as rlx.envs.list()

__all__ = ["batch", "begin", "check", "list", "make", "names", "plant", "register", "rollout"]
