"""Where the rows of a dataset lie while agents learn from it."""

from __future__ import annotations

from typing import Any, Literal

from rlx.files import free_memory
from rlx.replay.datasets import native
from rlx.replay.datasets.found import Found, look, reading
from rlx.replay.datasets.loading import Source, layout_of, load, paths
from rlx.types import ReplayState

Where = Literal["device", "host", "disk"]


def replay_of(source: Source, where: Where = "device", **options: Any) -> ReplayState:
    """`load` as a replay whose rows lie ``where``: on the device, in host memory, or on disk, mapped from a folder of shards
    and read as they are drawn, so that they may be larger than memory. All three draw the same rows.

    Raises:
        ValueError: as `load`; data that do not fit into memory, or that cannot be mapped.
    """
    if where == "disk":
        found = [look(path) for path in paths(source)]
        if len(found) > 1 or layout_of(found[0]) is not native.FOLDER:
            raise ValueError(
                f"{source} is no folder of shards, and only these are read from disk as they are drawn: make one by "
                f"`rlx data convert {source} NAME`."
            )
        return native.mapped(found[0].path, reading(**options)).replay(device=False)
    needs, free = nbytes(source), free_memory()
    if free is not None and needs > free and "episodes" not in options:
        raise ValueError(
            f"{source} takes {needs / 2**30:.1f} GiB in memory, where {free / 2**30:.1f} are free: make a folder of shards of "
            "it (`rlx data convert`) and read that with --data-in disk, or take a part (--data-option episodes=N)."
        )
    return load(source, **options).replay(device=where == "device")


def nbytes(source: Source) -> int:
    """About what `load` will take in memory, from the headers alone. Raises ValueError where nothing is there."""
    return sum(_nbytes(look(path)) for path in paths(source))


def _nbytes(found: Found) -> int:
    if found.kind == "folder":
        return sum(p.stat().st_size for p in found.path.rglob("*") if p.is_file())
    return found.nbytes or found.path.stat().st_size
