"""Environments around environments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.base import Around, Named, draw
from rlx.envs.observations import described, flatten, named, vector_leaf
from rlx.envs.options import positive
from rlx.envs.outcomes import merged
from rlx.keys import HostKey
from rlx.nn import normalize
from rlx.nn.normalize import Normalizer
from rlx.types import Array, Env, HostEnv, Key, Leaf, PyTree, Spec, Step, Task, VecEnv

E = TypeVar("E", bound=Env | HostEnv)


def action_repeat(env: Env, repeat: int) -> Env:
    """Each decision holds for ``repeat`` steps of ``env``, rewards summed, until the episode ends. Info is of all these steps,
    each leaf by the first way in which it becomes a number of an episode."""
    positive(repeat=repeat)
    _on_device(env, f"make(name, repeat={repeat})")

    def step(params: PyTree, state: PyTree, action: Array, key: Key) -> tuple[PyTree, Step]:
        state, arrived = env.step(params, state, action, key)
        if repeat == 1:
            return state, arrived

        def once(carry: tuple, at: tuple) -> tuple[tuple, None]:
            (state, old), (taken, k) = carry, at
            new_state, new = env.step(params, state, action, k)
            both = lambda name, leaf: merged(jnp, leaf, old.info[name], new.info[name], taken).astype(leaf.dtype)
            info = {name: both(name, leaf) for name, leaf in env.spec.info.items()}
            new = new._replace(reward=old.reward + new.reward, info=info)
            keep = partial(jax.tree.map, lambda a, b: jnp.where(old.last, a, b))
            return (keep(state, new_state), keep(old, new)), None

        taken = jnp.arange(1, repeat)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, taken)
        return jax.lax.scan(once, (state, arrived), (taken, keys))[0]

    horizon = None if env.spec.horizon is None else -(-env.spec.horizon // repeat)
    return replace(env, step=step, spec=replace(env.spec, horizon=horizon, repeat=env.spec.repeat * repeat))


def _on_device(env: Env, instead: str) -> None:
    if env.host:
        raise ValueError(f"{env.name} is stepped on the host, where this is part of making it: rlx.envs.{instead}.")


def time_limit(env: Env, limit: int) -> Env:
    """Episodes are truncated after ``limit`` decisions (unless they end before)."""
    positive(time_limit=limit)
    _on_device(env, f"make(name, time_limit={limit})")

    def reset(params: PyTree, key: Key) -> tuple[PyTree, Step]:
        state, step = env.reset(params, key)
        return (state, jnp.int32(0)), step

    def step(params: PyTree, state: PyTree, action: Array, key: Key) -> tuple[PyTree, Step]:
        inner, arrived = env.step(params, state[0], action, key)
        t = state[1] + 1
        cut = arrived.truncated | ((t >= limit) & ~arrived.terminated)
        return (inner, t), arrived._replace(truncated=cut)

    def view(params: PyTree, moved: PyTree, state: PyTree, step: Step) -> tuple[PyTree, Step]:
        inner, viewed = env.view(params, moved[0], state[0], step)  # type: ignore[misc]
        return (inner, state[1]), viewed

    render = None if env.render is None else lambda params, state: env.render(params, state[0])  # type: ignore[misc]
    horizon = min(limit, env.spec.horizon or limit)
    spec = replace(env.spec, horizon=horizon)
    return replace(env, reset=reset, step=step, render=render, spec=spec, view=view if env.view else None)


# --------------------------------------------------------------------------------------------- other observations and rewards


def scale_reward(env: E, factor: float) -> E:
    """Rewards times ``factor``."""
    return map_steps(env, env.spec, lambda xp, params, step: step._replace(reward=step.reward * np.float32(factor)))


def flatten_observation(env: E) -> E:
    """Observation dicts of floats as one float32 vector, arrays in the order of their sorted names.

    Raises:
        ValueError: a leaf that is not of floats, such as an image.
    """
    others = {name: leaf for name, leaf in named(env.spec.obs).items() if not np.issubdtype(leaf.dtype, np.floating)}
    if others:
        raise ValueError(
            f"{env.name} has observations {described(env.spec.obs)}. Only floats make one vector; these are none: "
            f"{', '.join(others)}."
        )

    def flat(xp: Any, params: PyTree, step: Step) -> Step:
        return step._replace(obs=flatten(xp, step.obs, step.reward.shape))

    native = env.spec.obs if env.spec.native_obs is None else env.spec.native_obs
    return map_steps(env, replace(env.spec, obs=vector_leaf(env.spec.obs), native_obs=native), flat)


def as_vector(env: E) -> E:
    """``env`` for methods that take observation vectors: as it is where it has them, by `flatten_observation` where it has
    dicts of floats.

    Raises:
        ValueError: observations of another kind.
    """
    obs = env.spec.obs
    if not isinstance(obs, Leaf):
        return flatten_observation(env)
    if len(obs.shape) != 1:
        raise ValueError(f"{env.name} has observations {described(obs)}, which are no vector.")
    return env


def normalize_observation(env: E, obs_stats: Normalizer, clip: float = 10.0) -> E:
    """Vector observations to zero mean and unit variance under the statistics ``obs_stats``, within +-``clip``.

    The statistics are explicit state: the parameters of the new environment are ``{"env": those of env, "obs_stats"}``, so a
    `Collect` whose ``params`` gives others changes them without compiling anew. Make them from a dataset or from rollouts of
    ``env`` by `rlx.nn.normalize.update`; they do not change by themselves. Agents that learn theirs (PPO) need no wrapper.

    Raises:
        ValueError: observations that are no vector, or statistics of another size.
    """
    leaf = env.spec.obs
    if not isinstance(leaf, Leaf) or leaf.shape != np.shape(obs_stats.mean):
        raise ValueError(
            f"normalize_observation: {env.name} has observations {described(leaf)}, the statistics have the shape "
            f"{np.shape(obs_stats.mean)}; they must be one vector (see flatten_observation) and of one size."
        )

    def normal(xp: Any, params: PyTree, step: Step) -> Step:
        now = Normalizer(*(xp.asarray(x, np.float32) for x in params["obs_stats"]))
        return step._replace(obs=normalize.apply(now, step.obs, clip))

    spec = replace(env.spec, obs=Leaf(leaf.shape, low=-clip, high=clip), task=Task(), native_obs=None)
    return map_steps(env, spec, normal, {"env": env.params, "obs_stats": obs_stats}, lambda params: params["env"])


def map_steps(
    env: E,
    spec: Spec,
    fn: Callable[[Any, PyTree, Step], Step],
    params: PyTree = None,
    inner: Callable[[PyTree], PyTree] = lambda params: params,
) -> E:
    """``env`` with ``fn(xp, params, step)``, which takes any leading axes, behind each reset and step. ``inner(params)`` are
    the parameters of ``env`` itself."""
    given = env.params if params is None else params
    if isinstance(env, HostEnv):
        make = lambda n, ends: _MappedVec(env.make(n, ends), spec, given, fn, inner)
        return replace(env, spec=spec, make=make, params=given)

    def reset(params: PyTree, key: Key) -> tuple[PyTree, Step]:
        state, step = env.reset(inner(params), key)
        return state, fn(jnp, params, step)

    def step(params: PyTree, state: PyTree, action: Array, key: Key) -> tuple[PyTree, Step]:
        state, arrived = env.step(inner(params), state, action, key)
        return state, fn(jnp, params, arrived)

    render = None if env.render is None else lambda params, state: env.render(inner(params), state)  # type: ignore[misc]
    view = None if env.view is None else lambda params, *rest: env.view(inner(params), *rest)  # type: ignore[misc]
    return replace(env, reset=reset, step=step, spec=spec, params=given, render=render, view=view)


@dataclass(frozen=True)
class _MappedVec(Around):
    """The host side of `map_steps`."""

    made: VecEnv
    spec: Spec
    params: PyTree
    fn: Callable[[Any, PyTree, Step], Step]
    inner: Callable[[PyTree], PyTree]

    def reset(self, params: PyTree, key: HostKey) -> tuple[Any, Step]:
        state, step = super().reset(self.inner(params), key)
        return state, self.fn(np, params, step)

    def step(self, params: PyTree, state: Any, action: PyTree, key: HostKey) -> tuple[Any, Step]:
        state, step = super().step(self.inner(params), state, action, key)
        return state, self.fn(np, params, step)

    def refresh(self, params: PyTree, state: Any, key: HostKey) -> Any:
        return super().refresh(self.inner(params), state, key)

    def render(self, params: PyTree, state: Any, index: int = 0) -> np.ndarray:
        return super().render(self.inner(params), state, index)


# ------------------------------------------------------------------------------------------------------------ on the host


def on_host(env: Env) -> HostEnv:
    """A device environment behind the host contract: the same episodes for the same keys, stepped from Python."""
    return HostEnv(env.name, env.spec, lambda n, ends: _OnHost(env, n, ends), env.params, light=True)


@dataclass(frozen=True)
class _OnHost(Named):
    env: Env
    n: int
    ends: str

    host = True

    @cached_property
    def _reset(self) -> Any:
        return jax.jit(lambda params, seeds: jax.vmap(self.env.reset, (None, 0))(params, jax.vmap(jax.random.key)(seeds)))

    @cached_property
    def _step(self) -> Any:
        return jax.jit(jax.vmap(self.env.step, (None, 0, 0, 0)))

    @cached_property
    def _view(self) -> Any:
        return jax.jit(jax.vmap(self.env.view, (None, 0, 0, 0)))  # type: ignore[type-var, arg-type]

    def _starts(self, params: PyTree, key: HostKey, streams: np.ndarray) -> tuple[PyTree, Step]:
        """Fresh starts where ``streams`` [W] says, anything elsewhere."""
        seeds = np.array([key.seed(i) % 2**32 if streams[i] else 0 for i in range(self.n)], np.uint32)
        return jax.tree.map(np.array, self._reset(params, seeds))

    def reset(self, params: PyTree, key: HostKey) -> tuple[Any, Step]:
        state, step = self._starts(params, key, np.ones(self.n, bool))
        return (state, step), step

    def step(self, params: PyTree, state: Any, action: PyTree, key: HostKey) -> tuple[Any, Step]:
        inner, before = state
        over = before.last
        streams = key.start + np.arange(self.n)
        twist = np.stack([np.full(self.n, key.step), key.first + streams % key.per], 1).astype(np.uint32)
        keys = jax.random.wrap_key_data(jnp.asarray(key.words[streams // key.per] ^ twist))
        moved = jax.tree.map(np.array, self._step(params, inner, action, keys))
        if over.any():
            instead = (inner, before) if self.ends == "stop" else self._starts(params, key, over)
            pick = lambda a, b: np.where(over.reshape(-1, *[1] * (a.ndim - 1)), a, b)
            new = jax.tree.map(pick, instead, moved)
            has_view = self.env.view is not None and self.ends == "reset"
            moved = jax.tree.map(np.array, self._view(params, moved[0], *new)) if has_view else new
        return moved, moved[1]

    def refresh(self, params: PyTree, state: Any, key: HostKey) -> Any:
        return state

    def save(self, state: Any) -> dict[str, np.ndarray]:
        return {str(i): x for i, x in enumerate(jax.tree.leaves(state))}

    def load(self, arrays: dict[str, np.ndarray]) -> Any:
        shapes = jax.eval_shape(self._reset, self.params, jax.ShapeDtypeStruct((self.n,), jnp.uint32))
        return jax.tree.unflatten(jax.tree.structure(shapes), [np.array(arrays[str(i)]) for i in range(len(arrays))])

    def render(self, params: PyTree, state: Any, index: int = 0) -> np.ndarray:
        return draw(self.env, params, state[0], index)

    def close(self) -> None:
        pass
