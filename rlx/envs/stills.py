"""Pictures of stored physics: what an environment looked like at rows that were collected with ``physics=True``.

::

    draw = still_of("dmc:walker-walk")
    picture = draw(physics)               # [P] -> uint8 [256, 256, 3]

What an episode places anew in the model itself (a target's place, an object's size) is not part of the physics, and is drawn as
the model has it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlx.envs import camera, registry, tasks
from rlx.envs.camera import Distractor, Pixels
from rlx.envs.camera.gl import GlCamera
from rlx.envs.control.base import Plant, state_of
from rlx.envs.options import dm_control_suite
from rlx.types import PHYSICS, Env

SIZE = 256
HOW = (PHYSICS, "host", "workers", "threads", "vectorize")  # options that say how it is stepped, not what it looks like
Still = Callable[[np.ndarray], np.ndarray]  # physics [P] -> uint8 [SIZE, SIZE, 3]


def still_of(name: str, /, **options: Any) -> Still:
    """The picture of an environment ``make(name, **options)`` by its physics [P].

    Raises:
        ValueError: an unknown name, an environment without physics or pictures, or no OpenGL to draw with.
    """
    prefix, _, task = name.partition(":")
    options = {k: v for k, v in camera.unseen(options).items() if k not in HOW}
    if prefix == "rlx":
        return _of_plant(name, options)
    if prefix == "dmc":
        if task in tasks.names():
            own = tasks.get(task)
            return _of_mujoco(name, own.model(), own.camera, own.goal_geom)
        world, _, kind = (tasks.PAID[task].world if task in tasks.PAID else task).partition("-")
        env = dm_control_suite().load(world, kind, task_kwargs={"random": 0})
        return _of_mujoco(name, env.physics.model.ptr)
    if prefix == "gym":
        made: Any = registry.make(name, **options)
        with contextlib.closing(made.make(1, "reset")) as vec:
            model = getattr(vec._envs[0].unwrapped, "model", None)
        if model is not None:
            return _of_mujoco(name, model)
    raise ValueError(f"{name} cannot be drawn from stored physics: it is no rlx:, dmc: or MuJoCo's gym: environment.")


def _of_plant(name: str, options: dict[str, Any]) -> Still:
    env = registry.make(name, **{**options, PHYSICS: True})
    render = env.render if isinstance(env, Env) else None
    if render is None or not isinstance(env, Env):
        raise ValueError(f"{name} draws no pictures of its physics.")
    size = env.spec.info[PHYSICS].shape[0]

    def draw(physics: np.ndarray) -> np.ndarray:
        _fits(name, physics, size)
        return render(env.params, Plant(state_of(env, jnp.asarray(physics)), jnp.int32(0)))

    return draw


def _of_mujoco(name: str, model: Any, camera: Any = 0, goal_geom: str | None = None) -> Still:
    import mujoco

    data, ends = mujoco.MjData(model), np.cumsum([model.nq, model.nv, model.na])
    size = int(ends[-1]) + (2 if goal_geom is not None else 0)
    thread = ThreadPoolExecutor(1)  # OpenGL's contexts belong to the thread that made them, and pictures are asked for by many
    drawing = thread.submit(GlCamera, name, model, Pixels("gl", image=SIZE, distractor=Distractor()), camera).result()

    def draw(physics: np.ndarray) -> np.ndarray:
        _fits(name, physics, size)
        return thread.submit(shoot, physics).result()

    def shoot(physics: np.ndarray) -> np.ndarray:
        data.qpos[:], _, _, goal = np.split(np.asarray(physics, np.float64), ends)
        if goal_geom is not None:
            model.geom(goal_geom).pos[:2] = goal
        mujoco.mj_forward(model, data)
        return drawing.shoot(data)[0][0]

    return draw


def _fits(name: str, physics: np.ndarray, size: int) -> None:
    if np.shape(physics) != (size,):
        raise ValueError(f"{name} has physics of {size} numbers, these have the shape {list(np.shape(physics))}: another's?")
