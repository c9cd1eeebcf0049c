"""Columns that lie in several files, mapped: read where they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Mapped:
    """Arrays [n_i, ...] of one dtype, one after another along time, as one array [N, ...] to be indexed.

    Takes a slice, an index, integer arrays or a mask along time, as samplers do; with `as_stream` also ``[t, w]``, where ``w``
    is the one stream. What is asked for is copied out; the system keeps the pages that are used.
    """

    def __init__(self, parts: Sequence[np.ndarray], stream: bool = False):
        self.parts, self.stream = list(parts), stream
        self.ends = np.cumsum([0, *(len(p) for p in parts)])
        self.dtype = parts[0].dtype
        inner = parts[0].shape[1:]
        self.shape = (int(self.ends[-1]), *((1,) if stream else ()), *inner)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def as_stream(self) -> Mapped:
        """The same as [N, 1, ...]."""
        return Mapped(self.parts, stream=True)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, tuple):
            t, w, *rest = index
            if not self.stream or rest or np.any(np.asarray(w)):
                raise IndexError(f"a mapped column {list(self.shape)} is indexed by time, and stream 0, alone.")
            return self._take(np.maximum(np.asarray(t), 0))  # -1: nothing was drawn, any row does
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            out = self._slice(start, stop) if step == 1 else self._take(np.arange(start, stop, step))
        else:
            out = self._take(np.asarray(index))
        return np.expand_dims(out, np.ndim(index) if not isinstance(index, slice) else 1) if self.stream else out

    def _slice(self, start: int, stop: int) -> np.ndarray:
        first, last = (int(np.searchsorted(self.ends, x, "right")) - 1 for x in (start, max(start, stop - 1)))
        first, last = min(first, len(self.parts) - 1), min(last, len(self.parts) - 1)
        pieces = [self.parts[i][max(0, start - self.ends[i]) : max(0, stop - self.ends[i])] for i in range(first, last + 1)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _take(self, t: np.ndarray) -> np.ndarray:
        if t.dtype == bool:
            if t.shape != (len(self),):
                raise IndexError(f"a mask of {list(t.shape)} does not go with {len(self)} rows.")
            t = np.flatnonzero(t)
        t = np.where(t < 0, t + len(self), t)
        if t.size and not (t.min() >= 0 and t.max() < len(self)):
            raise IndexError(f"there are {len(self)} rows.")
        if t.ndim == 0:
            i = int(np.searchsorted(self.ends, int(t), "right")) - 1
            return self.parts[i][int(t) - self.ends[i]]
        which = np.searchsorted(self.ends, t, "right") - 1
        out = np.empty((*t.shape, *self.parts[0].shape[1:]), self.dtype)
        for i in np.unique(which):
            there = which == i
            out[there] = self.parts[i][t[there] - self.ends[i]]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)
