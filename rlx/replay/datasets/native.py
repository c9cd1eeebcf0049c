"""rlx's own files: one ``.npz``, or a folder of shards that grows and need not fit into memory.

Both have a column per leaf of `rlx.types.Row` (``obs``, ``obs/pixels``, ``extras/z``, ...), episodes one after another along
time, and ``offsets``, where each begins. In a folder, ``dataset.json`` lists the shards, each a folder of ``.npy`` files with
their sizes and checksums, and what is known about the data. A shard is complete before it is listed, so whatever happens to the
process that writes, a reader sees the shards that were there or one more, and a dataset that is still being written is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx import files
from rlx.replay import columns
from rlx.replay.dataset import Dataset, fitted, from_rows, renamed, replaced
from rlx.replay.datasets import demonstrations
from rlx.replay.datasets.found import Layout, Piece, Reading, need, one_length
from rlx.replay.datasets.mapped import Mapped
from rlx.replay.episodes import episode_row
from rlx.types import PyTree, Row

FORMAT, FOLDER_FORMAT, MANIFEST = "rlx-episodes-1", "rlx-shards-1", "dataset.json"
HDF5 = (".h5", ".hdf5")
FILES = (".npz", *HDF5)  # endings of what is one file
SHARD = 2**28  # bytes of a shard, about
_TREES = ("obs", "action", "info", "extras")
_FLAT = ("reward", "terminated", "truncated")


def write(path: str | os.PathLike, episodes: Iterable[Row | Mapping[str, Any]], meta: Mapping[str, Any] | None = None) -> None:
    """Episodes, as `rlx.replay.from_episodes` takes them, into ``path``, at once or not at all: a file where it ends in
    ``.npz``, one of demonstrations (`write_demos`) where in ``.h5`` or ``.hdf5``, else a folder of shards. ``meta``: what is
    known about them, as JSON can say it, such as ``{"env": "dmc:walker-walk"}``.

    Raises:
        ValueError: no episodes, ones that `rlx.replay.from_episodes` refuses, or a folder that is there already; observations
            for which demonstrations have no place.
        OSError: the file cannot be written; what was there before stays.
    """
    path = Path(path)
    if path.suffix in HDF5:
        return demonstrations.write_episodes(path, episodes, meta)
    if path.suffix != ".npz":
        with Writer(path, meta) as out:
            out.append(episodes)
        return
    rows = [episode_row(e, i) for i, e in enumerate(episodes)]
    arrays = {"format": np.array(FORMAT), "meta": np.array(json.dumps(dict(meta or {})))}
    with files.replacing(path) as part, part.open("wb") as file:
        np.savez(file, **(arrays | _columns(rows, path)))  # type: ignore[arg-type]


def _columns(rows: list[Row], path: Path) -> dict[str, np.ndarray]:
    if not rows:
        raise ValueError(f"write {path}: there are no episodes.")
    structures = {jax.tree.structure(r) for r in rows}
    if len(structures) > 1:
        raise ValueError(f"write {path}: all episodes must have the same leaves, got {sorted(map(str, structures))}.")
    arrays: dict[str, np.ndarray] = {"offsets": np.cumsum([0, *(len(r.reward) for r in rows)])}
    whole = jax.tree.map(lambda *xs: np.concatenate(xs), *rows)
    for name in _FLAT:
        arrays[name] = getattr(whole, name)
    for name in _TREES:
        arrays.update(_flatten(name, getattr(whole, name)))
    return arrays


def read(path: str | os.PathLike) -> Dataset:
    """The episodes of what `write` wrote.

    Raises:
        ValueError: not such a file or folder, or a damaged one; the message names the file, and the column where one is wrong.
    """
    path = Path(path)
    return _read_folder(path, Reading()) if path.is_dir() else _read_file(path, Reading())


def _read_file(path: Path, reading: Reading) -> Dataset:
    with columns.of(path):
        reading.only("rlx", "bounds")
    arrays = columns.load(path)
    if str(arrays.pop("format", "")) != FORMAT:
        raise ValueError(f"{path} is not a dataset of rlx; rlx.replay.load reads others too.")
    with columns.of(path):
        meta = _meta(str(arrays.pop("meta", "{}")))
        rows, offsets = _rows(arrays, reading)
        return Dataset(rows, offsets, str(path), "rlx", (), meta)


def _meta(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"its meta is no JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"its meta is {type(found).__name__}, it is to be a JSON object.")
    return found


def _rows(arrays: dict[str, Any], reading: Reading, sound: bool = False) -> tuple[Row, np.ndarray]:
    """Rows and offsets of columns by name; ``sound``: they are what `Writer` wrote, and are not looked at."""
    need({k.split("/")[0] for k in arrays}, ("offsets", "obs", "action", *_FLAT))
    odd = [k for k in arrays if k not in (*_FLAT, "offsets") and k.split("/")[0] not in _TREES]
    both = [k for k in arrays for other in arrays if other.startswith(f"{k}/")]
    if odd or both:
        raise ValueError(f"it has {(odd or both)[0]!r}, which a dataset of rlx has not: write it anew by datasets.write.")
    offsets = arrays.pop("offsets")
    count = one_length(arrays)
    if offsets.dtype.kind not in "iu" or offsets.ndim != 1 or len(offsets) < 2:
        raise ValueError(f"offsets is {offsets.dtype}{list(offsets.shape)}; it lists whole numbers, where each episode begins.")
    if offsets[0] or offsets[-1] != count or (np.diff(offsets.astype(float)) <= 0).any():
        raise ValueError(f"the offsets of the episodes do not fit {count} rows.")
    offsets = offsets.astype(np.int64)
    if reading.episodes is not None:
        offsets = offsets[: reading.episodes + 1]
        arrays = {k: v[: offsets[-1]] for k, v in arrays.items()}
    if sound:
        first = np.zeros(offsets[-1], bool)
        first[offsets[:-1]] = True
        tree: dict[str, Any] = {k: _unflatten(k, arrays) for k in _TREES} | {k: np.asarray(arrays[k][:]) for k in _FLAT}
        if reading.bounds is not None and not columns.of_data(reading.bounds):
            each = lambda x: replaced(_scaled(np.asarray(x[:]), offsets, reading), np.roll(first, -1), 0)
            tree["action"] = jax.tree.map(each, tree["action"])
        return Row(**tree, first=first, valid=np.ones(len(first), bool)), offsets
    plain = {k: columns.numbers(v, k) for k, v in arrays.items()}
    terminated, truncated = (columns.flags(plain[k], k) for k in ("terminated", "truncated"))
    tree = {k: _unflatten(k, plain) for k in _TREES}
    tree["action"] = jax.tree.map(lambda x: _scaled(x, offsets, reading), tree["action"])
    early = truncated.copy()
    early[offsets[1:] - 1] = False
    return from_rows(tree["obs"], tree["action"], plain["reward"], terminated | early, offsets, tree["info"], tree["extras"])


def _scaled(action: np.ndarray, offsets: np.ndarray, reading: Reading) -> np.ndarray:
    """Actions in the units that ``bounds`` say. Those of last rows lead nowhere: they are not asked whether they lie within."""
    if reading.bounds is not None:
        action = action.copy()
        action[offsets[1:] - 1] = action[offsets[:-1]]
    return columns.bounded(action, reading.bounds, "action")


def _flatten(name: str, tree: PyTree) -> dict[str, np.ndarray]:
    if not isinstance(tree, Mapping):
        if not isinstance(tree, np.ndarray):
            raise ValueError(f"write: {name} must be an array or a dict of such, got {type(tree).__name__}.")
        return {name: tree}
    odd = [k for k in tree if not isinstance(k, str) or not k or "/" in k]
    if odd:
        raise ValueError(f"write: {name} has the key {odd[0]!r}; keys must be strings without '/'.")
    return {path: x for k, v in tree.items() for path, x in _flatten(f"{name}/{k}", v).items()}


def _unflatten(name: str, arrays: Mapping[str, Any]) -> Any:
    if name in arrays:
        return arrays[name]
    inner = dict.fromkeys(k[len(name) + 1 :].split("/")[0] for k in arrays if k.startswith(f"{name}/"))
    return {k: _unflatten(f"{name}/{k}", arrays) for k in inner}


# ------------------------------------------------------------------------------------------------------- a folder of shards


class Writer:
    """A folder of shards in the making::

        with Writer("data", {"env": "dmc:walker-walk"}) as out:
            for episodes in blocks:
                out.append(episodes)

    Each `append` is a shard of its own, or several where it is large. The dataset can be read when the block has ended; where
    it failed or was killed, ``Writer(path, resume=True)`` goes on after the last shard, and `shards` says how many there are. A
    dataset that is whole grows in the same way, and is not whole in the meantime.
    """

    def __init__(self, path: str | os.PathLike, meta: Mapping[str, Any] | None = None, resume: bool = False):
        """Raises ValueError where something is there already that does not go on, or ``meta`` is not what JSON can say."""
        self.path = Path(path)
        there = self.path / MANIFEST
        if there.exists() and not resume:
            raise ValueError(f"{self.path} is a dataset already: give another name, or remove it first.")
        if self.path.exists() and not there.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ValueError(f"{self.path} is there already and is no dataset: give another name.")
        try:
            fresh = {"format": FOLDER_FORMAT, "complete": False, "meta": json.loads(json.dumps(dict(meta or {}))), "shards": []}
        except (TypeError, ValueError) as error:
            raise ValueError(f"meta must be what JSON can say ({error}).") from error
        self.manifest: dict[str, Any] = _manifest(self.path, unfinished=True) if there.exists() else fresh
        self.path.mkdir(parents=True, exist_ok=True)
        listed = {shard["name"] for shard in self.manifest["shards"]}
        for old in self.path.iterdir():  # of a writer that did not end
            if old.is_dir() and old.name not in listed:
                shutil.rmtree(old)
        self._list()

    @property
    def shards(self) -> int:
        return len(self.manifest["shards"])

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            if not self.shards:
                raise ValueError(f"write {self.path}: there are no episodes.")
            self.manifest["complete"] = True
            self._list()

    def append(self, episodes: Iterable[Row | Mapping[str, Any]]) -> None:
        """Raises ValueError for episodes that `rlx.replay.from_episodes` refuses, or that differ from those that are there."""
        rows: list[Row] = []
        held = 0
        for i, episode in enumerate(episodes):
            rows.append(episode_row(episode, i))
            held += sum(x.nbytes for x in jax.tree.leaves(rows[-1]))
            if held > SHARD:
                self._shard(rows)
                rows, held = [], 0
        if rows:
            self._shard(rows)

    def _shard(self, rows: list[Row]) -> None:
        arrays = _columns(rows, self.path)
        kinds = {k: [v.dtype.str, list(v.shape[1:])] for k, v in arrays.items()}
        known = self.manifest.setdefault("columns", kinds)
        if known != kinds:
            odd = next(k for k in {**known, **kinds} if known.get(k) != kinds.get(k))
            raise ValueError(f"{self.path} has {odd}: {known.get(odd)}; these episodes have {kinds.get(odd)}.")
        name = f"{self.shards:05d}"
        folder = self.path / name
        folder.mkdir()
        listed = {}
        for column, values in arrays.items():
            file = folder / _file(column)
            with file.open("wb") as out:
                np.lib.format.write_array(out, np.ascontiguousarray(values), allow_pickle=False)
                out.flush()
                os.fsync(out.fileno())
            listed[column] = {"bytes": file.stat().st_size, "digest": _digest(file)}
        self.manifest["complete"] = False  # a dataset that was whole is not while it grows
        self.manifest["shards"].append({"name": name, "rows": len(arrays["reward"]), "episodes": len(rows), "files": listed})
        self._list()

    def _list(self) -> None:
        files.write_text(self.path / MANIFEST, json.dumps(self.manifest, indent=1) + "\n")


def _file(column: str) -> str:
    return column.replace("/", "--") + ".npy"


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "blake2b").hexdigest()[:32]


def _manifest(path: Path, unfinished: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = files.read_json(path / MANIFEST)
    shards = found.get("shards")
    if found.get("format") != FOLDER_FORMAT or not isinstance(shards, list) or not isinstance(found.get("meta"), dict):
        raise ValueError(f"{path / MANIFEST} does not list the shards of a dataset of this version of rlx.")
    for shard in shards:
        sound = isinstance(shard, dict) and isinstance(shard.get("files"), dict) and isinstance(shard.get("rows"), int)
        if not sound or not str(shard.get("name")).isdecimal():
            raise ValueError(f"{path / MANIFEST} has an entry among its shards that is none: {str(shard)[:80]}.")
    if not unfinished and not found.get("complete"):
        raise ValueError(
            f"{path} is not complete: what wrote it is still at it, or was ended. Give the same command again, which goes on."
        )
    return found


def mapped(path: str | os.PathLike, reading: Reading | None = None) -> Dataset:
    """The episodes of a folder of shards, its columns mapped from the files: nothing is read before it is asked for, so the
    data may be larger than memory; but for actions where ``bounds`` scale them. Sizes are compared with the list, checksums are
    not: `verify` does that.

    Raises:
        ValueError: no such folder, one that is not complete, or a file of it that is missing or of another size.
    """
    chosen = reading or Reading()
    with columns.of(path):
        return fitted(renamed(_mapped(Path(path), chosen), chosen.renaming), chosen.bounds)


def _mapped(path: Path, reading: Reading) -> Dataset:
    manifest = _manifest(path)
    with columns.of(path):
        reading.only("rlx shards", "bounds")
    names = list(manifest.get("columns", {}))
    each = {name: [_open(path, shard, name) for shard in manifest["shards"]] for name in names}
    if not each:
        raise ValueError(f"{path} has no shards.")
    ends = np.cumsum([0, *(shard["rows"] for shard in manifest["shards"])])
    starts = [x[:-1] + end for x, end in zip(each.pop("offsets"), ends, strict=False)]
    arrays: dict[str, Any] = {name: Mapped(parts) for name, parts in each.items()}
    arrays["offsets"] = np.concatenate([*starts, ends[-1:]])
    with columns.of(path):
        rows, offsets = _rows(arrays, reading, sound=True)
    return Dataset(rows, offsets, str(path), "rlx", (f"{len(manifest['shards'])} shards",), manifest["meta"])


def _open(path: Path, shard: Mapping[str, Any], column: str) -> np.ndarray:
    file, listed = path / shard["name"] / _file(column), shard["files"].get(column, {})
    if not file.exists() or file.stat().st_size != listed.get("bytes"):
        size = f"{file.stat().st_size} bytes" if file.exists() else "nothing"
        raise ValueError(
            f"{file} is damaged: {size} where {listed.get('bytes')} bytes are listed. Get or write the dataset anew."
        )
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} is damaged: {files.words(error).rstrip('.')}. Get or write the dataset anew.") from error


def verify(path: str | os.PathLike) -> None:
    """Raises ValueError where a file of a folder of shards is not what was written, by its checksum."""
    path = Path(path)
    for shard in _manifest(path)["shards"]:
        for column, listed in shard["files"].items():
            _open(path, shard, column)
            if _digest(path / shard["name"] / _file(column)) != listed.get("digest"):
                file = path / shard["name"] / _file(column)
                raise ValueError(f"{file} is damaged: its checksum is another than listed. Get or write the dataset anew.")


def _read_folder(path: Path, reading: Reading) -> Dataset:
    verify(path)
    data = _mapped(path, reading)
    rows = jax.tree.map(lambda x: np.asarray(x[:]), data.rows)
    return Dataset(rows, data.offsets, data.name, data.format, data.notes, data.meta)


def _sound(path: Path, reading: Reading) -> Piece:
    """The folder as one piece, whose rows stay on disk, and whose checksums were compared."""
    verify(path)
    return lambda most: _mapped(path, replace(reading, episodes=most))


FILE = Layout(
    "rlx",
    "what datasets.write wrote (.npz)",
    lambda f: f.has("format", "offsets", "terminated", "truncated"),
    lambda f, r: _read_file(f.path, r),
    ("npz",),
)
FOLDER = Layout(
    "rlx shards",
    f"a folder with {MANIFEST}, as `rlx data convert` writes it",
    lambda f: MANIFEST in f.names,
    lambda f, r: _read_folder(f.path, r),
    ("folder",),
    lambda f, r: [_sound(f.path, r)],
)
