"""Labels by ranked factors (HERON, Bukharin et al. 2023, arXiv:2309.02632): what matters most decides, if it differs enough::

    for level l of the factors, from the most important on:
        d <- sign_l (f_l(second) - f_l(first))
        if |d| > c_l std(f_l): the larger one is preferred, and l decided it
    no level decides: the pair does not count

A factor is a channel of the rows, with a sign: ``"info/speed"`` (more is better), ``"-info/energy"`` (less is), ``"reward"``,
``"obs/3"``. Pairs are single decisions, as in the paper, or pieces of several, of which a factor is the mean over arrivals.
Factors may be rescaled by any positive number, as their margins are in standard deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rlx.preferences import pairs
from rlx.preferences.pairs import Preferences
from rlx.replay.buffer import overlaid
from rlx.types import Array, ReplayState


def decided(
    factors: np.ndarray, first: np.ndarray, second: np.ndarray, margins: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Labels float64 [P] (1: the second is preferred, 0.5: undecided) and the level int [P] that decided, L where none did.

    ``factors`` [L, N], most important first, more is better; ``margins`` [L] in standard deviations over the N.
    """
    f = np.asarray(factors, np.float64)
    return by_level(np, f[:, second] - f[:, first], np.asarray(margins, np.float64) * f.std(1))


def by_level(xp: Any, apart: Array, least: Array) -> tuple[Any, Any]:
    """Labels and levels as `decided` gives them, of differences ``apart`` [L, P] (the second's less the first's), of which the
    first one counts that is more than ``least`` [L]. ``xp``: numpy, or jax.numpy."""
    enough = abs(apart) > least[:, None]
    level = xp.where(enough.any(0), enough.argmax(0), len(apart))
    sign = xp.take_along_axis(xp.sign(apart), enough.argmax(0)[None], 0)[0]
    return 0.5 + 0.5 * xp.where(enough.any(0), sign, 0.0), level


def channel(rows: Any, name: str) -> Any:
    """A factor by its name, [T, W], of `Row`s [T, W, ...]; they may be traced.

    Raises:
        ValueError: the rows have no such channel, or it is no number.
    """
    path, info = name.lstrip("+-").split("/"), rows.info or {}
    found: Any = None
    if path == ["reward"]:
        found = rows.reward
    elif len(path) == 2 and path[0] == "info" and path[1] in info:
        found = info[path[1]]
    elif len(path) == 2 and path[0] == "obs" and path[1].isdecimal() and np.ndim(rows.obs) == 3:
        found = rows.obs[..., int(path[1])] if int(path[1]) < np.shape(rows.obs)[-1] else None
    if np.ndim(found) == 3 and np.shape(found)[-1] == 1:
        found = found[..., 0]
    if np.ndim(found) != 2:
        have = ["reward", *(f"info/{k}" for k in info), "obs/0 and so on"]
        raise ValueError(f"the rows have no factor {name!r}, a number for each row: they have {', '.join(have)}.")
    return found.astype(float) * (-1 if name.startswith("-") else 1)


def checked(factors: Sequence[str], margins: Sequence[float]) -> np.ndarray:
    """The margins float64 [L] of factors.

    Raises:
        ValueError: no factors, or margins of another number.
    """
    if not factors:
        raise ValueError(
            "labels by ranked factors need factors, the most important first, such as 'info/speed', '-info/energy'."
        )
    if margins and len(margins) != len(factors):
        raise ValueError(f"there are {len(factors)} factors and {len(margins)} margins; give one for each, or none.")
    return np.asarray(margins or np.ones(len(factors)), np.float64)


def by_factors(
    state: ReplayState,
    factors: Sequence[str],
    count: int,
    rng: np.random.Generator,
    *,
    margins: Sequence[float] = (),
    steps: int = 1,
) -> tuple[Preferences, np.ndarray]:
    """``count`` random pairs of pieces of ``steps`` decisions, labelled by ``factors``, and the level [P] that decided each;
    undecided ones have a weight of 0. ``margins``: one for each factor; none: 1 each.

    Raises:
        ValueError: no factors, an unknown one, margins of another number, or no episode of ``steps`` decisions.
    """
    least, rows = checked(factors, margins), jax.tree.map(np.asarray, overlaid(state))
    found = pairs.episodes(state)
    episode, start = pairs.places(found.steps, steps)
    arrivals = found.place[(found.begin[episode] + start)[:, None] + 1 + np.arange(steps)]  # [N, steps, 2]
    each = np.stack([channel(rows, f)[arrivals[..., 0], arrivals[..., 1]].mean(1) for f in factors])
    chosen = rng.integers(0, len(episode), (2, count))
    label, level = decided(each, chosen[0], chosen[1], least)
    made = pairs.preferences(
        episode[chosen], label, steps, start=start[chosen], weight=(level < len(factors)) * 1.0, source="heron"
    )
    return made, level
