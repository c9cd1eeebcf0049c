"""Every other dm_control task, by dm_control's own environments on threads: the slow path."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rlx.envs.options import dm_control_suite
from rlx.keys import HostKey
from rlx.types import HostEnv, Leaf, PyTree, Spec, Step


def make(name: str, *, repeat: int = 1, time_limit: int | None = None, threads: int | None = None) -> HostEnv:
    """Observations are flattened in dm_control's order of names. Raises ValueError where it is not installed."""
    suite = dm_control_suite()
    warnings.warn(f"dmc:{name} has no batched task in rlx: it runs dm_control's own loop, several times slower.", stacklevel=3)
    domain, _, task = name.partition("-")
    build = lambda: suite.load(domain, task, task_kwargs={"random": 0})
    example = build()
    size = int(sum(np.prod(x.shape) for x in example.observation_spec().values()))
    box = example.action_spec()
    limit = time_limit or -(-int(np.ceil(example._step_limit)) // repeat)
    native = Leaf(box.shape, box.dtype, box.minimum, box.maximum)
    spec = Spec(Leaf((size,)), Leaf(box.shape, low=-1, high=1), {}, limit, repeat, native_action=native)
    return HostEnv(f"dmc:{name}", spec, lambda n, ends: _Vec(f"dmc:{name}", spec, n, ends, build, threads))


class _Stream:
    def __init__(self, env: Any):
        self.env, self.t = env, 0
        self.step: Any = None


@dataclass(frozen=True)
class _Vec:
    name: str
    spec: Spec
    n: int
    ends: str
    build: Any
    threads: int | None

    host = True
    params: PyTree = None

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads or 2)

    def _begin(self, s: _Stream, rng: np.random.Generator) -> None:
        s.env.task._random = np.random.RandomState(rng.integers(2**32))
        s.t, s.step = 0, (self._flat(s.env.reset()), 0.0, False, False, True)

    @staticmethod
    def _flat(timestep: Any) -> np.ndarray:
        return np.concatenate([np.ravel(x) for x in timestep.observation.values()]).astype(np.float32)

    def _move(self, s: _Stream, action: np.ndarray) -> None:
        spec = s.env.action_spec()
        real = spec.minimum + (np.clip(action, -1, 1) + 1) * (spec.maximum - spec.minimum) / 2
        total = 0.0
        for _ in range(self.spec.repeat):
            timestep = s.env.step(real)
            total += timestep.reward or 0.0
            if timestep.last():
                break
        s.t += 1
        ended = bool(timestep.last() and timestep.discount == 0)
        cut = not ended and (timestep.last() or s.t >= (self.spec.horizon or 0))
        s.step = (self._flat(timestep), total, ended, cut, False)

    def _stack(self, state: list[_Stream]) -> Step:
        kinds = (np.float32, np.float32, bool, bool, bool)
        columns = zip(*(s.step for s in state), strict=True)
        obs, reward, terminated, truncated, first = (np.array(c, k) for c, k in zip(columns, kinds, strict=True))
        return Step(obs, reward, terminated, truncated, first, {})

    def reset(self, params: PyTree, key: HostKey) -> tuple[list[_Stream], Step]:
        state = [_Stream(self.build()) for _ in range(self.n)]
        for i, s in enumerate(state):
            self._begin(s, key.rng(i))
        return state, self._stack(state)

    def step(self, params: PyTree, state: list[_Stream], action: np.ndarray, key: HostKey) -> tuple[list[_Stream], Step]:
        def one(i: int) -> None:
            s = state[i]
            if not (s.step[2] or s.step[3]):
                self._move(s, action[i])
            elif self.ends == "reset":
                self._begin(s, key.rng(i))

        list(self._pool.map(one, range(self.n)))
        return state, self._stack(state)

    def refresh(self, params: PyTree, state: list[_Stream], key: HostKey) -> list[_Stream]:
        return state

    def save(self, state: list[_Stream]) -> None:
        """Tasks may hide state of their own: not saved, a run resumes with a marked cut."""
        return None

    def load(self, arrays: PyTree) -> Any:
        raise ValueError(f"{self.name} cannot be loaded: it is one of the tasks that cannot be saved.")

    def render(self, params: PyTree, state: list[_Stream], index: int = 0) -> np.ndarray:
        return state[index].env.physics.render(256, 256, camera_id=0)

    def close(self) -> None:
        if "_pool" in self.__dict__:
            self._pool.shutdown()
