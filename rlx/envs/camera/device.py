"""Pixels of device environments: rendering is part of the compiled program."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import keys
from rlx.envs.camera.distractors import bank
from rlx.envs.camera.options import Pixels
from rlx.envs.camera.picture import Look, pictures_of
from rlx.types import Array, Env, Key, PyTree, Step


class Seen(NamedTuple):
    """The environment's state, and how far the background has run."""

    env: PyTree
    frame: Array  # int32


def with_pixels(env: Env, pixels: Pixels, looks: list[Look]) -> Env:
    """``env`` seen by cameras: the observation is {"pixels", "state"} (see `Pixels`), the parameters are {"env": those of
    ``env``, "bank": uint8 [F, H, W, C]}, so another bank needs no compilation. The background goes on over the ends of
    episodes (but with ``redraw``), by the action repeat with each decision.
    """
    made, pictures = pixels.distractor, pictures_of(pixels, looks)

    def look(params: PyTree, state: Seen, step: Step) -> Step:
        """Of one stream, ``step`` with the former observation."""
        image, clean = pictures(state.env, state.frame, params["bank"])
        return step._replace(obs=pixels.compose(image, clean, step.obs), info=pixels.with_background(step.info, state.frame))

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
        new = made.redraw & step.first
        state = state._replace(frame=jnp.where(new, state.frame, before.frame))
        inner = step.obs["state"] if pixels.state else ()
        return state, look(params, state, step._replace(obs=inner))

    def render(params: PyTree, state: Seen) -> Any:
        return env.render(params["env"], state.env)  # type: ignore[misc]

    return replace(
        env,
        spec=pixels.spec(env.spec),
        params={"env": env.params, "bank": bank(made, pixels.size)},
        reset=reset,
        step=step,
        view=view,
        render=render if env.render else None,
    )
