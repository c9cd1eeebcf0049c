"""Gymnasium environments on the host: ``gym:HalfCheetah-v5`` and every other id that is installed.

Each stream is an environment of its own on a thread (MuJoCo releases the interpreter while it steps). An episode is decided
by the seed of its reset and its actions; saving keeps these and loading plays them again, because copies of Gymnasium's
environments, and MuJoCo states without the solver's warm start, do not go on bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from rlx.envs.actions import to_native
from rlx.envs.registry import cores, positive, unknown
from rlx.keys import HostKey
from rlx.types import HostEnv, Leaf, PyTree, Spec, Step

# packages that register ids when imported: (what ids begin with, package, extra)
_SUITES = (("Adroit", "gymnasium_robotics", "adroit"), ("Fetch", "gymnasium_robotics", "adroit"))
_OGBENCH = ("pointmaze", "antmaze", "humanoidmaze", "antsoccer", "cube", "scene", "puzzle")
_FLAGS = ("success", "is_success", "violation")  # numbers in info that episodes are counted by
_seeding = threading.Lock()


def names() -> list[str]:
    """Ids that are registered."""
    import gymnasium

    return sorted(gymnasium.registry)


def _import_suite(name: str) -> None:
    import importlib

    wanted = [(p, e) for start, p, e in _SUITES if name.startswith(start)]
    wanted += [("ogbench", "ogbench")] if name.startswith(_OGBENCH) else []
    wanted += [("metaworld", "metaworld")] if name.startswith("Meta-World") else []
    for package, extra in wanted:
        try:
            module = importlib.import_module(package)
        except ImportError as e:
            raise ValueError(f"gym:{name} needs {package}: pip install 'rlx[{extra}]'.") from e
        if hasattr(module, "register_envs_with_gymnasium"):
            module.register_envs_with_gymnasium()


def make(
    name: str,
    *,
    repeat: int = 1,
    time_limit: int | None = None,
    threads: int | None = None,
    vectorize: str | None = None,
    **options: Any,
) -> HostEnv:
    """``options`` go to ``gymnasium.make``. Meta-World: ``gym:Meta-World/MT1`` with ``env_name="reach-v3"``.

    ``vectorize`` steps the streams by Gymnasium's own vector environments instead of rlx's threads: ``"sync"``, ``"async"`` (a
    process per stream) or ``"native"`` (the id's own batched environment). These cannot be saved, see `rlx.envs.gym_vector`.

    Observation dicts are flattened in sorted order; floats become float32, uint8 stays. Box actions are rescaled from [-1, 1];
    the n choices of a Discrete space are counted from 0 (see `rlx.types.Leaf.choices`).

    Raises:
        ValueError: unknown id, missing package, or spaces that rlx does not take.
    """
    import gymnasium

    positive(repeat=repeat, time_limit=time_limit, threads=threads)
    _import_suite(name)
    if name not in gymnasium.registry:
        raise unknown("gym", name, names())
    if time_limit is not None:
        options["max_episode_steps"] = time_limit * repeat
    if name.startswith("Meta-World"):
        options.setdefault("seed", 0)  # decides the list of goals, which resets then draw from
    build = lambda: gymnasium.make(name, **options)
    example = build()
    horizon = example.spec.max_episode_steps if example.spec else None
    action, native = _action_leaves(name, example.action_space)
    _, info = _seeded_reset(example, 0)
    _, _, _, _, later = example.step(to_native(Spec(Leaf(), action, native_action=native), action.zeros()))
    flags = [k for k in _FLAGS if k in {**info, **later}]
    obs = _obs_leaf(example.observation_space)
    if name.startswith("Meta-World"):
        obs = replace(obs, low=-np.inf, high=np.inf)  # its observations leave the space that it declares
    spec = Spec(
        obs=obs,
        action=action,
        info={k: Leaf((), reduce="any") for k in flags},
        horizon=None if horizon is None else -(-horizon // repeat),
        repeat=repeat,
        native_action=native,
    )
    example.close()
    if vectorize is None:
        return HostEnv(f"gym:{name}", spec, lambda n, ends: GymVec(f"gym:{name}", spec, n, ends, build, threads))
    from rlx.envs.gym_vector import MODES, GymVectorVec

    if vectorize not in MODES or repeat > 1:
        raise ValueError(
            f"gym:{name}: vectorize={vectorize!r}, repeat={repeat}; vectorize is one of {', '.join(MODES)}, with repeat=1."
        )
    vector = lambda n: gymnasium.make_vec(name, n, vectorization_mode=MODES[vectorize], **options)
    return HostEnv(f"gym:{name}", spec, lambda n, ends: GymVectorVec(f"gym:{name}", spec, n, ends, lambda: vector(n)))


def _action_leaves(name: str, space: Any) -> tuple[Leaf, Leaf]:
    """`Spec.action` and `Spec.native_action` of an action space."""
    import gymnasium

    spaces = gymnasium.spaces
    if isinstance(space, spaces.Discrete):
        n, start = int(space.n), int(space.start)
        return Leaf((), np.int32, 0, n - 1), Leaf((), space.dtype, start, start + n - 1)
    if isinstance(space, spaces.Box) and space.is_bounded("both"):
        return Leaf(space.shape, low=-1, high=1), Leaf(space.shape, space.dtype, space.low, space.high)
    kind = "unbounded Box" if isinstance(space, spaces.Box) else type(space).__name__
    raise ValueError(f"gym:{name} has actions {space}; rlx takes bounded Box and Discrete actions, no {kind}.")


def _obs_leaf(space: Any) -> Leaf:
    import gymnasium

    spaces = gymnasium.spaces
    parts = [space] if not isinstance(space, spaces.Dict) else [space[k] for k in sorted(space.spaces)]
    if not all(isinstance(p, spaces.Box) for p in parts):
        raise ValueError(f"rlx takes Box observations or dicts of them; got {space}.")
    if len(parts) == 1 and not isinstance(space, spaces.Dict):
        kind = space.dtype if space.dtype == np.uint8 else np.float32
        return Leaf(space.shape, kind, space.low.astype(kind), space.high.astype(kind))
    flat = lambda which: np.concatenate([getattr(p, which).ravel() for p in parts]).astype(np.float32)
    return Leaf((len(flat("low")),), np.float32, flat("low"), flat("high"))


def _flat(obs: Any, leaf: Leaf) -> np.ndarray:
    if isinstance(obs, dict):
        obs = np.concatenate([np.ravel(obs[k]) for k in sorted(obs)])
    return np.asarray(obs, leaf.dtype)


def flat_rows(obs: Any, leaf: Leaf) -> np.ndarray:
    """Batched observations [W, ...], dicts of them as one vector each."""
    if isinstance(obs, dict):
        obs = np.concatenate([np.asarray(obs[k]).reshape(len(obs[k]), -1) for k in sorted(obs)], 1)
    return np.asarray(obs, leaf.dtype)


def _seeded_reset(env: Any, seed: int) -> tuple[Any, dict[str, Any]]:
    """A reset that depends on ``seed`` alone, also in suites that draw from numpy's and Python's global generators."""
    import random

    with _seeding:
        before = np.random.get_state(), random.getstate()
        try:
            np.random.seed(seed % 2**32)
            random.seed(seed)
            env.action_space.seed(seed % 2**31)
            if callable(getattr(env.unwrapped, "seed", None)):
                env.unwrapped.seed(seed % 2**31)  # Meta-World takes no notice of reset's seed
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
    build: Callable[[], Any]
    threads: int | None = None

    host = True
    params: PyTree = None

    @cached_property
    def _envs(self) -> list[Any]:
        return [self.build() for _ in range(self.n)]

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads or min(self.n, cores()))

    def _each(self, fn: Callable[[int], None]) -> None:
        """``fn`` for all streams, in chunks on the threads."""
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
        flags = {k: np.float32(info.get(k, 0)) for k in self.spec.info}
        no = np.bool_(False)
        return Episode(seed, [], Step(_flat(obs, self.spec.obs), np.float32(0), no, no, np.bool_(True), flags))

    def _move(self, i: int, episode: Episode, action: np.ndarray, native: np.ndarray) -> None:
        """``native``: the action in the environment's own units."""
        reward, flags = 0.0, dict.fromkeys(self.spec.info, np.float32(0))
        for _ in range(self.spec.repeat):
            obs, r, terminated, truncated, info = self._envs[i].step(native)
            reward += float(r)
            flags = {k: max(v, np.float32(info.get(k, 0))) for k, v in flags.items()}
            if terminated or truncated:
                break
        episode.actions.append(np.array(action, self.spec.action.dtype))
        ended = np.bool_(terminated), np.bool_(truncated and not terminated)
        episode.step = Step(_flat(obs, self.spec.obs), np.float32(reward), *ended, np.bool_(False), flags)

    def _stack(self, state: list[Episode]) -> Step:
        steps = [e.step for e in state]
        join = lambda name: np.stack([getattr(s, name) for s in steps])
        info = {k: np.stack([s.info[k] for s in steps]) for k in self.spec.info}
        return Step(join("obs"), join("reward"), join("terminated"), join("truncated"), join("first"), info)

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
    def _camera(self) -> Any:
        import gymnasium

        given = self._envs[0].spec
        return gymnasium.make(given, render_mode="rgb_array")

    def close(self) -> None:
        for env in self.__dict__.get("_envs", []):
            env.close()
        if "_camera" in self.__dict__:
            self._camera.close()
        if "_pool" in self.__dict__:
            self._pool.shutdown()
