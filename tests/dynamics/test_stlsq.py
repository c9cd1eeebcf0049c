"""The regression against numbers by hand, and against pysindy."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.dynamics import stlsq
from rlx.dynamics.sparse import affine, fit, poly


def plain(theta, y, alpha, threshold, **how):
    gram, moment = stlsq.moments(np.asarray(theta, float), np.asarray(y, float)[:, None], np.ones((1, len(theta))))
    return stlsq.stlsq(gram[:, None], moment, alpha, threshold, **how)[0, 0]


def test_the_identity_shrinks_and_cuts():
    y = (2, 0.15, -0.5)
    np.testing.assert_allclose(plain(np.eye(3), y, 1.0, 0.2), (1, 0, -0.25), atol=1e-10)
    np.testing.assert_allclose(plain(np.eye(3), y, 1.0, 0.2, unbias=True), (2, 0, -0.5), atol=1e-10)
    np.testing.assert_allclose(plain(np.eye(3), y, 0.0, 0.15), y, atol=1e-10)  # what equals the threshold stays


def test_the_rest_is_solved_again():
    t = np.arange(4.0)
    theta, y = np.stack([np.ones(4), t], 1), 0.05 + t
    np.testing.assert_allclose(plain(theta, y, 0.0, 0.1), (0, 14.3 / 14), atol=1e-10)
    np.testing.assert_allclose(plain(theta, y, 0.5, 0.1), (0.140171, 0.928205), atol=1e-6)
    np.testing.assert_allclose(plain(theta, y, 0.5, 0.1, unbias=True), (0.05, 1), atol=1e-10)
    np.testing.assert_array_equal(plain(theta, y, 0.0, 5.0), 0)  # an empty support is zeros, not NaN
    np.testing.assert_array_equal(plain(theta, y, 0.5, 5.0, unbias=True), 0)


def test_iterations_that_run_out_leave_the_cut_solution():
    t = np.arange(4.0)
    theta, y = np.stack([np.ones(4), t], 1), 0.05 + t
    np.testing.assert_allclose(plain(theta, y, 0.0, 0.1, iterations=1), (0, 1), atol=1e-10)  # not solved again


def test_columns_that_depend_on_each_other():
    phi = np.linspace(0, 6, 50)
    u = np.sin(3 * phi + 1)
    theta = np.stack([u, u * np.cos(phi) ** 2, u * np.sin(phi) ** 2], 1)
    np.testing.assert_allclose(plain(theta, 2 * u, 1e-6, 0.01), (4 / 3, 2 / 3, 2 / 3), atol=1e-5)
    np.testing.assert_allclose(plain(theta, 2 * u, 1e-6, 0.7), (2, 0, 0), atol=1e-5)


def whole(library, inputs, targets, alpha, threshold):
    """One fit on all rows, nothing dropped: coefficients [q, d]."""
    rng = np.random.default_rng(0)
    model = fit(library, inputs, targets, alpha=alpha, threshold=threshold, rng=rng, ensemble_size=1, bag=0, drop=0)
    return np.asarray(model.coef, np.float64)


def test_the_logistic_map():
    x = [0.1]
    for _ in range(50):
        x.append(3.7 * x[-1] * (1 - x[-1]))
    x = np.array(x)[:, None]
    theta = poly(1, 3, bias=True)(x[:-1])
    gram, moment = stlsq.moments(theta, x[1:], np.ones((1, 50)))
    np.testing.assert_allclose(stlsq.stlsq(gram[:, None], moment, 0.0, 0.1)[0, 0], (0, 3.7, -3.7, 0), atol=1e-8)


def test_a_linear_system_with_an_input():
    A, B = np.array([[0.9, 0.1], [-0.2, 0.8]]), np.array([0, 0.5])
    rng = np.random.default_rng(0)
    u, x = rng.uniform(-1, 1, 60), [np.array([1.0, -1.0])]
    for k in range(60):
        x.append(A @ x[-1] + B * u[k])
    x = np.array(x)
    library = poly(3, 2)
    coef = whole(library, np.concatenate([x[:-1], u[:, None]], 1), x[1:], 1e-8, 0.02)
    np.testing.assert_allclose(coef[:, :3], np.concatenate([A, B[:, None]], 1), atol=1e-6)
    assert not coef[:, 3:].any() and len(library) == 9


def test_a_bag_is_a_weight():
    rng = np.random.default_rng(3)
    theta, y = rng.normal(size=(50, 7)), rng.normal(size=(50, 2))
    rows = np.random.default_rng(5).integers(50, size=(3, 30))
    weights = stlsq.bags(np.random.default_rng(5), 50, 30, 3)
    assert weights.sum(1).tolist() == [30] * 3
    gram, moment = stlsq.moments(theta, y, weights)
    for e in range(3):
        np.testing.assert_allclose(gram[e], theta[rows[e]].T @ theta[rows[e]], rtol=1e-9)
        np.testing.assert_allclose(moment[e], y[rows[e]].T @ theta[rows[e]], rtol=1e-9)


@pytest.mark.parametrize("library", [affine(2, 1, 2), poly(3, 3, bias=True), poly(4, 2, interact=False)])
def test_products_that_are_one_monomial_are_summed_once(library):
    rng = np.random.default_rng(4)
    theta, y = library(rng.normal(size=(600, library.variables))), rng.normal(size=(600, 2))
    weights = stlsq.bags(rng, 600, 400, 3)
    gram, moment = stlsq.moments(theta, y, weights, library.products)
    for e in range(3):
        np.testing.assert_allclose(gram[e], (theta.T * weights[e]) @ theta, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(moment[e], (y.T * weights[e]) @ theta, rtol=1e-9, atol=1e-9)


def test_products_of_terms_by_hand():
    # x, y, u, x u, y u: x * y u and y * x u are one, u * x u is another
    products = affine(2, 1, 1).products
    assert products[0, 4] == products[1, 3] == products[4, 0] and products[2, 3] != products[0, 4]
    assert len(np.unique(products)) == 14  # of 15
    assert len(np.unique(affine(5, 1, 2).products)) == 371  # of 861


def test_dropping_is_of_so_many_terms_each():
    mask = stlsq.dropped(np.random.default_rng(0), 9, 2, 200)
    assert (mask.sum(1) == 7).all()
    assert (mask.mean(0) > 0.6).all()  # 7/9 each


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "threshold"), [(5e-5, 7e-3), (1e-2, 7e-3), (1e-5, 1e-3)])
def test_pysindy_agrees(cart, alpha, threshold):
    inputs, targets = cart
    both = [
        fit(affine(5, 1, 2), inputs, targets, alpha=alpha, threshold=threshold, rng=np.random.default_rng(1), ensemble_size=5,
            drop=drop, backend=backend)
        for drop in (0, 1) for backend in ("rlx", "pysindy")
    ]  # fmt: skip
    for ours, theirs in (both[:2], both[2:]):
        a, b = np.asarray(ours.members), np.asarray(theirs.members)
        np.testing.assert_array_equal(a != 0, b != 0)
        np.testing.assert_allclose(a, b, atol=1e-6)
