"""What quadrupeds are paid for: walk and run as dm_control has them, and stand and jump of URLB (Laskin et al. 2021,
arXiv:2110.15191), which TD-JEPA's data are relabelled with. They run in dm_control's own loop, as its episodes begin where a
search for a height without contacts ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlx.envs.tasks.base import ZZ, ident, tolerance

HEIGHT = 1.0  # of the centre of mass when it jumps, m
SPEEDS = {"walk": 0.5, "run": 5.0}  # m/s


@dataclass(frozen=True)
class Paid:
    """``reward(xp, c, physics)`` of ``fields``, in the world of dm_control's task ``world``; ``constants`` of its model."""

    world: str
    fields: tuple[str, ...]
    reward: Callable[..., Any]
    constants: Callable[[Any], dict[str, Any]]


def stand(xp: Any, c: Any, p: Any) -> Any:
    """(1 + cosine of the torso's tilt) / 2."""
    return (1 + p.xmat[..., c.torso, ZZ]) / 2


def jump(xp: Any, c: Any, p: Any) -> Any:
    """Upright, and the centre of mass a metre high."""
    high = tolerance(xp, p.subtree_com[..., c.torso, 2], HEIGHT, np.inf, margin=HEIGHT, shape="linear", at_margin=0.5)
    return stand(xp, c, p) * high


def _move(speed: float) -> Callable[..., Any]:
    def reward(xp: Any, c: Any, p: Any) -> Any:
        forward = p.sensordata[..., c.speed]
        return stand(xp, c, p) * tolerance(xp, forward, speed, np.inf, margin=speed, shape="linear", at_margin=0.5)

    return reward


def constants(model: Any) -> dict[str, Any]:
    return {"torso": ident(model, "body", "torso"), "speed": ident(model, "sensor", "velocimeter")}


TASKS = {
    "stand": Paid("quadruped-walk", ("xmat",), stand, constants),
    "jump": Paid("quadruped-walk", ("xmat", "subtree_com"), jump, constants),
    **{k: Paid(f"quadruped-{k}", ("xmat", "sensordata"), _move(v), constants) for k, v in SPEEDS.items()},
}
