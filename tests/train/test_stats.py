"""Aggregates against hand numbers and rliable."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.train.stats import interval, iqm, probability_of_improvement

RNG = np.random.default_rng(0)
NO_RLIABLE = "rliable is not installed: arch, which it requires, has no wheels for Python 3.14"


def test_iqm_by_hand():
    assert iqm(np.array([[1.0], [2.0], [3.0], [100.0]])) == 2.5
    assert iqm(np.array([[5.0]])) == 5.0
    assert iqm(np.arange(8.0).reshape(4, 2)) == 3.5


def test_iqm_and_improvement_equal_rliable():
    metrics = pytest.importorskip("rliable.metrics", reason=NO_RLIABLE)
    for shape in ((5, 3), (10, 1), (7, 4)):
        a, b = RNG.normal(size=shape), RNG.normal(0.3, size=shape)
        assert iqm(a) == pytest.approx(metrics.aggregate_iqm(a), abs=1e-12)
        assert probability_of_improvement(a, b) == pytest.approx(metrics.probability_of_improvement(a, b), abs=1e-12)


def test_interval_close_to_rliable():
    library = pytest.importorskip("rliable.library", reason=NO_RLIABLE)
    metrics = pytest.importorskip("rliable.metrics", reason=NO_RLIABLE)
    scores = RNG.normal(10, 2, size=(10, 3))
    _, theirs = library.get_interval_estimates({"a": scores}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=2000)
    np.testing.assert_allclose(interval(scores), theirs["a"][:, 0], atol=0.12)


def test_interval_covers_the_mean_about_as_often_as_it_says():
    hits = 0
    for i in range(200):
        low, high = interval(np.random.default_rng(i).normal(size=(30, 1)), np.mean, resamples=300, seed=i)
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_ties_count_half_and_bad_shapes_are_refused():
    assert probability_of_improvement(np.ones((2, 1)), np.ones((3, 1))) == 0.5
    with pytest.raises(ValueError, match="same tasks"):
        probability_of_improvement(np.ones((2, 1)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="finite"):
        interval(np.array([[np.nan]]))
