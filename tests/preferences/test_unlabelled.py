"""Pairs that nobody labelled: their loss by hand, and that a fit learns from them and never looks at their labels."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.preferences import learning, pairs
from rlx.preferences.learning import Coefs, Training
from rlx.preferences.models import Judged, RewardMLP
from tests.preferences.test_learning import data

close = functools.partial(np.testing.assert_allclose, rtol=0)
KEY = jax.random.key(0)
GAPS = np.array([3.0, -0.2, -4.0, 0.1])  # beyond log(0.95 / 0.05) = 2.944 the model is sure enough


def value(gaps, least=0.95):
    side = lambda x: Judged(x[:, None], None, jnp.ones((len(x), 1)))
    return learning.pseudo_loss(side(gaps), side(jnp.zeros(len(gaps))), least)


def test_loss_by_hand():
    sure = abs(GAPS) > np.log(0.95 / 0.05)
    assert sure.tolist() == [True, False, True, False]
    got, slope = jax.value_and_grad(value)(jnp.float32(GAPS))
    close(got, np.log1p(np.exp(-abs(GAPS[sure]))).mean(), atol=1e-6)  # 0.0333680
    close(got, (0.0485874 + 0.0181499) / 2, atol=1e-6)
    close(slope, np.where(sure, -np.sign(GAPS) / (1 + np.exp(abs(GAPS))), 0) / 2, atol=1e-6)  # away from 0
    none, slope = jax.value_and_grad(value)(jnp.float32([0.5, -1]))
    assert none == 0 and (slope == 0).all()
    close(value(jnp.float32(GAPS), 0.5), np.log1p(np.exp(-abs(GAPS))).mean(), atol=1e-6)


def test_pieces_without_a_label_lie_in_the_episodes():
    found = pairs.episodes(data([5, 2, 9]))
    some = pairs.unlabelled(found, 200, 4, np.random.default_rng(0))
    pairs.rows_of(some, found)
    assert set(some.episode.ravel()) == {0, 2} and (some.weight == 0).all() and (some.label == 0.5).all()
    assert set(some.start[some.episode == 0]) == {0, 1} and set(some.start[some.episode == 2]) == set(range(6))
    both = pairs.joined(pairs.preferences([[0], [2]], [1], 3), some)
    assert both.label[0] == 1 and both.episode.shape == (2, 201) and both.steps.tolist() == [3] + [4] * 200
    with pytest.raises(ValueError, match="no episode has 10 decisions; the longest has 9"):
        pairs.unlabelled(found, 1, 10, np.random.default_rng(0))


def test_a_fit_learns_from_them_and_never_sees_their_labels():
    found = pairs.episodes(data([6] * 20))
    told = pairs.preferences(np.random.default_rng(1).integers(20, size=(2, 8)), [1, 0] * 4, 6)
    more = pairs.unlabelled(found, 50, 6, np.random.default_rng(2))
    model, how = RewardMLP((8,)), Training(40, 8, 6, checks=2, held_out=0.0)
    begin = learning.init(model, KEY, 3, 2)
    fit = lambda extra, **coefs: learning.fit(model, begin, told, found, KEY, how, Coefs(lr=1e-2, **coefs), extra)
    first = lambda fit: np.asarray(fit.params["params"]["hidden_0"]["kernel"])  # the last bias moves by rounding alone
    plain, with_them = fit(None), fit(more, pseudo_least=0.5)
    assert abs(first(plain) - first(with_them)).max() > 1e-2
    close(first(plain), first(fit(more, pseudo=0.0)), atol=1e-5)
    turned = more._replace(label=1 - np.round(np.linspace(0, 1, 50)).astype("f4"), weight=more.weight + 3)
    np.testing.assert_array_equal(first(with_them), first(fit(turned, pseudo_least=0.5)))
