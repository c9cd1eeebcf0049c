"""Ensembles of networks: what a member learns from, when it stops, and that its steps are Adam's."""

from __future__ import annotations

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.dynamics import ensemble
from rlx.dynamics.ensemble import FitSettings, Split, fit, init, parts, split, train

BLANK = init(jax.random.key(0), 4, (3, 32, 32, 2))
HOW = {"capacity": 1_024, "batch": 128, "epochs": 200, "patience": 30, "lr": 5e-3}


def rows(n, scale=1.0, shift=0.0):
    """Of a map that bends: z in [-1, 1]^3, then y [n, 2]."""
    z = np.random.default_rng(n).uniform(-1, 1, (n, 3))
    return scale * z + shift, np.stack([np.sin(2 * z[:, 0]) * z[:, 1], z[:, 1] ** 2 - z[:, 2]], 1)


@jax.jit
def predictions(model, z):
    return model.each(z), model(z), model.variance(z), model.member(2)(z[7])


@pytest.fixture(scope="module")
def fitted():
    return fit(BLANK, *rows(1_000), jax.random.key(1), **HOW)


def test_weights_at_the_start():
    """Uniform to sqrt(6 / (32 + 32)), whose standard deviation is that over sqrt(3); members their own; biases 0."""
    layer = BLANK.params["params"]["Dense_1"]
    w = np.asarray(layer["kernel"])
    assert np.abs(w).max() <= (6 / 64) ** 0.5 and w.std() == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert not np.asarray(layer["bias"]).any() and not np.allclose(w[0], w[1])
    assert (BLANK.count, BLANK.sizes) == (4, (3, 32, 32, 2)) and BLANK.parameters == 4 * (4 * 32 + 33 * 32 + 33 * 2)


def test_a_fit_explains_what_bends(fitted):
    z, y = rows(500)
    prediction = np.asarray(predictions(fitted.model, z.astype(np.float32))[0])
    assert prediction.shape == (4, 500, 2)
    own = ((prediction - y) ** 2).mean((1, 2))
    assert (own < 0.01 * y.var()).all()
    np.testing.assert_allclose(own, fitted.error, rtol=1)  # the rows held out tell of new ones
    assert ((prediction.mean(0) - y) ** 2).mean() < own.mean()
    assert ((fitted.epochs >= 1) & (fitted.epochs <= 200)).all()


def test_members_differ_and_more_so_where_there_were_no_rows(fitted):
    z = rows(500)[0].astype(np.float32)
    each, mean, variance, third = (np.asarray(x, np.float64) for x in predictions(fitted.model, z))
    assert np.abs(each[0] - each[1]).max() > 1e-3
    np.testing.assert_allclose(mean, each.mean(0), atol=1e-6)
    np.testing.assert_allclose(variance, each.var(0), atol=1e-6)
    np.testing.assert_allclose(third, each[2, 7], atol=1e-6)
    assert predictions(fitted.model, 4 * z)[2].mean() > 10 * variance.mean()


def test_one_program_serves_all_row_counts(fitted):
    before = ensemble._fit._cache_size()
    few = fit(BLANK, *rows(700), jax.random.key(1), **HOW | {"epochs": 2, "lr": 1e-3})
    assert ensemble._fit._cache_size() == before and (few.epochs <= 2).all()
    grown = fit(fitted.model, *rows(1_024), jax.random.key(2), **HOW)
    assert ensemble._fit._cache_size() == before and (grown.error < 0.01).all()


def test_a_refit_goes_on_from_its_weights(fitted):
    still = HOW | {"lr": 0.0}
    warm = fit(fitted.model, *rows(900), jax.random.key(2), **still)
    cold = fit(BLANK, *rows(900), jax.random.key(2), **still)
    assert (warm.error < 0.05 * cold.error).all() and (cold.epochs == 200).all()  # an error that stays has not grown
    jax.tree.map(np.testing.assert_array_equal, warm.model, fitted.model)


