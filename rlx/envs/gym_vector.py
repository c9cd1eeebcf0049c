"""Gymnasium's vector environments behind the host contract: ``make("gym:HalfCheetah-v5", vectorize="async")``.

For environments that come batched (``vectorize="native"``) or are worth a process each. They cannot be saved: a run that is
resumed begins new episodes and says so. The three autoreset modes of Gymnasium end in the same rows; where the library has
already begun the next episode, or would not begin it by itself, the streams concerned are reset by ``reset_mask`` after the
others have moved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from gymnasium.error import Error
from gymnasium.vector import AutoresetMode, VectorEnv

from rlx.envs import border
from rlx.envs.border import Border
from rlx.keys import HostKey
from rlx.types import PyTree, Spec, Step

MODES = {"sync": "sync", "async": "async", "native": "vector_entry_point"}


class _State(NamedTuple):
    step: Step  # [W], the latest
    over: np.ndarray  # bool [W]


def autoreset_mode(envs: VectorEnv) -> str:
    """``"NextStep"``, ``"SameStep"`` or ``"Disabled"``.

    Raises:
        ValueError: the vector environment declares none of them.
    """
    given = envs.metadata.get("autoreset_mode")
    for mode in AutoresetMode:
        if given in (mode, mode.value):
            return mode.value
    known = ", ".join(f"AutoresetMode.{m.name}" for m in AutoresetMode)
    raise ValueError(f"{envs} declares the autoreset mode {given!r}; rlx knows {known}: set metadata['autoreset_mode'].")


@dataclass(frozen=True)
class GymVectorVec:
    """`rlx.types.VecEnv` over a ``gymnasium.vector.VectorEnv``, which ``build`` makes."""

    name: str
    spec: Spec
    n: int
    ends: str
    build: Callable[[], VectorEnv]

    host = True
    params: PyTree = None

    @cached_property
    def _envs(self) -> VectorEnv:
        return self.build()

    @cached_property
    def _border(self) -> Border:
        return Border(self.name, self.spec, (self.n,))

    @cached_property
    def _mode(self) -> str:
        return autoreset_mode(self._envs)

    def _seeded_reset(self, key: HostKey, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """A seed per stream, or one for all of them where the library's own batched environment takes no more."""
        seeds = [key.seed(i) % 2**31 for i in range(self.n)]
        try:
            return self._envs.reset(seed=seeds, **options)  # type: ignore[arg-type]
        except Error as e:
            if "integer" not in str(e):
                raise
            return self._envs.reset(seed=seeds[0], **options)

    def _restart(self, which: np.ndarray, key: HostKey) -> tuple[PyTree, dict[str, np.ndarray]]:
        """Begins episodes in the streams ``which``; the first observations and infos [W, ...] (of the others, anything)."""
        try:
            out = self._seeded_reset(key, {} if which.all() else {"options": {"reset_mask": which.copy()}})
        except Exception as e:
            if which.all() or not isinstance(e, (TypeError, KeyError, ValueError)):
                raise border.raised(self.name, "reset", e) from e
            raise ValueError(
                f"{self.name}: this vector environment has the autoreset mode {self._mode} and cannot reset some streams alone "
                f"({e}). Leave out vectorize, or make it with AutoresetMode.NEXT_STEP."
            ) from e
        obs, info = self._border.begun(out)
        return obs, self._border.info(info)

    def _step(self, action: np.ndarray) -> tuple[PyTree, np.ndarray, np.ndarray, np.ndarray, Mapping[str, Any]]:
        try:
            out = self._envs.step(self._border.native(action))
        except Exception as e:
            raise border.raised(self.name, "step", e) from e
        return self._border.moved(out)

    def _infos(self, info: Mapping[str, Any], ended: np.ndarray) -> dict[str, np.ndarray]:
        final = info.get("final_info") if self._mode == "SameStep" else None
        return _pick(ended, self._border.info(final), self._border.info(info)) if final else self._border.info(info)

    def reset(self, params: PyTree, key: HostKey) -> tuple[_State, Step]:
        no = np.zeros(self.n, bool)
        obs, info = self._restart(~no, key)
        step = Step(obs, np.zeros(self.n, np.float32), no, no.copy(), ~no, info)
        return _State(step, no.copy()), step

    def step(self, params: PyTree, state: _State, action: np.ndarray, key: HostKey) -> tuple[_State, Step]:
        before, over = state.step, state.step.last
        if self.ends == "reset" and over.all() and self._mode != "NextStep":
            return self.reset(params, key)
        if over.any() and self._mode == "Disabled":
            self._restart(over, key)  # it may not be stepped otherwise
        obs, reward, terminated, truncated, info = self._step(action)
        ended = terminated | truncated
        if ended.any() and self._mode == "SameStep":
            one = Border(self.name, self.spec)
            for i in np.flatnonzero(ended & ~over):
                final = one.obs(_one(info["final_obs"], int(i)), "step")
                jax.tree.map(lambda row, x, i=i: row.__setitem__(i, x), obs, final)
        new = Step(
            obs,
            reward.astype(np.float32),
            terminated,
            truncated & ~terminated,
            np.zeros(self.n, bool),
            self._infos(info, ended),
        )
        instead: Step = before
        if self.ends == "reset" and over.any():
            first, infos = (obs, new.info) if self._mode == "NextStep" else self._restart(over, key)
            instead = jax.tree.map(np.zeros_like, new)._replace(obs=first, first=np.ones(self.n, bool), info=infos)
        elif self.ends == "stop":
            instead = before._replace(first=before.first & ~over)
        step = _pick(over, instead, new)
        return _State(step, step.last), step

    def refresh(self, params: PyTree, state: _State, key: HostKey) -> _State:
        return state

    def save(self, state: _State) -> None:
        """A vector environment does not give its state away."""

    def load(self, arrays: PyTree) -> _State:
        raise ValueError(f"{self.name} cannot be saved and loaded with vectorize; leave it out.")

    def render(self, params: PyTree, state: _State, index: int = 0) -> np.ndarray:
        raise ValueError(f"{self.name} has no pictures with vectorize; leave it out to see it.")

    def close(self) -> None:
        if "_envs" in self.__dict__:
            border.close(self.name, self.__dict__.pop("_envs"))


def _one(final: Any, i: int) -> Any:
    """Observation ``i`` out of what an info holds: an array of objects, or batched like observations."""
    return {k: _one(v, i) for k, v in final.items()} if isinstance(final, dict) else final[i]


def _pick(mask: np.ndarray, yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: np.where(mask.reshape(-1, *[1] * (b.ndim - 1)), a, b), yes, no)
