"""Backgrounds out of files: images, films and arrays as one bank of frames."""

from __future__ import annotations

import glob
import hashlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from rlx.files import cache_folder, replacing

ARRAYS, IMAGES, FILMS = (".npz", ".npy"), (".png", ".jpg", ".jpeg"), (".mp4", ".avi", ".webm", ".mov", ".gif")
WORTH = 1.0  # seconds of reading from which on frames are kept for the next process
GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def load_background(
    pattern: str, size: tuple[int, int] = (64, 64), total_frames: int = 1000, grey: bool = True, seed: int = 0
) -> np.ndarray:
    """uint8 [F, H, W, 1 or 3]: at most ``total_frames`` frames of the files that a glob ``pattern`` finds (all of a folder's),
    sorted by name, then shuffled by ``seed``; frames of one film stay in order. Films are read frame by frame; frames are
    brought to ``size`` by the mean over areas. Arrays are uint8 [F, H, W], or with 3 channels, ``frames`` in an .npz.
    What took longer than a second is kept in ``$XDG_CACHE_HOME/rlx/films`` until one of the files changes.

    Raises:
        ValueError: no such files, one that cannot be read, or none that has a frame.
    """
    given = str(Path(pattern).expanduser())
    plain = glob.escape(given) if Path(given).exists() else given
    there = glob.glob(f"{plain}/*" if Path(given).is_dir() else plain, recursive=True)
    files = sorted(f for f in there if Path(f).suffix.lower() in ARRAYS + IMAGES + FILMS)
    if not files:
        why = f"{len(there)} of other kinds" if there else "an empty folder" if Path(given).is_dir() else "nothing at all"
        raise ValueError(
            f"distractor path {pattern!r} finds no file of {', '.join(ARRAYS + IMAGES + FILMS)}, but {why}; give a folder or a "
            "glob of such."
        )
    files = [files[i] for i in np.random.default_rng(seed).permutation(len(files))]
    kept = _kept(files, size, total_frames, grey)
    if kept is not None and kept.exists():
        try:
            return np.load(kept, allow_pickle=False)
        except (OSError, ValueError):  # torn: read the files again
            pass
    start = time.perf_counter()
    frames = itertools.chain.from_iterable(_frames(Path(f)) for f in files)
    found = [_fitted(f, size, grey) for f in itertools.islice(frames, total_frames)]
    if not found:
        raise ValueError(f"distractor path {pattern!r} finds files without a single frame.")
    bank = np.stack(found)
    if kept is not None and time.perf_counter() - start > WORTH:
        with replacing(kept) as part:
            np.save(part, bank)
    return bank


def _kept(files: list[str], *how: object) -> Path | None:
    """Where the frames of these files, in this order, are kept; None where nothing can be."""
    folder = cache_folder("films")
    if folder is None:
        return None
    stamps = [(str(Path(f).resolve()), Path(f).stat().st_size, Path(f).stat().st_mtime_ns) for f in files]
    return folder / f"{hashlib.blake2b(repr((stamps, how)).encode(), digest_size=16).hexdigest()}.npy"


def _frames(path: Path) -> Iterator[np.ndarray]:
    """uint8 [H, W] or [H, W, 3], one after another."""
    kind = path.suffix.lower()
    try:
        if kind in IMAGES:
            with Image.open(path) as image:
                yield _levels(image)
        elif kind in ARRAYS:
            found = np.load(path, allow_pickle=False)
            yield from _checked(path, found if isinstance(found, np.ndarray) else found["frames"])
        else:
            import imageio.v3 as imageio

            yield from imageio.imiter(path, plugin="pillow" if kind == ".gif" else "FFMPEG")
    except _NoFrames:
        raise
    except Exception as error:  # decoders raise errors of many kinds
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        need = " Films need a decoder: pip install 'rlx[video]'." if isinstance(error, ImportError) else ""
        raise ValueError(f"distractor: {path} cannot be read: {message}{need}") from error


def _levels(image: Image.Image) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3]; of 16 bits the upper eight."""
    if image.mode.startswith("I"):
        return (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
    return np.asarray(image.convert("RGB"))


class _NoFrames(ValueError):
    """An array that holds something else."""


def _checked(path: Path, frames: np.ndarray) -> np.ndarray:
    if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or (frames.ndim == 4 and frames.shape[-1] not in (1, 3)):
        raise _NoFrames(
            f"distractor: {path} must hold uint8 frames [F, H, W], with or without 3 channels, in an .npz as 'frames'; "
            f"it holds {frames.dtype} {list(frames.shape)}."
        )
    return frames


def _fitted(frame: np.ndarray, size: tuple[int, int], grey: bool) -> np.ndarray:
    """uint8 [H, W, 1 or 3]."""
    flat = frame[..., 0] if frame.ndim == 3 and frame.shape[-1] == 1 else frame
    if flat.shape[:2] != size:
        flat = np.asarray(Image.fromarray(flat[..., :3] if flat.ndim == 3 else flat).resize(size[::-1], Image.Resampling.BOX))
    if grey:
        level = np.round(flat[..., :3] @ GREY).astype(np.uint8) if flat.ndim == 3 else flat
        return level[..., None]
    return flat[..., :3] if flat.ndim == 3 else np.repeat(flat[..., None], 3, -1)
