"""What the cameras of one stream see at a state, with the distractor behind."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from rlx.envs.camera.options import Pixels
from rlx.envs.camera.raster import draw
from rlx.envs.camera.scene import Poses, Scene
from rlx.types import Array, PyTree

Look = tuple[Scene, Callable[[PyTree], Poses]]  # what one camera sees, and the poses at a state of one stream
# (state, how far the background has run, frames uint8 [F, H, W, C]) -> images uint8 [H, W, C], with the distractor and without
Pictures = Callable[[PyTree, Array, Array], tuple[Array, Array]]


def pictures_of(pixels: Pixels, looks: list[Look]) -> Pictures:
    """Of several cameras the channels one after another."""
    made = pixels.distractor

    def pictures(state: PyTree, at: Array, frames: Array) -> tuple[Array, Array]:
        images, cleans = [], []
        for scene, poses in looks:
            picture = draw(scene, poses(state), pixels.size, pixels.grey)
            cleans.append(picture.image)
            if made.kind == "none":
                images.append(picture.image)
            else:
                images.append(behind(jnp, picture.image, free(scene, picture.front), frames, at, made.mask))
        return jnp.concatenate(images, -1), jnp.concatenate(cleans, -1)

    return pictures


def free(scene: Scene, front: Array) -> Array:
    """bool [H, W]: where nothing but the backdrop is."""
    backdrops = (front == i for i, shape in enumerate(scene.shapes) if shape.backdrop)
    return functools.reduce(jnp.logical_or, backdrops, front < 0)


def behind(xp: Any, image: Array, backdrop: Array, frames: Array, at: Any, mask: str) -> Array:
    """uint8 [H, W, C]: frame ``at`` (modulo their number) of ``frames`` where ``image`` shows no more than ``backdrop`` (bool
    [H, W]), or, ``mask`` "colour", more blue than red and green."""
    frame = xp.asarray(frames)[at % frames.shape[0]]
    if mask == "colour":
        backdrop = (image[..., 2] > image[..., 1]) & (image[..., 2] > image[..., 0])
    return xp.where(backdrop[..., None], frame, image)