def test_inputs_are_normalised_where_that_is_asked_for(fitted):
    z, y = rows(1_000, scale=50.0, shift=300.0)
    z[:, 2] = 7.0
    model = fit(BLANK, z, y, jax.random.key(1), **HOW, normalize=True).model
    np.testing.assert_allclose(model.mean, z.mean(0), rtol=1e-5)
    np.testing.assert_allclose(model.std, [*z.std(0)[:2], 1.0], rtol=1e-5)  # what never moves is not blown up
    off = np.asarray(predictions(model, z.astype(np.float32))[1]) - y
    assert (off[:, 0] ** 2).mean() < 0.05 * y[:, 0].var()
    assert not fitted.model.mean.any() and (fitted.model.std == 1).all()


# ------------------------------------------------------------------------------------------------------------------- rows


def test_a_member_learns_from_rows_that_it_does_not_hold_out():
    """0.6 of 1 000 rows, an eighth of these padding: 480 and 120, none twice, each member its own."""
    counts = parts(1_000, 0.6, 0.2)
    assert counts == (480, 120) and parts(5, 0.6, 0.4) == (1, 2)  # 0.6 x 5 is 3
    each = jax.jit(jax.vmap(lambda k: split(k, 1_024, 1_000, jnp.array(counts), (512, 130))))
    drawn = each(jax.random.split(jax.random.key(0), 4))
    assert drawn.train.shape == (4, 512) and drawn.held.shape == (4, 130)
    for learned, held in zip(np.asarray(drawn.train)[:, :480], np.asarray(drawn.held)[:, :120], strict=True):
        both = {*learned.tolist(), *held.tolist()}
        assert len(both) == 600 and max(both) < 1_000
    assert len(set(np.asarray(drawn.train[0, :480]).tolist()) & set(np.asarray(drawn.train[1, :480]).tolist())) < 300


def test_parts_never_fall_as_rows_grow():
    """So what is compiled for a capacity has room for fewer rows."""
    for share, holdout in ((0.6, 0.2), (0.37, 0.45), (1.0, 0.9), (0.9, 0.01)):
        all_parts = np.array([parts(n, share, holdout) for n in range(200)])
        assert (np.diff(all_parts, axis=0) >= 0).all() and (all_parts.sum(1) <= np.arange(200)).all()


# ---------------------------------------------------------------------------------------------------------------- by hand

TINY = init(jax.random.key(5), 2, (2, 3, 1))
Z = np.array([[1.0, 0.0], [0.5, -1.0], [-1.0, 0.3], [0.2, 0.8], [1.0, 1.0]])
OWN = Split(np.array([[0, 1, 2, 4], [2, 3, 0, 4]]), np.array([[3, 4], [1, 4]]), np.array([[3, 1]] * 2))  # 4 is padding
learn = jax.jit(lambda y, own, how: train(TINY, Z.astype(np.float32), y.astype(np.float32), own, jax.random.key(0), how, 2))


def settings(lr, max_grad_norm, epochs, patience=1):
    return FitSettings(jnp.float32(lr), jnp.float32(max_grad_norm), jnp.int32(epochs), jnp.int32(patience))


def by_hand(w1, b1, w2, b2, z, y, batches, lr, max_grad_norm):
    """Adam in float64 on one member: the weights after all batches of row numbers."""
    theta = [np.asarray(x, np.float64) for x in (w1, b1, w2, b2)]
    first, second = [[np.zeros_like(x) for x in theta] for _ in range(2)]
    for t, at in enumerate(batches, 1):
        w1, b1, w2, b2 = theta
        hidden = np.tanh(z[at] @ w1 + b1)
        off = 2 * (hidden @ w2 + b2 - y[at]) / len(at)
        back = off @ w2.T * (1 - hidden**2)
        grads = [z[at].T @ back, back.sum(0), hidden.T @ off, off.sum(0)]
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        assert norm > max_grad_norm  # so that clipping is seen
        grads = [g * max_grad_norm / norm for g in grads]
        first = [0.9 * m + 0.1 * g for m, g in zip(first, grads, strict=True)]
        second = [0.999 * v + 0.001 * g**2 for v, g in zip(second, grads, strict=True)]
        hat = [(m / (1 - 0.9**t), v / (1 - 0.999**t)) for m, v in zip(first, second, strict=True)]
        theta = [x - lr * m / (np.sqrt(v) + 1e-8) for x, (m, v) in zip(theta, hat, strict=True)]
    return theta


