"""Dictionaries, ensembles and their words, against numbers by hand."""

from __future__ import annotations

import json
import math
import subprocess
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.dynamics import sparse, stlsq
from rlx.dynamics.sparse import Dictionary, SparseModel, affine, equations, fit, poly


def test_the_order_of_terms():
    z = np.array([2.0, 3.0, 5.0, 7.0])
    assert affine(2, 2, 2)(z).tolist() == [2, 3, 4, 6, 9, 5, 7, 10, 14, 15, 21, 20, 28, 30, 42, 45, 63]
    assert poly(2, 2, bias=True, interact=False)(z[:2]).tolist() == [1, 2, 3, 4, 9]
    assert affine(2, 1, 2, interact=False, tensor=False).names(["x", "v", "u"]) == ["x", "v", "x^2", "v^2", "u"]
    assert poly(2, 3, bias=True).names(["a", "b"])[:7] == ["1", "a", "b", "a^2", "a b", "b^2", "a^3"]
    np.testing.assert_array_equal(poly(2, 2).exponents, [[1, 0], [0, 1], [2, 0], [1, 1], [0, 2]])


@pytest.mark.parametrize(
    ("library", "size"),
    [
        (affine(5, 1, 2), 41),
        (affine(5, 1, 1, interact=False, tensor=False), 6),
        (affine(8, 2, 2, interact=False), 50),
        (affine(2, 1, 3, tensor=False), 10),
        (affine(10, 3, 2, tensor=False), 68),
        (affine(8, 4, 2, tensor=False), 48),
        (affine(12, 4, 2, tensor=False), 94),
        (poly(5, 3), 55),
        (poly(8, 3), 164),
        (poly(10, 2, bias=True), 66),
    ],
)
def test_sizes(library, size):
    assert len(library) == size == math.prod(library.exponents.shape[:1])


def test_exponents_say_the_same_and_gradients_at_zero_are_finite():
    library = affine(3, 2, 3)
    z = np.random.default_rng(0).normal(size=(4, 5))
    by_powers = np.prod(z[:, None, :] ** library.exponents, -1)
    np.testing.assert_allclose(library(z), by_powers, rtol=1e-12)
    np.testing.assert_allclose(library(jnp.asarray(z)), by_powers, rtol=2e-5)
    assert jnp.isfinite(jax.jacfwd(library)(jnp.zeros(5))).all() and jnp.isfinite(jax.jacrev(library)(jnp.zeros(5))).all()


def test_what_is_no_dictionary():
    for wrong in (lambda: poly(2, 0), lambda: affine(0, 1, 2), lambda: Dictionary(2, ()), lambda: Dictionary(1, ((1,),))):
        with pytest.raises(ValueError, match="dictionary|none of the"):
            wrong()
    with pytest.raises(ValueError, match="3 names"):
        poly(2, 1).names(["a", "b", "c"])
    with pytest.raises(ValueError, match="2 variables, got 3"):
        poly(2, 1)(np.zeros(3))


def model_of(members, library=None, how="median"):
    members = np.asarray(members, np.float32)
    coef = sparse.aggregated(members, how)
    return SparseModel(jnp.asarray(members), jnp.asarray(coef), library or poly(1, members.shape[-1]))


def test_variance_is_that_of_the_predictions():
    model = model_of([[[1, 0, 0.5]], [[1.2, 0, 0.5]], [[0.8, 0.1, 0.5]]], poly(3, 1))
    theta = np.array([1.0, 2.0, 4.0])
    np.testing.assert_allclose(model.variance(jnp.asarray(theta)), [0.0088888889], rtol=1e-6)
    np.testing.assert_allclose(theta @ model.covariance[0] @ theta, 0.0088888889, rtol=1e-6)
    np.testing.assert_allclose(np.var([1 + 2, 1.2 + 2, 0.8 + 0.2 + 2]), 0.0088888889, rtol=1e-6)


def test_median_mean_and_one_member():
    members = [[[1.0, 0.0]], [[3.0, 0.0]], [[4.0, 5.0]], [[10.0, 7.0]]]
    z = jnp.array([1.0])
    np.testing.assert_allclose(model_of(members).coef, [[3.5, 2.5]])  # of four: the mean of the middle two
    np.testing.assert_allclose(model_of(members, how="mean").coef, [[4.5, 3.0]])
    np.testing.assert_allclose(model_of(members)(z), [6.0])
    np.testing.assert_allclose(model_of(members).member(2)(z), [9.0])
    np.testing.assert_allclose(model_of(members).each(z)[:, 0], [1, 3, 9, 17])
    np.testing.assert_allclose(model_of(members, how=2).coef, [[4.0, 5.0]])
    for wrong in ("mode", 2, -1, True):
        with pytest.raises(ValueError, match="'median', 'mean' or a member, 0 to 1"):
            sparse.aggregated(np.zeros((2, 1, 1)), wrong)


WORDS = model_of([[[1.0, 0, -0.25, 0, 0], [0, 0, 0, 0, 0]]] * 2, poly(2, 2))


