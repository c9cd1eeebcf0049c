"""Probe environments: tasks so small that what a right agent must find is known, and each fault of a wrong one shows.

| name | reward | what a failure says |
| --- | --- | --- |
| constant | 1, one step | the value loss does not fit anything |
| observed | the observation's sign, one step | the value does not see the observation |
| delayed | the first observation's sign, a step later | the bootstrap does not work |
| action | -(a - 0.5)^2, one step | the policy does not follow the value |
| match | -(a - o / 2)^2 with o = +-1, one step | the policy does not see the observation |
| truncated | 1 at every step, cut after 10 | truncation is taken for an end: the value must be 1 / (1 - discount) |
| discrete | 1 for choice 1 + o of three, with o = +-1, else 0, one step | the policy does not choose by the observation |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs import wrappers
from rlx.types import Array, Env, Key, Leaf, PyTree, Spec, Step


@dataclass(frozen=True)
class Probe:
    """What is true of a probe: ``value(obs, discount)`` of the best policy at its first rows, ``action(obs)`` of the best
    policy (None: any)."""

    length: int
    cut: bool  # truncated rather than terminated
    reward: Callable[[Array, Array, Array], Array]  # (first obs, action, decision) -> reward
    value: Callable[[np.ndarray, float], np.ndarray]
    action: Callable[[np.ndarray], np.ndarray] | None = None
    signs: bool = True  # observations are +-1 drawn at the start, else 0
    choices: int | None = None  # the action is one of so many, else a number in [-1, 1]


PROBES = {
    "constant": Probe(1, False, lambda o, a, t: 1.0 + 0 * o, lambda o, g: 1 + 0 * o, signs=False),
    "observed": Probe(1, False, lambda o, a, t: o, lambda o, g: o),
    "delayed": Probe(2, False, lambda o, a, t: o * (t == 1), lambda o, g: g * o),
    "action": Probe(1, False, lambda o, a, t: -((a - 0.5) ** 2), lambda o, g: 0 * o, lambda o: 0 * o + 0.5, signs=False),
    "match": Probe(1, False, lambda o, a, t: -((a - o / 2) ** 2), lambda o, g: 0 * o, lambda o: o / 2),
    "truncated": Probe(10, True, lambda o, a, t: 1.0 + 0 * o, lambda o, g: 1 / (1 - g) + 0 * o, signs=False),
}

DISCRETE_PROBES = {
    "discrete": Probe(
        1,
        False,
        lambda o, a, t: jnp.float32(a == 1 + o),
        lambda o, g: 1 + 0 * o,
        lambda o: np.asarray(1 + o, np.int32),
        choices=3,
    ),
}


def names() -> list[str]:
    return [f"probe-{name}" for name in (*PROBES, *DISCRETE_PROBES)]


def make(name: str, repeat: int = 1, time_limit: int | None = None) -> Env:
    """Observation [2]: the sign of the episode (or 0), and in ``delayed`` whether its first decision is taken. Action [1], or
    the number of a choice."""
    probe = {**PROBES, **DISCRETE_PROBES}[name]
    action = Leaf((1,), low=-1, high=1) if probe.choices is None else Leaf((), np.int32, 0, probe.choices - 1)
    spec = Spec(Leaf((2,), low=-1, high=1), action, {}, probe.length)

    def arrive(sign: Array, t: Array, reward: Array, first: bool) -> Step:
        late = jnp.minimum(t, 1).astype(jnp.float32) if name == "delayed" else jnp.float32(0)
        over = t >= probe.length
        flags = (over & (not probe.cut), over & probe.cut, jnp.bool_(first))
        return Step(jnp.stack([sign, late]), jnp.float32(reward), *flags, {})

    def reset(params: PyTree, key: Key) -> tuple[Any, Step]:
        sign = jnp.where(jax.random.bernoulli(key), 1.0, -1.0) if probe.signs else jnp.float32(0)
        return (sign, jnp.int32(0)), arrive(sign, jnp.int32(0), jnp.float32(0), True)

    def step(params: PyTree, state: Any, action: Array, key: Key) -> tuple[Any, Step]:
        sign, t = state
        reward = probe.reward(sign, jnp.clip(action[0], -1, 1) if probe.choices is None else action, t)
        return (sign, t + 1), arrive(sign, t + 1, reward, False)

    env = Env(f"rlx:probe-{name}", spec, (), reset, step)
    env = wrappers.action_repeat(env, repeat) if repeat > 1 else env
    return env if time_limit is None else wrappers.time_limit(env, time_limit)
