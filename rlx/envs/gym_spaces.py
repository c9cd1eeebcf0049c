"""Gymnasium's spaces and infos as leaves of an `rlx.types.Spec`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
from gymnasium import spaces

from rlx.envs.actions import box
from rlx.envs.outcomes import SUCCESS, merged
from rlx.types import Leaf, PyTree, Reduce

FLAGS = (*SUCCESS, "violation")  # keys of info that episodes are counted by wherever an environment has them
REDUCES = get_args(Reduce)


def action_leaves(name: str, space: spaces.Space, bounds: Any = None) -> tuple[Leaf, Leaf]:
    """`Spec.action` and `Spec.native_action`; ``bounds``: a pair in place of a Box's own.

    Raises:
        ValueError: neither a Box nor Discrete, or a Box that `rlx.envs.actions.box` does not take.
    """
    if isinstance(space, spaces.Discrete) and bounds is None:
        n, start = int(space.n), int(space.start)
        return Leaf((), np.int32, 0, n - 1), Leaf((), space.dtype, start, start + n - 1)
    if isinstance(space, spaces.Box):
        return box(name, space.shape, space.dtype, space.low, space.high, bounds)
    also = " and no action_bounds" if isinstance(space, spaces.Discrete) else ""
    raise ValueError(f"{name} has actions of the kind {type(space).__name__}; rlx takes Box and Discrete actions{also}.")


def obs_leaves(name: str, space: spaces.Space) -> PyTree:
    """`Spec.obs`: a leaf of a Box, a dict of a Dict (nested as it is). uint8 stays uint8, other numbers become float32.

    Raises:
        ValueError: another space, or one without a single number.
    """
    if isinstance(space, spaces.Dict) and space.spaces:
        return {key: obs_leaves(name, part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Box) and 0 not in space.shape:
        dtype = _kept(space.dtype)
        return Leaf(space.shape, dtype, space.low.astype(dtype), space.high.astype(dtype))
    kind = f"{type(space).__name__}{f' {space.dtype}{list(space.shape)}' if isinstance(space, spaces.Box) else ''}"
    raise ValueError(f"{name} has observations of the kind {kind}; rlx takes a Box that is not empty, or dicts of such.")


def _kept(dtype: Any) -> Any:
    return np.uint8 if dtype == np.uint8 else np.float32


def info_leaves(name: str, wanted: Mapping[str, Any], infos: Mapping[str, Any]) -> dict[str, Leaf]:
    """`Spec.info`: the keys ``wanted``, each with its ``reduce``, and the flags of successes; shapes are those of the values
    in ``infos``, by key.

    Raises:
        ValueError: a key that was not seen and is no flag, that holds no numbers, or an unknown reduction.
    """
    leaves = {key: Leaf((), reduce="any") for key in FLAGS if key not in wanted and _is_number(infos.get(key))}
    for key, given in wanted.items():
        reduce = tuple(given) if isinstance(given, list | tuple) else given
        ways = reduce if isinstance(reduce, tuple) else (reduce,)
        if not ways or any(way not in REDUCES for way in ways):
            known = ", ".join(REDUCES)
            raise ValueError(f"{name}: info_keys has {reduce!r} for {key!r}; a key becomes one number per episode by {known}.")
        if infos.get(key) is None and ways != ("any",):
            there = ", ".join(infos) or "no keys"
            raise ValueError(
                f"{name}: info_keys asks for {key!r}; the infos of this environment have {there}. "
                'A flag that only some episodes have is taken with the reduction "any".'
            )
        value = np.asarray(False if infos.get(key) is None else infos[key])
        if value.dtype.kind not in "biuf":
            raise ValueError(f"{name}: info_keys asks for {key!r}, which holds {infos[key]!r}: only numbers can be kept.")
        leaves[key] = Leaf(value.shape, _kept(value.dtype), reduce=reduce)
    return leaves


def _is_number(value: Any) -> bool:
    return value is not None and np.size(value) == 1 and np.asarray(value).dtype.kind in "biuf"


def merge_infos(leaves: Mapping[str, Leaf], infos: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The infos of the sim steps of one decision as one."""
    if len(infos) == 1:
        return dict(infos[0])
    out = {key: infos[0][key] for key in leaves}
    for taken, info in enumerate(infos[1:], 1):
        out = {key: merged(np, leaf, out[key], info[key], taken) for key, leaf in leaves.items()}
    return {key: np.asarray(x, leaves[key].dtype) for key, x in out.items()}
