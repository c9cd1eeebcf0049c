"""Pickles, read without running anything in them: arrays, numbers, text, lists, tuples and dicts, and nothing else.

A pickle is a program that names functions and calls them. Here every name stands for a function of this file, of which there
are ten, or is refused; arrays are made from bytes whose number must be that of the claimed shape. ``torch.save``'s archives
are the same with the bytes beside.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlx import files

DEPTH = 32  # of lists and dicts within one another
FLAG = "--trust-arrays (in Python: trust_arrays=True)"
STORAGES = {
    "FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "LongStorage": "i8", "IntStorage": "i4",
    "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip


def load(path: str | os.PathLike) -> Any:
    """What a pickle, or an archive of ``torch.save``, holds, as far as that is arrays, numbers, text, lists, tuples and dicts.

    Raises:
        ValueError: it names anything else, is damaged, or claims more than it holds; the message names the file.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        return _torch(data) if data.startswith(b"PK") else loads(data)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {files.words(error).rstrip('.')}.") from None


def loads(data: bytes, storages: Callable[[Any], _Storage] | None = None) -> Any:
    """`load` of bytes. Raises ValueError."""
    reader = _Reader(io.BytesIO(data), storages)
    try:
        return _plain(reader.load(), {}, 0)
    except ValueError:
        raise
    except Exception as error:  # whatever a damaged program may come to
        raise ValueError(f"its pickle is damaged ({type(error).__name__}: {error})") from None


class _Reader(pickle._Unpickler):  # type: ignore[name-defined] # the one in Python: its memo grows with what is there only
    def __init__(self, file: io.BytesIO, storages: Callable[[Any], _Storage] | None):
        super().__init__(file, encoding="latin1")  # arrays that Python 2 wrote
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        found = _NAMES.get((module, name))
        if found is None:
            raise ValueError(f"it names {module}.{name}, which is no array, number, text, list or dict: nothing of it is run")
        return found

    def persistent_load(self, pid: Any) -> Any:
        if self.storages is None:
            raise ValueError("it refers to things outside of it")
        return self.storages(pid)


# ---------------------------------------------------------------------------------------------- what names stand for


class _Call:
    """A function that a pickle may call, and can do nothing else with."""

    __slots__ = ("fn",)

    def __init__(self, fn: Callable):
        self.fn = fn

    def __call__(self, *args: Any) -> Any:
        return self.fn(*args)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it changes a function")


class _Dtype:
    """A dtype in the making: a kind of numbers or text, then (as a state) its byte order."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *_: Any):
        self.code = np.dtype(code) if isinstance(code, str) and code.lstrip("<>|=")[:1] in "biufSU" and len(code) < 8 else None
        if self.code is None or self.code.kind not in "biufSU":
            raise ValueError(f"it holds an array of {code!r}, not of numbers")

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "=") or any(state[2:5]):
            raise ValueError("it holds an array of structures, not of numbers")
        assert self.code is not None
        self.code = self.code.newbyteorder(state[1])


class _Array:
    """An array in the making: empty, then (as a state) its shape, dtype and bytes."""

    __slots__ = ("value",)

    def __init__(self, *_: Any):
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("it holds an array in a form that numpy does not write")
        _, shape, dtype, by_columns, data = state
        self.value = _from_bytes(data, dtype, shape, "F" if by_columns else "C")


def _from_bytes(data: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    if not isinstance(dtype, _Dtype) or dtype.code is None:
        raise ValueError("it holds an array of objects, not of numbers")
    data = data.encode("latin1") if isinstance(data, str) else data
    good = (
        isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape) and isinstance(data, bytes | bytearray)
    )
    if not good or order not in ("C", "F") or math.prod(shape) * dtype.code.itemsize != len(data):
        held = f"{len(data)} bytes" if isinstance(data, bytes | bytearray) else type(data).__name__
        raise ValueError(f"it claims an array {shape} of {dtype.code} and holds {held}")
    return np.frombuffer(data, dtype.code).reshape(shape, order=order)  # type: ignore[call-overload, no-any-return]


def _is_count(n: Any) -> bool:
    return isinstance(n, int) and n >= 0


def _scalar(dtype: Any, data: Any) -> Any:
    return _from_bytes(data, dtype, ()).item()


def _encode(text: Any, coding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or coding != "latin1":
        raise ValueError("it encodes what is no text")
    return text.encode("latin1")


def _nothing() -> bytes:
    return b""


def _dict(items: Any = ()) -> dict:
    return dict(items)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """Of torch: a view of a storage."""
    whole = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)
    if (
        not whole
        or not isinstance(storage, _Storage)
        or not all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride))
    ):
        raise ValueError("it holds a tensor in a form that torch does not write")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if math.prod(size) > len(storage.value) or (math.prod(size) and last >= len(storage.value)):
        raise ValueError(f"it claims a tensor {size} and holds {len(storage.value)} numbers")
    steps = tuple(s * storage.value.itemsize for s in stride)
    return np.lib.stride_tricks.as_strided(storage.value[offset:], size, steps).copy() if math.prod(size) else np.zeros(size)


class _Storage:
    """The numbers behind tensors."""

    __slots__ = ("value",)

    def __init__(self, value: np.ndarray):
        self.value = value

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it changes the numbers of a tensor")


class _Kind:
    """Names a dtype of torch's storages."""

    __slots__ = ("code",)

    def __init__(self, code: str):
        self.code = code

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it changes a dtype")


