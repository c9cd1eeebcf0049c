"""brax's environments: ``brax:ant``, ``brax:inverted_pendulum``, ...

Time limits and the next episode are rlx's own; brax's wrappers are not used (they want raw keys and forget the last
observation of an episode).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.options import positive, unknown
from rlx.types import Array, Env, Key, Leaf, PyTree, Spec, Step

HORIZON = 1000  # brax's own episodes


def names() -> list[str]:
    from brax import envs

    return sorted(envs._envs)


def make(name: str, *, repeat: int = 1, time_limit: int | None = None, backend: str = "generalized", **options: Any) -> Env:
    """``backend``: "generalized", "spring", "positional" or "mjx". Other options go to the environment's class.

    Raises:
        ValueError: unknown environment or backend.
    """
    from brax import envs

    positive(repeat=repeat, time_limit=time_limit)
    if name not in envs._envs:
        raise unknown("brax", name, names())
    backends = ("generalized", "spring", "positional", "mjx")
    if backend not in backends:
        raise ValueError(f"brax:{name}: backend={backend!r}; there are {', '.join(backends)}.")
    inner = envs.get_environment(name, **({} if name == "fast" else {"backend": backend}), **options)
    limit = time_limit or -(-HORIZON // repeat)
    shapes = jax.eval_shape(inner.reset, jax.random.PRNGKey(0))
    metrics = sorted(shapes.metrics)

    def arrive(state: Any, reward: Array, t: Array, first: bool) -> Step:
        over = (state.done > 0) & ~jnp.bool_(first)
        info = {k: jnp.asarray(state.metrics[k], jnp.float32) for k in metrics}
        return Step(state.obs.astype(jnp.float32), jnp.float32(reward), over, (t >= limit) & ~over, jnp.bool_(first), info)

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

    def render(params: PyTree, state: PyTree) -> np.ndarray:
        from brax.io import image

        return np.asarray(image.render_array(inner.sys, [state[0].pipeline_state], height=256, width=256)[0], np.uint8)

    spec = Spec(
        Leaf(shapes.obs.shape),
        Leaf((inner.action_size,), low=-1, high=1),
        {k: Leaf((), reduce="last") for k in metrics},
        limit,
        repeat,
    )
    return Env(f"brax:{name}", spec, (), reset, step, render if name != "fast" else None, starts="pool")
