"""Fewer regions: neighbours with the same first move become one, where together they are convex.

Two polytopes that a hyperplane parts, with a facet of each on it, are convex together exactly if every other facet of either
one holds for the other (Bemporad, Fukuda and Torrisi 2001, "Convexity recognition of the union of polyhedra", Computational
Geometry 18): the union is then what these other facets leave. Pairs are joined one after the other until none is left, which
need not give the fewest regions.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass

import numpy as np

from rlx.planning.mpqp import Regions
from rlx.planning.polytopes import FLAT, facets, largest_ball, reach
from rlx.planning.search import hyperplanes

ALIKE = 1e-7  # laws are the same that differ by less, in parts of the largest one


@dataclass(frozen=True)
class _Piece:
    """A region, or several in one, in z / scale."""

    A: np.ndarray  # [q, nz]
    b: np.ndarray  # [q]
    planes: np.ndarray  # int [q]: which hyperplane, from 1 on, negative on its other side
    centre: np.ndarray  # [nz]
    parts: tuple[int, ...]  # ascending


def merged(regions: Regions, m: int) -> Regions:
    """``regions`` with fewer of them, and the same first ``m`` rows of K and r, which alone are left.

    A new region stands where the first of its parts stood, and its active rows are those that all parts have active. Inside the
    law is the same. Outside it may differ: the nearest region is another one.
    """
    planes = hyperplanes(regions)[2]
    pieces = []
    for i, (A, b) in enumerate(zip(regions.A, regions.b, strict=True)):
        on = np.isfinite(b)
        pieces.append(_Piece(A[on] * regions.scale, b[on], planes[i, on], regions.centre[i] / regions.scale, (i,)))
    laws = np.concatenate([regions.K[:, :m] * regions.scale, regions.r[:, :m, None]], -1).reshape(len(pieces), -1)
    law = np.unique(np.round(laws / (np.abs(laws).max() or 1.0) / ALIKE), axis=0, return_inverse=True)[1].reshape(-1)
    joined = [piece for k in range(law.max() + 1) for piece in _joined([pieces[i] for i in np.flatnonzero(law == k)])]
    joined.sort(key=lambda piece: piece.parts)
    return _regions(joined, regions, m)


def _joined(pieces: list[_Piece]) -> list[_Piece]:
    """Pieces of one law, joined as long as any two of them can be."""
    alive: dict[int, _Piece] = {}
    beside: dict[int, set[int]] = defaultdict(set)  # by hyperplane: who lies on that side of it
    todo = deque(pieces)
    count = 0
    while todo:
        piece = todo.popleft()
        for other in sorted({j for plane in piece.planes for j in beside[-plane]}):
            whole = _union(piece, alive[other])
            if whole is not None:
                for plane in alive.pop(other).planes:
                    beside[plane].remove(other)
                todo.appendleft(whole)
                break
        else:
            alive[count] = piece
            for plane in piece.planes:
                beside[plane].add(count)
            count += 1
    return list(alive.values())


def _union(one: _Piece, two: _Piece) -> _Piece | None:
    """Both in one, None where that is not convex."""
    between = np.isin(one.planes, -two.planes), np.isin(two.planes, -one.planes)
    if between[0].sum() != 1 or between[1].sum() != 1:
        return None
    rest = [(p.A[~on], p.b[~on], p.planes[~on]) for p, on in zip((one, two), between, strict=True)]
    for (A, b, _), other in zip(rest, (two, one), strict=True):
        if (A @ other.centre > b).any() or (reach(other.A, other.b, other.centre, A) > b + FLAT).any():
            return None
    A, b, planes = (np.concatenate(x) for x in zip(*rest, strict=True))
    centre = largest_ball(A, b).centre
    kept = facets(A, b, centre)
    return _Piece(A[kept], b[kept], planes[kept], centre, tuple(sorted(one.parts + two.parts)))


def _regions(pieces: list[_Piece], old: Regions, m: int) -> Regions:
    first = [piece.parts[0] for piece in pieces]
    q = max(len(piece.b) for piece in pieces)
    A, b = np.zeros((len(pieces), q, len(old.scale))), np.full((len(pieces), q), np.inf)
    for i, piece in enumerate(pieces):
        A[i, : len(piece.b)], b[i, : len(piece.b)] = piece.A / old.scale, piece.b
    active = np.array([old.active[list(piece.parts)].all(0) for piece in pieces])
    centre = np.array([piece.centre for piece in pieces]) * old.scale
    return Regions(old.K[first, :m], old.r[first, :m], A, b, active, centre, old.scale)
