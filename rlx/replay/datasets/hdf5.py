"""HDF5 from outside: what a file holds, and its columns, held to the same as other arrays (`rlx.replay.columns`)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlx import files
from rlx.replay import columns
from rlx.replay.columns import KINDS, Header


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[h5py.File]:
    """The file, to be read. What h5py says of damage inside the block becomes a ValueError that names the file.

    Raises:
        ValueError: it cannot be read, or only a part of it is there.
    """
    try:
        with columns.of(path), h5py.File(Path(path), "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        message = str(error)
        what = "only a part of it is there" if "truncated" in message else files.words(error).rstrip(".")
        raise ValueError(f"{path} is HDF5 that cannot be read: {what}. Get the file anew.") from error


def names(group: h5py.Group) -> list[str]:
    """What stands in it. Links are left out: a dataset is one file, and says where its arrays are."""
    return [name for name in group if isinstance(group.get(name, getlink=True), h5py.HardLink)]


def outline(group: h5py.Group) -> dict[str, Header]:
    """What its arrays are, by path, without links. A group that stands in several places is listed at the first.

    Raises:
        ValueError: groups within groups without end.
    """
    found: dict[str, Header] = {}
    seen: set[int] = set()

    def walk(outer: h5py.Group, prefix: str, depth: int) -> None:
        if depth > 16:
            raise ValueError(f"{group.file.filename} has groups within groups without end, at {prefix}.")
        for name in names(outer):
            inner = outer[name]
            if isinstance(inner, h5py.Dataset) and inner.shape is not None:
                found[prefix + name] = Header(inner.shape, _dtype(inner))
            elif isinstance(inner, h5py.Group) and (address := h5py.h5o.get_info(inner.id).addr) not in seen:
                seen.add(address)
                walk(inner, f"{prefix}{name}/", depth + 1)

    walk(group, "", 0)
    return found


def _dtype(found: h5py.Dataset) -> np.dtype:
    try:
        dtype: np.dtype = found.dtype
    except TypeError:  # HDF5 has kinds that numpy has not, such as times
        dtype = np.dtype("V1")
    return dtype


def _place(within: h5py.Group, name: str) -> str:
    """The file, and the whole path in it."""
    return f"{within.file.filename}: {within.name}/{name}".replace(": //", ": ").replace(": /", ": ")


def at(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """What stands at the path ``name``, None where nothing does.

    Raises:
        ValueError: a link leads there.
    """
    found: Any = group
    for part in name.split("/"):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is not None and not isinstance(link, h5py.HardLink):
            where = f" in {link.filename}" if isinstance(link, h5py.ExternalLink) else ""
            raise ValueError(f"{_place(group, name)} is a link to {link.path}{where}, which is not followed: copy it.")
        found = None if link is None else found[part]
    return found


def group(within: h5py.Group, name: str) -> h5py.Group:
    """The group at ``name``. Raises ValueError where there is none, or a link leads there."""
    found = at(within, name)
    if not isinstance(found, h5py.Group):
        raise ValueError(f"{_place(within, name)} is no group; there are {', '.join(names(within)) or 'none'}.")
    return found


def column(within: h5py.Group, name: str, rows: slice | None = None) -> np.ndarray:
    """The array [N, ...] at ``name``, or some ``rows`` of it.

    Raises:
        ValueError: there is none, it is in another file, it holds no numbers, or claims more than the file can hold.
    """
    return _array(at(within, name), within, name, () if rows is None else rows)


@dataclass(frozen=True)
class Stored:
    """A column [N, ...] of a file, of which rows are read when they are asked for, as numbers that rlx takes."""

    path: Path
    name: str
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        with opened(self.path) as file:
            return columns.numbers(column(file, self.name, rows), self.name)


def _array(found: h5py.Group | h5py.Dataset | None, within: h5py.Group, name: str, part: Any = ()) -> np.ndarray:
    dtype = _dtype(found) if isinstance(found, h5py.Dataset) else np.dtype("f4")
    if dtype.kind in "OVSU":
        what = "text" if h5py.check_string_dtype(dtype) else KINDS.get(dtype.kind, "no numbers")
        raise ValueError(f"{_place(within, name)} holds {what}; it is to hold numbers: convert it, or leave it out.")
    return np.asarray(_values(found, within, name, part))


def texts(within: h5py.Group, name: str) -> list[str]:
    """The texts at ``name``. Raises as `column`, where there are none."""
    found = at(within, name)
    if isinstance(found, h5py.Dataset) and not (h5py.check_string_dtype(_dtype(found)) and found.ndim == 1):
        raise ValueError(f"{_place(within, name)} is to list names; it holds {_dtype(found)}{list(found.shape)}.")
    return [x.decode(errors="replace") if isinstance(x, bytes) else str(x) for x in _values(found, within, name)]


def _values(found: h5py.Group | h5py.Dataset | None, within: h5py.Group, name: str, part: Any = ()) -> Any:
    """What is stored there, where it lies in this file and the file can hold it."""
    where = _place(within, name)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{where} is no array; there are {', '.join(outline(within)) or 'none'}.")
    if found.is_virtual or found.external:
        raise ValueError(f"{where} lies in another file, which is not followed: copy it into this one.")
    stored, wanted = found.id.get_storage_size(), found.nbytes
    if wanted > 2**20 and wanted > stored * 2000:
        raise ValueError(f"{where} claims {wanted} bytes and stores {stored}: the file was never filled. Get it anew.")
    try:
        return found[part]
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {files.words(error).rstrip('.')}. Get the file anew.") from error


def attributes(group: h5py.Group) -> dict[str, Any]:
    """The attributes that JSON can say."""
    found: dict[str, Any] = {}
    for name in group.attrs:
        with contextlib.suppress(TypeError, ValueError):
            value = group.attrs[name]
            plain = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
            plain = plain.decode(errors="replace") if isinstance(plain, bytes) else plain
            json.dumps(plain)
            found[name] = plain
    return found


def tree(within: h5py.Group, name: str) -> Any:
    """The array at ``name``, or the dict of arrays of a group there. Raises as `column`."""
    found = at(within, name)
    return {k: tree(found, k) for k in found} if isinstance(found, h5py.Group) else _array(found, within, name)
