"""Plants that come with a `rlx.types.Control`: a drift, a quadratic cost, limits, set-points, disturbances, noise.

What the plants of this kind share: how an action becomes an input, how the cost is computed from the control facts, when
limits are violated, what an episode brings (set-points and disturbances by segments), and what is observed of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import ImageDraw

from rlx.envs.control.base import plant
from rlx.types import Array, Control, Env, Key, Leaf, PyTree, Task


class Process(NamedTuple):
    """Where a process is and what its episode brings, in physical units. What a process lacks is ``()``."""

    x: Array  # [n]
    input: Array  # [m] of the decision before
    step: Array  # int32, control steps taken
    violated: Array  # bool: limits were violated in a control step of the latest decision
    setpoint: Any  # [k] in force now
    disturbance: Any  # [l] in force now
    noise: Any  # [n] standard normal, of the latest measurement
    plan: tuple[Any, Any]  # set-points [S, k] and disturbances [S, l] of the episode's segments


class Start(NamedTuple):
    """What an episode begins with: the state [n], and where the process has them, set-points [S, k] and disturbances [S, l]
    of segments of equal length."""

    x: Array
    setpoints: Any = ()
    disturbances: Any = ()


def schedules(start: Any, start_range: Any, setpoints: Any, disturbances: Any = None) -> dict[str, np.ndarray]:
    """What `starting` reads of the parameters: start state [n], how far from it an episode may start [n], set-points [S, k],
    disturbances [S, l]."""
    known = {"start": start, "start_range": start_range, "setpoints": setpoints, "disturbances": disturbances}
    return {name: np.asarray(value, np.float32) for name, value in known.items() if value is not None}


def starting(control: dict[str, Any], random: bool) -> Callable[[PyTree, Key], Start]:
    """How episodes of the plants with set-points begin: at ``params["start"]`` with the schedules of the parameters; or, where
    ``random``, within ``params["start_range"]`` of it, the segments (as many) drawn uniformly from the ranges of
    ``control``."""

    def start(params: PyTree, key: Key) -> Start:
        if not random:
            return Start(params["start"], params["setpoints"], params.get("disturbances", ()))
        a, b, c = jax.random.split(key, 3)

        def within(key: Key, what: str, like: Array) -> Array:
            return jax.random.uniform(key, like.shape, minval=control[f"{what}_low"], maxval=control[f"{what}_high"])

        x = params["start"] + params["start_range"] * jax.random.uniform(a, params["start"].shape, minval=-1.0)
        varied = within(c, "disturbance", params["disturbances"]) if "disturbances" in params else ()
        return Start(x, within(b, "setpoint", params["setpoints"]), varied)

    return start


def chosen(option: str, value: str | None, known: tuple[str, ...]) -> str | None:
    """``value``, if it is known.

    Raises:
        ValueError: else.
    """
    if value is not None and value not in known:
        raise ValueError(f"{option}={value!r} is unknown, there are {', '.join(map(repr, known))}.")
    return value


Drift = Callable[[Any, PyTree, Array, Array], Array]  # (xp, params, x [..., n], action [..., m]) -> [..., n]


def physical(action: Array, low: np.ndarray, high: np.ndarray) -> Array:
    """The input [..., m] for an action [..., m] in [-1, 1]."""
    return (high + low) / 2 + (high - low) / 2 * action


def runge_kutta(
    drift: Drift, xp: Any, params: PyTree, x: Array, action: Array, dt: Any, steps: int, keep: Callable[[Any, Array], Array]
) -> Array:
    """``x`` [..., n] after ``dt`` under a constant action: ``steps`` steps of the classical method of fourth order, ``keep``
    brings each result back to where the equations have a meaning."""
    h = dt / steps

    def once(x: Array, _: Any = None) -> tuple[Array, None]:
        k1 = drift(xp, params, x, action)
        k2 = drift(xp, params, x + h / 2 * k1, action)
        k3 = drift(xp, params, x + h / 2 * k2, action)
        k4 = drift(xp, params, x + h * k3, action)
        return keep(xp, x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)), None

    if xp is jnp:  # a loop in the program: unrolled, the steps are compiled for longer and are slower
        return jax.lax.scan(once, x, None, steps)[0]
    for _ in range(steps):
        x = once(x)[0]
    return x


def outside(xp: Any, x: Array, low: np.ndarray, high: np.ndarray) -> Array:
    """Whether ``x`` [..., n] leaves the box: bool [...]."""
    return xp.any((x < low) | (x > high), -1)


def quadratic(e: Array, weight: np.ndarray) -> Array:
    """e' weight e over the last axis, without a matrix product, which accelerators may round."""
    return (e[..., :, None] * weight * e[..., None, :]).sum((-2, -1))


def cost(control: Control, x: Array, u: Array, setpoint: Any = (), before: Any = ()) -> Array:
    """The cost of one decision [...] as `rlx.types.Control` has it, penalties left out."""
    if isinstance(setpoint, tuple):
        return quadratic(x - control.x, control.q) + quadratic(u - control.u, control.r)
    total = quadratic(outputs(control, x) - setpoint, control.q) + quadratic(u - control.u, control.r)
    return total if control.rate is None else total + quadratic(u - before, control.rate)


def outputs(control: Control, x: Array) -> Array:
    """y [..., k] of x [..., n]."""
    return x if control.outputs is None else (control.outputs * x[..., None, :]).sum(-1)


