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
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.train import processes
from rlx.types import PyTree


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
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")


def _orbax() -> Any:
    import orbax.checkpoint as ocp  # takes a second to import

    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells every step of every save
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=False))


class Checkpoints:
    """The checkpoints in ``directory``, numbered; the newest ``keep`` stay."""

    def __init__(self, directory: str | os.PathLike, keep: int = 2, whole: Callable[[Any], Any] | None = None):
        if keep < 1:
            raise ValueError(f"keep={keep}: at least one checkpoint must stay.")
        self.directory, self.keep, self.whole = Path(directory), keep, whole
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            probe = self.directory / f".probe-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as e:
            raise CheckpointError(f"{self.directory} cannot be written: {e.strerror}. Give another run folder.") from e

    def steps(self) -> list[int]:
        """Numbers of the checkpoints there are, oldest first, readable or not."""
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdigit())

    def last(self) -> Path | None:
        return next((self.directory / str(step) for step in reversed(self.steps())), None)

    def meta(self, step: int) -> dict[str, Any]:
        return json.loads((self.directory / str(step) / "meta.json").read_text())

    # ------------------------------------------------------------------------------------------------------------ writing

    def save(self, step: int, tree: PyTree, meta: dict[str, Any]) -> None:
        """``tree``: arrays and typed keys in any containers; ``meta``: JSON. Returns when all of it is on the disk.

        Raises:
            CheckpointError: the disk is full or the folder cannot be written. The checkpoints before stay.
        """
        temporary = self.directory / f".{step}-{'job' if self.whole else os.getpid()}"
        fault = ""
        try:
            if processes.is_process_zero():
                shutil.rmtree(temporary, ignore_errors=True)
                self._need_room(tree)  # orbax's threads fail loudly, and at length
                temporary.mkdir()
        except OSError as e:
            fault = self._why(step, e)
        self._all_fine(fault, step)
        try:
            self._write(temporary, tree, meta)
            if processes.is_process_zero():
                place = self.directory / str(step)
                shutil.rmtree(place, ignore_errors=True)
                os.replace(temporary, place)
        except processes.Gone:
            raise
        except Exception as e:  # orbax wraps the system's errors in several ways
            shutil.rmtree(temporary, ignore_errors=True)
            if processes.count() > 1:
                raise processes.Gone(f"another process of this job is gone, or cannot write ({e}).") from e
            full = getattr(e, "errno", None) == errno.ENOSPC or "No space left" in str(e) or "RESOURCE_EXHAUSTED" in str(e)
            if not full and not isinstance(e, OSError):
                raise
            raise CheckpointError(self._why(step, OSError(errno.ENOSPC, "") if full else e)) from e
        processes.wait()
        if processes.is_process_zero():
            for old in self.steps()[: -self.keep]:
                shutil.rmtree(self.directory / str(old), ignore_errors=True)

    def _why(self, step: int, e: Exception) -> str:
        why = "the disk is full" if getattr(e, "errno", None) == errno.ENOSPC else str(e)
        kept = f" Checkpoint {self.steps()[-1]} is kept." if self.steps() else ""
        return (
            f"checkpoint {step} could not be written to {self.directory}: {why}.{kept} "
            "Make room, or give another run folder; the same command goes on from the last checkpoint."
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
        with (folder / "manifest.json").open("w") as f:
            json.dump(manifest, f)
            f.flush()
            os.fsync(f.fileno())

    # ------------------------------------------------------------------------------------------------------------ reading

    def newest(
        self, template: Callable[[dict[str, Any]], PyTree], part: bool = False
    ) -> tuple[int, PyTree, dict[str, Any]] | None:
        """The newest checkpoint that can be read, or None where there is none: ``(step, tree, meta)``.

        ``template(meta)`` gives the tree to fill: numpy leaves become numpy arrays, all others device arrays or typed keys. A
        damaged checkpoint is passed over with a warning for the one before. ``part``: the template is a part of the tree, and
        only its arrays are read.

        Raises:
            CheckpointError: a sound checkpoint holds another tree than the template, or all checkpoints are damaged.
        """
        damaged = []
        for step in reversed(self.steps()):
            fault = self._fault(step)
            if fault is None:
                meta = self.meta(step)
                return step, self._read(step, template(meta), part), meta
            damaged.append(step)
            warnings.warn(f"checkpoint {self.directory / str(step)} is damaged ({fault}); trying the one before.", stacklevel=2)
        if damaged:
            raise CheckpointError(
                f"all checkpoints in {self.directory} are damaged ({damaged}). Move the run folder away to begin anew."
            )
        return None

    def _fault(self, step: int) -> str | None:
        folder = self.directory / str(step)
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
        except (OSError, ValueError):
            return "manifest.json is missing or unreadable"
        for name, (size, digest) in manifest.items():
            file = folder / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size or _digest(file) != digest:
                return f"{name} is not what was written"
        return None

    def _read(self, step: int, template: PyTree, part: bool) -> PyTree:
        folder = self.directory / str(step)
        leaves = json.loads((folder / "leaves.json").read_text())
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
            filled = checkpointer.restore(folder.absolute() / "state", item=items, restore_args=args, transforms={})
        arrays = [filled[str(i)] if int(np.prod(s)) else np.zeros(s, d) for i, (_, s, d) in zip(which, leaves, strict=True)]
        return jax.tree.unflatten(structure, [_as(x, leaf) for x, leaf in zip(arrays, wanted, strict=True)])


def _padded(some: list, others: list, filler: Any) -> list:
    return some + [filler] * (len(others) - len(some))


def _as(x: np.ndarray, leaf: Any) -> Any:
    if is_key(leaf):
        return jax.random.wrap_key_data(jnp.array(x), impl=jax.random.key_impl(leaf) if isinstance(leaf, jax.Array) else None)
    return np.array(x) if isinstance(leaf, np.ndarray) else jnp.array(x)
