"""Gymnasium environments on the host: ``gym:HalfCheetah-v5`` and every other id that is installed.

An id that a module registers when it is imported is written as Gymnasium does: ``gym:package.module:Env-v0``.

Each stream is an environment of its own on a thread (MuJoCo releases the interpreter while it steps). An episode is decided
by the seed of its reset and its actions; saving keeps these and loading plays them again, because copies of Gymnasium's
environments, and MuJoCo states without the solver's warm start, do not go on bit for bit.
"""

from __future__ import annotations

import inspect
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from typing import Any

import gymnasium
import jax
import numpy as np

from rlx.envs import border
from rlx.envs.border import Border, NotRepeated
from rlx.envs.gym_outcomes import FORCES, SOLVED, TellsForces, TellsSolved
from rlx.envs.gym_physics import TellsPhysics
from rlx.envs.gym_spaces import FLAGS, action_leaves, info_leaves, merge_infos, obs_leaves
from rlx.envs.gym_suites import SUITES, names, origin, registered
from rlx.envs.gym_vector import MODES, GymVectorVec
from rlx.envs.observations import stack
from rlx.envs.options import NoPhysics, cores, positive
from rlx.envs.outcomes import SUCCESS, leaves
from rlx.keys import HostKey
from rlx.types import PHYSICS, HostEnv, Leaf, PyTree, Reduce, Spec, Step

__all__ = ["GymVec", "make", "names"]
LOOK = 1000  # simulation steps at most of the episode that is looked at when an environment is made
Wrap = Callable[[gymnasium.Env], gymnasium.Wrapper]
_seeding = threading.Lock()


def make(
    name: str,
    /,
    *,
    repeat: int = 1,
    time_limit: int | None = None,
    threads: int | None = None,
    vectorize: str | None = None,
    info_keys: Mapping[str, Reduce | Sequence[Reduce]] | None = None,
    action_bounds: Any = None,
    light: bool | None = None,
    physics: bool = False,
    forces: bool = False,
    force_limit: float | None = None,
    **options: Any,
) -> HostEnv:
    """``options`` go to ``gymnasium.make``. Meta-World: ``gym:Meta-World/MT1`` with ``env_name="reach-v3"``.

    ``vectorize`` steps the streams by Gymnasium's own vector environments instead of rlx's threads: ``"sync"``, ``"async"`` (a
    process per stream) or ``"native"`` (the id's own batched environment). These cannot be saved, see `rlx.envs.gym_vector`.

    Observations keep their dicts; floats become float32, uint8 stays. Box actions are rescaled from [-1, 1], of integers to the
    nearest one; the n choices of a Discrete space are counted from 0 (see `rlx.types.Leaf.choices`). ``action_bounds``: a pair
    (low, high), of numbers or lists, in place of the bounds of the action space, which may have none.

    ``info_keys``: keys of Gymnasium's info that become ``Spec.info``, each with the way in which it becomes one number per
    episode, or several: ``{"x_position": "last", "contact_force": ("max", "mean")}`` (`rlx.types.Leaf`); 0 where it is lacking.
    ``success``, ``is_success`` and ``violation`` are kept unasked, by "any", where the episode has them that is looked at when
    the environment is made: at most 1,000 steps of it, fewer where it has shown all ``info_keys`` before. A key that is reduced
    by "any" may be one that this episode does not have. Beside a success there are ``solved`` and ``solved_sticky`` (see
    `rlx.envs.outcomes`), but where ``info_keys`` asks for the environment's own, or it comes batched.

    ``forces``: ``contact_force``, ``saturation``, ``torque`` of MuJoCo's, see `rlx.envs.gym_outcomes.TellsForces`; with
    ``force_limit``, N, ``violation`` of it too. ``light``: whether a stream more costs memory alone, so that an evaluation may
    have all its episodes open at once; None: where it is of Gymnasium or of a known suite, which hold no licence or port.

    Raises:
        ValueError: unknown id, missing package or module, what the environment's maker does not take, spaces that rlx does not
            take, info that it cannot keep, forces it has not, or a reset or a step that does not keep to Gymnasium's form.
    """
    positive(repeat=repeat, time_limit=time_limit, threads=threads)
    given, name = f"gym:{name}", registered(name)
    wrap = _wrappers(given, repeat, vectorize, physics, forces, force_limit)
    if time_limit is not None:
        options["max_episode_steps"] = time_limit * repeat
    meta_world = origin(name) == "metaworld"
    if meta_world:
        options.setdefault("seed", 0)  # decides the list of goals, which resets then draw from

    def build() -> gymnasium.Env:
        with border.making(given):
            env = gymnasium.make(name, **options)
        return reduce(lambda env, wrapper: wrapper(env), wrap, env)

    spec = _spec(given, build(), repeat, info_keys, action_bounds, physics)
    spec, wrap = _outcomes(spec, wrap, forces, force_limit is not None, vectorize)
    if meta_world:  # its observations leave the space that it declares
        spec = replace(spec, obs=replace(spec.obs, low=-np.inf, high=np.inf))
    light = origin(name) in ("gymnasium", *SUITES) if light is None else bool(light)
    if vectorize is None:
        return HostEnv(given, spec, lambda n, ends: GymVec(given, spec, n, ends, build, threads), light=light)

    def vector(n: int) -> gymnasium.vector.VectorEnv:
        with border.making(given):
            return gymnasium.make_vec(name, n, vectorization_mode=MODES[vectorize], wrappers=wrap or None, **options)

    return HostEnv(given, spec, lambda n, ends: GymVectorVec(given, spec, n, ends, lambda: vector(n)), light=light)


