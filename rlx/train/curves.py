"""Curves of run folders over their steps, and how those of several seeds are drawn: IQM and bootstrap 95% interval."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlx.train import logging
from rlx.train import run_config as run_configs
from rlx.train.pictures import literal
from rlx.train.stats import estimate, iqm

UNITS = {"env_steps": "environment steps", "updates": "updates"}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")


@dataclass(frozen=True)
class Curve:
    """Of one seed: ``steps`` [K] and the mean return of each evaluation [K], NaN from where it diverged. ``evaluated`` and
    ``trained``: what the info of environments said, in evaluations (means over episodes) and of training decisions since the
    line before: (steps [L], values [L]) by name. ``ends``: the last means of each kind of evaluation, "return"
    and those of info."""

    group: str
    seed: int
    unit: str
    steps: np.ndarray
    returns: np.ndarray
    folder: Path
    evaluated: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    trained: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    ends: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def read_run(run_dir: Path) -> list[Curve]:
    """One curve per member of the run in ``run_dir``, of the first evaluation of the stage that it came to last.

    Raises:
        ValueError: the folder is no run folder, or holds no evaluation yet.
    """
    who, every = run_configs.identities(run_dir), logging.read(run_dir)
    lines = [x for x in every if x["kind"] == "eval"]
    if not lines:
        raise ValueError(f"{run_dir} holds no evaluation yet: its run stopped before the first one.")
    of_kind = {kind: [x for x in lines if x["eval"] == kind] for kind in dict.fromkeys(x["eval"] for x in lines)}
    stage = lines[-1].get("stage")  # of several evaluations the first one of this: a clone's say nothing of what came of it
    shown = next(x["eval"] for x in lines if x.get("stage") == stage)
    lines = of_kind[shown]
    unit = "env_steps" if np.any([np.any(x["env_steps"]) for x in lines]) else "updates"
    trained = [x for x in every if x["kind"] == "train" and unit in x]
    curves = []
    for i, (group, seed) in enumerate(who[: np.size(lines[0]["return_mean"])]):
        steps, returns = _of_member(lines, unit, "return_mean", i)
        if np.isfinite(returns).any():
            evaluated, decided = _curves_of(lines, unit, "info/", "_mean", i), _curves_of(trained, unit, "decisions/", "", i)
            ends = {kind: _end(mine, unit, i) for kind, mine in of_kind.items()}
            curves.append(Curve(group, seed, unit, steps, returns, run_dir, evaluated, decided, ends))
    return curves


def _of_member(lines: Sequence[Mapping[str, Any]], unit: str, name: str, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of member ``i`` in the lines that have ``name``."""
    pairs = [(np.ravel(x[unit]), np.ravel(np.asarray(x[name], float))) for x in lines if name in x]
    found = np.array([(s[i], v[i]) for s, v in pairs if i < min(len(s), len(v))], float).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _curves_of(
    lines: Sequence[Mapping[str, Any]], unit: str, begin: str, end: str, i: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Finite steps and values of member ``i``, of each entry of ``lines`` whose name begins so, by what lies between."""
    names = dict.fromkeys(k for x in lines for k in x if k.startswith(begin))
    found = {k.removeprefix(begin).removesuffix(end): _finite(*_of_member(lines, unit, k, i)) for k in names}
    return {name: curve for name, curve in found.items() if len(curve[0])}


def _end(lines: Sequence[Mapping[str, Any]], unit: str, i: int) -> dict[str, float]:
    """The last finite means that evaluations of one kind have of member ``i``."""
    curves = {**_curves_of(lines, unit, "return_mean", "", i), **_curves_of(lines, unit, "info/", "_mean", i)}
    return {name or "return": float(values[-1]) for name, (_, values) in curves.items()}


def _finite(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fine = np.isfinite(steps) & np.isfinite(values)
    return steps[fine], values[fine]


def steps_of(groups: Mapping[str, Sequence[Curve]]) -> str:
    """What is on the axis of steps, which runs that learn from data alone share with others."""
    units = {c.unit for curves in groups.values() for c in curves}
    return UNITS[units.pop()] if len(units) == 1 else "environment steps (of runs without any: updates)"


def on_grid(curves: Sequence[tuple[np.ndarray, np.ndarray]], points: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Values of several seeds at common steps: (steps [P], values [runs, P])."""
    low, high = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    grid = np.linspace(low, max(high, low), points if high > low else 1)
    return grid, np.stack([np.interp(grid, steps, values) for steps, values in curves])


def draw(axes: Any, groups: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]) -> None:
    """Each seed thin, each group's IQM with its interval."""
    for i, (name, curves) in enumerate(groups.items()):
        colour = COLOURS[i % len(COLOURS)]
        grid, values = on_grid(curves)
        for one in curves:
            axes.plot(*one, color=colour, alpha=0.25, linewidth=0.8)
        found = [estimate(column, iqm, resamples=500) for column in values.T]
        label = f"{literal(name)} ({found[0].over})"
        axes.plot(grid, [e.value for e in found], color=colour, linewidth=2, label=label)
        if found[0].interval:
            bounds = np.array([e.interval or (np.nan, np.nan) for e in found])
            axes.fill_between(grid, *bounds.T, color=colour, alpha=0.18, linewidth=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
