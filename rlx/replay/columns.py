"""Columns of data from outside: read from an archive that nobody vouches for, and held to what rlx takes.

Whatever is wrong with a file is a ``ValueError`` that says which file, which column and what to do. Sizes that a file claims
are compared with the file itself before anything is allocated or inflated, and nothing in it is ever run.
"""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlx import files

DEFLATE_MOST = 1032  # bytes that one compressed byte can stand for
KINDS = {"O": "Python objects", "U": "text", "S": "text", "M": "dates", "m": "times", "c": "complex numbers", "V": "structures"}

# First bytes of what people take for an .npz, and what to do with it.
OTHERS = {
    b"\x93NUMPY": "is one array (.npy); a dataset is an archive of several by name: numpy.savez(path, observations=..., ...)",
    b"version https://git-lfs": "is a pointer of Git LFS, not the data: fetch them by git lfs pull",
    b"\x1f\x8b": "is compressed as a whole: unpack it first, by gunzip or tar",
    b"<": "looks like a web page, as a failed download leaves it: get the file anew",
    b"\x80": "holds serialised Python objects, which may run anything when loaded: save plain arrays by numpy.savez",
}
HDF5 = b"\x89HDF\r\n\x1a\n"
ALIGNED = 64  # bytes
HDF5_PLACES = (0, 512, 1024, 2048)  # where a file may begin to be HDF5


class Empty(ValueError):
    """There is no whole transition in what was to be read."""


@contextlib.contextmanager
def of(name: str | os.PathLike) -> Iterator[None]:
    """Puts the name of a file before what is wrong with it, unless it is there already."""
    try:
        yield
    except ValueError as error:
        if os.fspath(name) in str(error):
            raise
        kind = Empty if isinstance(error, Empty) else ValueError
        raise kind(f"{os.fspath(name)}: {error}") from error


class Header(NamedTuple):
    """What an array in a file claims to be."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def outline(path: str | os.PathLike) -> dict[str, Header]:
    """What the arrays of an ``.npz`` are, by name; nothing but headers is read. Raises as `load`."""
    return _entries(path, None, _header)


def load(path: str | os.PathLike, only: Container[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` by name, or those of them that ``only`` names.

    Raises:
        ValueError: no such file, one of another format, or one that is damaged, encrypted, compressed in a way that numpy does
            not write, or does not hold what it claims.
    """
    return _entries(path, only, _read)


def _entries(path: str | os.PathLike, only: Container[str] | None, read: Callable[..., Any]) -> dict[str, Any]:
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is no dataset {path}.")
    if not path.is_file():
        raise ValueError(f"{path} is no file; an .npz is one.")
    name = other = ""
    try:
        with path.open("rb") as file:
            other = _other(file)
            if not other:
                with zipfile.ZipFile(file) as archive:
                    entries = archive.infolist()
                    _check_sizes(entries, path.stat().st_size)
                    found = {}
                    for entry in entries:
                        name = entry.filename.removesuffix(".npy")
                        if only is None or name in only:
                            found[name] = read(archive, entry)
                    return found
    except Exception as error:  # zipfile, zlib and numpy each fail in ways of their own
        where = f"column {name!r} of {path}" if name else str(path)
        raise ValueError(f"{where} cannot be read: {files.words(error).rstrip('.')}. Get or write the file anew.") from error
    raise ValueError(f"{path} {other}.")


def _other(file: Any) -> str:
    """What a file is that is no archive, and what to do; "" for an archive."""
    head = file.read(2048 + len(HDF5))
    file.seek(0)
    if any(head[i : i + len(HDF5)] == HDF5 for i in HDF5_PLACES):
        return "is HDF5, not an .npz: rlx.replay.load reads both"
    for magic, what in OTHERS.items():
        if head.startswith(magic):
            return what
    if not head:
        return "is empty, 0 bytes, as a failed download or a full disk leaves it: get or write the file anew"
    if not zipfile.is_zipfile(file):
        return (
            "cannot be read: it is no .npz archive, or only a part of one, nor HDF5 nor a pickle. Get or write the file anew; "
            "of text such as .csv save the columns by numpy.savez(path, observations=..., ...)"
        )
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    if names and not any(name.endswith(".npy") for name in names):
        return f"is an archive of files, such as {names[0]}, and no dataset itself: unpack it, and give the folder"
    file.seek(0)
    return ""


