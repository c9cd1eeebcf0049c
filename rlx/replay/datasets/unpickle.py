"""Pickles, read without running anything in them: arrays, numbers, text, lists, tuples and dicts, and nothing else.

A pickle is a program that names functions and calls them. Here every name stands for a function of this file or is refused,
what makes instances and sets is refused too, and arrays are made from bytes whose number must be that of the claimed shape.
Memory goes with the size of the file: sizes are compared with what is there before anything is made of them, and one thing
that is held many times counts as often. ``torch.save``'s archives are the same with the bytes beside.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlx import files

DEPTH = 32  # of lists and dicts within one another
TIMES = 4  # what is held, counted as often as it is, is at most so many times the file
FLAG = "--trust-arrays (rlx train: --data-option trust_arrays=true; in Python: trust_arrays=True)"
STORAGES = {
    "FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "LongStorage": "i8", "IntStorage": "i4",
    "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
OVER = "it makes the same things over and over, more than would fit into the file"
OLD_TORCH = 0x1950A86A20F9469CFC6C  # with this number files of torch.save began before they were archives


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


def loads(data: bytes, storage: Callable[[Any], _Storage] | None = None, size: int | None = None) -> Any:
    """`load` of bytes; ``storage`` gives the numbers that it refers to, ``size`` the bytes of both. Raises ValueError."""
    most = TIMES * (size or len(data)) + 1000
    try:
        tree, held = _plain(_Reader(data, storage, most).load(), {}, 0)
    except ValueError:
        raise
    except Exception as error:  # whatever a damaged program may come to
        raise ValueError(f"its pickle is damaged ({type(error).__name__}: {error})") from None
    if held > most:
        raise ValueError(OVER)
    if isinstance(tree, int) and tree == OLD_TORCH:
        raise ValueError("a torch older than 1.6 saved it: load it there, and save it by a newer one")
    return tree


# ---------------------------------------------------------------------------------------------------------- the program


_InPython: Any = pickle._Unpickler  # type: ignore[attr-defined] # not the one in C: operations can be taken from it


class _Reader(_InPython):
    dispatch: dict[int, Callable[[Any], None]] = dict(_InPython.dispatch)

    def __init__(self, data: bytes, storage: Callable[[Any], _Storage] | None, most: int):
        super().__init__(io.BytesIO(data), encoding="latin1")  # arrays that Python 2 wrote
        self.storage, self.left = storage, most

    def find_class(self, module: str, name: str) -> Any:
        found = _NAMES.get((module, name))
        if found is None:
            raise ValueError(f"it names {module}.{name}, which is no array, number, text, list or dict: nothing of it is run")
        return found

    def persistent_load(self, pid: Any) -> Any:
        if self.storage is None:
            raise ValueError("it refers to things outside of it")
        return self.storage(pid)

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._counted(self.stack[-1](*args))

    def load_build(self) -> None:
        """The state of an array or dtype, which alone have one; attributes of a dict, as torch adds them, are left out."""
        state = self.stack.pop()
        if type(self.stack[-1]) is dict:
            return
        if not isinstance(self.stack[-1], _Array | _Dtype):
            raise ValueError("it changes what is no array")
        self.stack[-1].build(state)
        self._counted(self.stack[-1])

    def _counted(self, made: Any) -> Any:
        """``made``, where there was memory left for it."""
        whole = made.value.nbytes if isinstance(made, _Array) and made.value is not None else 0
        self.left -= len(made) if isinstance(made, bytes | str | dict) else whole
        if self.left < 0:
            raise ValueError(OVER)
        return made

    def load_dict(self) -> None:
        made = _dict(_pairs(self.pop_mark()))  # which changes where to append
        self.append(made)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def load_setitems(self) -> None:
        self._update(self.pop_mark())

    def _update(self, items: list) -> None:
        if type(self.stack[-1]) is not dict:
            raise ValueError("it changes what is no dict")
        self.stack[-1].update(_dict(_pairs(items)))

    def load_bytearray8(self) -> None:
        """What is there is read, and no more than that is made room for."""
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def _no(self) -> None:
        raise ValueError("it makes a set or an instance, which is no array, number, text, list or dict: nothing of it is run")

    dispatch |= {
        pickle.REDUCE[0]: load_reduce, pickle.BUILD[0]: load_build, pickle.DICT[0]: load_dict,
        pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems, pickle.BYTEARRAY8[0]: load_bytearray8,
    }  # fmt: skip
    dispatch |= dict.fromkeys(
        (x[0] for x in (pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4)), _no
    )
    dispatch |= dict.fromkeys((x[0] for x in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)), _no)


def _pairs(items: list) -> list[tuple]:
    return list(zip(items[::2], items[1::2], strict=True))


# ---------------------------------------------------------------------------------------------- what names stand for


class _Dtype:
    """A dtype in the making: a kind of numbers or text, then (as a state) its byte order."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *_: Any):
        plain = isinstance(code, str) and len(code) < 8 and code.lstrip("<>|=")[:1] in tuple("biufSU")
        self.code = np.dtype(code) if plain else np.dtype("V")
        if self.code.kind not in "biufSU":
            raise ValueError(f"it holds an array of {code if isinstance(code, str) else type(code).__name__}, not of numbers")

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "=") or any(state[2:5]):
            raise ValueError("it holds an array of structures, not of numbers")
        self.code = self.code.newbyteorder(state[1])


