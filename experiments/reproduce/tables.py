"""What scripts beside this one share: what uniform actions earn, numbers of seeds as rows of a table, and such rows as bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rlx import keys
from rlx.train.collect import collect, random
from rlx.train.stats import estimate


def at_random(env: Any, episodes: int) -> np.ndarray:
    """Returns of uniform actions, [episodes]."""
    found = collect(random(env.spec), env, episodes * env.spec.horizon, episodes, keys.root(0))
    return np.array([float(e.reward.sum()) for e in found[:episodes]])


def mean_interval(values: Any, digits: int = 4, each: str | None = None) -> dict[str, Any]:
    """Of numbers [seeds], or [seeds, others]: the mean, its interval over seeds, and by the name ``each`` the numbers."""
    values = np.asarray(values, np.float64)
    found = estimate(values.reshape(len(values), -1))
    interval = None if found.interval is None else [round(float(x), digits) for x in found.interval]
    row: dict[str, Any] = {"mean": round(float(found.value), digits), "interval": interval}
    return row | ({each: np.round(values, digits).tolist()} if each else {})


def bars(rows: dict[str, dict[str, Any]], names: Sequence[str], path: Path, what: str = "return") -> None:
    """``what`` was found, a group of bars for each of ``names``: what each row has of it, with its interval."""
    figure = Figure(figsize=(max(7.0, 1.1 * len(names)), 3.8), layout="constrained")
    ax, width = figure.subplots(), 0.8 / len(rows)
    for i, (label, row) in enumerate(rows.items()):
        at = np.arange(len(names)) + 0.8 * ((i + 0.5) / len(rows) - 0.5)
        ax.bar(at, [row[n]["mean"] for n in names], width, label=label)
        for x, n in zip(at, names, strict=True):
            if row[n]["interval"]:
                ax.plot([x, x], row[n]["interval"], color="black", lw=0.8)
    ax.set_xticks(np.arange(len(names)), names, rotation=15)
    ax.set_ylabel(what)
    ax.legend(frameon=False, fontsize=8, ncols=2)
    figure.savefig(path, dpi=120)
