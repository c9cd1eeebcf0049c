"""Rewards of OGBench's tasks (Park et al. 2024, arXiv:2410.20092), which its datasets do not have: what arriving in a stored
state pays. Of K conditions those that are met, less K, so 0 where the task is solved::

    maze, soccer   the ant, the point, or the ball lies within a radius of its goal
    cube           each cube within 4 cm of its place
    puzzle         each button as it should be
    scene          cubes, buttons, and drawer and window within 4 cm

States are ``qpos`` and ``button_states``, which files as downloaded hold beside observations, pictures too.

Its environments of a single task, and so its single-task files, pay for the state in which an action is taken, not for the one
that it leads to; there the task is over where all conditions are met.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlx.envs.gym_suites import origin, registered

NEAR = 0.04
OBJECTS, CUBE, BALL = 14, 7, 15  # where objects begin in qpos, behind the arm; entries of a cube; where a ball begins


@dataclass(frozen=True)
class Goal:
    """One task, as the environment tells of it (its ``task_infos``)."""

    info: Mapping[str, Any]
    radius: float = 0.0  # of mazes

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of what is stored and `met` is asked with."""
        buttons, place = ("button_states",), ("qpos",)
        return buttons if "goal_button_states" in self.info else place + buttons if "goal" in self.info else place

    def met(self, qpos: Any = None, button_states: Any = None) -> np.ndarray:
        """The conditions [N, K] of states [N, n]."""
        info = self.info
        if "goal_button_states" in info:
            return np.asarray(button_states) == info["goal_button_states"]
        if "goal_xy" in info:
            at = BALL if "ball_init_xy" in info else 0
            return np.linalg.norm(qpos[:, at : at + 2] - info["goal_xy"], axis=-1, keepdims=True) <= self.radius
        wanted = np.asarray(info["goal"]["block_xyzs"] if "goal" in info else info["goal_xyzs"])
        end = OBJECTS + CUBE * len(wanted)
        found = qpos[:, OBJECTS:end].reshape(len(qpos), len(wanted), CUBE)[..., :3]
        cubes = np.linalg.norm(found - wanted, axis=-1) <= NEAR
        if "goal" not in info:
            return cubes
        goal, end = info["goal"], end + len(info["goal"]["button_states"])
        slides = np.abs(qpos[:, end : end + 2] - [goal["drawer_pos"], goal["window_pos"]]) <= NEAR
        return np.concatenate([cubes, button_states == goal["button_states"], slides], -1)

    def rewards(self, stored: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32 [N], of columns [N, n] by name."""
        met = self.met(**{name: stored[name] for name in self.reads})
        return (met.sum(-1) - met.shape[-1]).astype(np.float32)


def single_task(name: str) -> bool:
    """Whether an environment is one of OGBench's of a single task, such as ``gym:antmaze-medium-singletask-task2-v0``."""
    prefix, _, task = name.partition(":")
    return prefix == "gym" and "-singletask-" in task and origin(registered(task)) == "ogbench"


def of_task(name: str, number: int) -> str:
    """The single-task environment ``name`` with the task of this number, from 1 on, in place of its own."""
    return re.sub(r"-singletask(-task\d+)?-", f"-singletask-task{number}-", name)


@functools.cache
def goals(name: str) -> tuple[tuple[Goal, ...], int]:
    """All tasks of a single-task environment, and the place of its own among them; none of any other environment. Made once per
    name, which takes seconds where there is an arm."""
    if not single_task(name):
        return (), 0
    import gymnasium

    env: Any = gymnasium.make(registered(name.partition(":")[2]))
    own = env.unwrapped
    found = tuple(Goal(info, float(getattr(own, "_goal_tol", 0.0))) for info in own.task_infos)
    env.close()
    return found, own._reward_task_id - 1
