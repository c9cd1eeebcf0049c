"""Gymnasium environments on the host: ``gym:HalfCheetah-v5`` and every other id that is installed.

An id that a module registers when it is imported is written as Gymnasium does: ``gym:package.module:Env-v0``.

Each stream is an environment of its own on a thread (MuJoCo releases the interpreter while it steps). An episode is decided
by the seed of its reset and its actions; saving keeps these and loading plays them again, because copies of Gymnasium's
environments, and MuJoCo states without the solver's warm start, do not go on bit for bit.
"""

from __future__ import annotations

import importlib
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np

from rlx.envs.actions import to_native
from rlx.envs.gym_spaces import action_leaves, info_leaves, merge_infos, obs_leaves, read_info
from rlx.envs.gym_vector import MODES, GymVectorVec
from rlx.envs.observations import cast, stack
from rlx.envs.options import cores, positive, unknown
from rlx.keys import HostKey
from rlx.types import HostEnv, PyTree, Reduce, Spec, Step

# packages that register ids when imported: (what ids begin with, package, extra)
_SUITES = (("Adroit", "gymnasium_robotics", "adroit"), ("Fetch", "gymnasium_robotics", "adroit"))
_OGBENCH = ("pointmaze", "antmaze", "humanoidmaze", "antsoccer", "cube", "scene", "puzzle")
_seeding = threading.Lock()


def names() -> list[str]:
    """Ids that are registered."""
    return sorted(gymnasium.registry)


def _registered(name: str) -> str:
    """The id in Gymnasium's registry that ``name`` means, after what registers it was imported.

    Raises:
        ValueError: the module cannot be imported, or the id is unknown.
    """
    module, _, task = name.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as e:
            raise ValueError(f"gym:{name} needs the module {module!r}, which cannot be imported: {e}.") from e
    else:
        _import_suite(name)
    if task not in gymnasium.registry:
        also = f" {module} was imported and does not register it." if module else ""
        raise ValueError(f"{unknown('gym', task, names())}{also}")
    return task


def _import_suite(name: str) -> None:
    wanted = [(p, e) for start, p, e in _SUITES if name.startswith(start)]
    wanted += [("ogbench", "ogbench")] if name.startswith(_OGBENCH) else []
    wanted += [("metaworld", "metaworld")] if name.startswith("Meta-World") else []
    for package, extra in wanted:
        try:
            module = importlib.import_module(package)
        except ImportError as e:
            bare = " (from Python 3.13 on: pip install --no-deps ogbench dm_control)" if extra == "ogbench" else ""
            raise ValueError(f"gym:{name} needs {package}: pip install 'rlx[{extra}]'{bare}.") from e
        if hasattr(module, "register_envs_with_gymnasium"):
            module.register_envs_with_gymnasium()