@dataclasses.dataclass(frozen=True)
class Window:
    """The observation of a process and the way back. Its parts, in this order, each scaled to about [-1, 1]:

    states [n], (x - centre) / scale; and where there are set-points, these [k] on the scale of their outputs and the input of
    the decision before [m] as an action; then the measured disturbances [l] from their range.
    """

    centre: np.ndarray  # [n]
    scale: np.ndarray  # [n]
    control: dict[str, Any]  # the fields of Control

    @property
    def parts(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """(name, centre, scale) of each part."""
        facts = self.control
        parts = [("state", self.centre, self.scale)]
        if facts.get("setpoint_low") is not None:
            c = np.eye(len(self.centre)) if facts.get("outputs") is None else facts["outputs"]
            parts.append(("setpoint", c @ self.centre, abs(c) @ self.scale))
            parts.append(("input", (facts["u_high"] + facts["u_low"]) / 2, (facts["u_high"] - facts["u_low"]) / 2))
        if facts.get("disturbance") is not None:
            low, high = facts["disturbance_low"], facts["disturbance_high"]
            parts.append(("disturbance", (high + low) / 2, (high - low) / 2))
        return parts

    @property
    def size(self) -> int:
        return sum(len(centre) for _, centre, _ in self.parts)

    def observe(self, xp: Any, params: PyTree, s: Process) -> Array:
        """[..., size] of a `Process`: the state with its measurement noise, a share ``params["noise"]`` of each value."""
        x = s.x if isinstance(s.noise, tuple) else s.x * (1 + params["noise"] * s.noise)
        known = {"state": x, "setpoint": s.setpoint, "input": s.input, "disturbance": s.disturbance}
        return xp.concatenate([(known[name] - centre) / scale for name, centre, scale in self.parts], -1)

    def measure(self, xp: Any, obs: Array) -> dict[str, Array]:
        """`Control.measure`."""
        known, at = {}, 0
        for name, centre, scale in self.parts:
            known[name] = centre + scale * obs[..., at : at + len(centre)]
            at += len(centre)
        return known


def process(
    name: str,
    *,
    control: dict[str, Any],
    drift: Drift,
    params: dict[str, Any],
    start: Callable[[PyTree, Key], Start],
    horizon: int,
    centre: np.ndarray,
    scale: np.ndarray,
    move: Callable[[Any, PyTree, Array, Array], Array],
    limits: tuple[np.ndarray, np.ndarray] | None = None,
    stop: bool = False,
    noisy: bool = False,
    repeat: int = 1,
    time_limit: int | None = None,
    draw: Callable[[ImageDraw.ImageDraw, int, Process], None] | None = None,
) -> Env:
    """The environment of a process.

    ``control``: fields of `rlx.types.Control` but ``measure``, which `Window` with ``centre`` and ``scale`` gives.
    ``move(xp, params, x, action)`` is the state after ``control["dt"]``. ``params`` has ``penalty``, the cost of arriving
    outside of ``limits`` (by default the box ``x_low`` to ``x_high``), and ``noise`` where ``noisy``; ``stop`` ends the episode
    there. ``horizon`` is in control steps; the segments of set-points and disturbances divide it equally.
    """
    window = Window(centre, scale, control)
    facts = Control(**control, measure=window.measure)
    low, high = limits or (facts.x_low, facts.x_high)
    n, m = len(facts.x), len(facts.u)

    def at(plan: Any, step: Array) -> Any:
        return () if isinstance(plan, tuple) else plan[jnp.minimum(step * plan.shape[0] // horizon, plan.shape[0] - 1)]

    def begin(params: PyTree, key: Key) -> Process:
        first, second = jax.random.split(key)
        x, *plan = (p if isinstance(p, tuple) else jnp.asarray(p, jnp.float32) for p in start(params, first))
        zero, noise = jnp.int32(0), jax.random.normal(second, (n,)) if noisy else ()
        u, now = jnp.asarray(facts.u, jnp.float32), [at(p, zero) for p in plan]
        return Process(x, u, zero, jnp.bool_(False), now[0], now[1], noise, (plan[0], plan[1]))

    def renew(params: PyTree, s: Process, key: Key) -> Process:
        return s._replace(violated=jnp.bool_(False), noise=jax.random.normal(key, (n,)) if noisy else ())

    def advance(params: PyTree, s: Process, action: Array) -> Process:
        there = {**params, "disturbance": s.disturbance} if "disturbance" in params else params
        x, step = move(jnp, there, s.x, action), s.step + 1
        now = {"setpoint": at(s.plan[0], step), "disturbance": at(s.plan[1], step)}
        violated = s.violated | outside(jnp, x, low, high)
        return s._replace(x=x, input=physical(action, facts.u_low, facts.u_high), step=step, violated=violated, **now)

    def reward(xp: Any, params: PyTree, s: Process, action: Array, new: Process) -> Array:
        u = physical(action, facts.u_low, facts.u_high)
        violated = outside(xp, new.x, low, high)
        return -cost(facts, s.x, u, s.setpoint, s.input) - xp.where(violated, params["penalty"], 0.0)

    done = (lambda xp, params, s: outside(xp, s.x, low, high)) if stop else None
    return plant(
        name,
        task=Task(window.observe, reward, done, drift=drift, control=repeated(facts, repeat)),
        obs=Leaf((window.size,)),
        actions=m,
        params=params,
        start=begin,
        advance=advance,
        horizon=horizon,
        repeat=repeat,
        time_limit=time_limit,
        draw=draw,
        info={"violation": Leaf((), bool, reduce="any")},
        tell=lambda params, s: {"violation": s.violated},
        renew=renew,
    )


def repeated(control: Control, repeat: int) -> Control:
    """The facts for decisions of ``repeat`` control steps; the cost stays that of one control step."""
    if repeat == 1:
        return control
    model = control.model
    if model is not None:
        powers = [np.linalg.matrix_power(model[0], i) for i in range(repeat + 1)]
        model = (powers[repeat], sum(powers[:repeat]) @ model[1])
    return dataclasses.replace(control, dt=control.dt * repeat, model=model)