def test_a_pass_is_adam_on_batches_of_each_row_once():
    """Three rows in batches of two, in one of their six orders."""
    y = np.array([[3.0], [-4.0], [5.0], [2.0], [100.0]])
    how = settings(0.05, 0.3, 1)
    out = learn(y, OWN, how)
    layers = lambda model: [model.params["params"][f"Dense_{i}"] for i in range(2)]
    for e, (mine, held) in enumerate((([0, 1, 2], 3), ([2, 3, 0], 1))):
        leaves = lambda model, e=e: [layer[k][e] for layer in layers(model) for k in ("kernel", "bias")]
        start, found = leaves(TINY), leaves(out.model)
        ways = [by_hand(*start, Z, y, [list(p[:2]), [p[2]]], 0.05, 0.3) for p in permutations(mine)]
        best = min(ways, key=lambda way: max(np.abs(a - b).max() for a, b in zip(way, found, strict=True)))
        for a, b in zip(best, found, strict=True):
            np.testing.assert_allclose(b, a, atol=2e-6)
        w1, b1, w2, b2 = best
        assert out.error[e] == pytest.approx(((np.tanh(Z[held] @ w1 + b1) @ w2 + b2 - y[held]) ** 2).item(), rel=1e-4)


def test_a_member_whose_held_out_error_grows_stops_and_stays():
    """Both learn that all is 3. The first holds out a row that says -3, so its second pass makes it worse."""
    y = np.full((5, 1), 3.0, np.float32)
    y[3] = -3.0
    own = OWN._replace(train=np.array([[0, 1, 2, 4], [0, 1, 2, 4]]))
    run = lambda epochs, patience=1: learn(y, own, settings(0.02, 1, epochs, patience))
    one, two, many = run(1), run(2), run(12)
    assert one.epochs.tolist() == [1, 1] and two.epochs.tolist() == [1, 2] and many.epochs.tolist() == [1, 12]
    for later in (two, many):
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), later.model.params, one.model.params)
        assert later.error[0] == one.error[0] and later.error[1] < one.error[1]
    kernel = lambda out: out.model.params["params"]["Dense_0"]["kernel"][1]
    assert np.abs(kernel(many) - kernel(two)).max() > 0.01
    patient = run(12, 5)  # waits, and then goes back
    jax.tree.map(np.testing.assert_array_equal, patient, many)


def test_what_diverges_is_not_kept():
    y = np.array([[3.0], [-4.0], [5.0], [2.0], [0.0]], np.float32)
    how = settings(np.nan, 1, 5)
    out = learn(y, OWN, how)
    jax.tree.map(np.testing.assert_array_equal, out.model, TINY)
    assert out.epochs.tolist() == [0, 0] and np.isinf(out.error).all()


def test_what_cannot_be():
    z, y = rows(40)
    key = jax.random.key(0)
    for call, words in (
        (lambda: init(key, 0, (2, 1)), "ensemble_size >= 1"),
        (lambda: init(key, 2, (2, 3), "tanhh"), "'tanhh' is unknown; there are relu, tanh"),
        (lambda: fit(BLANK, z[:, :2], y, key), r"inputs \[N, 3\] and targets \[N, 2\]; got \[40, 2\]"),
        (lambda: fit(BLANK, z[:3], y[:3], key), "3 rows are too few"),
        (lambda: fit(BLANK, z, y, key, capacity=32), "40 rows are more than capacity=32"),
        (lambda: fit(BLANK, z, y, key, share=1.5), "share within"),
        (lambda: fit(BLANK, z, y, key, batch=0), "batch, epochs and patience >= 1; got share=0.6"),
        (lambda: fit(BLANK, z, np.where(y == y[5, 0], np.nan, y), key), "targets have 1 numbers .* row 5"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
