"""Gymnasium's spaces and infos as leaves of an `rlx.types.Spec`, and what an environment emits as those leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
from gymnasium import spaces

from rlx.types import Array, Leaf, PyTree, Reduce

FLAGS = ("success", "is_success", "violation")  # keys of info that episodes are counted by wherever an environment has them
REDUCES = get_args(Reduce)


def action_leaves(name: str, space: spaces.Space) -> tuple[Leaf, Leaf]:
    """`Spec.action` and `Spec.native_action`.

    Raises:
        ValueError: neither a bounded Box nor Discrete.
    """
    if isinstance(space, spaces.Discrete):
        n, start = int(space.n), int(space.start)
        return Leaf((), np.int32, 0, n - 1), Leaf((), space.dtype, start, start + n - 1)
    if isinstance(space, spaces.Box) and space.is_bounded("both"):
        return Leaf(space.shape, low=-1, high=1), Leaf(space.shape, space.dtype, space.low, space.high)
    kind = "unbounded Box" if isinstance(space, spaces.Box) else type(space).__name__
    raise ValueError(f"{name} has actions {space}; rlx takes bounded Box and Discrete actions, no {kind}.")


def obs_leaves(name: str, space: spaces.Space) -> PyTree:
    """`Spec.obs`: a leaf of a Box, a dict of a Dict (nested as it is). uint8 stays uint8, other numbers become float32.

    Raises:
        ValueError: another space.
    """
    if isinstance(space, spaces.Dict):
        return {key: obs_leaves(name, part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Box):
        dtype = _kept(space.dtype)
        return Leaf(space.shape, dtype, space.low.astype(dtype), space.high.astype(dtype))
    raise ValueError(f"{name} has observations {space}; rlx takes Box observations or dicts of them.")


def _kept(dtype: Any) -> Any:
    return np.uint8 if dtype == np.uint8 else np.float32


def info_leaves(name: str, wanted: Mapping[str, Reduce], *seen: Mapping[str, Any]) -> dict[str, Leaf]:
    """`Spec.info`: the keys ``wanted``, each with its ``reduce``, and the flags of successes; shapes are those in ``seen``, the
    infos of a reset and of a step.

    Raises:
        ValueError: a key that is in none of them, that holds no numbers, or an unknown reduction.
    """
    found = {key: value for info in seen for key, value in info.items()}
    leaves = {key: Leaf((), reduce="any") for key in FLAGS if key in found and key not in wanted}
    for key, reduce in wanted.items():
        if key not in found:
            there = ", ".join(found) or "no keys"
            raise ValueError(f"{name}: info_keys asks for {key!r}; the infos of this environment have {there}.")
        if reduce not in REDUCES:
            known = ", ".join(REDUCES)
            raise ValueError(f"{name}: info_keys has {reduce!r} for {key!r}; a key becomes one number per episode by {known}.")
        value = np.asarray(found[key])
        if value.dtype.kind not in "biuf":
            raise ValueError(f"{name}: info_keys asks for {key!r}, which holds {found[key]!r}: only numbers can be kept.")
        leaves[key] = Leaf(value.shape, _kept(value.dtype), reduce=reduce)
    return leaves


def read_info(name: str, leaves: Mapping[str, Leaf], info: Mapping[str, Any], *lead: int) -> dict[str, np.ndarray]:
    """The leaves of one info, with leading axes ``lead``; 0 where it lacks a key.

    Raises:
        ValueError: a value of another shape than the leaf's.
    """
    out = {}
    for key, leaf in leaves.items():
        out[key] = np.asarray(info[key], leaf.dtype) if key in info else leaf.zeros(*lead)
        if out[key].shape != (*lead, *leaf.shape):
            raise ValueError(f"{name}: info[{key!r}] has shape {out[key].shape} here, at first it had {(*lead, *leaf.shape)}.")
    return out


MERGES: dict[str, Callable[[Array, Array], Array]] = {
    "any": np.maximum,
    "max": np.maximum,
    "sum": np.add,
    "mean": np.add,
    "last": lambda old, new: new,
}


def merge_infos(leaves: Mapping[str, Leaf], infos: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The infos of the sim steps of one decision as one."""
    if len(infos) == 1:
        return dict(infos[0])
    out = {}
    for key, leaf in leaves.items():
        total = infos[0][key]
        for info in infos[1:]:
            total = MERGES[leaf.reduce](total, info[key])
        out[key] = np.asarray(total / len(infos) if leaf.reduce == "mean" else total, leaf.dtype)
    return out