_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Call(_Dtype),
    ("numpy", "ndarray"): _Call(_Array),
    ("_codecs", "encode"): _Call(_encode),
    ("__builtin__", "bytes"): _Call(_nothing),
    ("collections", "OrderedDict"): _Call(_dict),
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_tensor),
}
for _core in ("numpy.core", "numpy._core"):
    _NAMES[f"{_core}.multiarray", "_reconstruct"] = _Call(_Array)
    _NAMES[f"{_core}.multiarray", "scalar"] = _Call(_scalar)
    _NAMES[f"{_core}.numeric", "_frombuffer"] = _Call(_from_bytes)
_NAMES |= {("torch", name): _Kind(code) for name, code in STORAGES.items()}


def _plain(tree: Any, done: dict[int, Any], depth: int) -> Any:
    """``tree`` of arrays, numbers, text, lists, tuples and dicts alone; what occurs twice is made once."""
    if depth > DEPTH:
        raise ValueError(f"its lists and dicts are more than {DEPTH} deep")
    if tree is None or isinstance(tree, bool | int | float | str | bytes | np.ndarray):
        return tree
    if isinstance(tree, _Array):
        if tree.value is None:
            raise ValueError("it holds an array without its numbers")
        return tree.value
    if not isinstance(tree, list | tuple | dict):
        raise ValueError(f"it holds a {type(tree).__name__.strip('_').lower()}, which is no array, number, text, list or dict")
    if id(tree) not in done:
        done[id(tree)] = None  # being made
        inner = lambda x: _plain(x, done, depth + 1)
        if isinstance(tree, dict):
            odd = next((k for k in tree if not isinstance(k, str | int)), None)
            if odd is not None:
                raise ValueError(f"it holds a dict with the key {odd!r}")
            done[id(tree)] = {k: inner(v) for k, v in tree.items()}
        else:
            done[id(tree)] = type(tree)(inner(x) for x in tree)
    if done[id(tree)] is None:
        raise ValueError("it holds a list or dict that contains itself")
    return done[id(tree)]


def _torch(data: bytes) -> Any:
    """An archive of ``torch.save``: a pickle, and a file of numbers for each storage."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            if "data.pkl" not in names:
                raise ValueError("it is no archive of torch.save")
            order = archive.read(names["byteorder"]).decode() if "byteorder" in names else "little"

            def storage(pid: Any) -> _Storage:
                good = isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], _Kind)
                if not good or f"data/{pid[2]}" not in names:
                    raise ValueError("it refers to numbers that are not in it")
                entry = archive.getinfo(names[f"data/{pid[2]}"])
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(data):
                    raise ValueError("it claims more numbers than it holds")
                dtype = np.dtype(pid[1].code).newbyteorder("<" if order == "little" else ">")
                return _Storage(np.frombuffer(archive.read(entry), dtype))

            return loads(archive.read(names["data.pkl"]), storage)
    except (zipfile.BadZipFile, KeyError, RuntimeError) as error:
        raise ValueError(f"it is damaged: {error}") from None


def arrays(tree: Any) -> dict[str, np.ndarray] | None:
    """A dict of arrays (or of lists of numbers) by name; None where ``tree`` is something else."""
    if not isinstance(tree, Mapping) or not tree or not all(isinstance(k, str) for k in tree):
        return None
    found = {k: np.asarray(v) for k, v in tree.items() if isinstance(v, np.ndarray | list | tuple)}
    return {k: v for k, v in found.items() if v.dtype.kind in "biuf"} or None
