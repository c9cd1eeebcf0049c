"""Several host environments as one batch, such as the tasks of a world that are environments of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from rlx.keys import HostKey
from rlx.types import HostEnv, Leaf, PyTree, Spec, Step, VecEnv


def side_by_side(envs: Sequence[HostEnv], each: int) -> HostEnv:
    """``each`` streams of the first of ``envs`` [K], as many of the next, and after the last from the first on: batches have a
    multiple of ``K * each`` streams. Info is what all of them tell; the time limit is the longest.

    Raises:
        ValueError: an environment of the device, or observations or actions that differ.
    """
    first = envs[0]
    for env in envs:
        if not isinstance(env, HostEnv):
            raise ValueError(f"side_by_side takes environments on the host; {env.name} is one of the device.")
        if _forms((env.spec.obs, env.spec.action)) != _forms((first.spec.obs, first.spec.action)):
            raise ValueError(f"{env.name} and {first.name} differ in their observations or actions: they are no one batch.")
    limits = [env.spec.horizon for env in envs]
    horizon = None if None in limits else max(x for x in limits if x)
    infos = [_forms(env.spec.info) for env in envs]
    info = {k: leaf for k, leaf in first.spec.info.items() if all(x.get(k) == infos[0][k] for x in infos)}
    spec, name = replace(first.spec, info=info, horizon=horizon), " | ".join(env.name for env in envs)
    return HostEnv(name, spec, lambda n, ends: _Beside(name, spec, n, ends, tuple(envs), each), light=True)


def _forms(leaves: PyTree) -> Any:
    """What a batch must have in common; bounds may differ."""
    form = lambda leaf: (leaf.shape, np.dtype(leaf.dtype).name, leaf.choices, leaf.reduce)
    return jax.tree.map(form, leaves, is_leaf=lambda x: isinstance(x, Leaf))


@dataclass(frozen=True)
class _Beside:
    """`rlx.types.VecEnv`; its state is a list of those of its blocks."""

    name: str
    spec: Spec
    n: int
    ends: str
    envs: tuple[HostEnv, ...]
    each: int

    host = True
    params: PyTree = None

    @cached_property
    def _blocks(self) -> list[VecEnv]:
        count, rest = divmod(self.n, self.each)
        if rest or count % len(self.envs):
            raise ValueError(f"{self.name}: {self.n} streams are no {self.each} of each.")
        return [self.envs[i % len(self.envs)].make(self.each, self.ends) for i in range(count)]

    def _parts(self, key: HostKey) -> list[tuple[VecEnv, PyTree, HostKey]]:
        """Blocks with their params and keys: a stream's randomness is that of its number in the whole batch."""
        params = [self.envs[i % len(self.envs)].params for i in range(len(self._blocks))]
        keys = [replace(key, start=key.start + i * self.each) for i in range(len(self._blocks))]
        return list(zip(self._blocks, params, keys, strict=True))

    def _joined(self, found: list[tuple[Any, Step]]) -> tuple[list[Any], Step]:
        steps = [step._replace(info={k: step.info[k] for k in self.spec.info}) for _, step in found]
        return [state for state, _ in found], jax.tree.map(lambda *x: np.concatenate(x), *steps)

    def reset(self, params: PyTree, key: HostKey) -> tuple[list[Any], Step]:
        return self._joined([vec.reset(own, k) for vec, own, k in self._parts(key)])

    def step(self, params: PyTree, state: list[Any], action: np.ndarray, key: HostKey) -> tuple[list[Any], Step]:
        actions = np.split(action, len(self._blocks))
        parts = zip(self._parts(key), state, actions, strict=True)
        return self._joined([vec.step(own, s, a, k) for (vec, own, k), s, a in parts])

    def refresh(self, params: PyTree, state: list[Any], key: HostKey) -> list[Any]:
        return [vec.refresh(own, s, k) for (vec, own, k), s in zip(self._parts(key), state, strict=True)]

    def save(self, state: list[Any]) -> None:
        """Made for evaluations, of which nothing is saved."""
        return None

    def load(self, arrays: PyTree) -> Any:
        raise ValueError(f"{self.name} cannot be loaded: nothing was saved of it.")

    def render(self, params: PyTree, state: list[Any], index: int = 0) -> np.ndarray:
        block, place = divmod(index, self.each)
        return self._blocks[block].render(self.envs[block % len(self.envs)].params, state[block], place)

    def close(self) -> None:
        for vec in self.__dict__.pop("_blocks", []):
            vec.close()
