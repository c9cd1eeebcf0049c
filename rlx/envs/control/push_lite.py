"""A stiff finger that pushes a puck to a goal on a walled table, in MuJoCo: contact-rich manipulation with real contact forces.

The action is where the finger is to go, in a box that reaches below the table and beyond the walls, so pressing too hard is
easy. It is clipped to 15 cm from the finger; a command follows it by quarters and is what the position controllers hold for the
20 physics steps (0.08 s) of a decision. The reward is 1 where the puck's middle is in the goal, else 0.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from rlx.envs.mujoco import native
from rlx.envs.outcomes import ENOUGH, leaves
from rlx.envs.tasks.base import MujocoTask, columns
from rlx.types import Array, HostEnv

GOAL, RADIUS = np.array([0.0, -0.2]), 0.05  # m
REACH, SMOOTH = 0.15, 0.25  # m from the finger; how far the command goes towards its target in a decision
FORCE, LIMIT = 300.0, 100.0  # N: what the controllers can give; a contact force above which is a violation
LOW, HIGH = np.array([-0.4, -0.4, -0.05]), np.array([0.4, 0.4, 0.15])  # m, the box of actions
SUBSTEPS, STEP = 20, 0.004  # physics steps of a decision, s
STATES = {"proprio": 9, "privileged": 15}

XML = """
<mujoco model="push_lite">
  <option timestep="0.004" integrator="implicitfast" cone="elliptic"/>
  <size nuserdata="2"/>
  <visual>
    <quality shadowsize="0" offsamples="0"/>
    <headlight ambient="0.5 0.5 0.5" diffuse="0.5 0.5 0.5" specular="0 0 0"/>
  </visual>
  <worldbody>
    <camera name="top" pos="0 0 1.3"/>
    <camera name="right" pos="0.9 -0.6 0.8" xyaxes="0.5547 0.83205 0 -0.49298 0.32865 0.80561"/>
    <geom name="table" type="box" size="0.45 0.45 0.02" pos="0 0 -0.02" friction="0.6" rgba="0.75 0.72 0.66 1"/>
    <geom name="east" type="box" size="0.01 0.45 0.05" pos="0.44 0 0.05" rgba="0.45 0.45 0.45 1"/>
    <geom name="west" type="box" size="0.01 0.45 0.05" pos="-0.44 0 0.05" rgba="0.45 0.45 0.45 1"/>
    <geom name="north" type="box" size="0.45 0.01 0.05" pos="0 0.44 0.05" rgba="0.45 0.45 0.45 1"/>
    <geom name="south" type="box" size="0.45 0.01 0.05" pos="0 -0.44 0.05" rgba="0.45 0.45 0.45 1"/>
    <geom name="goal" type="cylinder" size="0.05 0.001" pos="0 -0.2 0.001" contype="0" conaffinity="0" rgba="0.3 0.7 0.3 1"/>
    <body name="finger">
      <joint name="x" type="slide" axis="1 0 0" damping="2"/>
      <joint name="y" type="slide" axis="0 1 0" damping="2"/>
      <joint name="z" type="slide" axis="0 0 1" damping="2"/>
      <geom name="finger" type="capsule" fromto="0 0 0.02 0 0 0.2" size="0.02" mass="1.5" rgba="0.8 0.3 0.3 1"/>
      <site name="skin" type="capsule" fromto="0 0 0.02 0 0 0.2" size="0.03" rgba="0 0 0 0"/>
    </body>
    <body name="puck">
      <freejoint/>
      <geom name="puck" type="cylinder" size="0.04 0.03" mass="0.3" friction="0.6" rgba="0.27 0.35 0.6 1"/>
    </body>
  </worldbody>
  <actuator>
    <position joint="x" kp="4000" kv="150" forcerange="-300 300" ctrllimited="true" ctrlrange="-0.4 0.4"/>
    <position joint="y" kp="4000" kv="150" forcerange="-300 300" ctrllimited="true" ctrlrange="-0.4 0.4"/>
    <position joint="z" kp="4000" kv="150" forcerange="-300 300" ctrllimited="true" ctrlrange="-0.05 0.15"/>
  </actuator>
  <sensor> <touch site="skin"/> </sensor>