def make(
    name: str,
    *,
    repeat: int = 1,
    time_limit: int | None = None,
    threads: int | None = None,
    vectorize: str | None = None,
    info_keys: Mapping[str, Reduce] | None = None,
    **options: Any,
) -> HostEnv:
    """``options`` go to ``gymnasium.make``. Meta-World: ``gym:Meta-World/MT1`` with ``env_name="reach-v3"``.

    ``vectorize`` steps the streams by Gymnasium's own vector environments instead of rlx's threads: ``"sync"``, ``"async"`` (a
    process per stream) or ``"native"`` (the id's own batched environment). These cannot be saved, see `rlx.envs.gym_vector`.

    Observations keep their dicts; floats become float32, uint8 stays. Box actions are rescaled from [-1, 1]; the n choices of a
    Discrete space are counted from 0 (see `rlx.types.Leaf.choices`).

    ``info_keys``: keys of Gymnasium's info that become ``Spec.info``, each with the way in which it becomes one number per
    episode: ``{"x_position": "last", "reward_ctrl": "sum"}`` (see `rlx.types.Leaf`). It is 0 where an info lacks the key.
    ``success``, ``is_success`` and ``violation`` are kept unasked, by "any".

    Raises:
        ValueError: unknown id, missing package or module, spaces that rlx does not take, or info that it cannot keep.
    """
    positive(repeat=repeat, time_limit=time_limit, threads=threads)
    given, name = f"gym:{name}", _registered(name)
    if vectorize is not None and (vectorize not in MODES or repeat > 1):
        raise ValueError(
            f"{given}: vectorize={vectorize!r}, repeat={repeat}; vectorize is one of {', '.join(MODES)}, with repeat=1."
        )
    if time_limit is not None:
        options["max_episode_steps"] = time_limit * repeat
    if name.startswith("Meta-World"):
        options.setdefault("seed", 0)  # decides the list of goals, which resets then draw from
    build = lambda: gymnasium.make(name, **options)
    spec = _spec(given, build(), repeat, info_keys or {})
    if name.startswith("Meta-World"):  # its observations leave the space that it declares
        spec = replace(spec, obs=replace(spec.obs, low=-np.inf, high=np.inf))
    if vectorize is None:
        return HostEnv(given, spec, lambda n, ends: GymVec(given, spec, n, ends, build, threads))
    vector = lambda n: gymnasium.make_vec(name, n, vectorization_mode=MODES[vectorize], **options)
    return HostEnv(given, spec, lambda n, ends: GymVectorVec(given, spec, n, ends, lambda: vector(n)))


