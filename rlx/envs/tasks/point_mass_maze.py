"""The point mass in four rooms of URLB and ExoRL in MuJoCo, and the eight tasks that zero-shot methods are asked in it; what
they pay, and the same world in closed form: `rlx.envs.control.pointmass_maze`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rlx.envs.control import pointmass_maze as maze
from rlx.envs.tasks.base import MujocoTask, columns

XML = f"""
<mujoco model="point_mass_maze">
  <option timestep="{maze.PARAMS["dt"]}"/>
  <default>
    <joint type="slide" range="-{maze.LIMIT} {maze.LIMIT}" limited="true" damping="{maze.PARAMS["damping"]}"/>
    <motor gear="{maze.PARAMS["force"]}" ctrlrange="-1 1" ctrllimited="true"/>
  </default>
  <visual><headlight ambient="0.3 0.3 0.3" diffuse="0.3 0.3 0.3" specular="0 0 0"/></visual>
  <worldbody>
    <light pos="0 0 2" dir="0 0 -1" directional="true" diffuse="0.4 0.4 0.4" specular="0 0 0"/>
    <camera name="fixed" pos="0 0 0.85" fovy="45"/>
    <geom name="ground" type="plane" pos="0 0 -0.02" size="0.3 0.3 0.1" rgba="0.86 0.88 0.9 1" contype="0" conaffinity="0"/>
    <geom name="along_x" type="box" size="{maze.LENGTH} {maze.WIDTH} 0.02" rgba="0.43 0.47 0.5 1"/>
    <geom name="along_y" type="box" size="{maze.WIDTH} {maze.LENGTH} 0.02" rgba="0.43 0.47 0.5 1"/>
    <body name="pointmass">
      <joint name="x" axis="1 0 0"/>
      <joint name="y" axis="0 1 0"/>
      <geom name="ball" type="sphere" size="{maze.RADIUS}" mass="{maze.PARAMS["mass"]}" rgba="0.8 0.3 0.3 1"/>
    </body>
  </worldbody>
  <actuator>
    <motor name="x" joint="x"/>
    <motor name="y" joint="y"/>
  </actuator>
</mujoco>
"""


def observe(xp: Any, c: Any, p: Any) -> Any:
    """Position and velocity: [4]."""
    return columns(xp, p.qpos, p.qvel)


def _paid(score: maze.Score, xp: Any, c: Any, p: Any) -> Any:
    return score(xp, observe(xp, c, p), p.ctrl)


def _in_first_room(xp: Any, c: Any, u: Any, z: Any) -> Any:
    """At rest in the outer part of the room on the top left."""
    away = 0.15 + (maze.LIMIT - 0.15) * u
    return away * xp.asarray([-1.0, 1.0]), xp.zeros(u.shape), None


def _task(score: maze.Score) -> MujocoTask:
    reward: Callable[..., Any] = partial(_paid, score)
    view = {"score": score, "names": maze.NAMES}
    draws = lambda model: (2, 0)
    return MujocoTask("point_mass_maze", ("qpos", "qvel", "ctrl"), observe, reward, _in_first_room, draws, view=view, xml=XML)


TASKS = {name: _task(score) for name, score in maze.SCORES.items()}
