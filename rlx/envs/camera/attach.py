"""`attach`: an environment of any room as a camera sees it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from rlx.envs import tasks
from rlx.envs.camera import device, host, plants
from rlx.envs.camera.mujoco import MujocoView
from rlx.envs.camera.options import Pixels
from rlx.envs.camera.scene import Scene, Texture
from rlx.types import Env, HostEnv, VecEnv


def attach(env: Env | HostEnv, name: str, pixels: Pixels) -> Env | HostEnv:
    """``env`` = ``rlx.envs.make(name)``, observed by pictures.

    Raises:
        ValueError: there is no such picture of it.
    """
    prefix, _, task = name.partition(":")
    if pixels.pixels == "gl":
        raise ValueError(f"{name} has no pixels='gl': give pixels='sdf'.")
    if prefix == "rlx":
        scene, poses = plants.view(env)
        _default_camera(name, pixels)
        return device.with_pixels(env, pixels, on_floor(scene, pixels.floor), poses)  # type: ignore[arg-type]
    if prefix in ("dmc", "mjx") and task in tasks.names():
        return _of_task(env, name, tasks.get(task), pixels)
    if prefix == "dmc":
        return host.with_pixels(env, pixels, partial(_of_streams, name, pixels))  # type: ignore[arg-type]
    raise ValueError(f"{name} has no pixels='{pixels.pixels}': that is for rlx:, dmc: and mjx: environments.")


def _default_camera(name: str, pixels: Pixels) -> None:
    if pixels.camera not in (None, 0):
        raise ValueError(f"{name} has no camera {pixels.camera!r}: it has one, which is camera 0; leave camera out.")


def on_floor(scene: Scene, floor: str) -> Scene:
    """``floor`` "gray": planes are gray checks, and stay before a distractor."""
    if floor == "stock":
        return scene
    dark, light = (0.1, 0.1, 0.1), (0.2, 0.2, 0.2)

    def gray(shape: Any) -> Any:
        if shape.kind != "plane":
            return shape
        texture = replace(shape.texture or Texture("checks", light), colour=light)
        return replace(shape, colour=dark, texture=texture, backdrop=False)

    return replace(scene, shapes=tuple(gray(s) for s in scene.shapes))


def _of_task(env: Env | HostEnv, name: str, task: Any, pixels: Pixels) -> Env | HostEnv:
    """Native or MJX: what is seen follows of the positions and the goal alone."""
    view = MujocoView(name, task.model(), pixels.camera, task.camera)
    scene, poses = on_floor(view.scene, pixels.floor), partial(view.pose, goal_geom=task.goal_geom)
    if isinstance(env, Env):
        return device.with_pixels(env, pixels, scene, poses)
    read = lambda state: {"qpos": state.fields["qpos"].astype(np.float32), "goal": state.goal.astype(np.float32)}
    shots = host.rasteriser(pixels, scene, poses, read)
    return host.with_pixels(env, pixels, lambda made: shots)


def _of_streams(name: str, pixels: Pixels, made: VecEnv) -> host.Shots:
    """dm_control's own environments may move parts of the model at a reset, so places are read of their data."""
    view = MujocoView(name, made._envs[0].physics.model.ptr, pixels.camera)  # type: ignore[attr-defined]
    read = lambda state: view.poses_of([s.env.physics.data for s in state])
    return host.rasteriser(pixels, on_floor(view.scene, pixels.floor), lambda seen: seen, read)
