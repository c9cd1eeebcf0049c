"""What lies at a path, before any of it is read (`Found`), and what a reader may have to be told about it (`Reading`)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from rlx import files
from rlx.config import check, nearest, replace, size
from rlx.replay import columns
from rlx.replay.columns import Header
from rlx.replay.dataset import Dataset
from rlx.replay.datasets import hdf5


@dataclass(frozen=True)
class Reading:
    """What a file may leave open. Nothing of it is guessed: where a file needs one, the message says which."""

    format: str | None = size(None, "the layout, where the contents do not say it")
    bounds: Any = size(  # finite or not is asked where they are applied, beside the actions that they are to scale
        None,
        "actions beyond [-1, 1]: LOW,HIGH that -1 and 1 stand for; data: the least and greatest of all that is read; clip",
        finite=False,
    )
    dones: Literal["terminated", "truncated", "both"] | None = size(
        None, "what `dones` mark: terminal states, time limits, or both (then after `horizon` steps it is the limit)"
    )
    horizon: int | None = size(None, "steps after which episodes were cut where nothing marks it; 0: none was", least=0)
    ignore: tuple[str, ...] = size((), "columns that are taken as not there, such as timeouts")
    keys: tuple[str, ...] = size((), "observations to take, in this order, where a file has several; default: its usual ones")
    names: tuple[str, ...] = size((), "OLD:NEW, such as rgb:pixels, of observations that an environment calls otherwise")
    split: str | None = size(None, "robomimic: the demonstrations of this mask, such as train or valid")
    episodes: int | None = size(None, "so many at most, the first ones", least=1)
    trust_arrays: bool = size(False, "read layouts that exist as pickles only: arrays, numbers, text, lists and dicts of them")

    def __post_init__(self) -> None:
        """Raises ValueError for what no file is read by: a number out of its bounds, ``bounds`` or ``names`` that are none."""
        columns.limits(self.bounds)
        check(self)
        if len(self.renaming) < len(self.names):
            raise ValueError(f"names={_text(self.names)} names an observation twice: give each a name of its own, once.")

    @property
    def renaming(self) -> dict[str, str]:
        """What observations are to be called, by what a file calls them. Raises ValueError for ``names`` of another form."""
        pairs = [word.rpartition(":") for word in self.names]
        odd = [word for word, (old, _, new) in zip(self.names, pairs, strict=True) if not old or not new]
        if odd:
            raise ValueError(f"names={odd[0]} is not OLD:NEW: give the file's name and the other, as in names=rgb:pixels.")
        return {old: new for old, _, new in pairs}

    def only(self, layout: str, *uses: str, known: Collection[str] = ()) -> None:
        """For readers: nothing is said that this one does not use, so that no option is without effect unnoticed.

        Raises:
            ValueError: an option other than ``uses``, or a column in ``ignore`` that is none of ``known``; the message says
                which there are.
        """
        for one in fields(self):
            if one.name not in (*uses, *_ALL_USE) and getattr(self, one.name) != one.default:
                raise ValueError(
                    f"{one.name}={_text(getattr(self, one.name))} is of no use to the layout {layout}, which takes "
                    f"{', '.join((*uses, *_ALL_USE[:-1]))}: leave it out."
                )
        odd = [k for k in self.ignore if k not in known]
        if odd:
            hint = nearest(odd[0], set(known))
            raise ValueError(f"ignore={odd[0]} names no column of the layout {layout}, nor of this file.{hint}")


_ALL_USE = ("episodes", "format", "names", "trust_arrays")  # the last one comes with every command of `rlx data`


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def reading(start: Reading | None = None, /, **options: Any) -> Reading:
    """A `Reading`, of values that may be as a command line gives them: lists with commas between. ``start``: what holds for
    the options that are not named.

    Raises:
        ValueError: an unknown name, a value of another type, or one out of its bounds.
    """
    lists = ("ignore", "keys", "names")
    apart = lambda k, v: tuple(filter(None, v.split(","))) if k in lists and isinstance(v, str) else v
    return replace(start or Reading(), {k: apart(k, v) for k, v in options.items()})


# Of `Dataset.meta`, where the last step before each cut is missing, since nothing says what followed it.
CUTS = {"last_steps_before_cuts": "left out"}

Kind = Literal["npz", "hdf5", "pickle", "torch", "folder"]


@dataclass(frozen=True)
class Found:
    """A file (its arrays by path) or a folder (its entries by name, without headers)."""

    path: Path
    kind: Kind
    arrays: Mapping[str, Header] = field(default_factory=dict)
    only: Collection[str] | None = None  # of the episodes that are groups of it, those that are to be read

    def asked(self, episodes: Iterable[str]) -> list[str]:
        """Of its ``episodes`` those that are to be read, in this order."""
        return [name for name in episodes if self.only is None or name in self.only]

    @property
    def names(self) -> set[str]:
        """Of what stands at the top: ``obs`` of ``obs/pixels``."""
        return {k.split("/")[0] for k in self.arrays}

    @property
    def nbytes(self) -> int:
        """What its arrays take in memory at most."""
        return sum(h.nbytes for h in self.arrays.values())

    def has(self, *names: str) -> bool:
        return self.names.issuperset(names)

    def load(self, names: Any = None) -> dict[str, np.ndarray]:
        """The arrays at these paths (None: all), as they are. Raises ValueError where one is damaged or no array of numbers."""
        if self.kind != "hdf5":
            return columns.load(self.path, names)
        with hdf5.opened(self.path) as file:
            return {k: hdf5.column(file, k) for k in self.arrays if names is None or k in names}


# Reads some whole episodes of a file, so many of them at most.
Piece = Callable[[int | None], Dataset]
PIECE = 2**22  # bytes in a file of what is read at once where a file is larger than memory; at least an episode


def runs(ends: np.ndarray) -> list[tuple[int, int]]:
    """Neighbours, [begin, stop), of at most `PIECE` bytes together, at least one. ``ends`` [n + 1]: sums of bytes from 0 on."""
    found, begin = list[tuple[int, int]](), 0
    while begin < len(ends) - 1:
        stop = max(begin + 1, int(np.searchsorted(ends, ends[begin] + PIECE, "right")) - 1)
        found.append((begin, stop))
        begin = stop
    return found


def by_groups(read: Callable[[Found, Reading], Dataset], depth: int = 1, file: str = "") -> Callable:
    """Of a layout with a group per episode, ``depth`` names deep: its pieces. ``file``: which one of a folder it is."""

    def pieces(found: Found, reading: Reading) -> list[Piece]:
        sizes: dict[str, int] = {}
        for path, header in (look(found.path / file) if found.kind == "folder" else found).arrays.items():
            *groups, _ = path.split("/")
            if len(groups) >= depth:
                sizes[groups[depth - 1]] = sizes.get(groups[depth - 1], 0) + header.nbytes
        names = sorted(sizes, key=natural)
        ends = np.cumsum([0, *(sizes[name] for name in names)])

        def some(begin: int, stop: int) -> Piece:
            part = dataclasses.replace(found, only=set(names[begin:stop]))
            return lambda most: read(part, dataclasses.replace(reading, episodes=most))

        return [some(*run) for run in runs(ends)]

    return pieces


class Layout(NamedTuple):
    """A published layout of files. ``fits`` looks at names, shapes and dtypes alone, of what is of one of ``kinds``. ``pieces``
    of a file can be read without the rest of it, and are the same episodes in the same order."""

    name: str
    about: str
    fits: Callable[[Found], bool]
    read: Callable[[Found, Reading], Dataset]
    kinds: tuple[Kind, ...] = ("npz", "hdf5")
    pieces: Callable[[Found, Reading], list[Piece] | None] | None = None

    def holds(self, found: Found) -> bool:
        """Whether this is the layout of what lies there."""
        return found.kind in self.kinds and self.fits(found)


def look(path: Path) -> Found:
    """What lies at ``path``.

    Raises:
        ValueError: nothing, something damaged, or no kind of file that datasets come in; the message says what to do.
    """
    if not path.exists():
        raise ValueError(f"there is no dataset {path}.")
    if path.is_dir():
        entries = {p.name: Header((), np.dtype("V0")) for p in sorted(path.iterdir()) if not p.name.startswith(".")}
        return Found(path, "folder", entries)
    if not path.is_file():
        raise ValueError(f"{path} is neither a file nor a folder.")
    try:
        with path.open("rb") as file:
            head = file.read(2048 + len(columns.HDF5))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {files.words(error).rstrip('.')}.") from error
    if any(head[i : i + len(columns.HDF5)] == columns.HDF5 for i in columns.HDF5_PLACES):
        with hdf5.opened(path) as opened:
            return Found(path, "hdf5", hdf5.outline(opened))
    if head.startswith(b"\x80") or _is_old_pickle(path, head):
        return Found(path, "pickle")
    if head.startswith(b"PK") and _is_torch(path):
        return Found(path, "torch")
    return Found(path, "npz", columns.outline(path))


def _is_torch(path: Path) -> bool:
    """Whether a zip archive is one of torch.save's."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except Exception:  # zipfile fails in many ways; what reads the file says how
        return False


