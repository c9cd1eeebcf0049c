"""Aggregates over few runs (Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
arXiv:2108.13264), on score matrices [runs, tasks]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


def iqm(scores: np.ndarray) -> float:
    """Interquartile mean: of all scores together, the mean without the lowest and highest quarter (each rounded down)."""
    flat = np.sort(np.asarray(scores, np.float64), axis=None)
    cut = int(0.25 * flat.size)
    return float(flat[cut : flat.size - cut].mean())


def interval(
    scores: np.ndarray,
    statistic: Callable[[np.ndarray], float] = iqm,
    level: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile bootstrap of ``statistic``, stratified: runs are drawn anew within each task. None of one run, which
    says nothing of how runs differ.

    Raises:
        ValueError: scores that are not [runs, tasks] or not finite.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise ValueError(f"interval takes finite scores [runs, tasks], got shape {scores.shape}.")
    rng = np.random.default_rng(seed)
    runs, tasks = scores.shape
    if runs == 1:
        return None
    draw = lambda: rng.integers(0, runs, (runs, tasks))  # one by one: of a dataset's episodes all at once are gigabytes
    values = [statistic(np.take_along_axis(scores, draw(), 0)) for _ in range(resamples)]
    tail = 50 * (1 - level)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


class Estimate(NamedTuple):
    """A statistic of returns, and how far it can be trusted."""

    value: float  # NaN where there are no returns
    interval: tuple[float, float] | None  # 95%
    over: str  # what was drawn anew: "8 seeds"; where there is no interval, why


def estimate(
    returns: np.ndarray, statistic: Callable[[np.ndarray], float] = np.mean, settings: int = 1, resamples: int = 2_000
) -> Estimate:
    """``statistic`` of runs that differ in their seeds alone, [N] or with the episodes of each [N, E], and its interval.

    From two runs on runs are drawn anew, each as the mean of its episodes: episodes of one run share what it learned, and more
    of them say nothing of another seed. Of one run episodes are drawn, and the words say that this is none of the method.
    Runs whose returns are not finite (they diverged) are left out. Runs of several ``settings`` have no interval together.
    """
    returns = np.asarray(returns, np.float64)
    returns = returns.reshape(len(returns), -1)
    fine = returns[np.isfinite(returns).all(1)]
    means = fine.mean(1)
    if not means.size:
        return Estimate(np.nan, None, "no seed")
    value = float(statistic(means))
    if settings > 1:
        return Estimate(value, None, f"{settings} settings, see the ranking")
    if len(means) > 1:
        return Estimate(value, interval(means[:, None], statistic, resamples=resamples), f"{len(means)} seeds")
    if fine.size == 1:
        return Estimate(value, None, "one seed")
    over = f"{fine.size} episodes of one seed; not an interval of the method"
    return Estimate(value, interval(fine.T, np.mean, resamples=resamples), over)


def of_setting(values: np.ndarray) -> dict[str, Any]:
    """What a table says of a setting whose seeds ended with ``values`` [N], not finite where one diverged: ``seeds``,
    ``diverged``, ``iqm`` (-inf where all did), its 95% ``interval`` (None of fewer than two) and what that is ``over``."""
    fine = int(np.isfinite(values).sum())
    value, bounds, over = estimate(values, iqm)
    row = {"seeds": len(values), "diverged": len(values) - fine, "iqm": value if fine else -np.inf}
    return {**row, "interval": bounds, "over": over}


def probability_of_improvement(a: np.ndarray, b: np.ndarray) -> float:
    """P(a run of A scores higher than a run of B), ties counted half, mean over tasks (Mann-Whitney). [runs, tasks] each."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"probability_of_improvement takes [runs, tasks] of the same tasks, got {a.shape} and {b.shape}.")
    higher = (a[:, None] > b[None]).mean((0, 1)) + 0.5 * (a[:, None] == b[None]).mean((0, 1))
    return float(higher.mean())
