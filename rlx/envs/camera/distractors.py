"""Backgrounds that have nothing to do with the task: banks of frames, seeded, which run behind what is drawn.

A natural video is smooth in time, has cuts, and the spectrum 1/f in space; so has the ``video`` here, a sum of drifting waves
and blobs. It stands in for the driving clips of Kinetics that the literature uses (Zhu et al. 2023, arXiv:2309.00082). Seeds
are different videos: evaluate on others than were trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

KINDS = ("none", "video", "shuffled", "static", "noise", "folder")
MASKS = ("segmentation", "colour")
HELD_OUT = 100  # what is added to the seeds of banks that are kept for evaluation; those of training are below it


@dataclass(frozen=True)
class Distractor:
    """What runs in the background, the option ``distractor`` of every environment with pixels; its name alone is enough.

    ``kind``: "video"; "shuffled", the same frames in another order; "static", a frame of it for each stream; "noise",
    independent pixels; "folder", images and films of ``path`` (a glob); "none". ``seed``: which bank, below 100 (of a folder,
    in which order its files come), ``held_out``: one that is kept for evaluation (of a folder there is none). ``frames`` in
    the bank; ``colour``: of three channels, else grey. ``redraw``: each episode begins at a frame of its own, where else the
    background goes on from one to the next. ``mask``: what is replaced: where no body is ("segmentation"), or where a picture
    is more blue than red and green ("colour", as in the literature).
    """

    kind: str = "none"
    seed: int = 0
    held_out: bool = False
    frames: int = 1000
    colour: bool = False
    redraw: bool = False
    mask: str = "segmentation"
    path: str = ""

    @property
    def moves(self) -> bool:
        return self.kind not in ("none", "static")

    @classmethod
    def of(cls, name: str, given: Any) -> Distractor:
        """Of an option: None, a kind, or a dict of the fields.

        Raises:
            ValueError: what there is not.
        """
        block = vars(given) if isinstance(given, Distractor) else given
        block = {"kind": block or "none"} if block is None or isinstance(block, str) else block
        fields = cls.__dataclass_fields__
        if not isinstance(block, dict) or set(block) - set(fields):
            raise ValueError(f"{name}: distractor={given!r}: give one of {', '.join(KINDS)}, or a dict of {', '.join(fields)}.")
        if block and "kind" not in block:
            raise ValueError(
                f"{name}: distractor={given!r} has no kind, which would be none: give one of {', '.join(KINDS)} too."
            )
        made = replace(cls(), **block)
        if made.kind not in KINDS or made.mask not in MASKS:
            raise ValueError(
                f"{name}: distractor={given!r}: kind is one of {', '.join(KINDS)}, mask one of {', '.join(MASKS)}."
            )
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (made.seed, made.frames))
        flags = all(isinstance(flag, bool) for flag in (made.held_out, made.colour, made.redraw))
        if not (whole and 0 <= made.seed < HELD_OUT and made.frames >= 1 and flags and isinstance(made.path, str)):
            raise ValueError(
                f"{name}: distractor={given!r}: seed is a whole number from 0 to {HELD_OUT - 1}, frames one from 1 on, "
                "held_out, colour and redraw are true or false, path is text."
            )
        if (made.kind == "folder") != bool(made.path):
            raise ValueError(f"{name}: distractor={given!r}: path, a glob such as 'clips/*.mp4', goes with kind 'folder'.")
        if made.kind == "folder" and made.held_out:
            raise ValueError(
                f"{name}: distractor={given!r}: a folder holds the same frames for every seed, none are held out: for "
                "evaluation give another path, and leave held_out out."
            )
        return made


class Bank(NamedTuple):
    """``frames`` uint8 [F, H, W, C]; ``blobs`` float32 [F, blobs, 2]: where the video's are, in pixels (row, column)."""

    frames: np.ndarray
    blobs: np.ndarray


def bank(made: Distractor, size: tuple[int, int]) -> np.ndarray | tuple[()]:
    """uint8 [F, H, W, 1 or 3], and of "none" an empty tuple; kept, as all environments of one kind look at the same, and so
    for reading only."""
    return () if made.kind == "none" else _bank(replace(made, mask=MASKS[0], redraw=False), size)


