"""Ensembles of sparse models: f(z) = Xi theta(z), linear in the terms of a dictionary (Fasel et al. 2022, "Ensemble-SINDy",
arXiv:2111.10992; Zolman et al. 2024, "SINDy-RL", arXiv:2403.09110, section 2).

::

    library = affine(states=5, inputs=1, degree=2)
    model = fit(library, inputs, targets, alpha=5e-5, threshold=7e-3, rng=rng)     # float64, on the host
    model(z)                                                                        # the aggregate, in any compiled code
    print(equations(model, names=("p", "c", "s", "v", "w", "u")))
    save(model, "model.npz")

One member is fitted to one bag of the rows (drawn with replacement) and may not use one of the terms, chosen at random. The
coefficients are arrays of a pytree: a refit recompiles nothing, `jax.vmap` runs over members.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from rlx.dynamics import stlsq
from rlx.dynamics.dictionary import Dictionary, affine, poly
from rlx.dynamics.equations import equations
from rlx.dynamics.pysindy import from_pysindy, to_pysindy
from rlx.dynamics.sparse_model import Aggregate, SparseModel, aggregated, load, save

__all__ = [
    "Dictionary",
    "SparseModel",
    "affine",
    "aggregated",
    "equations",
    "fit",
    "from_pysindy",
    "load",
    "poly",
    "save",
    "to_pysindy",
]


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
    drop: int = 1,
    iterations: int = stlsq.ITERATIONS,
    unbias: bool = False,
    aggregate: Aggregate = "median",
    backend: Literal["rlx", "pysindy"] = "rlx",
    names: Sequence[str] | None = None,
) -> SparseModel:
    """The ensemble for rows ``inputs`` [N, v] and ``targets`` [N, q]: each member from ``bag`` x N rows drawn with replacement,
    without ``drop`` terms. ``alpha``: ridge; ``threshold``: least coefficient, in the units of the data. With
    ``ensemble_size=1``, ``bag=0`` and ``drop=0`` it is one plain fit on all rows. ``names`` of the targets are for messages.

    Raises:
        ValueError: rows that are too few, of unequal number or not finite, settings out of range, or a threshold above all
            coefficients of a target that is not constant 0.
    """
    inputs, targets = np.asarray(inputs, np.float64), np.asarray(targets, np.float64)
    _check(library, inputs, targets, alpha, threshold, ensemble_size=ensemble_size, bag=bag, drop=drop)
    theta = library(inputs)
    count = len(inputs)
    weights = stlsq.bags(rng, count, max(1, int(bag * count)), ensemble_size) if bag else np.ones((ensemble_size, count))
    mask = stlsq.dropped(rng, len(library), drop, ensemble_size)
    gram, moment = stlsq.moments(theta, targets, weights, library.products)
    if backend == "pysindy":
        found = _pysindy(theta, targets, weights, mask, alpha, threshold, iterations, unbias)
    else:
        found = stlsq.stlsq(gram[:, None], moment, alpha, threshold, mask[:, None], iterations, unbias)
    coef = aggregated(found, aggregate)
    for k in np.flatnonzero(~coef.any(1) & targets.any(0)):
        largest = np.abs(stlsq.solve(gram, moment[:, k], mask, max(alpha, 1e-12))).max()
        name = list(names)[k] if names else f"target {k}"
        raise ValueError(
            f"threshold={threshold:g} leaves no term for {name}, whose coefficients reach "
            f"{largest:.3g}: give less, other units, or another dictionary."
        )
    return SparseModel(jnp.asarray(found, jnp.float32), jnp.asarray(coef, jnp.float32), library)


def _check(library: Dictionary, inputs: np.ndarray, targets: np.ndarray, alpha: float, threshold: float, **how: Any) -> None:
    d, ensemble_size, bag, drop = len(library), how["ensemble_size"], how["bag"], how["drop"]
    if inputs.ndim != 2 or targets.ndim != 2 or len(inputs) != len(targets) or inputs.shape[1] != library.variables:
        raise ValueError(
            f"fit takes inputs [N, {library.variables}] and targets [N, q]; got {list(inputs.shape)} and {list(targets.shape)}."
        )
    if len(inputs) < d:
        raise ValueError(f"{len(inputs)} rows are too few for {d} terms: give at least {d}, or a smaller dictionary.")
    for name, x in (("inputs", inputs), ("targets", targets)):
        if not np.isfinite(x).all():
            row = int(np.argwhere(~np.isfinite(x))[0, 0])
            raise ValueError(f"{name} have {int((~np.isfinite(x)).sum())} numbers that are not finite, the first in row {row}.")
    if alpha < 0 or threshold < 0 or ensemble_size < 1 or not 0 <= bag <= 1 or not 0 <= drop < d:
        raise ValueError(
            f"fit needs alpha >= 0, threshold >= 0, ensemble_size >= 1, bag within [0, 1], drop below {d}; got alpha={alpha}, "
            f"threshold={threshold}, ensemble_size={ensemble_size}, bag={bag}, drop={drop}."
        )


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
