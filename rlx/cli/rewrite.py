"""``rlx data convert|slice``: datasets written anew, in rlx's own form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx import config
from rlx.cli import console
from rlx.files import free_memory
from rlx.replay import datasets
from rlx.replay.dataset import Dataset, agreed, alike
from rlx.replay.datasets import native
from rlx.replay.datasets.pieces import TIMES, Pieces
from rlx.types import Row

Flags = Any  # those of `rlx.cli.data`, which imports this
BLOCK = 200  # episodes of a shard


def convert(sources: list[str], options: datasets.Reading, flags: Flags) -> None:
    """All episodes; of many files one is in memory at a time, of a large one a part."""
    out, free = console.destination(flags.out), free_memory()
    if options.episodes is None:
        _refuse_at_once(out, datasets.nbytes(sources), free)
    read = Pieces(sources, options, free)
    _write(read, len(read), out, flags, {"converted_from": [Path(s).name for s in sources]}, read.notes)


def take(sources: list[str], options: datasets.Reading, flags: Flags) -> None:
    """Some episodes. Data that fit are read once; others twice, for lengths and returns and for what was chosen."""
    out, free = console.destination(flags.out), free_memory()
    if flags.best and flags.shuffle is not None:
        config.stop("--best and --shuffle do not go together: give one")
    fits = free is None or TIMES * datasets.nbytes(sources) <= free
    data = datasets.load(sources, options) if fits else Pieces(sources, options, free)
    lengths = data.lengths
    chosen = np.flatnonzero((lengths >= flags.shortest) & (lengths <= (flags.longest or np.inf)))
    if flags.best:
        chosen = chosen[np.argsort(-data.returns[chosen], kind="stable")]
    if flags.shuffle is not None:
        chosen = np.random.default_rng(flags.shuffle).permutation(chosen)
    chosen = chosen[: flags.episodes]
    if not len(chosen):
        config.stop(f"no episode is left of {len(lengths)}, whose lengths are {lengths.min()} to {lengths.max()}")
    more = {"slice_of": [Path(s).name for s in sources]}
    if not fits:
        _refuse_at_once(out, datasets.nbytes(sources) * lengths[chosen].sum() / lengths.sum(), free)
    if isinstance(data, Dataset):
        _write([data.select(chosen)], 1, out, flags, more)
    else:
        _write(data.select(chosen), len(chosen), out, flags, more, data.notes)


def _refuse_at_once(out: Path, needs: float, free: int | None) -> None:
    """Ends the command where what goes into one file is larger than memory."""
    if out.suffix in native.FILES and free is not None and TIMES * needs > free:
        config.stop(
            f"{out} is one file, written at once, and {console.size(needs)} of data do not fit into memory, where "
            f"{console.size(free)} are free: give --out a name without {out.suffix}, a folder of shards"
        )


class _Summary:
    """Of datasets that go by one after another: what `rlx.replay.datasets.join` would say of all of them."""

    def __init__(self) -> None:
        self.first: Dataset | None = None
        self.meta: dict[str, Any] = {}
        self.notes: dict[str, None] = {}
        self.episodes = self.transitions = 0

    def add(self, data: Dataset) -> None:
        """Raises ValueError where its rows are unlike those of the first one."""
        if self.first is None:
            bare = jax.tree.map(lambda x: np.empty((0, *x.shape[1:]), x.dtype), data.rows)
            self.first, self.meta = replace(data, rows=bare), dict(data.meta)
        alike([self.first, data])
        self.meta = agreed(self.meta, data.meta)
        self.notes |= dict.fromkeys(data.notes)
        self.episodes, self.transitions = self.episodes + len(data), self.transitions + data.transitions

    def of(self, read: Iterable[Dataset], progress: Callable[[float], None]) -> Iterator[Row]:
        """Their episodes; ``progress`` hears how many datasets are done."""
        for i, data in enumerate(read):
            self.add(data)
            for k in range(len(data)):
                yield data[k]
                progress(i + (k + 1) / len(data))
            del data  # before the next one is read


def _write(
    read: Iterable[Dataset], count: int, out: Path, flags: Flags, more: dict[str, Any], notes: Sequence[str] = ()
) -> None:
    """Whole or not at all. Of ``count`` datasets one is in memory at a time, but for a file, which is written at once."""
    summary = _Summary()
    own = {"env": flags.env} if flags.env else {}
    meta = lambda: {**summary.meta, **more, "notes": [*summary.notes, *notes], **own}
    if out.suffix in native.FILES:
        data = datasets.join(read)
        summary.add(data)
        datasets.write(out, data, meta())
    else:
        with (
            console.whole_folder(out) as part,
            console.steps(count, "datasets", flags.progress) as progress,
            datasets.Writer(part) as writer,
        ):
            episodes = summary.of(read, progress)
            for one in episodes:
                writer.append(chain([one], islice(episodes, BLOCK - 1)))
            writer.manifest["meta"] = json.loads(json.dumps(meta()))  # known when all was read
    size = console.on_disk(out)
    rows = [
        ("episodes", f"{summary.episodes:,}"),
        ("transitions", f"{summary.transitions:,}"),
        ("written", f"{out}, {console.size(size)}"),
    ]
    console.table("Dataset", rows)
    console.result({"out": out, "episodes": summary.episodes, "transitions": summary.transitions, "bytes": size})
