"""Pixels of host environments: one more call per decision, for all streams together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.base import Around
from rlx.envs.camera.distractors import bank
from rlx.envs.camera.options import Pixels
from rlx.envs.camera.picture import Look, pictures_of
from rlx.keys import HostKey
from rlx.types import HostEnv, PyTree, Spec, Step, VecEnv

MOST = 2**30  # frames that a background runs before it begins again


class Shots(NamedTuple):
    """``take(state, frame [n], bank)`` gives images of all streams, uint8 [n, H, W, C], and those without the distractor."""

    take: Callable[[Any, np.ndarray, PyTree], tuple[np.ndarray, np.ndarray]]
    close: Callable[[], None] = lambda: None


class Seen(NamedTuple):
    """The streams' state, how far each one's background has run, int64 [n], and which are at the end of an episode."""

    env: Any
    frame: np.ndarray
    last: np.ndarray


def with_pixels(env: HostEnv, pixels: Pixels, camera: Callable[[VecEnv], Shots]) -> HostEnv:
    """``env`` seen by the ``camera`` that is made for its streams: the observation is {"pixels", "state"} (see `Pixels`), the
    parameters are {"env": those of ``env``, "bank": uint8 [F, H, W, C]}. The background goes on over the ends of episodes
    (but with ``redraw``), by the action repeat with each decision."""
    spec, frames = pixels.spec(env.spec), bank(pixels.distractor, pixels.size)

    def make(n: int, ends: str) -> PixelVec:
        made = env.make(n, ends)
        return PixelVec(made, spec, pixels, camera(made), frames)

    return replace(env, spec=spec, make=make, params={"env": env.params, "bank": frames})


@dataclass(frozen=True)
class PixelVec(Around):
    """`rlx.types.VecEnv` around another one."""

    made: VecEnv
    spec: Spec
    pixels: Pixels
    shots: Shots
    bank: PyTree

    @property
    def params(self) -> PyTree:
        return {"env": self.made.params, "bank": self.bank}

    def _look(self, params: PyTree, inner: Any, frame: np.ndarray, step: Step) -> tuple[Seen, Step]:
        at = (frame % MOST).astype(np.int32)
        image, clean = self.shots.take(inner, at, params["bank"])
        step = step._replace(obs=self.pixels.compose(image, clean, step.obs), info=self.pixels.with_background(step.info, at))
        return Seen(inner, frame, step.last.copy()), step

    def reset(self, params: PyTree, key: HostKey) -> tuple[Seen, Step]:
        inner, step = self.made.reset(params["env"], key)
        return self._look(params, inner, self._begun(key), step)

    def _begun(self, key: HostKey) -> np.ndarray:
        """Where backgrounds begin, int64 [n]."""
        return np.array([np.random.default_rng([key.seed(i), 1]).integers(MOST) for i in range(self.n)])

    def step(self, params: PyTree, state: Seen, action: PyTree, key: HostKey) -> tuple[Seen, Step]:
        inner, step = self.made.step(params["env"], state.env, action, key)
        ahead = self.spec.repeat if self.pixels.distractor.moves else 0
        stays = state.last if self.ends == "stop" else False
        frame = state.frame + np.where(stays, 0, ahead)
        if self.pixels.distractor.redraw and step.first.any():
            frame = np.where(step.first, self._begun(key), frame)
        return self._look(params, inner, frame, step)

    def refresh(self, params: PyTree, state: Seen, key: HostKey) -> Seen:
        return state._replace(env=self.made.refresh(params["env"], state.env, key))

    def save(self, state: Seen) -> PyTree:
        inner = self.made.save(state.env)
        return None if inner is None else {**inner, "pixels/frame": state.frame.copy(), "pixels/last": state.last.copy()}

    def load(self, arrays: PyTree) -> Seen:
        own = {k: np.array(v) for k, v in arrays.items() if k.startswith("pixels/")}
        inner = {k: v for k, v in arrays.items() if k not in own}
        return Seen(self.made.load(inner), own["pixels/frame"], own["pixels/last"])

    def render(self, params: PyTree, state: Seen, index: int = 0) -> np.ndarray:
        return self.made.render(params["env"], state.env, index)

    def close(self) -> None:
        self.shots.close()
        self.made.close()


def rasteriser(pixels: Pixels, looks: list[Look], read: Callable[[Any], PyTree]) -> Shots:
    """Pictures of what ``read`` gives of all streams, arrays [n, ...], by the poses of ``looks``."""
    pictures = pictures_of(pixels, looks)

    def one(visible: PyTree, at: Any, frames: Any) -> tuple[Any, Any]:
        image, clean = pictures(visible, at, frames)
        return image, clean if pixels.paired else ()

    program = jax.jit(jax.vmap(one, (0, 0, None)))
    kept: dict[str, Any] = {}  # the bank that was given, and the same on the device

    def take(state: Any, at: np.ndarray, bank: PyTree) -> tuple[np.ndarray, np.ndarray]:
        if kept.get("given") is not bank:
            kept.update(given=bank, here=jax.tree.map(jnp.asarray, bank))
        return jax.tree.map(np.asarray, program(read(state), at, kept["here"]))

    return Shots(take)