@lru_cache(maxsize=8)
def _bank(made: Distractor, size: tuple[int, int]) -> np.ndarray:
    frames = _frames(made, size)
    frames.flags.writeable = False
    return frames


def _frames(made: Distractor, size: tuple[int, int]) -> np.ndarray:
    seed = made.seed + HELD_OUT * made.held_out
    if made.kind == "folder":
        from rlx.envs.camera.loader import load_background

        return load_background(made.path, size, made.frames, not made.colour, seed)
    channels = 3 if made.colour else 1
    if made.kind == "noise":
        rng = np.random.default_rng(seed)
        return _grey_levels(rng.standard_normal((made.frames, *size, channels), np.float32))
    parts = [video(seed if c == 0 else (seed, c), made.frames, size).frames for c in range(channels)]
    frames = np.concatenate(parts, -1)
    return np.random.default_rng(seed).permutation(frames) if made.kind == "shuffled" else frames


def _grey_levels(field: np.ndarray) -> np.ndarray:
    return np.clip(128 + 48 * field, 0, 255).astype(np.uint8)


def video(
    seed: Any, frames: int = 1000, size: tuple[int, int] = (64, 64), scene: int = 250, waves: int = 24, blobs: int = 3
) -> Bank:
    """Scenes of ``scene`` frames, cut together. In each, ``waves`` of random direction, of frequencies log-uniform in [1/64,
    1/4] cycles per pixel and amplitude 1/f drift with a common pan, over ``blobs`` that go round the edges.

    Mean 128, deviation 48 grey levels.
    """
    rng = np.random.default_rng(seed)
    scenes = [_scene(rng, min(scene, frames - start), size, waves, blobs) for start in range(0, frames, scene)]
    return Bank(*(np.concatenate(parts) for parts in zip(*scenes, strict=True)))


def _scene(rng: np.random.Generator, frames: int, size: tuple[int, int], waves: int, blobs: int) -> Bank:
    angle, phase = rng.uniform(0, 2 * np.pi, (2, waves))
    frequency = np.exp(rng.uniform(np.log(1 / 64), np.log(1 / 4), waves))  # cycles per pixel
    speed, pan = rng.normal(0, 0.05, waves), rng.normal(0, 0.25, 2)  # rad per frame, pixels per frame
    t = np.arange(frames)
    k = 2 * np.pi * frequency * np.stack([np.sin(angle), np.cos(angle)])  # [2, waves]
    turn = phase + np.outer(t, speed + pan @ k)  # [F, waves]
    # sin(a + b + c) of rows, columns and time as one product: exp(i a) exp(i b) exp(i c)
    rows, columns = (np.exp(1j * np.outer(np.arange(n), k_n)).astype(np.complex64) for n, k_n in zip(size, k, strict=True))
    moving = (np.exp(1j * turn) / frequency).astype(np.complex64)
    plane = (rows[:, None] * columns[None]).reshape(-1, waves)
    field = _standard((moving @ plane.T).imag.reshape(frames, *size))

    start, radius = rng.uniform(0, 1, (blobs, 2)) * size, rng.uniform(4, 10, blobs)  # pixels
    velocity, height = rng.normal(0, 1, (blobs, 2)), rng.normal(0, 2, blobs)
    places = (start + t[:, None, None] * velocity) % size  # [F, blobs, 2]
    for b in range(blobs):
        bumps = []
        for axis, n in enumerate(size):
            away = np.abs(np.arange(n) - places[:, b, axis, None])
            bumps.append(np.exp(-0.5 * (np.minimum(away, n - away) / radius[b]) ** 2).astype(np.float32))
        field += height[b] * bumps[0][:, :, None] * bumps[1][:, None, :]
    return Bank(_grey_levels(_standard(field))[..., None], places.astype(np.float32))


def _standard(field: np.ndarray) -> np.ndarray:
    return (field - field.mean()) / field.std()
