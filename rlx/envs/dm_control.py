"""Every other dm_control task, by dm_control's own environments on threads: the slow path."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np

from rlx.envs import border, tasks
from rlx.envs.actions import box
from rlx.envs.border import Border
from rlx.envs.options import dm_control_suite
from rlx.keys import HostKey
from rlx.types import PHYSICS, HostEnv, Leaf, PyTree, Spec, Step


def make(
    name: str,
    *,
    repeat: int = 1,
    time_limit: int | None = None,
    threads: int | None = None,
    action_bounds: Any = None,
    physics: bool = False,
) -> HostEnv:
    """Observations are flattened in dm_control's order of names. Tasks without a time limit of their own have none here either,
    unless ``time_limit`` gives one. ``action_bounds``: a pair (low, high) in place of the task's own, which may have none.

    Raises:
        ValueError: dm_control is not installed, cannot make the task, or it has actions without bounds.
    """
    suite = dm_control_suite()
    given = f"dmc:{name}"
    warnings.warn(f"{given} has no batched task in rlx: it runs dm_control's own loop, several times slower.", stacklevel=3)
    custom = tasks.PAID.get(name)
    domain, _, task = (custom.world if custom else name).partition("-")

    def build() -> Any:
        with border.making(given):
            env = suite.load(domain, task, task_kwargs={"random": 0})
        if time_limit is not None:
            env._step_limit = time_limit * repeat  # a longer one than the task's own too
        if custom:
            c = SimpleNamespace(**custom.constants(env.physics.model))
            env.task.get_reward = lambda physics: float(custom.reward(np, c, physics.data))
        return env

    example = build()
    size = int(sum(np.prod(x.shape) for x in example.observation_spec().values()))
    actions = example.action_spec()
    action, native = box(given, actions.shape, actions.dtype, actions.minimum, actions.maximum, action_bounds)
    steps = example._step_limit
    limit = time_limit or (-(-int(np.ceil(steps)) // repeat) if np.isfinite(steps) else None)
    info = {PHYSICS: Leaf(example.physics.get_state().shape)} if physics else {}
    spec = Spec(Leaf((size,)), action, info, limit, repeat, native_action=native)
    example.close()
    return HostEnv(given, spec, lambda n, ends: _Vec(given, spec, n, ends, build, threads))


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

    @cached_property
    def _envs(self) -> list[Any]:
        return [self.build() for _ in range(self.n)]

    @cached_property
    def _border(self) -> Border:
        return Border(self.name, self.spec)

    def _begin(self, s: _Stream, rng: np.random.Generator) -> None:
        s.env.task._random = np.random.RandomState(rng.integers(2**32))
        try:
            timestep = s.env.reset()
        except Exception as error:
            raise border.raised(self.name, "reset", error) from error
        s.t, s.step = 0, (self._flat(timestep, "reset"), 0.0, False, False, True)

    def _flat(self, timestep: Any, what: str) -> PyTree:
        return self._border.obs(np.concatenate([np.ravel(x) for x in timestep.observation.values()]), what)

    def _move(self, s: _Stream, native: np.ndarray) -> None:
        total = 0.0
        for _ in range(self.spec.repeat):
            try:
                timestep = s.env.step(native)
            except Exception as error:
                raise border.raised(self.name, "step", error) from error
            total += timestep.reward or 0.0
            if timestep.last():
                break
        s.t += 1
        ended = bool(timestep.last() and timestep.discount == 0)
        cut = not ended and (timestep.last() or s.t == self.spec.horizon)
        s.step = (self._flat(timestep, "step"), total, ended, cut, False)

    def _stack(self, state: list[_Stream]) -> Step:
        kinds = (np.float32, np.float32, bool, bool, bool)
        columns = zip(*(s.step for s in state), strict=True)
        obs, reward, terminated, truncated, first = (np.array(c, k) for c, k in zip(columns, kinds, strict=True))
        info = {PHYSICS: np.array([s.env.physics.get_state() for s in state], np.float32)} if self.spec.info else {}
        return Step(obs, reward, terminated, truncated, first, info)

    def reset(self, params: PyTree, key: HostKey) -> tuple[list[_Stream], Step]:
        state = [_Stream(env) for env in self._envs]
        for i, s in enumerate(state):
            self._begin(s, key.rng(i))
        return state, self._stack(state)

    def step(self, params: PyTree, state: list[_Stream], action: np.ndarray, key: HostKey) -> tuple[list[_Stream], Step]:
        native = self._border.native(action)

        def one(i: int) -> None:
            s = state[i]
            if not (s.step[2] or s.step[3]):
                self._move(s, native[i])
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
        for env in self.__dict__.pop("_envs", []):
            border.close(self.name, env)
        if "_pool" in self.__dict__:
            self.__dict__.pop("_pool").shutdown()
