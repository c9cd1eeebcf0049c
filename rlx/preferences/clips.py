"""Clips of pieces of episodes, to show to a person: pictures where the data have them or can be drawn from stored physics, else
one drawing of the numbers.

A clip is a strip: its pictures one below the other in one PNG, so that two of them can be played in step.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from rlx.envs.stills import Still
from rlx.replay.dataset import Dataset
from rlx.types import PHYSICS

MOST_PICTURES = 60  # of a clip; of longer pieces every second, third, ... row is shown
MOST_LINES = 8  # of a drawing: numbers of an observation, and of an action
SPAN = (1, 99)  # percentiles of all rows that a drawing's axes reach to


class Clip(NamedTuple):
    """``strip`` is a PNG of ``pictures`` of one size, from the first (top) to the last."""

    strip: bytes
    pictures: int


Film = Callable[[int, int, int], Clip]  # (episode, start, steps) -> the clip of rows start to start + steps


def film_of(data: Dataset, still: Still | None = None) -> tuple[str, Film]:
    """What is shown ("images", "physics" or "traces"), and the film: images that the observations hold (in colour, else in
    grey), else ``still`` of the physics that the rows hold, else traces of observations and actions."""
    images = [x for x in jax.tree.leaves(data.rows.obs) if x.ndim == 4 and x.dtype == np.uint8 and x.shape[-1]]
    colour = [x for x in images if x.shape[-1] % 3 == 0]
    if colour:
        return "images", _moving(data, lambda row: np.asarray(colour[0][row])[..., -3:])  # of a stack the newest
    if images:
        return "images", _moving(data, lambda row: np.repeat(np.asarray(images[0][row])[..., -1:], 3, -1))
    if still is not None and PHYSICS in data.rows.info:
        physics = data.rows.info[PHYSICS]
        return "physics", _moving(data, lambda row: still(np.asarray(physics[row])))
    return "traces", _traces(data)


def _moving(data: Dataset, picture: Callable[[int], np.ndarray]) -> Film:
    def film(episode: int, start: int, steps: int) -> Clip:
        every = -(-(steps + 1) // MOST_PICTURES)
        first = int(data.offsets[episode]) + start
        pictures = [picture(row) for row in range(first, first + steps + 1, every)]
        return Clip(_png(np.concatenate(pictures)), len(pictures))

    return film


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _traces(data: Dataset) -> Film:
    """The path in the plane of the first two numbers of an observation, and each number over time; all clips have the axes of
    the whole data, so that two can be compared."""
    leaves = [np.asarray(x).reshape(len(x), -1) for x in jax.tree.leaves(data.rows.obs)]
    obs, action = np.concatenate(leaves, -1), np.asarray(data.rows.action).reshape(len(data.rows.reward), -1)
    limits = lambda x: _wider(np.percentile(x, SPAN, axis=0).T)
    plane, of_obs, of_action = limits(obs[:, :2]), limits(obs[:, :MOST_LINES].ravel()), limits(action.ravel())

    def film(episode: int, start: int, steps: int) -> Clip:
        first = int(data.offsets[episode]) + start
        rows = slice(first, first + steps + 1)
        figure = Figure(figsize=(4.2, 5.4), layout="constrained")
        path, obs_axes, action_axes = figure.subplots(3, 1, height_ratios=(2, 1, 1))
        _path(path, obs[rows, :2], plane)
        obs_axes.plot(obs[rows, :MOST_LINES])
        held = action[rows, :MOST_LINES]
        action_axes.plot(np.concatenate([held[:-1], held[-2:-1]]), drawstyle="steps-post")
        for axes, span, name in ((obs_axes, of_obs, "observation"), (action_axes, of_action, "action")):
            axes.set(ylim=span, ylabel=name, xlim=(0, steps))
        action_axes.set_xlabel("step")
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=100)
        return Clip(picture.getvalue(), 1)

    return film


def _wider(span: np.ndarray) -> np.ndarray:
    """Some room at both ends of spans [..., 2]; a constant gets one."""
    room = np.maximum(0.1 * np.ptp(span, axis=-1), 1e-3)[..., None]
    return span + room * np.array([-1, 1])


def _path(axes: Any, at: np.ndarray, plane: np.ndarray) -> None:
    if at.shape[1] < 2:
        at, plane = np.stack([np.arange(len(at)), at[:, 0]], -1), np.array([[0, len(at)], plane[0]])
    axes.plot(*at.T, color="#bbbbbb", lw=1)
    axes.scatter(*at.T, c=np.arange(len(at)), cmap="viridis", s=12)
    axes.plot(*at[0], "o", mfc="none", mec="#ee6677", ms=10)
    axes.set(xlim=plane[0], ylim=plane[1], title="first two numbers, from the circle on")