def test_equations_as_text_and_latex():
    assert equations(WORDS, ["x", "v"]) == "x' = x - 0.25 x^2\nv' = 0"
    assert equations(WORDS, ["x", "v"], ["a", "bb"]) == "a  = x - 0.25 x^2\nbb = 0"
    assert "x_{k+1} &= x - 0.25 \\, x^{2}" in equations(WORDS, ["x", "v"], fmt="latex")
    uncertain = model_of([[[1.0, 0]], [[1.5, 0]], [[2.0, 0]]])
    assert equations(uncertain, ["x"], deviations=True) == "x' = (1.5 +- 0.4) x"
    for wrong, words in ((dict(fmt="xml"), "latex"), (dict(names=["x"]), "names"), (dict(targets=["a"]), "outputs")):
        with pytest.raises(ValueError, match=words):
            equations(WORDS, **wrong)
    with pytest.raises(ValueError, match="identifiers"):
        equations(WORDS, ["x 1", "v"], fmt="c")


def test_equations_as_programs(tmp_path):
    rng = np.random.default_rng(0)
    model = model_of(rng.normal(size=(1, 3, 9)) * (rng.random((1, 3, 9)) < 0.6), poly(3, 2))
    z = rng.normal(size=3)
    wanted = np.asarray(model.coef, np.float64) @ poly(3, 2)(z)
    scope = {}
    exec(equations(model, ["a", "b", "c"], fmt="python"), scope)
    np.testing.assert_allclose(scope["model"](*z), wanted, rtol=1e-12)
    main = f"""#include <stdio.h>
{equations(model, ["a", "b", "c"], fmt="c")}
int main(void)
{{
    double out[3];
    model({", ".join(map(repr, z.tolist()))}, out);
    printf("%.17g %.17g %.17g", out[0], out[1], out[2]);
}}
"""
    (tmp_path / "a.c").write_text(main)
    subprocess.run(["cc", "-Wall", "-Werror", tmp_path / "a.c", "-o", tmp_path / "a"], check=True)
    out = subprocess.run([tmp_path / "a"], capture_output=True, text=True, check=True).stdout
    np.testing.assert_allclose(np.array(out.split(), float), wanted, rtol=1e-12)


def test_saved_as_data(tmp_path):
    path = sparse.save(WORDS, tmp_path / "model.npz")
    again = sparse.load(path)
    assert again.library == WORDS.library and equations(again) == equations(WORDS)
    np.testing.assert_array_equal(again.members, WORDS.members)
    with pytest.raises(ValueError, match="no such file"):
        sparse.load(tmp_path / "other.npz")
    np.savez(tmp_path / "odd.npz", members=np.array([object()], object), coef=0, library="x")
    with pytest.raises(ValueError, match="no sparse model"):
        sparse.load(tmp_path / "odd.npz")
    (tmp_path / "dump.pkl").write_bytes(b"\x80\x04N.")
    with pytest.raises(ValueError, match="loading them runs code"):
        sparse.load(tmp_path / "dump.pkl")


def test_fits_that_cannot_be():
    rng = np.random.default_rng(0)
    x, library = rng.normal(size=(50, 2)), poly(2, 2)
    how = dict(alpha=1e-3, threshold=0.1, rng=rng)
    fit(library, x, x, **how)
    bad = x.copy()
    bad[7, 1] = np.nan
    for args, words in (
        ((library, x[:0], x[:0]), "at least one row"),
        ((library, bad, x), "not finite, the first in row 7"),
        ((library, x, x[:, 0]), r"targets \[N, q\]"),
        ((library, x[:, :1], x), r"inputs \[N, 2\]"),
    ):
        with pytest.raises(ValueError, match=words):
            fit(*args, **how)
    with pytest.raises(ValueError, match="leaves no term for speed, whose coefficients reach 1"):
        fit(library, x, x, alpha=1e-3, threshold=3.0, rng=rng, names=("speed", "place"))
    odd = (dict(alpha=-1), dict(bag=2.0), dict(drop=5), dict(ensemble_size=0), dict(iterations=0))
    for wrong in (*odd, dict(alpha=np.inf), dict(alpha=np.nan), dict(threshold=np.inf)):
        with pytest.raises(ValueError, match="fit needs"):
            fit(library, x, x, **{**how, **wrong})
    with pytest.raises(ValueError, match="backend='x' is unknown; give 'rlx' or 'pysindy'"):
        fit(library, x, x, **how, backend="x")
    for groups in (np.zeros(49, int), np.zeros(50)):
        with pytest.raises(ValueError, match=r"groups must be integers \[50\]"):
            fit(library, x, x, **how, groups=groups)


def test_a_ridge_makes_few_rows_enough():
    """Two rows (1, 2), (3, -1) of y = (1, 2), two terms and a third: w = (T'T + a I)^-1 T'y by hand for three columns."""
    x = np.array([[1.0, 2.0, 0.5], [3.0, -1.0, 1.0]])
    y = np.array([[1.0], [2.0]])
    plain = dict(threshold=0.0, rng=np.random.default_rng(0), ensemble_size=1, bag=0, drop=0)
    found = fit(poly(3, 1), x, y, alpha=0.5, **plain)
    np.testing.assert_allclose(found.coef[0], x.T @ np.linalg.solve(x @ x.T + 0.5 * np.eye(2), y[:, 0]), rtol=1e-6)
    with pytest.raises(ValueError, match="2 rows for each member are too few for 3 terms without a ridge"):
        fit(poly(3, 1), x, y, alpha=0.0, **plain)
    with pytest.raises(ValueError, match="1 rows for each member are too few for 2 terms"):  # of 60% of two
        fit(poly(2, 1), x[:, :2], y, alpha=0.0, threshold=0.0, rng=np.random.default_rng(0))


