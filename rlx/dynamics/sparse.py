"""Ensembles of sparse models: f(z) = Xi theta(z), linear in the terms of a dictionary (Fasel et al. 2022, "Ensemble-SINDy",
arXiv:2111.10992; Zolman et al. 2024, "SINDy-RL", arXiv:2403.09110, section 2).

::

    library = affine(states=5, inputs=1, degree=2)
    model = fit(library, inputs, targets, alpha=5e-5, threshold=7e-3, rng=rng)     # float64, on the host
    model(z)                                                                        # the aggregate, in any compiled code
    print(equations(model, names=("p", "c", "s", "v", "w", "u")))
    save(model, "model.npz")                                                        # or "model.json"

One member is fitted to one bag of the rows (drawn with replacement) and may not use one of the terms, chosen at random, where
there are enough of them. The coefficients are arrays of a pytree: a refit recompiles nothing, `jax.vmap` runs over members.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np

from rlx.dynamics import stlsq
from rlx.dynamics.dictionary import Dictionary, affine, poly
from rlx.dynamics.equations import equations
from rlx.dynamics.pysindy import from_pysindy, to_pysindy
from rlx.dynamics.sparse_files import from_json, load, save, to_json
from rlx.dynamics.sparse_model import Aggregate, SparseModel, aggregated

__all__ = [
    "Dictionary",
    "SparseModel",
    "affine",
    "aggregated",
    "equations",
    "fit",
    "from_json",
    "from_pysindy",
    "load",
    "poly",
    "save",
    "to_json",
    "to_pysindy",
]


Backend = Literal["rlx", "pysindy"]
FEW = 16  # terms below which nothing is dropped by default: every term would be missing in too many members
WORSE, NOTABLE = 2.0, 0.1  # times the full regression's error, standard deviations of a target: beyond both a fit is warned of


def fit(
    library: Dictionary,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    alpha: float,
    threshold: float,
    rng: np.random.Generator,
    ensemble_size: int = 20,
    bag: float = 0.6,
    drop: int | None = None,
    iterations: int = stlsq.ITERATIONS,
    unbias: bool = False,
    aggregate: Aggregate = "median",
    backend: Backend = "rlx",
    names: Sequence[str] | None = None,
    groups: np.ndarray | None = None,
) -> SparseModel:
    """The ensemble for rows ``inputs`` [N, v] and ``targets`` [N, q]: each member from ``bag`` x N rows drawn with replacement,
    without ``drop`` terms. ``alpha``: ridge; ``threshold``: least coefficient, in the units of the data. With
    ``ensemble_size=1``, ``bag=0`` and ``drop=0`` it is one plain fit on all rows. ``names`` of the targets are for messages.

    ``drop=None`` is `drops` of the dictionary: 1, or 0 where it has less than `FEW` terms. ``groups`` [N], integers: rows of
    one number, such as those of one trajectory, are drawn together (``bag`` is then a share of the groups), since neighbours in
    time tell less than their number says.

    Warns where the aggregate's error is far larger than that of a regression on all terms: then the threshold, or the
    dropping, removed terms that count.

    Raises:
        ValueError: rows that are of unequal number or not finite, or without a ridge fewer than terms; settings out of range;
            a threshold above all coefficients of a target that is not constant 0.
    """
    inputs, targets = np.asarray(inputs, np.float64), np.asarray(targets, np.float64)
    drop = drops(library) if drop is None else drop
    _check(library, inputs, targets, groups)
    _check_settings(len(library), alpha, threshold, ensemble_size, bag, drop, iterations, backend)
    theta = library(inputs)
    weights = _weights(rng, len(inputs), groups, bag, ensemble_size)
    if not alpha:
        _enough(int(weights.sum(1).min()), len(library))
    mask = stlsq.dropped(rng, len(library), drop, ensemble_size)
    gram, moment = stlsq.moments(theta, targets, np.concatenate([weights, np.ones((1, len(theta)))]), library.products)
    full = stlsq.solve(gram[-1], moment[-1], np.ones(len(library)), alpha)  # of all rows and terms
    gram, moment = gram[:-1], moment[:-1]
    if backend == "pysindy":
        found = _pysindy(theta, targets, weights, mask, alpha, threshold, iterations, unbias)
    else:
        found = stlsq.stlsq(gram[:, None], moment, alpha, threshold, mask[:, None], iterations, unbias)
    coef = aggregated(found, aggregate)
    called = list(names) if names else [f"target {k}" for k in range(len(coef))]
    for k in np.flatnonzero(~coef.any(1) & targets.any(0)).tolist():
        largest = np.abs(stlsq.solve(gram, moment[:, k], mask, max(alpha, 1e-12))).max()
        raise _no_term(called[k], largest, threshold)
    _compare(theta, targets, coef, full, called, threshold)
    return SparseModel(jnp.asarray(found, jnp.float32), jnp.asarray(coef, jnp.float32), library)


def _no_term(name: str, largest: float, threshold: float) -> ValueError:
    return ValueError(
        f"threshold={threshold:g} leaves no term for {name}, whose coefficients reach {largest:.3g}: give less, other "
        "units, or another dictionary."
    )


def drops(library: Dictionary) -> int:
    """Terms that a member may not use, unless told otherwise."""
    return int(len(library) >= FEW)


def _weights(rng: np.random.Generator, rows: int, groups: np.ndarray | None, bag: float, ensemble_size: int) -> np.ndarray:
    """How often each row counts for each member [E, N]."""
    if not bag:
        return np.ones((ensemble_size, rows))
    which = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(which.max()) + 1
    drawn = stlsq.bags(rng, count, max(1, int(bag * count)), ensemble_size)
    return drawn if groups is None else drawn[:, which]


def _compare(
    theta: np.ndarray, targets: np.ndarray, coef: np.ndarray, full: np.ndarray, names: Sequence[str], threshold: float
) -> None:
    """Warns of targets that a model ``coef`` [q, d] fits far worse than the regression ``full`` [q, d] on all terms."""
    rms = lambda w: np.sqrt(((theta @ w.T - targets) ** 2).mean(0)) / np.maximum(targets.std(0), 1e-12)
    sparse, whole = rms(coef), rms(full)
    bad = np.flatnonzero((sparse > WORSE * whole) & (sparse > NOTABLE)).tolist()
    if bad:
        errors = "; ".join(f"{names[k]} {sparse[k]:.2g} against {whole[k]:.2g}" for k in bad)
        warnings.warn(
            f"the sparse fit is far worse than the one on all terms (errors in standard deviations of the target: {errors}): "
            f"threshold={threshold:g} or the dropping of terms removes some that count. Give a smaller threshold, drop=0, or "
            "another dictionary.",
            stacklevel=3,
        )


def _enough(rows: int, terms: int) -> None:
    if rows < terms:
        raise ValueError(
            f"{rows} rows for each member are too few for {terms} terms without a ridge: give alpha > 0, more rows, a "
            "larger bag, or a smaller dictionary."
        )


def _check(library: Dictionary, inputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None) -> None:
    if inputs.ndim != 2 or targets.ndim != 2 or len(inputs) != len(targets) or inputs.shape[1] != library.variables:
        raise ValueError(
            f"fit takes inputs [N, {library.variables}] and targets [N, q]; got {list(inputs.shape)} and {list(targets.shape)}."
        )
    if not len(inputs):
        raise ValueError("fit needs at least one row; there are none.")
    if groups is not None and (np.shape(groups) != (len(inputs),) or not np.issubdtype(np.asarray(groups).dtype, np.integer)):
        raise ValueError(
            f"groups must be integers [{len(inputs)}], one per row; got {np.asarray(groups).dtype}{list(np.shape(groups))}."
        )
    for name, x in (("inputs", inputs), ("targets", targets)):
        if not np.isfinite(x).all():
            row = int(np.argwhere(~np.isfinite(x))[0, 0])
            raise ValueError(f"{name} have {int((~np.isfinite(x)).sum())} numbers that are not finite, the first in row {row}.")


def _check_settings(
    terms: int, alpha: float, threshold: float, ensemble_size: int, bag: float, drop: int, iterations: int, backend: str
) -> None:
    finite = math.isfinite(alpha) and math.isfinite(threshold)
    if (
        not finite
        or min(alpha, threshold) < 0
        or min(ensemble_size, iterations) < 1
        or not 0 <= bag <= 1
        or not 0 <= drop < terms
    ):
        raise ValueError(
            f"fit needs finite alpha >= 0 and threshold >= 0, ensemble_size >= 1, iterations >= 1, bag within [0, 1], drop "
            f"below {terms}; got alpha={alpha}, threshold={threshold}, ensemble_size={ensemble_size}, iterations={iterations}, "
            f"bag={bag}, drop={drop}."
        )
    if backend not in get_args(Backend):
        raise ValueError(f"backend={backend!r} is unknown; give 'rlx' or 'pysindy'.")


def _pysindy(
    theta: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    mask: np.ndarray,
    alpha: float,
    threshold: float,
    iterations: int,
    unbias: bool,
) -> np.ndarray:
    """The same fits by pysindy's STLSQ: coefficients [E, q, d]."""
    from pysindy.optimizers import STLSQ

    found = np.zeros((len(weights), targets.shape[1], theta.shape[1]))
    for e, (weight, use) in enumerate(zip(weights, mask, strict=True)):
        rows = np.repeat(np.arange(len(theta)), weight.astype(int))
        optimizer = STLSQ(threshold=threshold, alpha=alpha, max_iter=iterations, unbias=unbias)
        optimizer.fit(theta[rows][:, use], targets[rows])
        found[e][:, use] = optimizer.coef_
    return found