def _check_sizes(entries: list[zipfile.ZipInfo], there: int) -> None:
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError("two of its entries have one name")
    if sum(entry.compress_size for entry in entries) > there:
        raise ValueError(f"its entries claim more than the {there} bytes of the file")


def _header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Header:
    if not entry.filename.endswith(".npy"):
        raise ValueError("it is no array")
    if entry.flag_bits & 1:
        raise ValueError("it is encrypted, save it without a password")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"it is compressed by method {entry.compress_type}, which numpy.savez does not write")
    most = entry.compress_size * (DEFLATE_MOST if entry.compress_type == zipfile.ZIP_DEFLATED else 1)
    if entry.file_size > most:
        raise ValueError(f"it claims {entry.file_size} bytes, and {entry.compress_size} in the file cannot hold them")
    with archive.open(entry) as file:
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        version = np.lib.format.read_magic(file)
        if version not in header:
            raise ValueError(f"its format is {version}, arrays of numbers are of 1.0 or 2.0")
        shape, _, dtype = header[version](file)
        found = Header(shape, dtype)
        if dtype.kind in "OV":
            raise ValueError(f"it holds {KINDS[dtype.kind]}, which are not loaded; save numbers")
        if found.nbytes != entry.file_size - file.tell():
            raise ValueError(f"it claims {dtype}{list(shape)}, which is not what its {entry.file_size} bytes hold")
        return found


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    _header(archive, entry)
    with archive.open(entry) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read()  # to the end, where the checksum is compared
        return array


# ------------------------------------------------------------------------------------------------------------- what is taken


def numbers(values: Any, name: str) -> np.ndarray:
    """``values`` as an array of numbers of at most 32 bits (64-bit whole numbers stay if they are that small), in this
    machine's byte order: float64 becomes float32, other dtypes are kept.

    Raises:
        ValueError: text, dates, objects or other things that are no numbers; whole numbers beyond 32 bits.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        what = KINDS.get(array.dtype.kind, str(array.dtype))
        raise ValueError(f"{name} holds {what}; it is to hold numbers: convert it, or leave it out.")
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        with np.errstate(over="ignore"):  # what becomes infinite is refused as such
            return array.astype(np.float32)
    if array.dtype.kind in "iu" and array.dtype.itemsize > 4 and array.size:
        if array.min() < -(2**31) or array.max() >= 2**31:
            raise ValueError(
                f"{name} has whole numbers beyond 32 bits, which devices do not take: shift, scale or leave it out."
            )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def finite(values: np.ndarray, name: str, start: int = 0) -> np.ndarray:
    """``values`` as they are. Raises ValueError where one is not finite. ``start``: which row of a column the first one is."""
    with np.errstate(all="ignore"):  # one pass; a sum that overflows is looked at again
        sound = values.dtype.kind != "f" or np.isfinite(values.sum())
    if not sound and not np.isfinite(values).all():
        row = int(np.argmax(~np.isfinite(values.reshape(len(values), -1)).all(-1))) if values.ndim else 0
        raise ValueError(
            f"{name} has values that are not finite, first in row {start + row}: mend them, or leave out its episode."
        )
    return values


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """`numpy.empty` from an address on that JAX copies to its device in half the time."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNED, np.uint8)
    begin = -memory.ctypes.data % ALIGNED
    return memory[begin : begin + size].view(dtype).reshape(shape)


def flags(values: Any, name: str) -> np.ndarray:
    """``values``, each 0 or 1, as bool.

    Raises:
        ValueError: another value.
    """
    array = numbers(values, name)
    wrong = (array != 0) & (array != 1)
    if wrong.any():
        raise ValueError(f"{name} says where something ends, by 0 and 1; it has {array[wrong][0]} too.")
    return array.astype(bool)


def actions(values: np.ndarray, name: str, start: int = 0) -> np.ndarray:
    """``values`` as they are: floats in [-1, 1] (a rounding error beyond is cut), or numbers of choices from 0 on. ``start``:
    which row of a column the first one is.

    Raises:
        ValueError: floats beyond [-1, 1], or negative numbers of choices.
    """
    if values.dtype.kind != "f":
        if values.size and values.min() < 0:
            raise ValueError(f"{name} has the choice {values.min()}; choices are counted from 0, other actions are floats.")
        return values
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    largest = max(-low, high)
    if largest > 1 + ROUNDING:
        row = int(np.argmax(np.abs(values).reshape(len(values), -1).max(-1)))
        raise ValueError(
            f"{name} goes to {largest:.4g}, in row {start + row}; actions are scaled to [-1, 1]. Say what -1 and 1 stand for "
            "(bounds=LOW,HIGH, or bounds=data for the least and greatest of each), or clip what the environment has clipped "
            "(bounds=clip)."
        )
    return np.clip(values, -1, 1) if largest > 1 else values


