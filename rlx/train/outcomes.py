"""Success and safety of runs beside their returns, by the names of `rlx.envs.outcomes`: as tables and as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from rlx.envs.outcomes import LEAVES
from rlx.train.curves import Curve, draw, png, steps_of
from rlx.train.pictures import literal
from rlx.train.stats import Estimate, estimate, iqm
from rlx.types import Row

NAMES = tuple(k + end for k, leaf in LEAVES.items() for end in leaf.reduces)
COUNTED = {"evaluated": "evaluation: mean over episodes", "trained": "training: mean over decisions"}
HEAD = ("group", "what", "last evaluation", "95% interval", "while training", "95% interval while training", "interval over")


class Summary(NamedTuple):
    """Of one seed: at the last evaluation, and of all that training did. None where nothing was told."""

    evaluated: float | None
    trained: float | None


def of_seed(curve: Curve, name: str) -> Summary:
    """Training: the mean over decisions, a line counting as often as it has steps; of a peak the greatest."""
    last = curve.evaluated[name][1][-1] if name in curve.evaluated else None
    if name not in curve.trained:
        return Summary(last, None)
    steps, values = curve.trained[name]
    taken = np.diff(steps, prepend=0.0)
    whole = values.max() if name.endswith("_max") else np.average(values, weights=taken if taken.sum() > 0 else None)
    return Summary(last, float(whole))


def of_episodes(episodes: Sequence[Row]) -> dict[str, float]:
    """Means over whole ``episodes`` (rows [L + 1, ...]) of what their info says, by `NAMES`, as evaluations count them."""
    counted: dict[str, Any] = {"any": np.any, "max": np.max, "mean": np.mean}
    return {
        name + end: float(np.mean([counted[way](np.asarray(e.info[name])[1:]) for e in episodes]))
        for name, leaf in LEAVES.items()
        if episodes and all(name in e.info for e in episodes)
        for end, way in leaf.reduces.items()
    }


def reported(groups: Mapping[str, Sequence[Curve]]) -> list[str]:
    """What some run of ``groups`` says of success and safety."""
    return [n for n in NAMES if any(n in c.evaluated or n in c.trained for curves in groups.values() for c in curves)]


def table(groups: Mapping[str, Sequence[Curve]]) -> list[tuple]:
    """Rows of `HEAD`: of each group and each name the IQM over seeds and its interval."""
    rows = []
    for group, curves in groups.items():
        for name in reported({group: curves}):
            seeds, over = [of_seed(c, name) for c in curves], ""
            cells: list[Any] = []
            for values in zip(*seeds, strict=True):
                there = np.array([v for v in values if v is not None])
                found = estimate(there, iqm) if there.size else None
                over = over or (found.over if found else "")
                cells += rounded(found) if found else [None, None]
            rows.append((group, name, *cells, over))
    return rows


def rounded(found: Estimate) -> list:
    """Value and interval, as tables have them."""
    return [float(f"{found.value:.4g}"), found.interval and [float(f"{x:.4g}") for x in found.interval]]


def picture(groups: Mapping[str, Sequence[Curve]], env: str) -> bytes | None:
    """A column for each name: evaluations above, training decisions below. None where nothing is told."""
    names = reported(groups)
    if not names:
        return None
    sides = [side for side in ("evaluated", "trained") if any(getattr(c, side) for cs in groups.values() for c in cs)]
    figure = Figure(figsize=(3.2 * len(names), 2.7 * len(sides) + 0.5), layout="constrained")
    grid = figure.subplots(len(sides), len(names), squeeze=False)
    for row, side in enumerate(sides):
        for column, name in enumerate(names):
            axes = grid[row, column]
            found = {g: [getattr(c, side)[name] for c in cs if name in getattr(c, side)] for g, cs in groups.items()}
            draw(axes, {g: curves for g, curves in found.items() if curves})
            axes.set_title(words(name), fontsize=9)
            axes.set_ylabel(
                COUNTED[side] if side == "evaluated" or not name.endswith("_max") else "training: the greatest", fontsize=8
            )
            axes.set_xlabel(steps_of(groups) if row == len(sides) - 1 else "", fontsize=8)
            axes.set_ylim(bottom=0)
            axes.tick_params(labelsize=7)
    grid[0, 0].legend(frameon=False, fontsize=7)
    figure.suptitle(f"{literal(env)}: success and safety", fontsize=10)
    return png(figure)


def words(name: str) -> str:
    """``"contact force, peak"``"""
    leaf, _, way = (name, "", "") if name in LEAVES else name.rpartition("_")
    return leaf.replace("_", " ") + {"": "", "max": ", peak", "mean": ", mean"}[way]


def dicts(rows: list[tuple]) -> list[dict[str, Any]]:
    return [dict(zip(HEAD, row, strict=True)) for row in rows]
