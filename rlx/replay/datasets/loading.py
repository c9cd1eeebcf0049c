"""`load`: any file, folder, glob or list of them, by what is in it."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlx.config import nearest, replace
from rlx.replay import columns
from rlx.replay.dataset import Dataset, join
from rlx.replay.datasets import d4rl, demonstrations, exorl, minari, native, ogbench, pickled, robohive, robomimic
from rlx.replay.datasets.found import Found, Layout, Reading, look, natural
from rlx.replay.datasets.found import reading as reading_of

# The first that fits reads: what is more special stands before what is more general.
LAYOUTS: tuple[Layout, ...] = (
    native.FOLDER,
    native.FILE,
    minari.LAYOUT,
    robomimic.LAYOUT,
    demonstrations.LAYOUT,
    robohive.LAYOUT,
    d4rl.NEORL,
    exorl.LAYOUT,
    ogbench.LAYOUT,
    d4rl.LAYOUT,
    pickled.LAYOUT,
)
_SUFFIXES = (".npz", ".hdf5", ".h5", ".pickle", ".pkl", ".pt")  # of the files in a folder that may be data

Source = str | os.PathLike | Iterable[str | os.PathLike]


def load(source: Source, reading: Reading | None = None, **options: Any) -> Dataset:
    """The episodes of a file, of a folder of files, of a glob, or of a list of these, joined in sorted order (a list: as
    given).

    The layout is recognised from the contents; `Dataset.format` says which it was and `Dataset.notes` what was done.
    ``options`` are the fields of `Reading`, which say what a file leaves open.

    Raises:
        ValueError: nothing is there, no layout fits, the file is damaged, or it leaves something open that no option says; the
            message names the file, the column, the row where there is one, and what to do.
    """
    chosen = reading_of(**options) if reading is None else replace(reading, options)
    return _joined(paths(source), chosen)


def _joined(files: list[Path], reading: Reading) -> Dataset:
    """As many of them as hold the episodes that were asked for."""
    parts: list[Dataset] = []
    for path in files:
        left = None if reading.episodes is None else reading.episodes - sum(map(len, parts))
        if left == 0:
            break
        parts.append(_load(look(path), replace(reading, {"episodes": left})))
    return join(parts)


def layout_of(found: Found, format: str | None = None) -> Layout | None:
    """The layout of what lies there, by its contents or by name; None where none fits.

    Raises:
        ValueError: there is no layout of that name.
    """
    if format is not None:
        known = {layout.name.lower(): layout for layout in LAYOUTS}
        if format.lower() not in known:
            raise ValueError(f"unknown format {format!r}.{nearest(format, [layout.name for layout in LAYOUTS])}")
        return known[format.lower()]
    return next((layout for layout in LAYOUTS if layout.fits(found)), None)


def paths(source: Source) -> list[Path]:
    """The files and folders that ``source`` names. Raises ValueError where there is none."""
    if not isinstance(source, str | os.PathLike):
        return [path for one in source for path in paths(one)] or _nothing(source)
    path = Path(source).expanduser()
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    return sorted(map(Path, glob.glob(str(path), recursive=True)), key=natural) or _nothing(source)


def _nothing(source: Any) -> list[Path]:
    raise ValueError(f"there is no dataset {source}: nothing is there.")


def _load(found: Found, reading: Reading) -> Dataset:
    layout = layout_of(found, reading.format)
    if layout is not None:
        with columns.of(found.path):
            return layout.read(found, reading)
    if found.kind == "folder":
        inside = [p for p in sorted(found.path.iterdir(), key=natural) if p.suffix in _SUFFIXES and not p.name.startswith(".")]
        if not inside:
            raise ValueError(
                f"{found.path} is a folder without data: neither files ({', '.join(_SUFFIXES)}) nor a layout.{_known()}"
            )
        return _joined(inside, reading)
    held = ", ".join(sorted(found.names)) or "nothing that can be listed"
    raise ValueError(f"{found.path} ({found.kind}) is of no layout that is known; it holds {held}.{_known()}")


def _known() -> str:
    return " Known are " + "; ".join(f"{layout.name}: {layout.about}" for layout in LAYOUTS) + "."
