"""A continuous-time plant as a device environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from rlx.envs.options import NoPhysics
from rlx.types import PHYSICS, Array, Env, Key, Leaf, PyTree, Spec, Step, Task


class Plant(NamedTuple):
    """State of a plant: ``x`` (an array, or a pytree of them) and the decisions taken in this episode."""

    x: PyTree
    t: Array


def plant(
    name: str,
    *,
    task: Task,
    obs: PyTree,
    actions: int,
    params: PyTree,
    start: Callable[[PyTree, Key], PyTree],
    advance: Callable[[PyTree, PyTree, Array], PyTree],
    horizon: int,
    repeat: int = 1,
    time_limit: int | None = None,
    draw: Callable[[ImageDraw.ImageDraw, int, Any], None] | None = None,
    info: dict[str, Leaf] | None = None,
    tell: Callable[[PyTree, PyTree], dict[str, Array]] = lambda params, x: {},
    renew: Callable[[PyTree, PyTree, Key], PyTree] = lambda params, x, key: x,
    tasks: Mapping[str, Task] | None = None,
) -> Env:
    """The environment of a plant whose state ``x`` moves by ``advance(params, x, action)``.

    ``task`` has ``observe(xp, params, x)``, ``reward(xp, params, x, action, x')`` and optionally ``done(xp, params, x')`` and
    ``drift(xp, params, x, action)``. ``obs`` is one leaf, or a dict of them as ``observe`` gives it. ``repeat`` control steps
    are one decision, their rewards are summed. The episode is cut (truncated) after ``time_limit`` decisions, by default
    ``horizon / repeat`` rounded up. ``renew(params, x, key)`` begins each decision: there what is random in it is drawn.
    ``tasks``: all that may be asked for, see `rlx.types.Spec`.
    """
    limit = time_limit or -(-horizon // repeat)
    observe, reward, done = task.observe, task.reward, task.done

    def arrive(params: PyTree, state: Plant, reward: Array, over: Array, first: bool) -> Step:
        given = observe(jnp, params, state.x)  # type: ignore[misc]
        converted = jax.tree.map(lambda leaf, x: jnp.asarray(x, leaf.dtype), obs, given, is_leaf=lambda x: isinstance(x, Leaf))
        truncated = (state.t >= limit) & ~over
        return Step(converted, jnp.float32(reward), over, truncated, jnp.bool_(first), tell(params, state.x))

    def reset(params: PyTree, key: Key) -> tuple[Plant, Step]:
        state = Plant(start(params, key), jnp.int32(0))
        return state, arrive(params, state, jnp.float32(0), jnp.bool_(False), True)

    def step(params: PyTree, state: Plant, action: Array, key: Key) -> tuple[Plant, Step]:
        action = jnp.clip(action, -1.0, 1.0)

        def once(carry: tuple, _: None) -> tuple[tuple, None]:
            x, total, over = carry
            new = advance(params, x, action)
            total = total + jnp.where(over, 0.0, reward(jnp, params, x, action, new))  # type: ignore[misc]
            x = jax.tree.map(lambda a, b: jnp.where(over, a, b), x, new)
            return (x, total, over | (done(jnp, params, x) if done else False)), None

        carry = (renew(params, state.x, key), jnp.float32(0), jnp.bool_(False))
        (x, total, over), _ = once(carry, None) if repeat == 1 else jax.lax.scan(once, carry, None, repeat)
        state = Plant(x, state.t + 1)
        return state, arrive(params, state, total, over, False)

    def render(params: PyTree, state: Plant) -> np.ndarray:
        size = 2 * 256  # drawn at twice the size, which smooths the edges
        image = Image.new("RGB", (size, size), (250, 250, 247))
        draw(ImageDraw.Draw(image), size, jax.tree.map(np.asarray, state.x))  # type: ignore[misc]
        return np.asarray(image.resize((256, 256), Image.Resampling.LANCZOS))

    control = task.control
    native = None if control is None else Leaf((actions,), low=control.u_low, high=control.u_high)
    spec = Spec(obs, Leaf((actions,), low=-1, high=1), info or {}, limit, repeat, task, native, tasks=tasks or {})
    return Env(name, spec, params, reset, step, render if draw else None)


def with_physics(env: Env) -> Env:
    """``env`` with the state ``x`` of its plant in ``info["physics"]``, float32 [P]: the arrays of ``x`` one after another, in
    the order of `jax.tree.leaves`; `state_of` is the way back.

    Raises:
        NoPhysics: it is no `plant`.
    """
    state = jax.eval_shape(env.reset, env.params, jax.random.key(0))[0]
    if not isinstance(state, Plant):
        raise NoPhysics(env.name, "it is not made of equations of motion")

    def informed(state: Plant, step: Step) -> tuple[Plant, Step]:
        leaves = [jnp.ravel(x).astype(jnp.float32) for x in jax.tree.leaves(state.x)]
        return state, step._replace(info={**step.info, PHYSICS: jnp.concatenate(leaves)})

    size = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(state.x))
    return replace(
        env,
        spec=replace(env.spec, info={**env.spec.info, PHYSICS: Leaf((size,))}),
        reset=lambda params, key: informed(*env.reset(params, key)),
        step=lambda params, state, action, key: informed(*env.step(params, state, action, key)),
    )


def state_of(env: Env, physics: Array) -> PyTree:
    """The state ``x`` of a plant of ``physics`` [P], which `with_physics` made; a camera may look at it."""
    state = jax.eval_shape(env.reset, env.params, jax.random.key(0))[0]
    leaves, tree = jax.tree.flatten((state if isinstance(state, Plant) else state.env).x)
    edges = np.cumsum([int(np.prod(x.shape)) for x in leaves])[:-1]
    parts = jnp.split(physics, edges)
    return jax.tree.unflatten(tree, [p.reshape(x.shape).astype(x.dtype) for p, x in zip(parts, leaves, strict=True)])


def rod(pen: Any, a: tuple[float, float], b: tuple[float, float], width: int, colour: tuple[int, int, int]) -> None:
    """A line with round ends."""
    pen.line([a, b], colour, width)
    for x, y in (a, b):
        disc(pen, x, y, width / 2, colour)


def disc(pen: Any, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
    pen.ellipse([x - radius, y - radius, x + radius, y + radius], colour)


def bars(
    pen: Any, size: int, shares: Any, lefts: tuple[float, ...], span: tuple[float, float], colour: tuple[int, int, int]
) -> None:
    """Upright bars from the bottom of ``span``, full at its top, as parts of the picture's size."""
    top, bottom = span
    for left, share in zip(lefts, shares, strict=True):
        high = bottom - (bottom - top) * float(share)
        pen.rectangle([left * size, size * high, (left + 0.04) * size, bottom * size], colour)
