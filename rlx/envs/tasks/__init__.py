"""MuJoCo tasks as functions over arrays; models from the installed dm_control, or their own."""

from __future__ import annotations

from rlx.envs.tasks import cartpole, cheetah, hopper, pendulum, point_mass, point_mass_maze, quadruped, reacher, walker
from rlx.envs.tasks.base import MujocoTask

DOMAINS = {
    "cartpole": cartpole,
    "cheetah": cheetah,
    "hopper": hopper,
    "pendulum": pendulum,
    "point_mass": point_mass,
    "point_mass_maze": point_mass_maze,
    "reacher": reacher,
    "walker": walker,
}


PAID = {f"quadruped-{name}": task for name, task in quadruped.TASKS.items()}  # worlds of dm_control, with rewards from here


def names() -> list[str]:
    return [f"{d}-{t}" for d, module in DOMAINS.items() for t in module.TASKS]


def get(name: str) -> MujocoTask:
    domain, _, task = name.partition("-")
    return DOMAINS[domain].TASKS[task]
