"""Data that are larger than memory, read in pieces of whole episodes."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rlx.replay import columns
from rlx.replay.dataset import Dataset, renamed, scaled, spans, wider
from rlx.replay.datasets import native
from rlx.replay.datasets.found import Found, Piece, Reading, look
from rlx.replay.datasets.loading import Source, layout_of, load_one, parts, paths
from rlx.replay.datasets.placing import nbytes

TIMES = 3  # what reading a file as a whole takes in memory, of what its arrays take


class Pieces:
    """What `load` joins, one piece after another: a file, or some whole episodes of one that is too large for ``free`` bytes of
    memory and of a layout that can be read so. Iterated over it gives datasets, with the same episodes in the same order;
    `len` says how many there are at most.

    Raises:
        ValueError: as `load`, some of it while pieces are read; a file that is larger than ``free`` and is read as a whole.
    """

    def __init__(self, source: Source, reading: Reading, free: int | None = None):
        self.reading, self.notes, given = reading, list[str](), paths(source)
        found = [one for path in given for one in parts(look(path), reading.format, self.notes, given)]
        self.pieces = [piece for one in found for piece in _pieces(one, reading, free)]
        self.spans = None
        if columns.of_data(reading.bounds):  # of all that is read, so it is read twice
            self.spans = functools.reduce(wider, map(spans, self))

    def __len__(self) -> int:
        return len(self.pieces)

    def __iter__(self) -> Iterator[Dataset]:
        for _, _, data in self._each():
            yield data
            del data  # before the next one is read

    @property
    def lengths(self) -> np.ndarray:
        """As of `Dataset`, int64 [episodes]."""
        return np.concatenate([one.lengths for one in self._held])

    @property
    def returns(self) -> np.ndarray:
        """As of `Dataset`, float64 [episodes]."""
        return np.concatenate([one.returns for one in self._held])

    def select(self, chosen: Iterable[int]) -> Iterator[Dataset]:
        """These episodes, in this order, each by itself."""
        first = np.cumsum([0, *(len(one.lengths) for one in self._held)])
        at, data = -1, None
        for i in chosen:
            which = int(np.searchsorted(first, i, "right")) - 1
            if data is None or which != at:
                at, data = which, None  # or it would be there beside the next one
                data = self._read(self._held[at].piece, self._held[at].most)
            yield data.select([i - first[at]])

    @functools.cached_property
    def _held(self) -> list[_Held]:
        return [_Held(i, most, data.lengths, data.returns) for i, most, data in self._each()]

    def _each(self) -> Iterator[tuple[int, int | None, Dataset]]:
        """Pieces in which there are episodes: which one, how many it was to give at most, and those."""
        left, empty, some = self.reading.episodes, None, False
        for i in range(len(self.pieces)):
            if left == 0:
                return
            try:
                data = self._read(i, left)
            except columns.Empty as error:
                empty = error
                if self.reading.split is None:  # else it is of other episodes
                    self.notes += {f"a part is left out: {error}"}.difference(self.notes)
                continue
            most, left, some = left, None if left is None else left - len(data), True
            yield i, most, data
            del data
        if empty is not None and not some:
            raise empty

    def _read(self, i: int, most: int | None) -> Dataset:
        data = self.pieces[i](most)
        return data if self.spans is None else scaled(data, self.spans)


class _Held(NamedTuple):
    """What is known of a piece that was read: which one, how many episodes it was to give at most, and these."""

    piece: int
    most: int | None
    lengths: np.ndarray
    returns: np.ndarray


def _pieces(found: Found, reading: Reading, free: int | None) -> list[Piece]:
    layout, needs = layout_of(found, reading.format), nbytes(found.path)
    whole = lambda most: load_one(found, replace(reading, episodes=most))
    if layout is None or (found.kind in ("pickle", "torch") and not reading.trust_arrays):
        return [whole]  # which says what it is
    fits = free is None or TIMES * needs <= free
    if layout.pieces is not None and (layout is native.FOLDER or not fits):
        with columns.of(found.path):
            some = layout.pieces(found, reading)
        if some is not None:
            return [_of(found, piece, reading) for piece in some]
    if free is not None and needs > free and reading.episodes is None:
        why = "the columns of an .npz may be compressed" if found.kind == "npz" else "of its layout no part can be read alone"
        raise ValueError(
            f"{found.path} is read as a whole, as {why}. It takes {needs / 2**30:.3g} GiB in memory, where {free / 2**30:.3g} "
            "are free: take a part of it by episodes=N, or save its columns as HDF5, of which rows can be read alone."
        )
    return [whole]


def _of(found: Found, piece: Piece, reading: Reading) -> Piece:
    def read(most: int | None) -> Dataset:
        with columns.of(found.path):
            return renamed(piece(most), reading.renaming)

    return read
