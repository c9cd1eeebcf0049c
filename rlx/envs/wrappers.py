"""Environments around environments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.base import DeviceVec
from rlx.envs.registry import positive
from rlx.keys import HostKey
from rlx.types import Array, Env, HostEnv, Key, Leaf, PyTree, Spec, Step


def action_repeat(env: Env, repeat: int) -> Env:
    """Each decision holds for ``repeat`` steps of ``env``, rewards summed, until the episode ends."""
    positive(repeat=repeat)

    def step(params: PyTree, state: PyTree, action: Array, key: Key) -> tuple[PyTree, Step]:
        state, arrived = env.step(params, state, action, key)
        if repeat == 1:
            return state, arrived

        def once(carry: tuple, k: Key) -> tuple[tuple, None]:
            state, old = carry
            new_state, new = env.step(params, state, action, k)
            new = new._replace(reward=old.reward + new.reward)
            keep = partial(jax.tree.map, lambda a, b: jnp.where(old.last, a, b))
            return (keep(state, new_state), keep(old, new)), None

        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(1, repeat))
        return jax.lax.scan(once, (state, arrived), keys)[0]

    horizon = None if env.spec.horizon is None else -(-env.spec.horizon // repeat)
    return replace(env, step=step, spec=replace(env.spec, horizon=horizon, repeat=env.spec.repeat * repeat))


def time_limit(env: Env, limit: int) -> Env:
    """Episodes are truncated after ``limit`` decisions (unless they end before)."""
    positive(time_limit=limit)

    def reset(params: PyTree, key: Key) -> tuple[PyTree, Step]:
        state, step = env.reset(params, key)
        return (state, jnp.int32(0)), step

    def step(params: PyTree, state: PyTree, action: Array, key: Key) -> tuple[PyTree, Step]:
        inner, arrived = env.step(params, state[0], action, key)
        t = state[1] + 1
        cut = arrived.truncated | ((t >= limit) & ~arrived.terminated)
        return (inner, t), arrived._replace(truncated=cut)

    render = None if env.render is None else lambda params, state: env.render(params, state[0])  # type: ignore[misc]
    horizon = min(limit, env.spec.horizon or limit)
    return replace(env, reset=reset, step=step, render=render, spec=replace(env.spec, horizon=horizon))


def scale_reward(env: Env, factor: float) -> Env:
    """Rewards times ``factor``."""

    def step(params: PyTree, state: PyTree, action: Array, key: Key) -> tuple[PyTree, Step]:
        state, arrived = env.step(params, state, action, key)
        return state, arrived._replace(reward=arrived.reward * factor)

    return replace(env, step=step)


def flatten_observation(env: Env) -> Env:
    """Observation dicts as one float32 vector, leaves in the order of their sorted names."""
    leaves = jax.tree.leaves(env.spec.obs, is_leaf=lambda x: isinstance(x, Leaf))
    wide = lambda which: np.concatenate([np.broadcast_to(getattr(x, which), x.shape).ravel() for x in leaves])
    size = sum(int(np.prod(x.shape)) for x in leaves)
    spec = replace(env.spec, obs=Leaf((size,), low=wide("low"), high=wide("high")))

    def flat(step: Step) -> Step:
        parts = [jnp.ravel(x).astype(jnp.float32) for x in jax.tree.leaves(step.obs)]
        return step._replace(obs=jnp.concatenate(parts))

    def reset(params: PyTree, key: Key) -> tuple[PyTree, Step]:
        state, step = env.reset(params, key)
        return state, flat(step)

    def step(params: PyTree, state: PyTree, action: Array, key: Key) -> tuple[PyTree, Step]:
        state, arrived = env.step(params, state, action, key)
        return state, flat(arrived)

    return replace(env, reset=reset, step=step, spec=spec)


# ------------------------------------------------------------------------------------------------------------ on the host


def on_host(env: Env) -> HostEnv:
    """A device environment behind the host contract: the same episodes for the same keys, stepped from Python."""
    return HostEnv(env.name, env.spec, lambda n, ends: _OnHost(env, n, ends), env.params)


@dataclass(frozen=True)
class _OnHost:
    env: Env
    n: int
    ends: str

    host = True

    @property
    def name(self) -> str:
        return self.env.name

    @property
    def spec(self) -> Spec:
        return self.env.spec

    @property
    def params(self) -> PyTree:
        return self.env.params

    @cached_property
    def _vec(self) -> DeviceVec:
        return DeviceVec(self.env, self.n, self.ends, "exact")

    @cached_property
    def _reset(self) -> Any:
        return jax.jit(lambda params, seeds: jax.vmap(self.env.reset, (None, 0))(params, jax.vmap(jax.random.key)(seeds)))

    @cached_property
    def _step(self) -> Any:
        return jax.jit(jax.vmap(self.env.step, (None, 0, 0, 0)))

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
        streams = np.arange(self.n)
        twist = np.stack([np.full(self.n, key.slot), streams % key.per], 1).astype(np.uint32)
        keys = jax.random.wrap_key_data(jnp.asarray(key.words[streams // key.per] ^ twist))
        moved = jax.tree.map(np.array, self._step(params, inner, action, keys))
        if over.any():
            instead = (inner, before) if self.ends == "stop" else self._starts(params, key, over)
            pick = lambda a, b: np.where(over.reshape(-1, *[1] * (a.ndim - 1)), a, b)
            moved = jax.tree.map(pick, instead, moved)
        return moved, moved[1]

    def refresh(self, params: PyTree, state: Any, key: HostKey) -> Any:
        return state

    def save(self, state: Any) -> dict[str, np.ndarray]:
        return {str(i): x for i, x in enumerate(jax.tree.leaves(state))}

    def load(self, arrays: dict[str, np.ndarray]) -> Any:
        shapes = jax.eval_shape(self._reset, self.params, jax.ShapeDtypeStruct((self.n,), jnp.uint32))
        return jax.tree.unflatten(jax.tree.structure(shapes), [np.array(arrays[str(i)]) for i in range(len(arrays))])

    def render(self, params: PyTree, state: Any, index: int = 0) -> np.ndarray:
        if self.env.render is None:
            raise ValueError(f"{self.name} has no picture of itself: it was made without a render function.")
        return self.env.render(params, jax.tree.map(lambda x: x[index], state[0]))

    def close(self) -> None:
        pass
