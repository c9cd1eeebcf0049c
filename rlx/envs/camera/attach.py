"""`attach`: an environment of any room as a camera sees it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import numpy as np

from rlx.envs import tasks
from rlx.envs.camera import device, gl, host, plants
from rlx.envs.camera.mujoco import MujocoView
from rlx.envs.camera.options import Pixels
from rlx.envs.camera.picture import Look, free
from rlx.envs.camera.raster import draw
from rlx.envs.camera.scene import Poses, Scene, on_floor
from rlx.envs.control import mujoco_task
from rlx.types import Env, HostEnv, VecEnv


def attach(env: Env | HostEnv, name: str, pixels: Pixels) -> Env | HostEnv:
    """``env`` = ``rlx.envs.make(name)``, observed by pictures.

    Raises:
        ValueError: there is no such picture of it.
    """
    prefix, _, short = name.partition(":")
    task = mujoco_task(short) if prefix == "rlx" else None
    if prefix in ("dmc", "mjx") and short in tasks.names():
        task = tasks.get(short)
    if isinstance(env, Env):
        return device.with_pixels(env, pixels, _looks(env, name, task, pixels))
    if task is not None:
        return host.with_pixels(env, pixels, _native(name, task, pixels))
    if prefix not in ("dmc", "gym"):
        raise ValueError(
            f"{name} has no pixels: dmc:, mjx: and gym: environments on MuJoCo have, and those of rlx: with a picture."
        )
    camera = partial(_of_streams, name, pixels, _dm_control if prefix == "dmc" else _gymnasium)
    one = env.make(1, "reset")
    try:
        camera(one)  # what is wrong shows now
    finally:
        one.close()
    return host.with_pixels(env, pixels, camera)


def _looks(env: Env, name: str, task: Any, pixels: Pixels) -> list[Look]:
    """Of a device environment."""
    if pixels.pixels == "gl":
        raise ValueError(f"{name} runs on a device, where OpenGL does not: give pixels='sdf', or take dmc: or gym:.")
    if task is not None:
        return _task_looks(name, task, pixels)
    if not name.startswith("rlx:"):
        raise ValueError(f"{name} has no pixels: of device environments tasks of mjx: have, and those of rlx: with a picture.")
    scene, poses = plants.view(env)
    if set(pixels.cameras) - {0}:
        raise ValueError(f"{name} has no camera {pixels.camera!r}: it has one, which is camera 0; leave camera out.")
    scene = on_floor(scene, pixels.floor)
    at_first = lambda: jax.tree.map(lambda x: x[None], poses(env.reset(env.params, jax.random.key(0))[0]))
    _leave_room(name, pixels, scene, at_first)
    return [(scene, poses)] * max(len(pixels.cameras), 1)


def _task_looks(name: str, task: Any, pixels: Pixels) -> list[Look]:
    """Native or MJX: what is seen follows of the positions and the goal alone."""
    model = task.model()
    views = [MujocoView(name, model, c) for c in pixels.cameras or (task.camera,)]
    looks: list[Look] = [(on_floor(v.scene, pixels.floor), partial(v.pose, goal_geom=task.goal_geom)) for v in views]
    for view, (scene, _) in zip(views, looks, strict=True):
        _leave_room(name, pixels, scene, partial(view.poses, np, model.qpos0[None]))
    return looks


def _leave_room(name: str, pixels: Pixels, scene: Scene, poses: Callable[[], Poses]) -> None:
    """As `Pixels.leave_room`, where the first of ``poses`` [N, ...] are."""
    pixels.leave_room(name, lambda: free(scene, draw(scene, Poses(*(x[0] for x in poses())), (16, 16)).front))


# ------------------------------------------------------------------------------------------------------- on native physics

Camera = Callable[[VecEnv], host.Shots]


def _native(name: str, task: Any, pixels: Pixels) -> Camera:
    """For the streams of `rlx.envs.mujoco`."""
    single = lambda x: np.asarray(x, np.float32)

    def positions(state: Any) -> dict[str, np.ndarray]:
        return {"qpos": single(state.fields["qpos"]), "goal": single(state.goal)}

    def data_of(state: Any) -> list[tuple[Any, Any]]:
        if task.goal_geom is not None:  # it belongs to no moving body, and the next step derives its place anew
            for data, goal in zip(state.data, state.goal, strict=True):
                data.geom(task.goal_geom).xpos[:2] = goal
        return [(data, None) for data in state.data]

    if pixels.pixels == "sdf":
        shots = host.rasteriser(pixels, _task_looks(name, task, pixels), positions)
        return lambda made: shots
    open_camera = lambda: gl.GlCamera(name, task.model(), pixels, task.camera)
    gl.shots_of(pixels, open_camera, data_of)  # what is wrong shows now
    return lambda made: gl.shots_of(pixels, open_camera, data_of)


def _of_streams(name: str, pixels: Pixels, read: Callable[[VecEnv, Any], list[tuple[Any, Any]]], made: VecEnv) -> host.Shots:
    """For environments that hold a model and data each, as their makers leave them: what an episode moves is seen."""
    model = read(made, None)[0][1]
    at = lambda state: read(made, state)
    if pixels.pixels == "gl":
        return gl.shots_of(pixels, lambda: gl.GlCamera(name, copy.deepcopy(model), pixels), at)
    views = [MujocoView(name, model, c) for c in pixels.cameras or (0,)]
    looks: list[Look] = [(on_floor(v.scene, pixels.floor), itemgetter(k)) for k, v in enumerate(views)]
    for view, (scene, _) in zip(views, looks, strict=True):
        _leave_room(name, pixels, scene, partial(view.poses_of, [read(made, None)[0][0]]))
    poses = lambda state: [v.poses_of([data for data, _ in at(state)]) for v in views]
    return host.rasteriser(pixels, looks, poses)


def _dm_control(made: Any, state: Any) -> list[tuple[Any, Any]]:
    if state is None:
        made._envs[0].reset()  # some tasks give parts of the model their size only then
    envs = made._envs if state is None else [s.env for s in state]
    return [(env.physics.data.ptr, env.physics.model.ptr) for env in envs]


def _gymnasium(made: Any, state: Any) -> list[tuple[Any, Any]]:
    envs = [env.unwrapped for env in getattr(made, "_envs", [])]
    if not envs or not all(hasattr(env, "data") and hasattr(env, "model") for env in envs):
        raise ValueError(
            f"{made.name} has no pixels: it is no environment on MuJoCo whose streams rlx holds (leave vectorize out)."
        )
    return [(env.data, env.model) for env in envs]
