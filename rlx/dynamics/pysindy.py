"""Models of pysindy as sparse models of rlx, and back.

::

    fitted = pysindy.DiscreteSINDy(optimizer, library).fit(x, t=1, u=u, feature_names=["x", "v", "u"])
    model = from_pysindy(fitted)
    print(equations(model, fitted.feature_names))
    again = to_pysindy(model, fitted.feature_names)

A sparse model has no names, thresholds or ridge: it is coefficients and their terms. Names go wherever they are written.
Coefficients are rounded to float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from rlx.dynamics.dictionary import Dictionary
from rlx.dynamics.sparse_model import SparseModel

if TYPE_CHECKING:
    import pysindy

GRIDS = ("PDELibrary", "WeakPDELibrary", "SINDyPILibrary")  # their terms are no functions of one state
WAY_OUT = "Fit with pysindy.PolynomialLibrary, or with another library whose other terms the fit drops."


def from_pysindy(model: pysindy.SINDy | pysindy.DiscreteSINDy) -> SparseModel:
    """The model that pysindy has fitted, of z = [state, control inputs] and of any optimiser.

    A `DiscreteSINDy` gives the next state, a `SINDy` its time derivative (`SparseModel.continuous`), which
    `rlx.dynamics.SparseDynamics` integrates. The members are those of an `EnsembleOptimizer`, or the model alone.

    Libraries are taken by what they compute, alone, concatenated, tensored, of some inputs or of own functions: each term that
    has a coefficient must be a monomial. Terms that are not and that nobody uses are left out; equal ones are added up.
    Names of inputs and the optimiser's settings are not kept: a `SparseModel` has neither.

    Raises:
        ValueError: not a fitted model of pysindy 2; a library of derivatives in space or of implicit equations; a term in use
            that is no monomial; an optimiser whose predictions are more than coefficients times terms (an intercept, columns
            that are still normalised); a coefficient that is not finite.
    """
    import pysindy

    library = _library(model)
    exponents = _exponents(library)
    coefs = _coefficients(model, len(exponents))
    used = coefs.any((0, 1))
    known = np.array([powers is not None for powers in exponents])
    if (used & ~known).any():
        names = np.array(library.get_feature_names(model.feature_names))[used & ~known].tolist()
        kinds = ", ".join(dict.fromkeys(type(leaf).__name__ for leaf in _leaves(library)))
        raise ValueError(f"from_pysindy takes monomials alone; of {kinds} the model uses {names}. {WAY_OUT}")
    columns: dict[tuple[int, ...], list[int]] = {}
    for column, powers in enumerate(exponents):
        if powers is not None:
            columns.setdefault(tuple(i for i, k in enumerate(powers) for _ in range(k)), []).append(column)
    if not columns:
        raise ValueError(f"from_pysindy takes monomials alone; this library has none. {WAY_OUT}")
    merged = np.stack([coefs[:, :, which].sum(-1) for which in columns.values()], -1)  # the aggregate, then the members
    dictionary = Dictionary(int(model.n_features_in_), tuple(columns))
    _agrees(model, dictionary, merged[0])
    coef, *members = jnp.asarray(merged, jnp.float32)
    return SparseModel(jnp.stack(members or [coef]), coef, dictionary, isinstance(model, pysindy.SINDy))


def to_pysindy(
    model: SparseModel, names: Sequence[str] | None = None, *, threshold: float = 0.1, alpha: float = 0.05
) -> pysindy.SINDy | pysindy.DiscreteSINDy:
    """A fitted `SINDy` (of a continuous model) or `DiscreteSINDy` that predicts, simulates and prints as the aggregate does.

    Its first variables are the state, as many as there are outputs, the others control inputs. Its library is the smallest
    `PolynomialLibrary` that has all terms, so that terms which the model does not have get coefficients of 0. More members
    than one become those of an `EnsembleOptimizer`.

    ``names`` of the variables: x0, x1, ..., u0, ... if not given. ``threshold`` and ``alpha`` (pysindy's defaults) are what the
    optimiser has in case that the model is fitted anew, which a sparse model does not keep.

    Raises:
        ValueError: more outputs than variables, so that it is no model of a state; names that are of another number, repeated,
            empty or with spaces, which pysindy writes between factors; a negative threshold or alpha.
    """
    import pysindy

    outputs, variables = model.coef.shape[0], model.library.variables
    if outputs > variables:
        raise ValueError(f"to_pysindy takes models of a state: {outputs} outputs cannot be the next of {variables} variables.")
    given = [f"x{i}" for i in range(outputs)] + [f"u{i}" for i in range(variables - outputs)] if names is None else list(names)
    if len(given) != variables or len(set(given)) < variables or any(not n or len(n.split()) != 1 for n in given):
        raise ValueError(f"to_pysindy needs {variables} different names without spaces, got {given}.")
    terms = model.library.factors
    library = pysindy.PolynomialLibrary(
        degree=max(1, *map(len, terms)),
        include_interaction=any(len(set(term)) > 1 for term in terms),
        include_bias=() in terms,
    ).fit(np.zeros((1, variables)))
    place = {tuple(np.repeat(np.arange(variables), powers).tolist()): j for j, powers in enumerate(library.powers_)}
    all_coefs = np.concatenate([model.coef[None], model.members]).astype(np.float64)
    coefs = np.zeros((*all_coefs.shape[:2], library.n_output_features_))
    coefs[:, :, [place[term] for term in terms]] = all_coefs
    optimizer = _optimizer(coefs[0], coefs[1:], threshold, alpha)
    made = (pysindy.SINDy if model.continuous else pysindy.DiscreteSINDy)(optimizer=optimizer, feature_library=library)
    made.n_control_features_, made.feature_names = variables - outputs, given
    made.n_features_in_, made.n_output_features_ = variables, library.n_output_features_
    return made


def _optimizer(coef: np.ndarray, members: np.ndarray, threshold: float, alpha: float) -> Any:
    """A fitted optimiser with these coefficients [q, d], and members [E, q, d]."""
    from pysindy.optimizers import STLSQ, EnsembleOptimizer

    single = STLSQ(threshold=threshold, alpha=alpha)
    optimizer = single if len(members) == 1 else EnsembleOptimizer(single, bagging=True, n_models=len(members))
    if len(members) > 1:
        optimizer.coef_list = list(members)
    optimizer.coef_, optimizer.intercept_ = coef, 0.0
    optimizer.ind_, optimizer.history_ = coef != 0, [coef]
    return optimizer


def _library(model: Any) -> Any:
    """Of a fitted model; raises ValueError where there is none that could be taken."""
    import pysindy

    if not isinstance(model, (pysindy.SINDy, pysindy.DiscreteSINDy)):
        raise ValueError(f"from_pysindy takes a SINDy or a DiscreteSINDy of pysindy 2, got a {type(model).__name__}.")
    if not hasattr(model, "n_features_in_") or not hasattr(model.optimizer, "coef_"):
        raise ValueError(f"from_pysindy takes a fitted model; call fit of this {type(model).__name__} first.")
    for kind in {type(leaf).__name__ for leaf in _leaves(model.feature_library)} & set(GRIDS):
        raise ValueError(f"from_pysindy cannot take {kind}: its terms are no functions of one state. {WAY_OUT}")
    return model.feature_library


def _coefficients(model: Any, terms: int) -> np.ndarray:
    """Of the aggregate and then of the members that it comes from, float64 [1 + E, q, d]."""
    optimizer, states = model.optimizer, model.n_features_in_ - model.n_control_features_
    coefs = np.stack([optimizer.coef_, *getattr(optimizer, "coef_list", [])]).astype(np.float64)
    if coefs.shape[1:] != (states, terms):
        raise ValueError(
            f"from_pysindy takes one equation for each state: [{states}, {terms}] coefficients, but those of this "
            f"{type(optimizer).__name__} are {list(coefs.shape[1:])}. Fit with pysindy.STLSQ."
        )
    if not np.isfinite(coefs).all():
        raise ValueError(f"from_pysindy: {int((~np.isfinite(coefs)).sum())} of the coefficients are not finite.")
    return coefs


def _leaves(library: Any) -> Iterator[Any]:
    inner = getattr(library, "libraries", None)
    if inner is None:
        yield library
    for part in inner or ():
        yield from _leaves(part)


def _exponents(library: Any) -> list[np.ndarray | None]:
    """Of each term, int [v]; None where it is no monomial.

    They are measured: a term is asked where one variable is 2 and the others are 1, and at random points whether it is that
    monomial there too. So it makes no difference how a library is put together.
    """
    v = library.n_features_in_
    rng = np.random.default_rng(0)
    points = np.concatenate([1 + np.eye(v), rng.normal(size=(20, v)), rng.uniform(1, 3, (20, v))])
    with np.errstate(all="ignore"):
        theta = np.asarray(library.transform(points), np.float64)
        powers = np.log2(theta[:v])
    found: list[np.ndarray | None] = []
    for column, power in zip(theta.T, powers.T, strict=True):
        whole = bool(np.isfinite(power).all() and (power >= 0).all() and (power == np.round(power)).all())
        k = power.astype(int) if whole else None
        same = k is not None and np.allclose((points**k).prod(-1), column, rtol=1e-9, atol=0)
        found.append(k if same else None)
    return found


def _agrees(model: Any, dictionary: Dictionary, coef: np.ndarray) -> None:
    """Raises ValueError where pysindy's own predictions are others than coefficients times terms."""
    states = len(coef)
    z = np.random.default_rng(1).normal(size=(20, dictionary.variables))
    theirs = np.asarray(model.predict(z[:, :states], u=z[:, states:] if model.n_control_features_ else None))
    theta = dictionary(z)
    if not np.allclose(theirs, theta @ coef.T, rtol=0, atol=1e-6 * (np.abs(theta) @ np.abs(coef).T).max()):
        raise ValueError(
            f"from_pysindy: predictions of this {type(model.optimizer).__name__} are not its coefficients times its terms: "
            "it has an intercept or columns that are still normalised. Fit with fit_intercept=False, normalize_columns=False."
        )
