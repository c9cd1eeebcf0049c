"""Checkpoints: a whole run as one tree of arrays, written by orbax, checked when read.

A checkpoint is a folder: ``state/`` (orbax), ``meta.json``, and ``manifest.json`` with the size and digest of every file. It
is written beside its place and renamed into it, so a run that dies while writing leaves the one before. Arrays are read back
as host numpy first: nothing of the number or kind of devices is binding.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import files
from rlx.train import processes
from rlx.types import PyTree

MANIFEST = "manifest.json"
PART = ".part"  # ends the names of folders that are being written, or removed
PATIENCE = 100  # times that a reader looks again because the writer went on


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read: what happened and what to do."""


def is_key(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _digest(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "blake2b").hexdigest()


def _names(tree: PyTree) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)


def _orbax() -> Any:
    import orbax.checkpoint as ocp  # takes a second to import

    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells every step of every save
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=False))


class Checkpoints:
    """The checkpoints in ``directory``, numbered; the newest ``keep`` sound ones stay. One process (or job) writes there, any
    number may read meanwhile.

    A checkpoint is sound if its files are those that its manifest proves. What is not sound counts nowhere: it is passed over
    when read, and neither as saved nor as kept.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 2, whole: Callable[[Any], Any] | None = None):
        if keep < 1:
            raise ValueError(f"keep={keep}: at least one checkpoint must stay.")
        self.directory, self.keep, self.whole = Path(directory), keep, whole
        self._proven: dict[int, Any] = {}  # the mark of each checkpoint when it was found to be sound

    def claim(self) -> None:
        """Makes the directory; to be asked by who will write, before there is anything to lose.

        Raises:
            CheckpointError: it cannot be written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            probe = self.directory / f".{os.getpid()}{PART}"
            probe.mkdir(exist_ok=True)
            probe.rmdir()
        except OSError as e:
            raise CheckpointError(f"{self.directory} cannot be written: {files.words(e)}. Give another run folder.") from e

    def steps(self) -> list[int]:
        """Numbers of the checkpoints there are, oldest first, sound or not."""
        names = [p.name for p in self.directory.iterdir()] if self.directory.is_dir() else []
        return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]{0,17}", name))

    def sound(self, step: int) -> bool:
        """Whether there is a checkpoint of this number that can be gone on from. Read through once, then remembered."""
        mark = self._mark(step)
        if mark is None or self._proven.get(step) == mark:
            return mark is not None
        if self._fault(step) is not None:
            return False
        self._proven[step] = mark
        return True

    def last(self) -> Path | None:
        """The newest sound one."""
        return next((self.directory / str(step) for step in reversed(self.steps()) if self.sound(step)), None)

    def meta(self, step: int) -> dict[str, Any]:
        return files.read_json(self.directory / str(step) / "meta.json")

    def _mark(self, step: int) -> Any:
        """What tells a checkpoint's folder from one that was put in its place; None where there is none."""
        try:
            found = (self.directory / str(step)).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    # ------------------------------------------------------------------------------------------------------------ writing

    def save(self, step: int, tree: PyTree, meta: dict[str, Any]) -> None:
        """``tree``: arrays and typed keys in any containers; ``meta``: JSON. Returns when all of it is on the disk.

        Other checkpoints go: those beyond ``keep``, those that are not sound, later ones, which this run has not come to.

        Raises:
            CheckpointError: the disk is full or the folder cannot be written. The checkpoints before stay.
        """
        temporary, fault = self.directory / f".{step}{PART}", ""
        try:
            if processes.is_process_zero():
                self.directory.mkdir(parents=True, exist_ok=True)
                self._sweep()
                self._need_room(tree)  # orbax's threads fail loudly, and at length
                temporary.mkdir()
        except OSError as e:
            fault = self._why(step, e)
        self._all_fine(fault, step)
        try:
            self._write(temporary, tree, meta)
            if processes.is_process_zero():
                self._remove(step)
                os.replace(temporary, self.directory / str(step))
                self._proven[step] = self._mark(step)
        except processes.Gone:
            raise
        except Exception as e:  # orbax wraps the system's errors in several ways
            shutil.rmtree(temporary, ignore_errors=True)
            if processes.count() > 1:
                raise processes.Gone(f"another process of this job is gone, or cannot write ({e}).") from e
            if files.number(e) is None and "RESOURCE_EXHAUSTED" not in str(e):
                raise
            raise CheckpointError(self._why(step, e)) from e
        processes.wait()
        if processes.is_process_zero():
            self._prune(step)

    def _prune(self, newest: int) -> None:
        kept = 0
        for step in reversed(self.steps()):
            if step <= newest and kept < self.keep and self.sound(step):
                kept += 1
            else:
                self._remove(step)

    def _remove(self, step: int) -> None:
        """Out of sight at once, so that no reader sees a part of it and no kill leaves one."""
        place, gone = self.directory / str(step), self.directory / f".{step}-old{PART}"
        if place.exists():
            os.replace(place, gone)
            shutil.rmtree(gone, ignore_errors=True)
        self._proven.pop(step, None)

    def _sweep(self) -> None:
        """What processes that were killed have left: only one writes here at a time, and it writes nothing now."""
        for old in self.directory.iterdir():
            if re.match(r"\.[0-9]+-", old.name) or (old.name.startswith(".") and old.name.endswith(PART)):
                shutil.rmtree(old, ignore_errors=True)

    def _why(self, step: int, e: Exception) -> str:
        what, remedy = files.what_and_remedy(e, self.directory)
        last = self.last()
        kept = f" Checkpoint {last.name} is kept." if last else ""
        return (
            f"checkpoint {step} could not be written to {self.directory}: {what}.{kept} "
            f"{remedy}, or give another run folder; the same command goes on from the last checkpoint."
        )

    def _all_fine(self, fault: str, step: int) -> None:
        if processes.agree(fault=bool(fault))["fault"]:
            raise CheckpointError(fault or f"checkpoint {step}: the first process of the job could not write it.")

    def _need_room(self, tree: PyTree) -> None:
        leaves = [jax.eval_shape(jax.random.key_data, x) if is_key(x) else x for x in jax.tree.leaves(tree)]
        size = lambda x: int(np.prod(np.shape(x))) * np.dtype(getattr(x, "dtype", float)).itemsize
        needed = sum(size(x) + (1 << 14) for x in leaves)  # and a few files each
        if shutil.disk_usage(self.directory).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.directory))

    def _write(self, folder: Path, tree: PyTree, meta: dict[str, Any]) -> None:
        data = [jax.random.key_data(x) if is_key(x) else x for x in jax.tree.leaves(tree)]
        arrays = [np.asarray(x) if self.whole is None else self.whole(x) for x in data]
        leaves = [[name, list(x.shape), str(x.dtype)] for name, x in zip(_names(tree), arrays, strict=True)]
        filled = {str(i): x for i, x in enumerate(arrays) if x.size}  # the format knows no empty arrays
        with _orbax() as checkpointer:
            checkpointer.save(folder.absolute() / "state", filled)
        if not processes.is_process_zero():
            return
        (folder / "meta.json").write_text(json.dumps(meta))
        (folder / "leaves.json").write_text(json.dumps(leaves))
        manifest = {str(p.relative_to(folder)): [p.stat().st_size, _digest(p)] for p in _files(folder)}
        with (folder / MANIFEST).open("w") as f:
            json.dump(manifest, f)
            f.flush()
            os.fsync(f.fileno())

    # ------------------------------------------------------------------------------------------------------------ reading

    def newest(
        self, template: Callable[[dict[str, Any]], PyTree], part: bool = False
    ) -> tuple[int, PyTree, dict[str, Any]] | None:
        """The newest sound checkpoint, or None where there is none: ``(step, tree, meta)``.

        ``template(meta)`` gives the tree to fill: numpy leaves become numpy arrays, all others device arrays or typed keys. A
        damaged checkpoint is passed over with a warning for the one before. ``part``: the template is a part of the tree, and
        only its arrays are read. What another process removes or replaces meanwhile is left for what is newest then.

        Raises:
            CheckpointError: a sound checkpoint holds another tree than the template, or all checkpoints are damaged.
        """
        for _ in range(PATIENCE):
            steps, damaged = self.steps(), []
            for step in reversed(steps):
                mark = self._mark(step)
                try:
                    fault = self._fault(step)
                    if fault is None:
                        meta = self.meta(step)
                        found = step, self._read(step, template(meta), part), meta
                        self._proven[step] = mark
                        return found
                except Exception:
                    if mark is not None and self._mark(step) == mark:
                        raise
                if mark is None or self._mark(step) != mark:
                    break  # the one who writes here has gone on: look again
                damaged.append(step)
                place = self.directory / str(step)
                warnings.warn(f"checkpoint {place} is damaged ({fault}); trying the one before.", stacklevel=2)
            else:
                if damaged:
                    raise CheckpointError(
                        f"all checkpoints in {self.directory} are damaged ({damaged}). Move the run folder away to begin anew."
                    )
                return None
        raise CheckpointError(f"checkpoints in {self.directory} come and go faster than they can be read: try again later.")

    def _fault(self, step: int) -> str | None:
        """Why a checkpoint is not sound; None where it is."""
        folder = self.directory / str(step)
        try:
            manifest = files.read_json(folder / MANIFEST)
        except ValueError:
            return f"{MANIFEST} is missing or unreadable"
        if not {"meta.json", "leaves.json"} <= set(manifest):
            return f"{MANIFEST} does not name what a checkpoint has"
        for name, entry in manifest.items():
            try:
                size, digest = entry
                if (folder / name).stat().st_size != size or _digest(folder / name) != digest:
                    return f"{name} is not what was written"
            except OSError:
                return f"{name} is missing or unreadable"
            except (TypeError, ValueError):
                return f"{MANIFEST} says nothing of {name}"
        return None

    def _read(self, step: int, template: PyTree, part: bool) -> PyTree:
        folder = self.directory / str(step)
        leaves = files.read_json(folder / "leaves.json", list)
        wanted, structure = jax.tree.flatten(template)
        which = list(range(len(leaves)))
        if part:
            asked_for = set(_names(template))
            which = [i for i in which if leaves[i][0] in asked_for]
            leaves = [leaves[i] for i in which]
        asked_names, nothing = _names(template), ["nothing", None, "none"]
        for (name, shape, dtype), asked, leaf in zip(
            _padded(leaves, wanted, nothing), _padded(asked_names, leaves, "nothing"), wanted, strict=False
        ):
            expected = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
            mine, theirs = f"{expected.dtype}{tuple(expected.shape)}", f"{dtype}{tuple(shape or ())}"
            if name != asked or mine != theirs:
                raise CheckpointError(
                    f"{folder} was made by another agent or configuration: expected {asked} as {mine}, found {name} as "
                    f"{theirs}. Give another run folder, or the settings that it was made with."
                )
        if len(leaves) != len(wanted):
            raise CheckpointError(f"{folder} was made by another agent: it has {len(leaves)} arrays, not {len(wanted)}.")
        import orbax.checkpoint as ocp

        with _orbax() as checkpointer:
            items = {str(i): 0 for i, (_, s, _) in zip(which, leaves, strict=True) if int(np.prod(s))}
            args = {i: ocp.RestoreArgs(restore_type=np.ndarray) for i in items}
            wanted_args = ocp.args.PyTreeRestore(item=items, restore_args=args, partial_restore=True)
            filled = checkpointer.restore(folder.absolute() / "state", args=wanted_args)
        arrays = [filled[str(i)] if int(np.prod(s)) else np.zeros(s, d) for i, (_, s, d) in zip(which, leaves, strict=True)]
        return jax.tree.unflatten(structure, [_as(x, leaf) for x, leaf in zip(arrays, wanted, strict=True)])


def _padded(some: list, others: list, filler: Any) -> list:
    return some + [filler] * (len(others) - len(some))


def _as(x: np.ndarray, leaf: Any) -> Any:
    if is_key(leaf):
        return jax.random.wrap_key_data(jnp.array(x), impl=jax.random.key_impl(leaf) if isinstance(leaf, jax.Array) else None)
    return np.array(x) if isinstance(leaf, np.ndarray) else jnp.array(x)
