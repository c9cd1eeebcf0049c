"""Preferences: pairs of segments and which is preferred.

Two public forms: one ``.npz`` with ``obs_1``, ``obs_2`` [P, H, n], ``action_1``, ``action_2`` [P, H, m] and ``label`` [P] in
{0, 0.5, 1} (inverse preference learning, Hejna and Sadigh 2023, arXiv:2305.15363); and the human labels of the Preference
Transformer (Kim et al. 2023, arXiv:2303.00957), three pickles beside a dataset: where segments begin among its transitions,
and 0, 1 or -1 for a tie.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlx.replay import columns
from rlx.replay.dataset import Dataset
from rlx.replay.datasets import unpickle
from rlx.replay.datasets.found import CUTS, look, need

EDGE = 1 - 1e-5  # of actions, whose logarithm a squashed policy takes


class Pairs(NamedTuple):
    """P pairs of segments of H steps; index 0 of the first axis is the first segment of each pair."""

    obs: np.ndarray  # float32 [2, P, H, n]
    action: np.ndarray  # float32 [2, P, H, m], within 1 - 1e-5
    label: np.ndarray  # float32 [P]: the probability that the second segment is preferred


def load_pairs(
    path: str | os.PathLike,
    dataset: Dataset | None = None,
    length: int | None = None,
    trust_arrays: bool = False,
    bounds: Any = None,
) -> Pairs:
    """The pairs in a file or a folder of human labels. The latter say where segments begin among the transitions of
    ``dataset``, in which the last step before each time limit does not count: read it with ``ignore=next_observations``, of
    robomimic with ``ignore=next_obs`` and ``dones=truncated``.
    (Where such a step is a terminal one too, it counts here, and did not where those labels were given.)
    ``length``: steps of their segments, where the names of the files do not say it. ``bounds`` as in `Reading`, for actions
    of a file.

    Raises:
        ValueError: nothing of the kind is there, a label is none, actions lie beyond [-1, 1], a segment lies outside of the
            dataset, or the dataset has the steps that do not count.
    """
    path = Path(path)
    if path.is_dir():
        with columns.of(path):
            return _human(path, dataset, length, trust_arrays)
    found = look(path)
    with columns.of(path):
        names = ("obs_1", "obs_2", "action_1", "action_2", "label")
        need(found.arrays, names)
        given = {k: columns.finite(columns.numbers(v, k), k) for k, v in found.load(names).items()}
        for a, b in (("obs_1", "obs_2"), ("action_1", "action_2"), ("obs_1", "action_1")):
            inner = 3 if a[:3] == b[:3] else 2  # observations and actions share pairs and steps
            if given[a].shape[:inner] != given[b].shape[:inner] or given[a].ndim != 3 or given[b].ndim != 3:
                raise ValueError(
                    f"{a} is {list(given[a].shape)}, {b} {list(given[b].shape)}; both are to be [pairs, steps, n]."
                )
        label, count = given["label"].reshape(-1).astype(np.float32), len(given["obs_1"])
        if len(label) != count or not count:
            raise ValueError(f"it has {len(label)} labels for {count} pairs; each pair is to have one.")
        wrong = ~np.isin(label, [0, 0.5, 1])
        if wrong.any():
            at = int(np.argmax(wrong))
            raise ValueError(f"label {label[at]:.4g} of pair {at} is none of 0, 0.5, 1.")
        both = lambda name: np.stack([given[f"{name}_1"], given[f"{name}_2"]]).astype(np.float32)
        action = both("action")
        name, shape = "action_1, action_2", action.shape
        flat = columns.actions(columns.scaled(action.reshape(-1, shape[-1]), bounds, name), name)
        return Pairs(both("obs"), _inside(flat.reshape(shape)), label)


def _human(path: Path, dataset: Dataset | None, length: int | None, trust_arrays: bool) -> Pairs:
    names = {
        kind: sorted(p for p in path.iterdir() if p.name.startswith(kind))
        for kind in ("indices_num", "indices_2", "label_human")
    }
    lacking = [kind for kind, found in names.items() if len(found) != 1]
    if lacking:
        raise ValueError(
            f"{path} is to hold one file each of {', '.join(names)}...; of {lacking[0]} it has {len(names[lacking[0]])}."
        )
    if not trust_arrays:
        raise ValueError(
            f"{path} holds pickles, which may run anything when they are loaded: with {unpickle.FLAG} arrays are read alone."
        )
    if dataset is None:
        raise ValueError(f"{path} says where segments begin in a dataset: give it, read with ignore=next_observations.")
    if isinstance(dataset.rows.obs, dict) or isinstance(dataset.rows.action, dict):
        raise ValueError(f"segments are of vectors; {dataset.name} has several observations or actions: take one by keys=NAME.")
    first, second, label = (columns.numbers(unpickle.load(found[0]), found[0].name).reshape(-1) for found in names.values())
    whole = dataset.format == "robomimic" or bool(np.any(dataset.rows.truncated[:]))
    if whole and not CUTS.items() <= dataset.meta.items():
        raise ValueError(
            f"its segments are counted without the last step before each time limit, which {dataset.name} has: read that with "
            "ignore=next_observations (of robomimic: ignore=next_obs, dones=truncated)."
        )
    match = re.search(r"_q(\d+)", names["indices_num"][0].name)
    steps = length if length is not None else int(match[1]) if match else 0
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"{names['indices_num'][0]} does not say of how many steps segments are: give length, 1 or more.")
    if not 0 < len(first) == len(second) == len(label) or not np.isin(label, [0, 1, -1]).all():
        raise ValueError(
            f"{path}: {len(first)}, {len(second)} and {len(label)} entries, and labels {np.unique(label).tolist()}; "
            "they are to be as many of each, and 0, 1 or -1."
        )
    last = np.zeros(len(dataset.rows.reward), bool)
    last[dataset.offsets[1:] - 1] = True
    rows = np.flatnonzero(~last)  # of the transitions, in order
    begins = np.stack([first, second])
    at = begins.astype(np.int64)
    if (at != begins).any():
        raise ValueError(f"{path}: segments begin at rows, which are whole numbers; {begins[at != begins][0]:.4g} is none.")
    if at.min() < 0 or at.max() + steps > len(rows):
        raise ValueError(
            f"{path}: segments begin at {at.min()} to {at.max()}, {steps} long; {dataset.name} has {len(rows)} transitions."
        )
    window = rows[at[..., None] + np.arange(steps)]
    values = np.where(label == -1, 0.5, label).astype(np.float32)
    return Pairs(np.asarray(dataset.rows.obs)[window], _inside(np.asarray(dataset.rows.action)[window]), values)


def _inside(action: Any) -> np.ndarray:
    return np.clip(action, -EDGE, EDGE).astype(np.float32)
