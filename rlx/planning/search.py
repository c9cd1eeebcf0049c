"""Which regions may hold a parameter, where there are too many to ask each: a binary search tree over their hyperplanes.

After Tondel, Johansen and Bemporad 2003, "Evaluation of piecewise affine control via binary search tree", Automatica 39: each
node says on which side of a hyperplane z lies, a leaf lists the regions that reach into its cell. Regions count as larger than
they are, by the law's tolerance and by what rounding can do, so a list lacks none that holds z. Nothing is promised of a z that
is as close as that to a hyperplane on its way: it is told apart, and the law looks at all regions.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from rlx.planning.mpqp import Regions
from rlx.planning.polytopes import CORNERS, reach
from rlx.types import Array

FAR = np.float32(1e30)  # the bound of a row that is none; finite, so that 0 * z stays exact and C needs no infinity
NODES = 16  # per region, at most: in many dimensions cells cut regions into more and more parts
DEPTH = 48  # at most; each parameter goes through as many steps as the deepest leaf takes
MOST = 10_000  # regions: all hyperplanes are compared with all of them
CHUNKS = (16_384, 256)  # parameters at a time, where many are left and where few are


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tree:
    """Nodes, the leaves last: they have no hyperplane, and themselves below."""

    rows: Array  # [n, nz]
    bounds: Array  # [n]
    below: Array  # int32 [n, 2]: on the side where rows z <= bounds, and beyond
    lists: Array  # int32 [leaves, k] ascending regions; filled up with the last one
    margin: float = field(metadata={"static": True})  # closer to a hyperplane its sides are not told apart
    depth: int = field(metadata={"static": True})

    def candidates(self, z: Array) -> tuple[Array, Array]:
        """The regions int32 [..., k] that alone can hold z [..., nz]; and whether that is sure [...]."""
        parts = entries(z, 0)

        def descend(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
            node, close = carry
            here = room(self.rows[node], self.bounds[node], parts)
            return (self.below[node, (here < 0).astype(jnp.int32)], jnp.minimum(close, jnp.abs(here))), None

        start = jnp.zeros(z.shape[:-1], jnp.int32), jnp.full(z.shape[:-1], jnp.inf, jnp.result_type(self.rows, z))
        (node, close), _ = jax.lax.scan(descend, start, None, self.depth)
        return self.lists[node - (len(self.rows) - len(self.lists))], close > self.margin


def settle(
    ask: Callable[[Array], tuple[Array, Array]], z: Array, found: tuple[Array, Array], left: Array
) -> tuple[Array, Array]:
    """``found`` [B] each, with what ``ask`` gives for z [B, nz] in its place where ``left`` [B]: some at a time, so that it
    takes as long as there are such, under `jax.vmap` as many as the member has that has most."""
    n, state = len(z), (*found, left)
    for size in sorted({min(n, size) for size in CHUNKS}, reverse=True):
        few = size // 3 if size > CHUNKS[-1] else 0

        def more(state: tuple[Array, Array, Array], few: int = few) -> Array:
            return state[2].sum() > few

        def some(state: tuple[Array, Array, Array], size: int = size) -> tuple[Array, Array, Array]:
            at = jnp.nonzero(state[2], size=size, fill_value=n)[0]  # n where there are no more: of no effect
            score, region = ask(z[at])
            put = lambda x, new: x.at[at].set(new, mode="drop")
            return put(state[0], score), put(state[1], region), put(state[2], False)

        state = jax.lax.while_loop(more, some, state)
    return state[0], state[1]


def room(rows: Array, bounds: Array, z: Sequence[Array]) -> Array:
    """bounds - rows z, of the entries of z: term by term, which a compiler joins with the minimum that follows, and which no
    device computes in fewer bits."""
    for k, entry in enumerate(z):
        bounds = bounds - rows[..., k] * entry
    return bounds


def entries(z: Array, axes: int) -> list[Array]:
    """Of z [..., nz], each [..., 1, ..] with so many axes more."""
    return [z[..., k].reshape(*z.shape[:-1], *[1] * axes) for k in range(z.shape[-1])]


def tree(regions: Regions, tolerance: float) -> Tree | None:
    """The search tree of ``regions`` for a law that computes in JAX's default precision, on the host. None where it would take
    too long: for more than 6 parameters, whose regions have too many corners, and for more than 10 000 regions.

    Each node takes the hyperplane, of those that bound its regions, that leaves fewest of them on the fuller side. The longest
    lists are split first, so that where nodes run out all are about as long.
    """
    if regions.A.shape[2] > CORNERS or len(regions.K) > MOST:
        return None
    rows, bounds, of = hyperplanes(regions)
    low, high, margin = sides(regions, rows, bounds, tolerance)
    p = len(of)
    todo = [(-p, 0, np.arange(p), -1, 0, 0)]  # -length, a number that differs, regions, parent, side of it, depth
    cuts: list[int] = []
    below: list[list[int]] = []
    leaves: list[np.ndarray] = []
    depth = 0
    while todo:
        _, _, some, parent, side, level = heapq.heappop(todo)
        cut = _cut(some, of, low, high) if len(cuts) < NODES * p and level < DEPTH else -1
        here = ~len(leaves) if cut < 0 else len(cuts)
        if cut < 0:
            leaves.append(some)
            depth = max(depth, level)
        else:
            cuts.append(cut)
            below.append([0, 0])
            for k, half in enumerate((low, high)):
                part = some[half[cut, some]]
                heapq.heappush(todo, (-len(part), 2 * len(cuts) + k, part, here, k, level + 1))
        if parent >= 0:
            below[parent][side] = here
    n, most = len(cuts), max(1, *map(len, leaves))
    lists = np.array([np.pad(some, (0, most - len(some)), "edge") if len(some) else np.zeros(most, int) for some in leaves])
    own = np.arange(n, n + len(leaves))
    inner = np.array(below, int).reshape(n, 2)
    return Tree(
        jnp.asarray(np.concatenate([rows[cuts] / regions.scale, np.zeros((len(leaves), rows.shape[1]))])),
        jnp.asarray(np.concatenate([bounds[cuts], np.full(len(leaves), FAR)])),
        jnp.asarray(np.concatenate([np.where(inner < 0, n + ~inner, inner), np.stack([own, own], 1)]), jnp.int32),
        jnp.asarray(lists, jnp.int32),
        margin,
        depth,
    )


def hyperplanes(regions: Regions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each hyperplane once, in z / scale: rows [h, nz] and bounds [h]; and which bound each region, int [p, q]: 1 + their
    index, negative where it bounds the region from the other side, 0 for none."""
    on = np.isfinite(regions.b)
    flat = np.concatenate([regions.A[on] * regions.scale, regions.b[on, None]], 1)
    sign = np.sign(np.take_along_axis(flat, (np.abs(flat[:, :-1]) > 1e-6).argmax(1)[:, None], 1))
    flat *= sign
    _, index, inverse = np.unique(np.round(flat, 6), axis=0, return_index=True, return_inverse=True)
    of = np.zeros(on.shape, int)
    of[on] = (1 + inverse.reshape(-1)) * sign[:, 0].astype(int)
    return flat[index, :-1], flat[index, -1], of