def _wrappers(
    name: str, repeat: int, vectorize: str | None, physics: bool, forces: bool, force_limit: float | None
) -> list[Wrap]:
    """What tells more of an environment than it does itself. Raises ValueError for options that do not go together."""
    if vectorize is not None and (vectorize not in MODES or repeat > 1):
        raise ValueError(
            f"{name}: vectorize={vectorize!r}, repeat={repeat}; vectorize is one of {', '.join(MODES)}, with repeat=1."
        )
    if physics and vectorize == "native":
        raise NoPhysics(name, "with vectorize='native' its streams have no state of their own")
    if not isinstance(forces, bool) or forces and vectorize == "native":
        raise ValueError(f"{name}: forces={forces!r}, vectorize={vectorize!r}; forces are true or false, and not of 'native'.")
    number = isinstance(force_limit, int | float) and not isinstance(force_limit, bool) and 0 < force_limit < np.inf
    if force_limit is not None and not (forces and number):
        raise ValueError(
            f"{name}: force_limit={force_limit!r}, forces={forces}; a limit is in newtons, above 0, of the forces that "
            "forces=true tells: give both, or leave it out."
        )
    found: list[Wrap] = [partial(TellsPhysics, name=name)] if physics else []
    return [*found, partial(TellsForces, name=name, limit=force_limit)] if forces else found


def _outcomes(spec: Spec, wrap: list[Wrap], forces: bool, limited: bool, vectorize: str | None) -> tuple[Spec, list[Wrap]]:
    """``spec`` with what ``wrap`` tells of success and safety, which counts successes where there are such."""
    info = spec.info | leaves(*(FORCES if forces else ()), *(("violation",) if limited else ()))
    if set(SUCCESS).isdisjoint(info) or "solved" in info or vectorize == "native":
        return replace(spec, info=info), wrap
    return replace(spec, info=info | leaves(*SOLVED)), [*wrap, partial(TellsSolved, repeat=spec.repeat)]


