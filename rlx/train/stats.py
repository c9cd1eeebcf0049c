"""Aggregates over few runs (Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
arXiv:2108.13264), on score matrices [runs, tasks]."""

from __future__ import annotations

from collections.abc import Callable

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
) -> tuple[float, float]:
    """Percentile bootstrap of ``statistic``, stratified: runs are drawn anew within each task.

    Raises:
        ValueError: scores that are not [runs, tasks] or not finite.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise ValueError(f"interval takes finite scores [runs, tasks], got shape {scores.shape}.")
    rng = np.random.default_rng(seed)
    runs, tasks = scores.shape
    draws = rng.integers(0, runs, (resamples, runs, tasks))
    values = [statistic(np.take_along_axis(scores, d, 0)) for d in draws]
    tail = 50 * (1 - level)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def probability_of_improvement(a: np.ndarray, b: np.ndarray) -> float:
    """P(a run of A scores higher than a run of B), ties counted half, mean over tasks (Mann-Whitney). [runs, tasks] each."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"probability_of_improvement takes [runs, tasks] of the same tasks, got {a.shape} and {b.shape}.")
    higher = (a[:, None] > b[None]).mean((0, 1)) + 0.5 * (a[:, None] == b[None]).mean((0, 1))
    return float(higher.mean())