def sides(regions: Regions, rows: np.ndarray, bounds: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Which regions [h, p] reach below and beyond each hyperplane, grown as they are; and the margin of `Tree`."""
    h, p, nz = len(rows), len(regions.K), rows.shape[1]
    low, high = np.zeros((2, h, p), bool)
    widest = np.abs(regions.centre / regions.scale).max(0) + 2  # of z / scale in the regions
    sizes = np.abs(regions.A * regions.scale) @ widest + np.where(np.isfinite(regions.b), np.abs(regions.b), 0)
    slip = (nz + 2) * float(jnp.finfo(jnp.result_type(float)).eps) / 2 * sizes.max()  # the most that rounding does to a room
    grown = tolerance + slip
    margin = float(1.5 * (grown + slip))  # wide enough that a region does not reach across its own facets
    both = np.concatenate([rows, -rows])
    for i, (A, b, centre) in enumerate(zip(regions.A, regions.b, regions.centre, strict=True)):
        on = np.isfinite(b)
        most = reach(A[on] * regions.scale, b[on] + grown, centre / regions.scale, both)
        low[:, i] = most[h:] + bounds > margin - slip
        high[:, i] = most[:h] - bounds > margin - slip
    return low, high, margin


def _cut(some: np.ndarray, of: np.ndarray, low: np.ndarray, high: np.ndarray) -> int:
    """The hyperplane that tells these regions apart best, -1 where none does."""
    if len(some) < 2:
        return -1
    bounding = np.unique(np.abs(of[some]))
    bounding = bounding[bounding > 0] - 1
    parts = np.stack([side[np.ix_(bounding, some)].sum(1) for side in (low, high)])
    best = np.lexsort((parts.sum(0), parts.max(0)))[0]
    return int(bounding[best]) if parts[:, best].max() < len(some) else -1
