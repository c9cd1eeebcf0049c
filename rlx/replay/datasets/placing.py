"""Where the rows of a dataset lie while agents learn from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rlx.files import free_memory
from rlx.replay.dataset import Dataset
from rlx.replay.datasets import minari, native
from rlx.replay.datasets.found import Found, look, reading
from rlx.replay.datasets.loading import Source, layout_of, load, parts, paths
from rlx.types import ReplayState

Where = Literal["device", "host", "disk"]


def replay_of(source: Source, where: Where = "device", repeat: int | None = None, **options: Any) -> ReplayState:
    """`load` as a replay whose rows lie ``where``: on the device, in host memory, or on disk, mapped from a folder of shards
    and read as they are drawn, so that they may be larger than memory. All three draw the same rows. ``repeat``: simulation
    steps of a decision that data must have, where they say how many.

    Raises:
        ValueError: as `load`; data that do not fit into memory, that cannot be mapped, or of another ``repeat``.
    """
    data = _held(source, where, options)
    stored = data.meta.get("repeat", repeat)
    if repeat is not None and stored != repeat:
        raise ValueError(
            f"{source} was made with --repeat {stored}, and here it is {repeat}: give --repeat {stored}, or data made with "
            f"--repeat {repeat}."
        )
    return data.replay(device=where == "device")


def _held(source: Source, where: Where, options: dict[str, Any]) -> Dataset:
    """In memory, or on disk."""
    if where == "disk":
        found, chosen = [look(path) for path in paths(source)], reading(**options)
        if len(found) > 1 or layout_of(found[0], chosen.format) is not native.FOLDER:
            raise ValueError(
                f"{source} is no folder of shards, and only these are read from disk as they are drawn: make one by "
                f"`rlx data convert {source} NAME`."
            )
        return native.mapped(found[0].path, chosen)
    needs, free = nbytes(source), free_memory()
    if free is not None and needs > free and "episodes" not in options:
        raise ValueError(
            f"{source} takes {needs / 2**30:.1f} GiB in memory, where {free / 2**30:.1f} are free: make a folder of shards of "
            "it (`rlx data convert`) and read that with --data-in disk, or take a part (--data-option episodes=N)."
        )
    return load(source, **options)


def nbytes(source: Source) -> int:
    """About what `load` will take in memory, from the headers of what it reads alone: files may be compressed. Of pickles it is
    their size, and that of the folder of frames beside them. Raises ValueError where nothing is there."""
    read = [one for path in paths(source) for one in parts(look(path))]
    frames = {one.path.parent / "frames" for one in read if one.kind in ("pickle", "torch")}
    return sum(map(_nbytes, read)) + sum(map(_on_disk, frames))


def _nbytes(found: Found) -> int:
    if found.kind == "folder":
        inner = found.path / minari.FILE
        return _nbytes(look(inner)) if inner.exists() else _on_disk(found.path)
    return found.nbytes or found.path.stat().st_size


def _on_disk(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
