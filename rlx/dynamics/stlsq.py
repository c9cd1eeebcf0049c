"""Sequentially thresholded least squares (Brunton, Proctor and Kutz 2016, "Discovering governing equations from data by sparse
identification of nonlinear dynamical systems", PNAS 113), for many bags, targets and settings at once.

In float64 numpy: dictionaries of states on a circle have exactly dependent columns, which only the ridge and the threshold
tell apart, and whose normal equations are lost in float32.
"""

from __future__ import annotations

import numpy as np

ITERATIONS = 20
BLOCK = 256  # rows


def solve(gram: np.ndarray, moment: np.ndarray, mask: np.ndarray, ridge: np.ndarray | float) -> np.ndarray:
    """The ridge regressions restricted to ``mask``: w [..., d], 0 off the mask.

    ``gram`` [..., d, d] is Theta' Theta, ``moment`` [..., d] is Theta' y, ``ridge`` [...] is at least 0. Leading axes
    broadcast. Without a ridge a singular one gives its shortest solution.
    """
    m = mask.astype(np.float64)
    ridge = np.asarray(ridge, np.float64)[..., None]
    left = gram * m[..., :, None] * m[..., None, :]
    shape = np.broadcast_shapes(left.shape[:-2], moment.shape[:-1], ridge.shape[:-1])
    diagonal = np.broadcast_to(ridge * m, (*shape, m.shape[-1]))
    left = np.broadcast_to(left, (*shape, *left.shape[-2:])).copy()
    right = np.broadcast_to(moment * m, diagonal.shape)
    index = np.arange(m.shape[-1])
    if np.all(ridge > 0):
        left[..., index, index] += diagonal + (1 - m)
        return np.linalg.solve(left, right[..., None])[..., 0] * m
    left[..., index, index] += diagonal
    return (np.linalg.pinv(left, rcond=1e-14, hermitian=True) @ right[..., None])[..., 0] * m


def stlsq(
    gram: np.ndarray,
    moment: np.ndarray,
    alpha: np.ndarray | float,
    threshold: np.ndarray | float,
    mask: np.ndarray | bool = True,
    iterations: int = ITERATIONS,
    unbias: bool = False,
) -> np.ndarray:
    """Solve, drop what is below ``threshold`` [...], solve again on the rest, until nothing more falls: w [..., d].

    As pysindy's: what equals the threshold stays; where ``iterations`` run out before that, the last solution is cut once more
    and not solved again; an empty support gives zeros. ``unbias`` solves once more on the final support without the ridge.
    """
    threshold = np.asarray(threshold, np.float64)[..., None]
    shape = np.broadcast_shapes(gram.shape[:-1], moment.shape, threshold.shape, np.shape(alpha) + (1,), np.shape(mask))
    mask = np.broadcast_to(mask, shape).copy()
    w = np.zeros(shape)
    alpha = np.broadcast_to(alpha, shape[:-1])
    gram, moment = np.broadcast_to(gram, (*shape, shape[-1])), np.broadcast_to(moment, shape)
    going = np.ones(shape[:-1], bool)  # those whose support still shrinks
    for _ in range(iterations):
        found = solve(gram[going], moment[going], mask[going], alpha[going])
        kept = mask[going] & (np.abs(found) >= np.broadcast_to(threshold, shape)[going])
        w[going] = found * kept
        moved = (kept != mask[going]).any(-1)
        mask[going] = kept
        going[going] = moved
        if not going.any():
            break
    return solve(gram, moment, mask, 0.0) if unbias else w


def bags(rng: np.random.Generator, rows: int, size: int, ensemble_size: int) -> np.ndarray:
    """How often each of ``rows`` is in each bag, int [E, rows]: ``size`` draws with replacement each."""
    drawn = rng.integers(rows, size=(ensemble_size, size))
    return np.stack([np.bincount(row, minlength=rows) for row in drawn])


def dropped(rng: np.random.Generator, terms: int, count: int, ensemble_size: int) -> np.ndarray:
    """Which terms each member may use, bool [E, terms]: all but ``count`` at random."""
    mask = np.ones((ensemble_size, terms), bool)
    for row in mask:
        row[rng.choice(terms, count, replace=False)] = False
    return mask


def moments(
    theta: np.ndarray, targets: np.ndarray, weights: np.ndarray, products: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Theta' W Theta [E, d, d] and Theta' W Y [E, q, d] for theta [N, d], targets [N, q], weights [E, N]: all that a fit needs
    of the rows. Drawing a row twice is the weight 2. ``products`` [d, d] has equal numbers where products of two columns are
    equal, as `Dictionary.products`; without it only those are known to be that are the same two columns in another order.
    """
    columns, weights = np.ascontiguousarray(np.concatenate([theta, targets], 1).T), weights.astype(np.float64)
    d, q = theta.shape[1], targets.shape[1]
    if products is None:
        index = np.arange(d)
        products = np.minimum.outer(index, index) * d + np.maximum.outer(index, index)
    _, first, which = np.unique(products, return_index=True, return_inverse=True)
    i, j = np.divmod(first, d)
    k, term = (x.ravel() for x in np.indices((q, d)))
    left, right = np.r_[i, d + k], np.r_[j, term]  # products of two columns, each of which is needed once
    sums = np.zeros((len(weights), len(left)))
    for begin in range(0, len(theta), BLOCK):  # so that the products stay in the processor's cache
        x = columns[:, begin : begin + BLOCK]
        sums += weights[:, begin : begin + BLOCK] @ (x[left] * x[right]).T
    return sums[:, which.reshape(d, d)], sums[:, len(i) :].reshape(-1, q, d)