ROUNDING = 1e-5  # of actions that were scaled in float32


def bounded(values: np.ndarray, bounds: Any, name: str, start: int = 0) -> np.ndarray:
    """What a reader met as actions, in the units that ``bounds`` say, see `scaled`, and within them, see `actions`. With "data"
    they stay as they are: the least and greatest are those of all that is read, see `rlx.replay.dataset.fitted`."""
    return values if of_data(bounds) else actions(scaled(values, bounds, name), name, start)


def scaled(values: np.ndarray, bounds: Any, name: str) -> np.ndarray:
    """``values`` [N, A] in units in which -1 and 1 stand for ``bounds``, float32; as they are where there are none. ``bounds``
    may also be "data", the least and greatest of each component, or "clip", which cuts what is beyond -1 and 1.

    Raises:
        ValueError: bounds that are no finite numbers [A], with low below high.
    """
    bounds = limits(bounds)
    if bounds is None or (isinstance(bounds, str) and values.dtype.kind != "f"):
        return values
    if isinstance(bounds, str):
        if bounds == "clip":
            return np.clip(values, -1, 1)
        bounds = apart(values.min(0), values.max(0))
    low, high = (np.asarray(x, np.float64) for x in bounds)
    shapes = {np.shape(low), np.shape(high)} - {(), values.shape[1:]}
    if shapes or not (np.isfinite(low) & np.isfinite(high) & (low < high)).all() or values.dtype.kind != "f":
        raise ValueError(
            f"bounds=({low.tolist()}, {high.tolist()}) do not scale {name}, {values.dtype}{list(values.shape[1:])}."
        )
    return (2 * (values - low) / (high - low) - 1).astype(np.float32)


def of_data(bounds: Any) -> bool:
    """Whether they are the least and greatest of the data."""
    return isinstance(bounds, str) and bounds == "data"


def apart(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and greatest as bounds: a component that never moves stays in the middle."""
    still = low == high
    return np.where(still, low - 1, low), np.where(still, high + 1, high)


def limits(bounds: Any) -> Any:
    """What ``bounds`` of actions say: None, "data", "clip", or the pair of low and high, each a number or an array [A].

    Raises:
        ValueError: something else.
    """
    if bounds is None or (isinstance(bounds, str) and bounds in ("data", "clip")):
        return bounds
    ways = "give LOW,HIGH, or data, or clip"
    if isinstance(bounds, str) and "," not in bounds:
        raise ValueError(f"bounds={bounds!r} is none: {ways}.")
    if not isinstance(bounds, str | tuple | list | np.ndarray):
        raise ValueError(f"bounds={bounds!r} is no pair of LOW and HIGH: {ways}.")
    try:
        given = [np.asarray(x, np.float64) for x in (bounds.split(",") if isinstance(bounds, str) else bounds)]
    except (TypeError, ValueError):
        raise ValueError(f"bounds={bounds!r} are no two numbers: {ways}.") from None
    if len(given) != 2:
        raise ValueError(f"bounds are {len(given)} numbers: {ways}.")
    return tuple(given)


def differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where rows [N, ...] differ, bool [N]. Few do, so they are picked out, which is faster than to ask each row."""
    rows, differ = np.zeros(len(a), bool), a != b
    width = differ.size // max(len(a), 1)
    if np.count_nonzero(differ) > len(a):
        return differ.reshape(len(a), width).any(1)
    rows[np.flatnonzero(differ) // max(width, 1)] = True
    return rows


def path_name(path: Any) -> str:
    """What a leaf of a tree is called: ``obs/pixels``."""
    return "/".join(str(getattr(part, "name", getattr(part, "key", part))) for part in path)


def as_stream(x: Any) -> Any:
    """A column [N, ...] as [N, 1, ...], the one stream of a dataset; mapped files stay mapped."""
    return x.as_stream() if hasattr(x, "as_stream") else x[:, None]
