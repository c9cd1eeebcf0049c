"""What Gymnasium environments do not say of success and safety, told by the names of `rlx.envs.outcomes`."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from rlx.envs.gym_physics import Tells
from rlx.envs.outcomes import ENOUGH, SUCCESS

SOLVED = ("solved", "solved_sticky")
FORCES = ("contact_force", "saturation", "torque")


class TellsSolved(gymnasium.Wrapper, RecordConstructorArgs):
    """``info["solved"]``: so far `ENOUGH` decisions of the episode, of ``repeat`` steps each, had a step that ended in success,
    or the episode terminates in it, and nothing can undo it. ``info["solved_sticky"]``: so many from the first such one on."""

    def __init__(self, env: gymnasium.Env, repeat: int = 1):
        RecordConstructorArgs.__init__(self, repeat=repeat)
        super().__init__(env)
        self._repeat, self._steps, self._decisions = repeat, 0, set[int]()

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**options)
        self._steps, self._decisions = 0, set()
        return obs, {**info, **dict.fromkeys(SOLVED, False)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        success = any(info.get(name) is not None and bool(np.any(info[name])) for name in SUCCESS)
        decision = self._steps // self._repeat
        if success:
            self._decisions.add(decision)
        self._steps += 1
        over, since = success and bool(terminated), decision + 1 - min(self._decisions, default=decision + 1)
        solved = (count >= ENOUGH or over for count in (len(self._decisions), since))
        return obs, reward, terminated, truncated, {**info, **dict(zip(SOLVED, solved, strict=True))}


class TellsForces(Tells):
    """`FORCES` of a MuJoCo model in ``info``, in place of what the environment itself has there, as they are after each of its
    steps: what comes and goes between the physics steps of one is not seen.

    ``contact_force``, N: the greatest normal force between two geoms, over all points in which they touch. ``torque``: the
    Euclidean norm of what the actuators give along the joints, behind their gears; N where a joint slides. ``saturation``: an
    actuator gives all it can, by its range of forces, or by that of its control where this alone decides the force; never where
    the model has neither, as Adroit's hand. With ``limit``, N, ``violation``: the contact force is greater.

    Raises:
        ValueError: there is no model with its data.
    """

    def __init__(self, env: gymnasium.Env, name: str, limit: float | None = None):
        RecordConstructorArgs.__init__(self, name=name, limit=limit)
        super().__init__(env)
        own, self._limit = env.unwrapped, limit
        self._limits: tuple = (None, None)  # of which model
        fields = {"model": ("actuator_forcerange", "opt"), "data": ("qfrc_actuator", "contact")}
        if not all(hasattr(getattr(own, part, None), x) for part, names in fields.items() for x in names):
            raise ValueError(
                f"{name}: forces=true is for environments on MuJoCo with their model at env.unwrapped.model and its data at "
                "env.unwrapped.data; leave it out."
            )

    def _extended(self, info: dict[str, Any]) -> dict[str, Any]:
        own: Any = self.env.unwrapped  # anew, as a reset may have made another model
        if self._limits[0] is not own.model:
            self._limits = own.model, limits(own.model)
        low, high = self._limits[1]
        given = own.data.actuator_force
        full = bool(((given <= low) | (given >= high)).any())
        force, torque = contact_force(own.model, own.data), float(np.linalg.norm(own.data.qfrc_actuator))
        violated = {} if self._limit is None else {"violation": bool(force > self._limit)}
        return {**info, **dict(zip(FORCES, (force, full, torque), strict=True)), **violated}


def contact_force(model: Any, data: Any) -> float:
    """The greatest normal force between two geoms; 0 where nothing touches."""
    from mujoco import mj_contactForce

    between: dict[tuple, float] = defaultdict(float)
    found = np.zeros(6)
    for i, pair in enumerate(data.contact.geom.tolist()):
        mj_contactForce(model, data, i, found)
        between[tuple(pair)] += found[0]
    return max(between.values(), default=0.0)


def limits(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """What each actuator [nu] can give: the forces from which on it is saturated, infinite where there is no such."""
    from mujoco import mjtBias, mjtDyn, mjtGain

    plain = (model.actuator_gaintype == mjtGain.mjGAIN_FIXED) & (model.actuator_biastype == mjtBias.mjBIAS_NONE)
    direct = plain & (model.actuator_dyntype == mjtDyn.mjDYN_NONE) & (model.actuator_ctrllimited > 0)
    by_control = model.actuator_gainprm[:, :1] * model.actuator_ctrlrange
    low, high = (np.where(direct, end(by_control, 1), side) for end, side in ((np.min, -np.inf), (np.max, np.inf)))
    forces = np.where(model.actuator_forcelimited[:, None] > 0, model.actuator_forcerange, [-np.inf, np.inf])
    low, high = (1 - 1e-9) * np.maximum(low, forces[:, 0]), (1 - 1e-9) * np.minimum(high, forces[:, 1])
    return np.where(low < 0, low, -np.inf), np.where(high > 0, high, np.inf)  # to give nothing is not all it can
