"""`load`: any file, folder, glob or list of them, by what is in it."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterable
from dataclasses import replace as but
from pathlib import Path
from typing import Any

from rlx.config import nearest
from rlx.replay import columns
from rlx.replay.dataset import Dataset, fitted, join, renamed
from rlx.replay.datasets import d4rl, demonstrations, exorl, minari, native, ogbench, pickled, repo, robohive, robomimic
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
    repo.LAYOUT,
    ogbench.LAYOUT,
    d4rl.LAYOUT,
    pickled.LAYOUT,
)
_SUFFIXES = (".npz", ".hdf5", ".h5", ".pickle", ".pkl", ".pt")  # of the files in a folder that may be data
_WORDS = {"npz": "an .npz", "hdf5": "HDF5", "pickle": "a pickle", "torch": "a file of torch.save", "folder": "a folder"}

Source = str | os.PathLike | Iterable[str | os.PathLike]


def load(source: Source, reading: Reading | None = None, **options: Any) -> Dataset:
    """The episodes of a file, of a folder of files, of a glob, or of a list of these, joined in sorted order (a list: as
    given). Of a folder's own folders those that are datasets are read, such as shards; what is left out is said.

    The layout is recognised from the contents; `Dataset.format` says which it was and `Dataset.notes` what was done.
    ``options`` are the fields of `Reading`, which say what a file leaves open.

    Raises:
        ValueError: nothing is there, no layout fits, the file is damaged, it leaves something open that no option says, or an
            option says what its layout does not use; the message names the file, the column, the row where there is one, and
            what to do.
    """
    chosen = reading_of(reading, **options)
    notes, given = list[str](), paths(source)
    whole = join(_as_many((one for path in given for one in parts(look(path), chosen.format, notes, given)), chosen))
    return fitted(but(whole, notes=(*whole.notes, *notes)) if notes else whole, chosen.bounds)


def _as_many(given: Iterable[Found], reading: Reading) -> list[Dataset]:
    """As many of them as hold the episodes that were asked for."""
    read, left = list[Dataset](), reading.episodes
    for found in given:
        read.append(load_one(found, but(reading, episodes=left)))
        left = None if left is None else left - len(read[-1])
        if left == 0:
            break
    return read


def layout_of(found: Found, format: str | None = None) -> Layout | None:
    """The layout of what lies there, by its contents or by name (rlx: a file or a folder of shards); None where none fits. A
    folder whose files are to be of the layout of that name has none itself.

    Raises:
        ValueError: there is no layout of that name, or it is one of other kinds of files.
    """
    own = next((layout for layout in LAYOUTS if layout.holds(found)), None)
    if format is None:
        return own
    named = [layout for layout in LAYOUTS if format.lower() in (layout.name.lower(), layout.name.lower().split()[0])]
    if not named:
        raise ValueError(f"unknown format {format!r}.{nearest(format, [layout.name for layout in LAYOUTS])}")
    for one in named:
        if one.holds(found) or (found.kind != "folder" and found.kind in one.kinds):
            return one
    if found.kind == "folder" and own is None:
        return None
    what = f"{_WORDS[found.kind]}{f' of the layout {own.name}' if own else ''}"
    kinds = " or ".join(_WORDS[kind] for one in named for kind in one.kinds)
    raise ValueError(
        f"{found.path} is {what}; format={format} is for {kinds}: leave format out, and the layout is seen from the contents."
    )


def paths(source: Source) -> list[Path]:
    """The files and folders that ``source`` names. Raises ValueError where there is none."""
    if not isinstance(source, str | os.PathLike):
        return _once([path for one in source for path in paths(one)]) or _nothing(source)
    path = Path(source).expanduser()
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    return _once(sorted(map(Path, glob.glob(str(path), recursive=True)), key=natural)) or _nothing(source)


def _once(given: list[Path]) -> list[Path]:
    """Without what is read as a part of another one: ``data/**`` names the folder, and all that is in it as well."""
    folders = {path: layout_of(look(path)) is not None for path in given if path.is_dir()}
    if not folders or len(given) == 1:
        return given
    whole = {path for path, is_dataset in folders.items() if is_dataset}
    taken = lambda path: path.parent in folders and folders.get(path, path.suffix in _SUFFIXES)  # as `parts` reads it
    return [path for path in given if not whole.intersection(path.parents) and not taken(path)]


def _nothing(source: Any) -> list[Path]:
    raise ValueError(f"there is no dataset {source}: nothing is there.")


def parts(
    found: Found, format: str | None = None, notes: list[str] | None = None, given: Collection[Path] = ()
) -> Iterable[Found]:
    """What is read of what lies there, one after another: itself, or of a folder that is no dataset the files and datasets in
    it. ``notes``: where to say what is left out, unless it is ``given`` itself.

    Raises:
        ValueError: there is nothing to read in it.
    """
    if found.kind != "folder" or layout_of(found, format) is not None:
        return [found]
    inside, left = list[Path](), list[str]()
    for path in sorted(found.path.iterdir(), key=natural):
        if path.name.startswith("."):
            continue
        if path.is_dir() and layout_of(look(path)) is None:
            left += [path.name] * (path not in given and any(p.suffix in _SUFFIXES for p in path.iterdir()))
        elif path.is_dir() or path.suffix in _SUFFIXES:
            inside.append(path)
    if not inside:
        _refuse_pairs(found)
        deeper = f" There are some in folders of it, give these: {', '.join(left)}." if left else ""
        raise ValueError(
            f"{found.path} is a folder without data: neither files ({', '.join(_SUFFIXES)}) nor a layout.{deeper}{_known()}"
        )
    if left and notes is not None:
        notes.append(f"folders in {found.path} that are left out, give them too where they belong to it: {', '.join(left)}")
    return map(look, inside)


def load_one(found: Found, reading: Reading) -> Dataset:
    """What lies there, its actions not yet in units of bounds=data. Raises as `load`."""
    layout = layout_of(found, reading.format)
    if layout is not None:
        with columns.of(found.path):
            return renamed(layout.read(found, reading), reading.renaming)
    _refuse_pairs(found)
    held = ", ".join(sorted(found.names)) or "nothing that can be listed"
    raise ValueError(
        f"{found.path} ({found.kind}) is of no layout that is known; it holds {held}.{_lacks(found.names)}{_known()}"
    )


_COLUMNS = {  # of layouts that are flat columns, those without which a file is none
    "D4RL": ("observations", "actions", "rewards", "terminals"),
    "NeoRL": ("obs", "action", "reward", "done", "index"),
    "ExoRL": ("observation", "action", "reward", "discount"),
}


def _lacks(names: Collection[str]) -> str:
    """Which columns a file lacks of the layout that it is nearest to, of which it has half."""
    left = {layout: [k for k in own if k not in names] for layout, own in _COLUMNS.items()}
    near = min(left, key=lambda layout: len(left[layout]) / len(_COLUMNS[layout]))
    return f" Of {near} it lacks {', '.join(left[near])}." if 2 * len(left[near]) <= len(_COLUMNS[near]) else ""


def _refuse_pairs(found: Found) -> None:
    """Raises ValueError for pairs of segments and labels of them, which are no episodes."""
    if {"obs_1", "obs_2", "label"} <= found.names or any(name.startswith("label_human") for name in found.names):
        raise ValueError(
            f"{found.path} holds pairs of segments and which one is preferred, which are no episodes: in Python "
            "rlx.replay.datasets.load_pairs reads them."
        )


def _known() -> str:
    return " Known are " + "; ".join(f"{layout.name}: {layout.about}" for layout in LAYOUTS) + "."
