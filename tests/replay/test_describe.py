"""`rlx.replay.describe`: numbers by hand, of empty columns, and of images without a copy of them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from rlx import replay
from rlx.replay.dataset import Dataset, from_rows


def of(**obs):
    """One episode of these observations."""
    n = len(next(iter(obs.values())))
    ends = np.arange(n) == n - 1
    row, offsets = from_rows(obs, np.zeros((n, 1), "f4"), np.zeros(n), ends, np.array([0, n]), finite=True)
    return replay.describe(Dataset(row, offsets))


def column(found, name):
    return next(c for c in found.columns if c.name == name)


def test_an_empty_column_is_said_and_has_no_range():
    found = of(buttons=np.zeros((4, 0), "f4"), x=np.float32([[1], [2], [3], [6]]))
    assert str(column(found, "obs/buttons")) == "float32[0], empty" and np.isnan(column(found, "obs/buttons").mean)
    assert str(column(found, "obs/x")) == "float32[1], 1 to 6, mean 3"
    assert "empty" in str(found) and not any("buttons" in line for line in found.odd)


def test_images_are_not_widened():
    images = np.full((64, 64, 64, 3), 7, np.uint8)  # 768 KiB
    images[1, 0, 0, 0], images[2, 0, 0, 0] = 255, 0
    tracemalloc.start()
    found = of(pixels=images)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    seen = column(found, "obs/pixels")
    assert (seen.low, seen.high) == (0, 255) and seen.mean == pytest.approx(7 + (248 - 7) / images.size)
    assert most < 2 * images.nbytes
