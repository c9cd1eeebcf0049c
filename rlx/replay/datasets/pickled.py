"""Layouts that exist as pickles only: a dict of D4RL's columns, or a list of such dicts, one per episode, as Decision
Transformer (Chen et al. 2021, arXiv:2106.01345) and many since keep D4RL's data."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlx.replay.dataset import Dataset
from rlx.replay.datasets import d4rl, unpickle
from rlx.replay.datasets.found import Found, Layout, Reading


def _read(found: Found, reading: Reading) -> Dataset:
    if not reading.trust_arrays:
        raise ValueError(
            f"{found.path} is a pickle, which may run anything when it is loaded. With {unpickle.FLAG} arrays, numbers, text, "
            "lists and dicts are read from it, and nothing is run."
        )
    tree = unpickle.load(found.path)
    if isinstance(tree, list | tuple) and tree and all(unpickle.arrays(x) for x in tree):
        return d4rl.dataset(_joined([unpickle.arrays(x) or {} for x in tree[: reading.episodes]]), str(found.path), reading)
    columns = unpickle.arrays(tree)
    if columns is None or "observations" not in columns:
        held = ", ".join(map(str, tree)) if isinstance(tree, dict) else f"a {type(tree).__name__}"
        raise ValueError(f"{found.path} holds {held[:200]}; it is to be a dict of D4RL's columns, or a list of these.")
    return d4rl.dataset(columns, str(found.path), reading)


def _joined(episodes: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Columns of all episodes; where none says so, the last entry of an episode that did not terminate is its time limit."""
    names = set.intersection(*(set(e) for e in episodes))
    whole: dict[str, Any] = {k: np.concatenate([e[k] for e in episodes]) for k in names}
    if "timeouts" not in whole and "rewards" in whole:
        ends = np.cumsum([len(e["rewards"]) for e in episodes]) - 1
        last = np.zeros(len(whole["rewards"]), bool)
        last[ends] = True
        whole["timeouts"] = last & ~np.asarray(whole.get("terminals", np.zeros(len(last))), bool).reshape(-1)
    return whole


LAYOUT = Layout(
    "pickle", "a dict of D4RL's columns, or a list of them by episode, with --trust-arrays", lambda f: f.kind == "pickle", _read
)