</mujoco>
"""


# ------------------------------------------------------------------------------------------------------------------ the task


def init(xp: Any, c: Any, u: Any, z: Any) -> Any:
    finger = xp.stack([0.04 * u[..., 0] - 0.02, 0 * u[..., 0] + 0.33, 0 * u[..., 0] + 0.06], -1)
    puck = xp.stack([0.16 * u[..., 1] - 0.08, 0.1 + 0.08 * u[..., 2], 0 * u[..., 0] + 0.031], -1)
    upright = xp.broadcast_to(xp.asarray([1.0, 0, 0, 0]), (*u.shape[:-1], 4))
    return xp.concatenate([finger, puck, upright], -1), xp.zeros((*u.shape[:-1], 9)), None


def ready(data: Any) -> None:
    """The command begins where the finger is."""
    data.ctrl[:] = data.qpos[:3]


def observation(xp: Any, c: Any, p: Any, state: str = "privileged") -> Any:
    """Finger, its velocity and the command: [9]; where ``state`` is "privileged" the puck and its velocity too: [15]."""
    parts = [p.qpos[..., :3], p.qvel[..., :3], p.ctrl]
    return columns(xp, *parts, *([p.qpos[..., 3:6], p.qvel[..., 3:6]] if state == "privileged" else []))


def there(xp: Any, puck: Any) -> Any:
    """Whether the puck [..., 2] is in the goal."""
    return ((puck - GOAL) ** 2).sum(-1) < RADIUS**2


def reward(xp: Any, c: Any, p: Any) -> Any:
    return xp.asarray(there(xp, p.qpos[..., 3:5]), np.float32)


INFO = leaves("success", "solved", "solved_sticky", "contact_force", "violation", "saturation", "torque", "jerk")


def move(model: Any, data: Any, target: np.ndarray) -> tuple[float, ...]:
    """One decision in ``data``; gives what `INFO` tells of it.

    The contact force is the greatest of the physics steps: the sum of the normal forces on the finger. So is the torque, which
    is a force here: the Euclidean norm of what the three controllers give. They are saturated where one of them gave all it
    can. Jerk, m/s^3: the change of the finger's acceleration over the decision, by its time.
    """
    from mujoco import mj_step, mj_step1

    finger = data.qpos[:3]
    data.ctrl[:] = SMOOTH * np.clip(target, finger - REACH, finger + REACH) + (1 - SMOOTH) * data.ctrl
    before, touch, given = data.qacc_warmstart[:3].copy(), data.sensordata, data.actuator_force  # acceleration of the last step
    force = most = effort = 0.0
    for _ in range(SUBSTEPS):
        mj_step(model, data)
        force, most, effort = max(force, touch[0]), max(most, abs(given).max()), max(effort, given @ given)
    jerk = np.linalg.norm(data.qacc_warmstart[:3] - before) / (SUBSTEPS * STEP)
    mj_step1(model, data)
    success = bool(there(np, data.qpos[3:5]))
    data.userdata[:] += success, success or data.userdata[0] > 0  # decisions in success, and from the first of them on
    solved, full = data.userdata >= ENOUGH, most >= FORCE * (1 - 1e-9)
    return success, *solved, force, force > LIMIT, full, float(np.sqrt(effort)), float(jerk)


TASK = MujocoTask(
    "push_lite",
    ("qpos", "qvel", "ctrl"),
    observation,
    reward,
    init,
    draws=lambda model: (3, 0),
    control_timestep=SUBSTEPS * STEP,
    time_limit=50 * SUBSTEPS * STEP,
    camera="top",
    xml=XML,
    ready=ready,
    move=move,
    info=INFO,
)


# ---------------------------------------------------------------------------------------------------------------- the expert


def expert(xp: Any, finger: Array, puck: Array) -> Array:
    """The script that demonstrates: actions [..., 3] for a ``finger`` [..., 3] and a ``puck`` [..., 2]. The finger goes behind
    the puck, down, pushes it towards the goal, and rises aside once it is there."""
    way = GOAL - puck
    left = xp.sqrt((way**2).sum(-1, keepdims=True))
    u = way / xp.maximum(left, 1e-6)
    place, high = finger[..., :2], finger[..., 2:]
    along = ((place - puck) * u).sum(-1, keepdims=True)
    aside = xp.sqrt(((place - puck - along * u) ** 2).sum(-1, keepdims=True))
    behind, ready = puck - 0.085 * u, (aside < 0.015) & (along < 0)
    pushing = ready & (high < 0.05)
    target = xp.where(pushing, place + 0.1 * u, behind)
    height = xp.where(pushing, 0.03, xp.where(ready, 0.0, 0.05))
    done = left < 0.02
    target = xp.where(done, place + xp.asarray([0.0, 0.05]), target)
    height = xp.where(done, 0.1, height)
    return xp.clip(2 * (xp.concatenate([target, height], -1) - LOW) / (HIGH - LOW) - 1, -1.0, 1.0)


def make(
    repeat: int = 1,
    time_limit: int | None = None,
    observe: str = "privileged",
    threads: int | None = None,
    physics: bool = False,
) -> HostEnv:
    """Three actions (where the finger is to go), 50 decisions, reward 0 or 1.

    ``observe``: "proprio", the finger, its velocity and the command [9], or "privileged", with the puck and its velocity [15].
    Cameras: ``top``, ``right``. ``info``, as in `rlx.envs.outcomes`: ``success`` (the puck is in the goal), ``solved`` (it has
    been so in five decisions), ``solved_sticky`` (in five from the first such one on), ``contact_force``,
    ``violation`` (of the limit of 100 N), ``saturation``, ``torque`` (of the controllers: N, as the joints slide), ``jerk``.

    Raises:
        ValueError: unknown ``observe``.
    """
    if observe not in STATES:
        raise ValueError(f"push-lite: observe={observe!r} is unknown; give {' or '.join(map(repr, STATES))}.")
    task = replace(TASK, observe=partial(observation, state=observe))
    return native("rlx:push-lite", task, repeat=repeat, time_limit=time_limit, threads=threads, physics=physics)
