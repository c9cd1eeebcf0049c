"""Aggregates against hand numbers and rliable."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import stats as scipy_stats

from rlx.train.stats import estimate, interval, iqm, of_setting, probability_of_improvement

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


def test_an_interval_over_many_episodes_takes_little_memory():
    scores = RNG.normal(size=(20_000, 1))
    tracemalloc.start()
    found = interval(scores, np.mean, resamples=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    draws = np.random.default_rng(0).integers(0, 20_000, (100, 20_000))
    np.testing.assert_allclose(found, np.percentile(scores[draws, 0].mean(1), [2.5, 97.5]), rtol=1e-12)
    assert peak < 20 * scores.nbytes


def test_one_run_has_no_interval():
    assert interval(np.array([[1.0, 2.0]])) is None


def test_an_estimate_is_over_the_means_of_seeds_as_scipy_has_it():
    """Seeds that differ much, episodes that differ little: episodes pooled would give an interval a fifth as wide."""
    seeds, episodes = RNG.normal(0, 5, (12, 1)), RNG.normal(0, 1, (12, 25))
    found = estimate(seeds + episodes)
    means = (seeds + episodes).mean(1)
    theirs = scipy_stats.bootstrap((means,), np.mean, n_resamples=5_000, method="percentile", rng=np.random.default_rng(1))
    assert found.over == "12 seeds" and found.value == pytest.approx(means.mean())
    np.testing.assert_allclose(found.interval, theirs.confidence_interval, atol=0.4)
    assert found == estimate(means), "so many episodes, or their mean: the same"
    pooled = interval((seeds + episodes).reshape(-1, 1), np.mean)
    assert np.diff(found.interval) > 3 * np.diff(pooled)


def test_an_interval_over_seeds_covers_and_one_over_pooled_episodes_does_not():
    hits, pooled_hits = 0, 0
    for i in range(150):
        rng = np.random.default_rng(i)
        returns = rng.normal(size=(15, 1)) + 0.3 * rng.normal(size=(15, 10))
        (low, high), pooled = (
            estimate(returns, resamples=300).interval,
            interval(returns.reshape(-1, 1), np.mean, resamples=300),
        )
        hits += low <= 0 <= high
        pooled_hits += pooled[0] <= 0 <= pooled[1]
    assert 0.86 <= hits / 150 <= 0.99 and pooled_hits / 150 < 0.6


def test_estimates_by_hand():
    one = estimate(np.array([[1.0, 2.0, 3.0, 6.0]]))
    assert one.value == 3.0 and one.over == "4 episodes of one seed; not an interval of the method"
    assert one.interval == interval(np.array([[1.0], [2.0], [3.0], [6.0]]), np.mean)
    assert estimate(np.array([[0.0, 2.0], [4.0, 6.0]])) == (3.0, (1.0, 5.0), "2 seeds")  # both drawn: 1, 3, 3, 5
    assert estimate(np.array([[4.0]])) == (4.0, None, "one seed")
    assert estimate(np.array([[4.0], [6.0]]), settings=2) == (5.0, None, "2 settings, see the ranking")
    assert estimate(np.array([[0.0, 2.0], [np.nan, 1.0], [4.0, 6.0]])) == (3.0, (1.0, 5.0), "2 seeds"), "diverged: left out"
    assert np.isnan(estimate(np.array([np.nan])).value) and estimate(np.array([-np.inf]))[1:] == (None, "no seed")
    assert of_setting(np.array([1.0, np.nan])) == {"seeds": 2, "diverged": 1, "iqm": 1.0, "interval": None, "over": "one seed"}
    assert of_setting(np.array([np.nan]))["iqm"] == -np.inf


def test_ties_count_half_and_bad_shapes_are_refused():
    assert probability_of_improvement(np.ones((2, 1)), np.ones((3, 1))) == 0.5
    with pytest.raises(ValueError, match="same tasks"):
        probability_of_improvement(np.ones((2, 1)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="finite"):
        interval(np.array([[np.nan]]))
