"""Polytopes {z : A z <= b} in few dimensions: their largest ball, their facets, their corners and how far these reach.

Float64 numpy; rows of ``A`` have unit norm.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.spatial import HalfspaceIntersection, QhullError

CORNERS = 6  # dimensions up to which corners are fewer than linear programs
FLAT = 1e-7  # a region whose largest ball is smaller has no inside


class Ball(NamedTuple):
    centre: np.ndarray  # [d]
    radius: float  # negative: the polytope is empty


def largest_ball(A: np.ndarray, b: np.ndarray) -> Ball:
    """The Chebyshev centre: the linear program max r, A z + r <= b.

    Raises:
        ValueError: there are balls of any size.
        RuntimeError: no solver of linear programs copes with the numbers.
    """
    d = A.shape[1]
    rows = np.concatenate([A, np.linalg.norm(A, axis=1, keepdims=True)], 1)
    for method in ("highs", "highs-ds", "highs-ipm"):  # the first now and then gives up where another does not
        found = linprog(np.append(np.zeros(d), -1.0), rows, b, bounds=[(None, None)] * (d + 1), method=method)
        if found.status == 0:
            return Ball(found.x[:d], float(found.x[d]))
        if found.status == 3:
            raise ValueError("a polytope here is unbounded: give finite bounds of all parameters.")
    raise RuntimeError(f"the largest ball within {len(A)} rows in {d} dimensions was not found: {found.message}")


def extent(A: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bounding box, by two linear programs per axis.

    Raises:
        ValueError: it is empty or unbounded.
    """
    d, ends = A.shape[1], []
    for direction in (*np.eye(d), *-np.eye(d)):
        found = linprog(direction, A, b, bounds=[(None, None)] * d, method="highs")
        if found.status == 2:
            raise ValueError("the set of parameters is empty: its bounds contradict each other.")
        if found.status != 0:
            raise ValueError("the set of parameters is unbounded: give finite bounds of all of them.")
        ends.append(found.fun)
    return np.array(ends[:d]), -np.array(ends[d:])


def distinct(A: np.ndarray, b: np.ndarray, tolerance: float = 1e-9) -> np.ndarray:
    """Indices of rows that differ from all before them; of parallel ones the tightest stays."""
    order = np.lexsort((b,))
    seen: dict[tuple, int] = {}
    for i in order:
        seen.setdefault(tuple(np.round(A[i] / tolerance / 10).astype(np.int64)), int(i))
    return np.array(sorted(seen.values()), int)


def facets(A: np.ndarray, b: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Indices of the rows that are not redundant: those that touch the polytope in a facet. ``inside`` lies in its inside.

    In few dimensions the polytope's corners come from Qhull, as facets of the dual's convex hull, and a row counts whose
    corners span a facet; in many, where there are too many corners, each row is tried by a linear program.
    """
    rows = distinct(A, b)
    A, b = A[rows], b[rows]
    d = A.shape[1]
    if d == 1:
        high, low = np.flatnonzero(A[:, 0] > 0), np.flatnonzero(A[:, 0] < 0)
        ends = [high[np.argmin(b[high] / A[high, 0])], low[np.argmax(b[low] / A[low, 0])]]
        return np.sort(rows[ends])
    found = corners(A, b, inside)
    if found is None:
        return rows[_facets_by_programs(A, b, inside)]
    on = np.abs(found @ A.T - b) < 1e-8 * np.maximum(1.0, np.abs(b))  # [corners, rows]
    keep = [i for i in np.flatnonzero(on.sum(0) >= d) if _spans(found[on[:, i]], d - 1)]
    return rows[keep]


def corners(A: np.ndarray, b: np.ndarray, inside: np.ndarray) -> np.ndarray | None:
    """The corners [c, d] of a bounded polytope, some perhaps twice, by Qhull; ``inside`` lies in its inside. None where Qhull
    gives up, and beyond `CORNERS` dimensions, where they are too many."""
    if A.shape[1] > CORNERS:
        return None
    if A.shape[1] == 1:
        a = A[:, 0]
        return np.array([[(b[a < 0] / a[a < 0]).max()], [(b[a > 0] / a[a > 0]).min()]])
    try:
        found = HalfspaceIntersection(np.concatenate([A, -b[:, None]], 1), inside).intersections
    except QhullError:
        return None
    return found[np.isfinite(found).all(1)]


def reach(A: np.ndarray, b: np.ndarray, inside: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """How far a bounded polytope reaches [k]: the largest of each of ``directions`` [k, d] times z. At its corners, or, where
    those are not known, by a linear program each; inf where no solver copes with it."""
    found = corners(A, b, inside)
    if found is not None and len(found):
        return (directions @ found.T).max(1)
    free = [(None, None)] * A.shape[1]
    solved = [linprog(-way, A, b, bounds=free, method="highs") for way in directions]
    return np.array([-one.fun if one.status == 0 else np.inf for one in solved])


def _spans(points: np.ndarray, dimension: int) -> bool:
    size = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return len(size) >= dimension and bool(size[dimension - 1] > FLAT)


def _facets_by_programs(A: np.ndarray, b: np.ndarray, inside: np.ndarray) -> list[int]:
    """The same by a linear program for each row: relaxed by 1, does it let more in? No need to ask where a ray from the inside
    leaves by this row and stays within all others for a while."""
    rays = np.concatenate([A, np.random.default_rng(0).standard_normal((1024, A.shape[1]))])
    speed = rays @ A.T
    met = np.where(speed > 1e-12, (b - A @ inside) / np.maximum(speed, 1e-12), np.inf)
    first = met.argmin(1)
    two = np.sort(met, 1)[:, :2]
    beyond = (two[:, 1] - two[:, 0]) * speed[np.arange(len(rays)), first]
    sure = set(first[beyond > 10 * FLAT].tolist())
    keep = list(range(len(A)))
    for i in sorted(set(keep) - sure):
        relaxed = b[keep].copy()
        relaxed[keep.index(i)] += 1
        found = linprog(-A[i], A[keep], relaxed, bounds=[(None, None)] * A.shape[1], method="highs")
        if found.status == 0 and -found.fun <= b[i] + FLAT:
            keep.remove(i)
    return keep