class _Array:
    """An array, perhaps in the making: then its shape, dtype and bytes come as a state."""

    __slots__ = ("value",)

    def __init__(self, value: np.ndarray | None = None):
        self.value = value

    def build(self, state: Any) -> None:
        if self.value is not None or not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("it holds an array in a form that numpy does not write")
        _, shape, dtype, by_columns, data = state
        self.value = _from_bytes(data, dtype, shape, "F" if by_columns else "C").value


class _Kind(NamedTuple):
    """Names a dtype of torch's storages."""

    code: str


class _Storage:
    """The numbers behind tensors."""

    __slots__ = ("value",)

    def __init__(self, value: np.ndarray):
        self.value = value


def _counts(*numbers: Any) -> bool:
    return all(isinstance(n, int) and 0 <= n < 2**63 for n in numbers)


def _begun(*_: Any) -> _Array:
    return _Array()


def _from_bytes(data: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> _Array:
    if not isinstance(dtype, _Dtype):
        raise ValueError("it holds an array of objects, not of numbers")
    data = data.encode("latin1") if isinstance(data, str) else data
    if (
        not isinstance(data, bytes | bytearray)
        or not isinstance(shape, tuple)
        or not _counts(*shape)
        or order not in ("C", "F")
    ):
        raise ValueError("it holds an array in a form that numpy does not write")
    if math.prod(shape[:64]) * dtype.code.itemsize != len(data) or len(shape) > 64:
        raise ValueError(f"it claims an array {shape[:8]} of {dtype.code} and holds {len(data)} bytes")
    return _Array(np.frombuffer(data, dtype.code).reshape(shape, order=order))


def _scalar(dtype: Any, data: Any) -> Any:
    value = _from_bytes(data, dtype, ()).value
    assert value is not None
    return value.item()


def _encode(text: Any, coding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or coding != "latin1":
        raise ValueError("it encodes what is no text")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _dict(items: Any = ()) -> dict:
    """Of (key, value) pairs. Keys are text or numbers alone: to look one up takes as long as it is deep."""
    pairs = items.items() if isinstance(items, dict) else items
    if not isinstance(items, dict | list | tuple) or not all(isinstance(x, list | tuple) and len(x) == 2 for x in pairs):
        raise ValueError("it holds a dict in a form that Python does not write")
    odd = next((k for k, _ in pairs if not isinstance(k, str | int)), None)
    if odd is not None:
        raise ValueError(f"it holds a dict with a key that is a {type(odd).__name__}, not text or a whole number")
    return dict(pairs)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Array:
    """Of torch: a view of a storage, not to be written to."""
    whole = isinstance(storage, _Storage) and isinstance(size, tuple) and isinstance(stride, tuple)
    if not whole or not len(size) == len(stride) <= 64 or not _counts(offset, *size, *stride):
        raise ValueError("it holds a tensor in a form that torch does not write")
    there, count = len(storage.value), math.prod(size)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if count > there or (count and last >= there):
        raise ValueError(f"it claims a tensor {size[:8]} and holds {there} numbers")
    if not count:
        return _Array(storage.value[:0].reshape(size))
    steps = tuple(s * storage.value.itemsize for s in stride)
    return _Array(np.lib.stride_tricks.as_strided(storage.value[offset:], size, steps, writeable=False))


_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _begun,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): _dict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
}
for _core in ("numpy.core", "numpy._core"):  # of numpy 1 and 2
    _NAMES[f"{_core}.multiarray", "_reconstruct"] = _begun
    _NAMES[f"{_core}.multiarray", "scalar"] = _scalar
    _NAMES[f"{_core}.numeric", "_frombuffer"] = _from_bytes
