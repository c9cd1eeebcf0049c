"""Environments that speak as brax's do (brax itself, MuJoCo Playground), as device environments of rlx."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.types import Array, Env, Key, Leaf, PyTree, Spec, Step


def from_brax(
    name: str, inner: Any, limit: int, repeat: int, render: Callable[[PyTree, PyTree], np.ndarray] | None = None
) -> Env:
    """``inner`` has ``reset(raw key)`` and ``step(state, action)``; its states have ``obs``, ``reward``, ``done`` and
    ``metrics``.

    Metrics become ``Spec.info``. Episodes are cut after ``limit`` decisions of ``repeat`` steps.
    """
    shapes = jax.eval_shape(inner.reset, jax.random.PRNGKey(0))
    metrics = sorted(shapes.metrics)

    def arrive(state: Any, reward: Array, t: Array, first: bool) -> Step:
        over = (state.done > 0) & ~jnp.bool_(first)
        obs = jax.tree.map(lambda x: x.astype(_kept(x.dtype)), state.obs)
        info = {k: jnp.asarray(state.metrics[k], jnp.float32) for k in metrics}
        return Step(obs, jnp.float32(reward), over, (t >= limit) & ~over, jnp.bool_(first), info)

    def reset(params: PyTree, key: Key) -> tuple[PyTree, Step]:
        state = inner.reset(jax.random.key_data(key))
        return (state, jnp.int32(0)), arrive(state, jnp.float32(0), jnp.int32(0), True)

    def step(params: PyTree, state: PyTree, action: Array, key: Key) -> tuple[PyTree, Step]:
        del key
        action = jnp.clip(action, -1.0, 1.0)

        def once(carry: tuple, _: None) -> tuple[tuple, None]:
            old, total, over = carry
            new = inner.step(old, action)
            new = jax.tree.map(lambda a, b: jnp.where(over, a, b), old, new)
            return (new, total + jnp.where(over, 0.0, new.reward), over | (new.done > 0)), None

        carry = (state[0], jnp.float32(0), jnp.bool_(False))
        new, total, _ = once(carry, None)[0] if repeat == 1 else jax.lax.scan(once, carry, None, repeat)[0]
        return (new, state[1] + 1), arrive(new, total, state[1] + 1, False)

    spec = Spec(
        jax.tree.map(lambda x: Leaf(x.shape, _kept(x.dtype)), shapes.obs),
        Leaf((inner.action_size,), low=-1, high=1),
        {k: Leaf((), reduce="last") for k in metrics},
        limit,
        repeat,
    )
    return Env(name, spec, (), reset, step, render, starts="pool")


def _kept(dtype: Any) -> Any:
    """float32 for floats; others, such as pixels, stay."""
    return np.float32 if jnp.issubdtype(dtype, jnp.floating) else dtype