def _spec(name: str, example: gymnasium.Env, repeat: int, info_keys: Mapping[str, Reduce]) -> Spec:
    """What ``example``, which is closed, promises: its spaces, and its infos as a first step shows them."""
    action, native = action_leaves(name, example.action_space)
    spec = Spec(obs_leaves(name, example.observation_space), action, repeat=repeat, native_action=native)
    _, begun = _seeded_reset(example, 0)
    _, _, _, _, later = example.step(to_native(spec, action.zeros()))
    limit = example.spec.max_episode_steps if example.spec else None
    example.close()
    horizon = None if limit is None else -(-limit // repeat)
    return replace(spec, info=info_leaves(name, info_keys, begun, later), horizon=horizon)


def _seeded_reset(env: gymnasium.Env, seed: int) -> tuple[Any, dict[str, Any]]:
    """A reset that depends on ``seed`` alone, also in suites that draw from numpy's and Python's global generators."""
    with _seeding:
        before = np.random.get_state(), random.getstate()
        try:
            np.random.seed(seed % 2**32)
            random.seed(seed)
            env.action_space.seed(seed % 2**31)
            own_seed = getattr(env.unwrapped, "seed", None)
            if callable(own_seed):
                own_seed(seed % 2**31)  # Meta-World takes no notice of reset's seed
            return env.reset(seed=seed % 2**31)
        finally:
            np.random.set_state(before[0])
            random.setstate(before[1])


@dataclass
class Episode:
    """One stream: what decided its episode so far, and where it is."""

    seed: int
    actions: list[np.ndarray]
    step: Step  # without leading axis, numpy


@dataclass(frozen=True)
class GymVec:
    """`rlx.types.VecEnv` over Gymnasium environments. The state is a list of `Episode`, changed in place."""

    name: str
    spec: Spec
    n: int
    ends: str
    build: Callable[[], gymnasium.Env]
    threads: int | None = None

    host = True
    params: PyTree = None

    @cached_property
    def _envs(self) -> list[gymnasium.Env]:
        return [self.build() for _ in range(self.n)]

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads or min(self.n, cores()))

    def _each(self, fn: Callable[[int], None]) -> None:
        """``fn`` for all streams, in chunks on the threads."""
        _ = self._envs  # made before threads ask for them: from Python 3.12 on cached_property takes no lock
        if self.n == 1:
            fn(0)
            return
        workers = self._pool._max_workers

        def chunk(k: int) -> None:
            for i in range(k, self.n, workers):
                fn(i)

        list(self._pool.map(chunk, range(workers)))

    def _begin(self, i: int, seed: int) -> Episode:
        obs, info = _seeded_reset(self._envs[i], seed)
        no, infos = np.bool_(False), read_info(self.name, self.spec.info, info)
        return Episode(seed, [], Step(cast(self.spec.obs, obs), np.float32(0), no, no, np.bool_(True), infos))

    def _move(self, i: int, episode: Episode, action: np.ndarray, native: np.ndarray) -> None:
        """``native``: the action in the environment's own units."""
        reward, infos = 0.0, []
        for _ in range(self.spec.repeat):
            obs, r, terminated, truncated, info = self._envs[i].step(native)
            reward += float(r)
            infos.append(read_info(self.name, self.spec.info, info))
            if terminated or truncated:
                break
        episode.actions.append(np.array(action, self.spec.action.dtype))
        ended = np.bool_(terminated), np.bool_(truncated and not terminated)
        info = merge_infos(self.spec.info, infos)
        episode.step = Step(cast(self.spec.obs, obs), np.float32(reward), *ended, np.bool_(False), info)

    def _stack(self, state: list[Episode]) -> Step:
        steps = [e.step for e in state]
        return Step(*(stack(part) for part in zip(*steps, strict=True)))

    def reset(self, params: PyTree, key: HostKey) -> tuple[list[Episode], Step]:
        state: list[Any] = [None] * self.n
        self._each(lambda i: state.__setitem__(i, self._begin(i, key.seed(i))))
        return state, self._stack(state)

    def step(self, params: PyTree, state: list[Episode], action: np.ndarray, key: HostKey) -> tuple[list[Episode], Step]:
        native = to_native(self.spec, action)

        def one(i: int) -> None:
            if not state[i].step.last:
                self._move(i, state[i], action[i], native[i])
            elif self.ends == "reset":
                state[i] = self._begin(i, key.seed(i))

        self._each(one)
        return state, self._stack(state)

    def refresh(self, params: PyTree, state: list[Episode], key: HostKey) -> list[Episode]:
        return state

    def save(self, state: list[Episode]) -> dict[str, np.ndarray]:
        """Seeds [n] and the actions since, padded to the longest episode."""
        longest = max(len(e.actions) for e in state)
        actions = self.spec.action.zeros(self.n, longest)
        for i, e in enumerate(state):
            if e.actions:
                actions[i, : len(e.actions)] = e.actions
        lengths = np.array([len(e.actions) for e in state], np.int64)
        return {"seeds": np.array([e.seed for e in state], np.int64), "lengths": lengths, "actions": actions}

    def load(self, arrays: dict[str, np.ndarray]) -> list[Episode]:
        state: list[Any] = [None] * self.n

        def replay(i: int) -> None:
            state[i] = self._begin(i, int(arrays["seeds"][i]))
            taken = arrays["actions"][i][: int(arrays["lengths"][i])]
            for action, native in zip(taken, to_native(self.spec, taken), strict=True):
                self._move(i, state[i], action, native)

        self._each(replay)
        return state

    def render(self, params: PyTree, state: list[Episode], index: int = 0) -> np.ndarray:
        """A picture from an environment made for rendering, brought to the same place by replaying the episode."""
        env, episode = self._camera, state[index]
        if self._shown.get("seed") != episode.seed or self._shown["length"] > len(episode.actions):
            _seeded_reset(env, episode.seed)
            self._shown.update(seed=episode.seed, length=0)
        for action in episode.actions[self._shown["length"] :]:
            for _ in range(self.spec.repeat):
                _, _, terminated, truncated, _ = env.step(to_native(self.spec, action))
                if terminated or truncated:
                    break
        self._shown["length"] = len(episode.actions)
        return np.asarray(env.render(), np.uint8)

    @cached_property
    def _shown(self) -> dict[str, int]:
        return {}

    @cached_property
    def _camera(self) -> gymnasium.Env:
        return gymnasium.make(self._envs[0].spec, render_mode="rgb_array")  # type: ignore[arg-type]

    def close(self) -> None:
        for env in self.__dict__.get("_envs", []):
            env.close()
        if "_camera" in self.__dict__:
            self._camera.close()
        if "_pool" in self.__dict__:
            self._pool.shutdown()
