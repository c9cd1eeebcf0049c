"""Pixels of device environments: rendering is part of the compiled program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import keys
from rlx.envs.camera.distractors import bank
from rlx.envs.camera.options import Pixels
from rlx.envs.camera.raster import Picture, draw
from rlx.envs.camera.scene import Poses, Scene
from rlx.types import Array, Env, Key, PyTree, Step, Task


class Seen(NamedTuple):
    """The environment's state, and how far the background has run."""

    env: PyTree
    frame: Array  # int32


def with_pixels(env: Env, pixels: Pixels, scene: Scene, poses: Callable[[PyTree], Poses]) -> Env:
    """``env`` seen by a camera: the observation is {"pixels", "state"} (see `Pixels`), the parameters are {"env": those of
    ``env``, "bank": uint8 [F, H, W, C]}, so another bank needs no compilation. The background goes on over the ends of
    episodes, by the action repeat with each decision.
    """
    made, size = pixels.distractor, pixels.size
    frames = () if made.kind == "none" else bank(made, size)
    backdrop = jnp.array([*(s.backdrop for s in scene.shapes), True])

    def look(params: PyTree, state: Seen, step: Step) -> Step:
        """Of one stream, ``step`` with the former observation."""
        picture = draw(scene, poses(state.env), size, pixels.grey)
        clean = image = picture.image
        if made.kind != "none":
            image = behind(picture, backdrop, params["bank"], state.frame, made.mask)
        return step._replace(obs=pixels.seen(image, clean, step.obs))

    def reset(params: PyTree, key: Key) -> tuple[Seen, Step]:
        inner, step = env.reset(params["env"], key)
        count = 1 if made.kind == "none" else params["bank"].shape[0]
        state = Seen(inner, jax.random.randint(keys.fold(key, "background"), (), 0, count))
        return state, look(params, state, step)

    def step(params: PyTree, state: Seen, action: Array, key: Key) -> tuple[Seen, Step]:
        inner, step = env.step(params["env"], state.env, action, key)
        state = Seen(inner, state.frame + (env.spec.repeat if made.moves else 0))
        return state, look(params, state, step)

    def view(params: PyTree, before: Seen, state: Seen, step: Step) -> tuple[Seen, Step]:
        state = state._replace(frame=before.frame)
        inner = step.obs["state"] if pixels.state else ()
        return state, look(params, state, step._replace(obs=inner))

    def render(params: PyTree, state: Seen) -> Any:
        return env.render(params["env"], state.env)  # type: ignore[misc]

    return replace(
        env,
        spec=replace(env.spec, obs=pixels.observation(env.spec.obs), task=Task(), tasks={}, native_obs=None),
        params={"env": env.params, "bank": frames},
        reset=reset,
        step=step,
        view=view,
        render=render if env.render else None,
    )


def behind(picture: Picture, backdrop: Array, frames: Array, at: Array, mask: str) -> Array:
    """uint8 [H, W, C]: frame ``at`` (modulo their number) of ``frames`` where nothing but the backdrop is: ``backdrop`` [G + 1]
    of the shapes, and True for none."""
    frame = jnp.asarray(frames)[at % frames.shape[0]]
    return jnp.where(free(jnp, picture.image, backdrop[picture.front], mask)[..., None], frame, picture.image)


def free(xp: Any, image: Any, backdrop: Any, mask: str) -> Any:
    """bool [..., H, W]: what a distractor replaces."""
    if mask == "segmentation":
        return backdrop
    return (image[..., 2] > image[..., 1]) & (image[..., 2] > image[..., 0])
