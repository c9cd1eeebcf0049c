"""When a task is over, as functions of one transition: what a learned model is told, since it does not learn it.

``TERMINATIONS[name](xp, obs, action, new)`` is a bool [...] of arrays [..., n], numpy or JAX. A rule of one's own enters by
`register`. The rules of the locomotion tasks are those of Gym's environments, as MOPO (Yu et al. 2020) and those after it have
them. The ``neorl-`` ones are of observations that have the place on the track in front.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from rlx.types import Array

Rule = Callable[[Any, Array, Array, Array], Array]


def never(xp: Any, obs: Array, action: Array, new: Array) -> Array:
    return xp.zeros(new.shape[:-1], bool)


def halfcheetah(xp: Any, obs: Array, action: Array, new: Array) -> Array:
    return ~_within(xp, new, 100.0)


def hopper(xp: Any, obs: Array, action: Array, new: Array) -> Array:
    standing = (new[..., 0] > 0.7) & (xp.abs(new[..., 1]) < 0.2)
    return ~(xp.isfinite(new).all(-1) & _within(xp, new[..., 1:], 100.0) & standing)


def walker2d(xp: Any, obs: Array, action: Array, new: Array) -> Array:
    height, angle = new[..., 0], new[..., 1]
    standing = (height > 0.8) & (height < 2.0) & (angle > -1.0) & (angle < 1.0)
    return ~(_within(xp, new, 100.0) & standing)


def neorl_hopper(xp: Any, obs: Array, action: Array, new: Array) -> Array:
    standing = (new[..., 1] > 0.7) & (xp.abs(new[..., 2]) < 0.2)
    return ~(standing & _within(xp, new[..., 3:], 100.0))


def neorl_walker2d(xp: Any, obs: Array, action: Array, new: Array) -> Array:
    return walker2d(xp, obs, action, new[..., 1:])


def _within(xp: Any, x: Array, bound: float) -> Array:
    """False where a number is not one."""
    return (xp.abs(x) < bound).all(-1)


TERMINATIONS: dict[str, Rule] = {
    "never": never,
    "halfcheetah": halfcheetah,
    "hopper": hopper,
    "walker2d": walker2d,
    "neorl-halfcheetah": never,
    "neorl-hopper": neorl_hopper,
    "neorl-walker2d": neorl_walker2d,
}
SIZES = {"halfcheetah": 17, "hopper": 11, "walker2d": 17}  # of their observations, one more with the place in front


def register(name: str, rule: Rule) -> None:
    """From now on ``name`` means ``rule``. Raises ValueError where it means another already."""
    if TERMINATIONS.get(name, rule) is not rule:
        raise ValueError(f"termination {name!r} is another rule already; give another name.")
    TERMINATIONS[name] = rule


def termination(name: str) -> Rule:
    """The rule of that name. Raises ValueError with those that there are."""
    if name not in TERMINATIONS:
        raise ValueError(f"termination={name!r} is unknown; there are {', '.join(TERMINATIONS)}, and what is registered.")
    return TERMINATIONS[name]


ODD = 0.01  # share of transitions
OTHER = "Give termination the name of another rule (rlx.dynamics.terminations), or 'never'."


def fitting(name: str, obs: np.ndarray, action: np.ndarray, new: np.ndarray, terminated: np.ndarray) -> Rule:
    """The rule ``name``, after a look at real transitions [N, ...], ``terminated`` bool [N].

    Raises:
        ValueError: there is no such rule; it is of other observations; it says that the task is over where these go on, or
            goes on where they are over. Some of them may differ (`ODD`), as thresholds do in rounding.
    """
    rule = termination(name)
    try:
        over = np.asarray(rule(np, obs, action, new))
    except IndexError as error:
        raise ValueError(
            f"termination={name!r} is of other observations, these have {obs.shape[-1]} numbers. {OTHER}"
        ) from error
    early, ends = int((over & ~terminated).sum()), int(terminated.sum())
    late = 0 if rule is never else int((terminated & ~over).sum())
    if early > ODD * len(over) or late > ends / 2:
        raise ValueError(
            f"termination={name!r} does not fit the data: {early} of {len(over)} transitions are over by it and go on, "
            f"{late} of the {ends} that end do not by it. {OTHER}"
        )
    return rule


def rule_of(env: str, observations: int) -> str | None:
    """The name of the rule of an environment by its name ("gym:Hopper-v4") and how many numbers it shows; None: not known."""
    found = re.search(r"(halfcheetah|hopper|walker2d)-v\d", env.lower())
    if found is None:
        return None
    extra = observations - SIZES[found[1]]
    return {0: found[1], 1: f"neorl-{found[1]}"}.get(extra)