def test_few_terms_are_all_kept():
    """With three terms, all true, a member without one of them explains the target by the wrong ones."""
    x = np.random.default_rng(0).uniform(-1, 1, (400, 1))
    true = [[0.9, 0.5, -0.4]]
    y = poly(1, 3)(x) @ np.transpose(true)
    how = dict(alpha=1e-6, threshold=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit(poly(1, 3), x, y, rng=np.random.default_rng(1), **how)
    np.testing.assert_allclose(found.coef, true, atol=1e-4)
    with pytest.warns(UserWarning, match=r"far worse than the one on all terms .*: force 0\.\d+ against"):
        fit(poly(1, 3), x, y, rng=np.random.default_rng(1), drop=1, names=["force"], **how)
    assert sparse.drops(affine(5, 1, 2)) == 1 and sparse.drops(poly(2, 3)) == 0  # of 41, of 9


def test_rows_of_one_trajectory_are_drawn_together(monkeypatch):
    seen, real = [], stlsq.moments
    monkeypatch.setattr(stlsq, "moments", lambda theta, y, weights, same: seen.append(weights) or real(theta, y, weights, same))
    x = np.random.default_rng(0).normal(size=(60, 2))
    groups = np.repeat([7, 3, 9, 4, 5, 6], 10)
    fit(poly(2, 1), x, x, alpha=1e-6, threshold=0.0, rng=np.random.default_rng(0), bag=0.5, groups=groups)
    weights = seen[0][:-1].reshape(20, 6, 10)
    assert (weights == weights[:, :, :1]).all() and (weights[:, :, 0].sum(1) == 3).all()  # half of six, with replacement
    assert len({tuple(w) for w in weights[:, :, 0].tolist()}) > 5


def test_an_ensemble_finds_the_terms():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (400, 2))
    y = np.stack([x[:, 0] * x[:, 1], 2 * x[:, 0] - 0.5 * x[:, 1] ** 2], 1) + 0.01 * rng.normal(size=(400, 2))
    model = fit(poly(2, 3), x, y, alpha=1e-4, threshold=0.1, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(np.asarray(model.coef) != 0, [[0, 0, 0, 1, 0, *[0] * 4], [1, 0, 0, 0, 1, *[0] * 4]])
    assert (np.asarray(model.members) == 0).all(1).any(1).all()  # each member was refused a term
    same = fit(poly(2, 3), x, y, alpha=1e-4, threshold=0.1, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(model.members, same.members)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_json_keeps_every_bit(dtype, tmp_path):
    rng = np.random.default_rng(0)
    members = (rng.normal(size=(3, 2, 5)) * 10.0 ** rng.integers(-30, 30, (3, 2, 5))).astype(dtype)
    model = SparseModel(members, members[0], poly(2, 2), continuous=True)
    again = sparse.from_json(sparse.to_json(model))
    assert again.library == model.library and again.continuous and np.asarray(again.coef).dtype == dtype
    np.testing.assert_array_equal(again.members, members)
    np.testing.assert_array_equal(sparse.load(sparse.save(model, tmp_path / "m.json")).coef, members[0])
    assert sparse.from_json(sparse.to_json(affine(2, 1, 2))) == affine(2, 1, 2)


def test_json_that_is_no_model():
    good = json.loads(sparse.to_json(WORDS))
    changes = {
        "version": (2, "version 1"),
        "format": (["rlx.dictionary"], "must have the keys"),
        "variables": (True, "variables must be 1 to"),
        "terms": ([[0], [1], [1, 0], [0, 0], [1, 1]], "ascending"),
        "dtype": ("object", "float32 or float64"),
        "continuous": (1, "continuous a bool"),
        "coef": ([[1.0, 2.0]], "do not fit 5 terms"),
        "members": ([[["1"]]], "numbers in lists"),
        "more": (1, "must have the keys"),
    }
    for key, (value, words) in changes.items():
        with pytest.raises(ValueError, match=words):
            sparse.from_json(json.dumps({**good, key: value}))
    ragged, huge = [[1.0], [1.0, 2.0]], [[1e300] * 5] * 2
    for value in (ragged, huge, [[10**400] * 5] * 2):
        with pytest.raises(ValueError, match="coef"):
            sparse.from_json(json.dumps({**good, "coef": value}))
    for text in ('{"format": NaN}', "[" * 100_000, "x", '["a"]', json.dumps({**good, "terms": [[0], [7]]})):
        with pytest.raises(ValueError):
            sparse.from_json(text)
    with pytest.raises(ValueError, match="not finite"):
        sparse.to_json(model_of([[[np.nan, 1.0]]]))