def _spec(
    name: str, example: gymnasium.Env, repeat: int, keys: Mapping[str, Any] | None, bounds: Any, physics: bool = False
) -> Spec:
    """What ``example``, which is closed, promises: its spaces, and its infos as an episode shows them."""
    try:
        action, native = action_leaves(name, example.action_space, bounds)
        spec = Spec(obs_leaves(name, example.observation_space), action, repeat=repeat, native_action=native)
        infos = _look(Border(name, spec), example, keys)
        limit = example.spec.max_episode_steps if example.spec else None
    finally:
        example.close()
    horizon = None if limit is None else -(-limit // repeat)
    info = info_leaves(name, keys or {}, infos) | ({PHYSICS: Leaf(infos[PHYSICS].shape)} if physics else {})
    return replace(spec, info=info, horizon=horizon)


def _look(reader: Border, example: gymnasium.Env, keys: Mapping[str, Any] | None) -> dict[str, Any]:
    """The infos of one episode together: its first step, and more where a key is still to come."""
    infos = dict(_reset(reader, example, 0)[1])
    native = reader.native(reader.spec.action.zeros())
    wanted, enough = (FLAGS, any) if keys is None else (tuple(keys), all)
    for _ in range(LOOK):
        _, _, terminated, truncated, info = _step(reader, example, native)
        for key, value in info.items():
            if infos.get(key) is None:
                infos[key] = value
        if terminated or truncated or enough(infos.get(key) is not None for key in wanted):
            break
    return infos


def _reset(reader: Border, env: gymnasium.Env, seed: int) -> tuple[PyTree, Mapping[str, Any]]:
    try:
        out = _seeded_reset(env, seed)
    except Exception as error:
        raise border.raised(reader.name, "reset", error) from error
    return reader.begun(out)


def _step(reader: Border, env: gymnasium.Env, native: Any) -> tuple[PyTree, float, Any, Any, Mapping[str, Any]]:
    try:
        out = env.step(native)
    except Exception as error:
        raise border.raised(reader.name, "step", error) from error
    return reader.moved(out)


def _seeded_reset(env: gymnasium.Env, seed: int) -> Any:
    """A reset that depends on ``seed`` alone, also in suites that draw from numpy's and Python's global generators."""
    with _seeding:
        before = np.random.get_state(), random.getstate()
        try:
            np.random.seed(seed % 2**32)
            random.seed(seed)
            env.action_space.seed(seed % 2**31)
            _own_seed(env, seed % 2**31)
            return env.reset(seed=seed % 2**31)
        finally:
            np.random.set_state(before[0])
            random.setstate(before[1])


def _own_seed(env: gymnasium.Env, seed: int) -> None:
    """Meta-World and environments of the older form are seeded by a method; of another name's sake it may be anything else."""
    own = getattr(env.unwrapped, "seed", None)
    if not callable(own):
        return
    try:
        inspect.signature(own).bind(seed)
    except (TypeError, ValueError):
        return
    own(seed)


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
        made: list[gymnasium.Env] = []
        try:
            for _ in range(self.n):
                made.append(self.build())
        except BaseException:
            for env in made:
                env.close()
            raise
        return made

    @cached_property
    def _border(self) -> Border:
        return Border(self.name, self.spec)

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
        obs, info = _reset(self._border, self._envs[i], seed)
        return Episode(seed, [], Step(obs, 0.0, False, False, True, self._border.info(info)))

    def _move(self, i: int, episode: Episode, action: np.ndarray, native: np.ndarray) -> None:
        """``native``: the action in the environment's own units."""
        reward, infos, env, reader = 0.0, [], self._envs[i], self._border
        for _ in range(self.spec.repeat):
            obs, r, terminated, truncated, info = _step(reader, env, native)
            reward += r
            infos.append(reader.info(info))
            if terminated or truncated:
                break
        episode.actions.append(np.array(action, self.spec.action.dtype))
        info = merge_infos(self.spec.info, infos)
        episode.step = Step(obs, reward, terminated, truncated and not terminated, False, info)

    def _stack(self, state: list[Episode]) -> Step:
        obs, reward, terminated, truncated, first, info = zip(*(e.step for e in state), strict=True)
        ends = np.array((terminated, truncated, first), np.bool_)
        return Step(stack(obs), np.array(reward, np.float32), ends[0], ends[1], ends[2], stack(info))

    def reset(self, params: PyTree, key: HostKey) -> tuple[list[Episode], Step]:
        state: list[Any] = [None] * self.n
        self._each(lambda i: state.__setitem__(i, self._begin(i, key.seed(i))))
        return state, self._stack(state)

    def step(self, params: PyTree, state: list[Episode], action: np.ndarray, key: HostKey) -> tuple[list[Episode], Step]:
        native = self._border.native(action)

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
        """Seeds [n] and the actions since, padded to the longest episode; and where that led, to compare with."""
        longest = max(len(e.actions) for e in state)
        actions = self.spec.action.zeros(self.n, longest)
        for i, e in enumerate(state):
            if e.actions:
                actions[i, : len(e.actions)] = e.actions
        lengths = np.array([len(e.actions) for e in state], np.int64)
        saved = {"seeds": np.array([e.seed for e in state], np.int64), "lengths": lengths, "actions": actions}
        return saved | {f"arrived/{k}": x for k, x in enumerate(jax.tree.leaves(self._stack(state)))}

    def load(self, arrays: dict[str, np.ndarray]) -> list[Episode]:
        """Plays the episodes again.

        Raises:
            NotRepeated: one did not come to where it was.
        """
        state: list[Any] = [None] * self.n

        def replay(i: int) -> None:
            state[i] = self._begin(i, int(arrays["seeds"][i]))
            taken = arrays["actions"][i][: int(arrays["lengths"][i])]
            for action, native in zip(taken, self._border.native(taken), strict=True):
                if state[i].step.last:
                    raise NotRepeated(f"{self.name}: an episode, played again, ended early.")
                self._move(i, state[i], action, native)

        self._each(replay)
        for k, x in enumerate(jax.tree.leaves(self._stack(state))):
            if not np.array_equal(x, arrays.get(f"arrived/{k}", x), equal_nan=True):
                raise NotRepeated(f"{self.name}: an episode, played again, did not come to where it was.")
        return state

    def render(self, params: PyTree, state: list[Episode], index: int = 0) -> np.ndarray:
        """A picture from an environment made for rendering, brought to the same place by replaying the episode."""
        env, episode = self._camera, state[index]
        if self._shown.get("episode") is not episode:
            _reset(self._border, env, episode.seed)
            self._shown.update(episode=episode, length=0)
        for action in episode.actions[self._shown["length"] :]:
            for _ in range(self.spec.repeat):
                _, _, terminated, truncated, _ = _step(self._border, env, self._border.native(action))
                if terminated or truncated:
                    break
        self._shown["length"] = len(episode.actions)
        return np.asarray(env.render(), np.uint8)

    @cached_property
    def _shown(self) -> dict[str, Any]:
        return {}

    @cached_property
    def _camera(self) -> gymnasium.Env:
        with border.making(self.name):
            return gymnasium.make(self._envs[0].spec, render_mode="rgb_array")  # type: ignore[arg-type]

    def close(self) -> None:
        self.__dict__.pop("_shown", None)
        for env in [*self.__dict__.pop("_envs", []), *([self.__dict__.pop("_camera")] if "_camera" in self.__dict__ else [])]:
            border.close(self.name, env)
        if "_pool" in self.__dict__:
            self.__dict__.pop("_pool").shutdown()
