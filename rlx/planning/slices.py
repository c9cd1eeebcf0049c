"""Plane sections of polytopes {z : A z <= b}: exact polygons, for pictures of regions. Float64 numpy."""

from __future__ import annotations

import numpy as np


def polygon(A: np.ndarray, b: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Corners [k, 2], counter-clockwise, of {p : A p <= b} in the box: the box is cut by one half-plane after the other
    (Sutherland and Hodgman 1974, "Reentrant polygon clipping"). [0, 2] where nothing is left."""
    corners = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]], np.float64)
    for row, bound in zip(A, b, strict=True):
        room = bound - corners @ row
        if (room < 0).any():
            corners = _cut(corners, room)
        if len(corners) < 3:
            return np.zeros((0, 2))
    return corners


def _cut(corners: np.ndarray, room: np.ndarray) -> np.ndarray:
    """The part of a convex polygon where ``room``, given at its corners and linear in between, is not negative."""
    kept = []
    for p, q, at_p, at_q in zip(corners, np.roll(corners, -1, 0), room, np.roll(room, -1), strict=True):
        if at_p >= 0:
            kept.append(p)
        if at_p * at_q < 0:
            kept.append(p + at_p / (at_p - at_q) * (q - p))
    return np.array(kept).reshape(-1, 2)


def area(corners: np.ndarray) -> float:
    """Of a polygon [k, 2]."""
    x, y = corners.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def sections(
    A: np.ndarray, b: np.ndarray, point: np.ndarray, axes: tuple[int, int], low: np.ndarray, high: np.ndarray
) -> list[tuple[int, np.ndarray]]:
    """Of polytopes ``A`` [p, q, n], ``b`` [p, q] (padded by inf): (index, polygon) of those that the plane through ``point``
    [n] along ``axes`` meets within ``low`` [2] to ``high`` [2]. Slivers below 1e-9 of that window are left out."""
    rest = np.ones(len(point), bool)
    rest[list(axes)] = False
    room = b - A[..., rest] @ point[rest]
    least = 1e-9 * float(np.prod(np.subtract(high, low)))
    found = [(i, polygon(A[i][:, list(axes)], room[i], low, high)) for i in range(len(A))]
    return [(i, corners) for i, corners in found if len(corners) and area(corners) > least]