def _is_old_pickle(path: Path, head: bytes) -> bool:
    """Whether a file is a list, a dict or an array of a protocol before 2, which no number marks."""
    if head[:1] not in (b"(", b"]", b"}", b"c"):
        return False
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() == b"."


def natural(name: Any) -> list[Any]:
    """Sorts numbers in names by their value: ``episode_2`` before ``episode_10``."""
    return [int(x) if x.isdecimal() else x for x in re.split(r"(\d+)", str(name))]


def one_per_entry(x: np.ndarray, name: str) -> np.ndarray:
    """[N] of [N] or [N, 1]. Raises ValueError for another shape."""
    if not x.ndim or x.size != len(x):
        raise ValueError(f"{name} is {list(x.shape)}; it is to have one number per entry.")
    return x.reshape(-1)


def one_length(data: Mapping[str, np.ndarray]) -> int:
    """The number of entries that all arrays have. Raises ValueError where they differ or there are none."""
    lengths = {k: len(v) if v.ndim else 0 for k, v in data.items()}
    if len(set(lengths.values())) > 1 or not min(lengths.values()):
        raise ValueError(f"all arrays must have one length, above 0; got {lengths}.")
    return next(iter(lengths.values()))


def side_by_side(vectors: Mapping[str, np.ndarray]) -> np.ndarray:
    """One vector per entry, float32 [N, n], of several in this order. Raises ValueError where their lengths differ."""
    count = one_length(vectors)
    return np.concatenate([v.reshape(count, -1).astype(np.float32) for v in vectors.values()], -1)


def need(data: Any, names: Any, where: str = "it") -> None:
    """Raises ValueError where ``data`` lacks one of ``names``."""
    missing = [k for k in names if k not in data]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}; it has {', '.join(data) or 'nothing'}.")


def first_episodes(borders: np.ndarray, reading: Reading) -> np.ndarray:
    """The borders of as many episodes as were asked for."""
    return borders if reading.episodes is None else borders[: reading.episodes + 1]
