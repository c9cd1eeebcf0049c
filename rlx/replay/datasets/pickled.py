"""Layouts that exist as pickles, whose arrays are read without running them (`unpickle`) where that was asked for.

- a dict of D4RL's columns, or a list of such dicts, one per episode, as Decision Transformer (Chen et al. 2021,
  arXiv:2106.01345) and many since keep D4RL's data;
- SINDy-RL's trajectories (Zolman et al. 2024, arXiv:2403.09110): ``x`` [T, n], ``u`` [T, m] and ``r`` [T] or None, each a list
  over trajectories. What the last action led to is not in them;
- demonstrations of MoDem and MoDem-V2 (`robohive`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rlx.replay import columns
from rlx.replay.dataset import Dataset, from_rows
from rlx.replay.datasets import d4rl, robohive, unpickle
from rlx.replay.datasets.found import Found, Layout, Reading, need, one_length, one_per_entry

_SINDY = ("x", "u", "r")


def _read(found: Found, reading: Reading) -> Dataset:
    if not reading.trust_arrays:
        raise ValueError(
            f"{found.path} is a pickle, which may run anything when it is loaded. With {unpickle.FLAG} arrays, numbers, text, "
            "lists and dicts are read from it, and nothing is run."
        )
    tree = unpickle.load(found.path)
    if isinstance(tree, list | tuple) and tree and all(unpickle.arrays(x) for x in tree):
        whole, ends = _joined([unpickle.arrays(x) or {} for x in tree[: reading.episodes]])
        return d4rl.dataset(whole, str(found.path), reading, ends)
    if robohive.is_episode(tree):
        return robohive.of_episode(tree, found, reading)
    if isinstance(tree, dict) and all(isinstance(tree.get(k), list | tuple) for k in _SINDY):
        return _trajectories(tree, str(found.path), reading)
    if robohive.is_traces(tree):
        return robohive.of_pickle(tree, found, reading)
    arrays = unpickle.arrays(tree)
    if arrays is None or "observations" not in arrays:
        held = ", ".join(map(str, tree)) if isinstance(tree, dict) else f"a {type(tree).__name__}"
        raise ValueError(f"{found.path} holds {held[:200]}, which is no layout of pickles: {LAYOUT.about}.")
    return d4rl.dataset(arrays, str(found.path), reading)


def _joined(episodes: list[dict[str, np.ndarray]]) -> tuple[dict[str, Any], np.ndarray]:
    """Columns of all episodes, and where each ends: whatever they mark, the last entry of one that did not terminate is its
    time limit."""
    names = [k for k in episodes[0] if all(k in e for e in episodes)]
    for i, episode in enumerate(episodes):
        with columns.of(f"trajectory {i}"):
            one_length({k: episode[k] for k in names})
        for k in names:
            if episode[k].shape[1:] != episodes[0][k].shape[1:]:
                raise ValueError(
                    f"trajectory {i}: {k} is {list(episode[k].shape)}, of trajectory 0 {list(episodes[0][k].shape)}."
                )
    ends = np.cumsum([len(e[names[0]]) if names else 0 for e in episodes])
    return {k: np.concatenate([e[k] for e in episodes]) for k in names}, ends


def _trajectories(tree: dict[str, Any], name: str, reading: Reading) -> Dataset:
    """Of each trajectory the transitions between its observations; rewards that are None are 0."""
    with columns.of(name):
        reading.only("SINDy-RL", "bounds")
    xs, us, rs = (tree[k] for k in _SINDY)
    if not len(xs) == len(us) == len(rs) or not len(xs):
        raise ValueError(f"{name}: x, u and r have {len(xs)}, {len(us)} and {len(rs)} trajectories; they are to be as many.")
    parts: list[dict[str, np.ndarray]] = []
    for i, (x, u, r) in enumerate(list(zip(xs, us, rs, strict=True))[: reading.episodes]):
        with columns.of(f"{name}: trajectory {i}"):
            one = {k: columns.numbers(v, k) for k, v in {"x": x, "u": u, "r": r}.items() if v is not None}
            count = one_length(one)
            one |= {k: one[k].reshape(count, -1) for k in ("x", "u") if k in one}
            need(one, ("x", "u"))
            if parts and any(one[k].shape[1:] != parts[0][k].shape[1:] for k in ("x", "u")):
                shapes = [{k: list(p[k].shape) for k in ("x", "u")} for p in (one, parts[0])]
                raise ValueError(f"x and u are {shapes[0]}, of trajectory 0 {shapes[1]}.")
            parts.append(one | {"r": one_per_entry(one["r"], "r") if "r" in one else np.zeros(count, np.float32)})
    x, u, r = (np.concatenate([p[k] for p in parts]) for k in _SINDY)
    offsets = np.cumsum([0, *(len(p["x"]) for p in parts)])
    with columns.of(name):
        action = columns.bounded(u, reading.bounds, "u")
        reward = np.concatenate([np.zeros(1, np.float32), r[:-1]])  # of the action before
        rows = from_rows(x, action, reward, np.zeros(len(x), bool), offsets)
    notes = ["nothing marks a terminal state: trajectories are taken as cut, and their last actions lead nowhere"]
    return Dataset(*rows, name, "SINDy-RL", tuple(notes + ["no rewards: they are 0"] * any(r is None for r in rs)))


LAYOUT = Layout(
    "pickle",
    "with --trust-arrays: a dict of D4RL's columns or a list of them by episode; SINDy-RL's x, u, r; MoDem's demonstrations",
    lambda f: True,
    _read,
    ("pickle", "torch"),
)