_NAMES |= {("torch", name): _Kind(code) for name, code in STORAGES.items()}


def _plain(tree: Any, done: dict[int, tuple[Any, int] | None], depth: int) -> tuple[Any, int]:
    """``tree`` of arrays, numbers, text, lists, tuples and dicts alone, and its size: the bytes of its arrays and one for
    everything else. What occurs twice is made once and counted twice."""
    if depth > DEPTH:
        raise ValueError(f"its lists and dicts are more than {DEPTH} deep")
    if tree is None or isinstance(tree, bool | int | float | str | bytes):
        return tree, 1
    if isinstance(tree, _Array):
        if tree.value is None:
            raise ValueError("it holds an array without its numbers")
        return tree.value, tree.value.nbytes + 1
    if type(tree) not in (list, tuple, dict):
        name = getattr(tree, "__name__", type(tree).__name__).strip("_").lower()
        raise ValueError(f"it holds a {name}, which is no array, number, text, list or dict")
    if id(tree) in done:
        known = done[id(tree)]
        if known is None:
            raise ValueError("it holds a list or dict that contains itself")
        return known
    done[id(tree)] = None  # being made
    inner = [_plain(x, done, depth + 1) for x in (tree.values() if isinstance(tree, dict) else tree)]
    values = [x for x, _ in inner]
    made = dict(zip(tree, values, strict=True)) if isinstance(tree, dict) else type(tree)(values)
    done[id(tree)] = found = made, 1 + sum(size for _, size in inner)
    return found


def _torch(data: bytes) -> Any:
    """An archive of ``torch.save``: a pickle, and a file of numbers for each storage."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            listed = archive.infolist()
            entries = {entry.filename.partition("/")[2]: entry for entry in listed}
            if any(x.compress_type != zipfile.ZIP_STORED for x in listed) or sum(x.file_size for x in listed) > len(data):
                raise ValueError("it claims more than it holds, or is compressed, which torch.save does not do")
            if "data.pkl" not in entries:
                raise ValueError("it is no archive of torch.save")
            order = archive.read(entries["byteorder"]) if "byteorder" in entries else b"little"
            read: dict[str, _Storage] = {}

            def storage(pid: Any) -> _Storage:
                good = isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"
                if not good or not isinstance(pid[1], _Kind) or not isinstance(pid[2], str) or f"data/{pid[2]}" not in entries:
                    raise ValueError("it refers to numbers that are not in it")
                name = f"{pid[1].code}/{pid[2]}"
                if name not in read:
                    dtype = np.dtype(pid[1].code).newbyteorder(">" if order == b"big" else "<")
                    read[name] = _Storage(np.frombuffer(archive.read(entries[f"data/{pid[2]}"]), dtype))
                return read[name]

            return loads(archive.read(entries["data.pkl"]), storage, len(data))
    except ValueError:
        raise
    except Exception as error:  # zipfile fails in many ways
        raise ValueError(f"it is damaged ({type(error).__name__}: {error})") from None


def arrays(tree: Any) -> dict[str, np.ndarray] | None:
    """The arrays of a dict by name, and its lists of numbers as such; None where ``tree`` is something else."""
    if not isinstance(tree, Mapping):
        return None
    numeric = lambda v: isinstance(v, list | tuple) and v and all(isinstance(x, bool | int | float) for x in v)
    found = {str(k): np.asarray(v) for k, v in tree.items() if isinstance(v, np.ndarray) or numeric(v)}
    return {k: v for k, v in found.items() if v.dtype.kind in "biuf"} or None
