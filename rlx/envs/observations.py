"""Observations as trees: an array, or dicts of them, as `Spec.obs` has leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rlx.types import Array, Env, HostEnv, Leaf, PyTree, ReplayState, Row


def cast(leaves: PyTree, values: Any) -> PyTree:
    """``values``, with any leading axes and any kind of mapping, as numpy arrays in the dtypes of ``leaves``."""
    if isinstance(leaves, Leaf):
        return np.asarray(values, leaves.dtype)
    return {key: cast(leaf, values[key]) for key, leaf in leaves.items()}


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Arrays of one shape, or dicts of them, as one with a leading axis."""
    if isinstance(trees[0], dict):
        return {key: stack([tree[key] for tree in trees]) for key in trees[0]}
    first = np.asarray(trees[0])
    out = np.empty((len(trees), *first.shape), first.dtype)  # np.stack takes several times as long for a few numbers
    for i, x in enumerate(trees):
        out[i] = x
    return out


def named(leaves: PyTree) -> dict[str, Leaf]:
    """The leaves by name ("camera", "arm/position"; "" of a single one), in the order in which they are flattened."""
    found = jax.tree_util.tree_leaves_with_path(leaves, is_leaf=lambda x: isinstance(x, Leaf))
    return {"/".join(str(part.key) for part in path): leaf for path, leaf in found}


def vector_leaf(leaves: PyTree) -> Leaf:
    """The one float32 leaf that `flatten` makes of ``leaves``."""
    flat = list(named(leaves).values())
    wide = lambda which: np.concatenate([np.broadcast_to(getattr(x, which), x.shape).ravel() for x in flat])
    return Leaf((sum(int(np.prod(x.shape)) for x in flat),), low=wide("low"), high=wide("high"))


def flatten(xp: Any, obs: PyTree, lead: tuple[int, ...]) -> Array:
    """``obs`` [*lead, ...] as float32 [*lead, n], its arrays in the order of their sorted names."""
    return xp.concatenate([x.reshape(*lead, -1).astype(np.float32) for x in jax.tree.leaves(obs)], -1)


def described(leaves: PyTree) -> str:
    """For messages: ``camera uint8[8, 8, 3], arm/position float32[7]``."""
    return ", ".join(f"{name} {np.dtype(x.dtype)}{list(x.shape)}".strip() for name, x in named(leaves).items())


def as_vectors(data: ReplayState, env: Env | HostEnv, name: str) -> ReplayState:
    """``data`` whose observations are the dicts of ``env``, as `flatten` makes of them; others as they are.

    Raises:
        ValueError: other dicts than those of ``env``, or they lie on disk.
    """
    obs = data.data.obs
    if not isinstance(obs, dict):
        return data
    same_rows(data.data, env, name)
    if any(isinstance(x, np.memmap) for x in jax.tree.leaves(obs)):
        raise ValueError(f"observations of the data {name!r} are dicts, which become vectors in memory: give --data-in host.")
    xp = np if isinstance(jax.tree.leaves(obs)[0], np.ndarray) else jax.numpy
    return data._replace(data=data.data._replace(obs=flatten(xp, obs, data.data.reward.shape)))


def _otherwise_named(leaves: PyTree, stored: PyTree) -> str:
    """For messages: where ``stored`` differ from ``leaves`` in names alone, and there is one way to rename them, what it is."""
    wanted, there = named(leaves), named(stored)
    lacking, over = ({k: described(x) for k, x in a.items() if k not in b} for a, b in ((wanted, there), (there, wanted)))
    pairs = [(old, new) for old, a in over.items() for new, b in lacking.items() if a == b]
    one_way = len(pairs) == len(dict(pairs)) == len({b for _, b in pairs}) == len(lacking) == len(over)
    if not over or "" in (*lacking, *over) or not one_way:
        return ""
    return f" They differ in names: read the data with names={','.join(map(':'.join, pairs))} (--data-option)."


def same_rows(rows: Row, env: Env | HostEnv, name: str) -> None:
    """Raises ValueError where ``rows`` [C, W, ...] of the data ``name`` have other observations or actions than ``env``."""
    for what, leaves, given in (("obs", env.spec.obs, rows.obs), ("action", env.spec.action, rows.action)):
        stored = jax.tree.map(lambda x: Leaf(x.shape[2:], x.dtype), given)
        if described(leaves) != described(stored):
            raise ValueError(
                f"{what} of the data {name!r} is {described(stored)}; that of {env.name} is {described(leaves)}."
                f"{_otherwise_named(leaves, stored)}"
            )
    choices = env.spec.action.choices
    most = 0 if choices is None else int(np.asarray(rows.action).max())
    if choices is not None and most >= choices:
        raise ValueError(f"action of the data {name!r} goes to {most}; {env.name} has {choices} choices.")
