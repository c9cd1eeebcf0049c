"""A ring of rows: the one store for online streams, datasets, demonstrations and imagined rollouts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.replay.flags import FIRST, LAST, TERMINATED, TRUNCATED, VALID, has, pack, put, unpack, without
from rlx.types import Array, Key, Packed, PyTree, ReplayIndex, ReplayState, Row


def _write(ring: Array, block: Array, head: Array) -> Array:
    """``block`` [T, ...] into ``ring`` [C, ...] from ``head`` on, wrapping; in place where ``ring`` is donated or carried.

    A scatter of whole rows: merging slices, or a cond on whether the block wraps, makes XLA copy the ring.
    """
    at = jax.lax.rem((head + jnp.arange(block.shape[0])).astype(jnp.uint32), jnp.uint32(ring.shape[0]))
    return ring.at[at].set(block, unique_indices=True, mode="promise_in_bounds")


def rows_in_order(index: ReplayIndex) -> Array:
    """Ring positions [C], oldest stored row first; the tail follows the ``size`` stored rows."""
    return (index.head - index.size + jnp.arange(index.flags.shape[0])) % index.flags.shape[0]


@dataclass(frozen=True)
class Replay:
    """A ring with room for ``capacity`` rows of each of ``streams`` streams.

    One row of room holds the tail (the newest observation, whose action is not known yet), so at most ``capacity - 1`` rows
    are stored. With ``device=False`` the rows are numpy arrays in host memory that ``add`` changes in place; the index
    (`ReplayIndex`) is on the device all the same, so both kinds draw the same bits. ``priorities`` keeps a priority per row;
    the last ``ends`` rows of an episode begin no sample, so nobody updates theirs, and they do not say what new rows get.
    ``pack`` (`rlx.types.Spec.pack`): how rows are kept, where that takes less room than they do.
    """

    capacity: int
    streams: int
    device: bool = True
    priorities: bool = False
    ends: int = 1
    pack: Callable[[Row], Row] | None = None

    def _kept(self, row: Row) -> Row:
        """The shapes of what is stored of a row like ``row``."""
        return without(row if self.pack is None else jax.eval_shape(self.pack, row))

    def nbytes(self, row: Row) -> int:
        """Bytes that `init` will allocate."""
        size = sum(int(np.prod(x.shape)) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(self._kept(row)))
        return self.capacity * self.streams * (size + 1 + 4 * self.priorities)

    def init(self, row: Row) -> ReplayState:
        """Empty, for rows like ``row`` (leaves without leading axes: arrays or ``jax.ShapeDtypeStruct``)."""
        lead, xp = (self.capacity, self.streams), jnp if self.device else np
        data = jax.tree.map(lambda x: xp.zeros((*lead, *x.shape), x.dtype), self._kept(row))
        priority = jnp.zeros(lead if self.priorities else (0, 0), jnp.float32)
        index = ReplayIndex(jnp.int32(0), jnp.int32(0), jnp.bool_(False), jnp.zeros(lead, jnp.uint8), priority)
        return ReplayState(index, data, {})

    # ------------------------------------------------------------------------------------------------------------ writing

    def add(self, state: ReplayState, rows: Row, tail: Row | None = None) -> ReplayState:
        """``rows`` [T, W, ...] follow what is stored (the tail is overwritten); then ``tail`` [W, ...] completes them.

        Rows with ``valid=False`` take room but are never drawn. New rows get the largest priority of those that can be drawn.

        Raises:
            ValueError: rows that do not fit the ring's capacity or streams.
        """
        count, width = rows.reward.shape[:2]
        if count + 1 > self.capacity or width != self.streams:
            raise ValueError(
                f"add: {count} rows of {width} streams into a replay of {self.capacity} rows (one is kept for the tail) "
                f"of {self.streams} streams; give capacity >= {count + 1} and streams={width}."
            )
        block = rows if tail is None else jax.tree.map(_append, rows, tail)
        block = block if self.pack is None else self.pack(block)
        payload, flags = without(block), pack(block)
        if self.device:
            _fits(state.data, payload)
            data = jax.tree.map(lambda ring, x: _write(ring, x, state.index.head), state.data, payload)
            return ReplayState(_index(state.index, flags, count, self.ends), data, state.overlay)
        if isinstance(state.index.head, jax.core.Tracer) or isinstance(rows.reward, jax.core.Tracer):
            raise ValueError("add: this replay is in host memory and cannot be changed inside jit or vmap; use device=True.")
        payload = jax.tree.map(np.asarray, payload)
        _fits(state.data, payload)
        jax.tree.map(lambda ring, x: _write_host(ring, x, int(state.index.head)), state.data, payload)
        return state._replace(index=_index_jit(state.index, flags, count, self.ends))

    def close(self, state: ReplayState) -> ReplayState:
        """Keeps a pending tail as a row: the interaction ends here, truncated unless it had ended anyway."""
        index, size = state.index, state.index.flags.shape[0]
        newest = jnp.asarray(index.flags)[index.head]
        cut = put(newest, TRUNCATED, has(newest, TRUNCATED) | ~has(newest, LAST)) | np.uint8(LAST)
        step = index.tail.astype(jnp.int32)
        index = index._replace(
            flags=jnp.asarray(index.flags).at[index.head].set(jnp.where(index.tail, cut, newest)),
            head=(index.head + step) % size,
            size=jnp.minimum(index.size + step, size - 1),
            tail=jnp.zeros_like(index.tail),
        )
        return state._replace(index=index)

    def evict(self, state: ReplayState, keep: int | Array) -> ReplayState:
        """Removes whole trajectories, oldest first, until each stream has at most ``keep`` decisions in those left: rows at
        which something was done, so neither last ones nor the tail. The newest trajectory stays, of which the newest ``keep``
        decisions if it has more. Removed rows are marked invalid."""
        index = jax.tree.map(jnp.asarray, state.index)
        order = rows_in_order(index)
        i = jnp.arange(order.shape[0])[:, None]
        flags, stored = index.flags[order], i < index.size
        begins = has(flags, FIRST) & stored
        start = jax.lax.cummax(jnp.where(begins, i, 0), axis=0)  # where each row's trajectory began
        newest = jnp.where(begins, i, 0).max(0)
        decided = (has(flags, VALID) & ~has(flags, LAST) & stored).astype(jnp.int32)
        onwards = jax.lax.cumsum(decided, axis=0, reverse=True)  # decisions from each row on
        stay = (jnp.take_along_axis(onwards, start, 0) <= keep) | ((start == newest) & (onwards <= keep))
        kept = index.flags.at[order].set(put(flags, VALID, has(flags, VALID) & stay))
        return state._replace(index=state.index._replace(flags=kept))

    def update_priorities(self, state: ReplayState, index: PyTree, priority: Array) -> ReplayState:
        return update_priorities(state, index, priority)

    def export(self, state: ReplayState) -> list[Row]:
        return export(state)


def _append(rows: Array, tail: Array) -> Array:
    xp = np if isinstance(rows, np.ndarray) else jnp
    return xp.concatenate([rows, xp.asarray(tail)[None]])


def _write_host(ring: np.ndarray, block: np.ndarray, head: int) -> None:
    before = min(len(block), len(ring) - head)  # rows up to the ring's end
    ring[head : head + before] = block[:before]
    ring[: len(block) - before] = block[before:]


def _fits(data: PyTree, block: PyTree) -> None:
    """Raises ValueError unless the rows have the structure, shapes and dtypes that the replay was made for."""
    stored, given = jax.tree_util.tree_flatten_with_path(data), jax.tree_util.tree_flatten_with_path(block)
    if str(stored[1]) != str(given[1]):
        names = lambda leaves: {jax.tree_util.keystr(path) for path, _ in leaves}
        odd = ", ".join(sorted(names(stored[0]) ^ names(given[0]))) or f"{given[1]}"
        raise ValueError(f"add: the rows have another structure than the replay was made for; they differ in {odd}.")
    for (path, ring), (_, x) in zip(stored[0], given[0], strict=True):
        if ring.shape[2:] != x.shape[2:] or ring.dtype != x.dtype:
            raise ValueError(
                f"add: {jax.tree_util.keystr(path)} has rows of {x.dtype}{x.shape[2:]}; "
                f"the replay was made for {ring.dtype}{ring.shape[2:]}."
            )


def _index(index: ReplayIndex, flags: Array, count: int, ends: int) -> ReplayIndex:
    """The index after a block with ``flags`` [T, W]: ``count`` rows, and the tail if it has one more."""
    size = index.flags.shape[0]
    priority = index.priority
    if priority.size:
        near = functools.reduce(jnp.logical_or, [jnp.roll(has(index.flags, LAST), -i, 0) for i in range(ends)])
        most = jnp.where(near, 0.0, priority).max()
        top = jnp.where(most > 0, most, 1.0)
        priority = _write(priority, jnp.full(flags.shape, top, priority.dtype), index.head)
    return ReplayIndex(
        head=(index.head + count) % size,
        size=jnp.minimum(index.size + count, size - 1),
        tail=jnp.full_like(index.tail, flags.shape[0] > count),
        flags=_write(index.flags, jnp.asarray(flags), index.head),
        priority=priority,
    )


_index_jit = jax.jit(_index, static_argnums=(2, 3))


def update_priorities(state: ReplayState, index: PyTree, priority: Array) -> ReplayState:
    """New priorities [B] for the rows at ``index`` (with ``t`` and ``w``). Entries with ``t < 0`` or from elsewhere are left
    out; of several for one row the largest counts."""
    old = jnp.asarray(state.index.priority)
    if not old.size:
        raise ValueError("update_priorities: this replay keeps no priorities; make it with priorities=True.")
    there = index.t >= 0
    t = jnp.where(there, index.t, old.shape[0])  # out of bounds: dropped
    cleared = old.at[t, index.w].set(0.0, mode="drop")
    return state._replace(index=state.index._replace(priority=cleared.at[t, index.w].max(priority, mode="drop")))


def prioritise(state: ReplayState) -> ReplayState:
    """``state`` with a priority of 1 for each row, as new rows of an empty ring have; as it is where it keeps some."""
    index = state.index
    return state if index.priority.size else state._replace(index=index._replace(priority=jnp.ones(index.flags.shape)))


def grow(state: ReplayState, capacity: int) -> ReplayState:
    """The same rows (numpy), oldest first, in a ring of ``capacity`` rows, which is more than there was; members may lead."""
    if np.ndim(state.index.head):
        each = [grow(jax.tree.map(lambda x, m=m: x[m], state), capacity) for m in range(len(state.index.head))]
        return jax.tree.map(lambda *xs: np.stack(xs), *each)
    index, old = jax.tree.map(np.asarray, state.index), state.index.flags.shape[0]
    order = np.asarray(rows_in_order(index))
    moved = lambda x: np.concatenate([x[order], np.zeros((capacity - old, *x.shape[1:]), x.dtype)])
    flags = moved(index.flags)
    flags[int(index.size) + int(index.tail) :] = 0
    priority = moved(index.priority) if index.priority.size else index.priority
    index = ReplayIndex(np.asarray(index.size), index.size, index.tail, flags, priority)
    return ReplayState(index, jax.tree.map(moved, state.data), jax.tree.map(moved, state.overlay))


def relabel(state: ReplayState, fn: Callable[..., Mapping[str, Array]], key: Key | None = None) -> ReplayState:
    """Relabelling without touching shared rows: ``fn(rows)`` (``fn(rows, key)`` if a key is given) returns leaves by name
    (``"reward"``, ``"terminated"``, ``"extras/z"``), [C, W, ...], that samplers of this state read in place of the stored
    ones. Where episodes begin and end does not change."""
    rows = stored(state)
    new, index = dict(fn(rows) if key is None else fn(rows, key)), state.index
    for name, leaf in new.items():
        if name in ("first", "truncated", "valid"):
            raise ValueError(f"relabel: {name!r} says where episodes lie, which relabelling cannot change.")
        old = leaf_of(rows, name)
        if leaf.shape != old.shape or leaf.dtype != old.dtype:
            raise ValueError(f"relabel: {name} must be {old.dtype}{old.shape}, got {leaf.dtype}{leaf.shape}.")
    if "terminated" in new:
        index = index._replace(flags=put(index.flags, TERMINATED, new.pop("terminated")))
    return state._replace(index=index, overlay={**state.overlay, **new})


def in_host_memory(source: Any) -> bool:
    """Whether ``source`` is a replay whose rows are numpy arrays or mapped files: the host reads them, not the device."""
    return isinstance(source, ReplayState) and any(not isinstance(x, jax.Array) for x in jax.tree.leaves(source.data))


def leaf_of(row: Row, name: str) -> Any:
    """A leaf of a row by name. Raises ValueError with the names there are."""
    field, _, inner = name.partition("/")
    value = getattr(row, field, None)
    if inner and isinstance(value, dict):
        value = value.get(inner)
    if value is None:
        names = [f if not isinstance(v, dict) else f"{f}/<{'|'.join(v)}>" for f, v in row._asdict().items()]
        raise ValueError(f"a row has no {name!r}; it has {', '.join(names)}.")
    return value


def stored(state: ReplayState) -> Row:
    """The whole ring as rows [C, W, ...], in the order of the ring, without the overlay."""
    return state.data._replace(**unpack(state.index.flags), obs=opened(state.data.obs))


def opened(obs: PyTree) -> PyTree:
    """Observations as they were emitted: where they are kept `rlx.types.Packed`, unpacked."""
    return obs.opened() if isinstance(obs, Packed) else obs


def overlaid(state: ReplayState) -> Row:
    """The data as samplers see them; what `ReplayIndex.flags` holds is ``()``."""
    row = state.data
    for name, leaf in state.overlay.items():
        field, _, inner = name.partition("/")
        row = row._replace(**{field: {**getattr(row, field), inner: leaf} if inner else leaf})
    return row


# ---------------------------------------------------------------------------------------------------------- whole episodes


def export(state: ReplayState) -> list[Row]:
    """Episodes (numpy rows [T, ...]), stream by stream, oldest first; pieces of fewer than two rows are left out."""
    index = jax.tree.map(np.asarray, state.index)
    order = np.asarray(rows_in_order(state.index))[: int(index.size) + int(index.tail)]
    bits = unpack(index.flags)
    data = jax.tree.map(np.asarray, overlaid(state))._replace(**bits)
    episodes = []
    for w in range(index.flags.shape[1]):
        first, last, valid = (has(index.flags[order, w], bit) for bit in (FIRST, LAST, VALID))
        cuts = np.flatnonzero(first[1:] | last[:-1] | ~valid[1:] | ~valid[:-1]) + 1
        for piece in np.split(np.arange(len(order)), cuts):
            if len(piece) >= 2:
                rows = jax.tree.map(lambda x, piece=piece, w=w: x[order[piece], w], data)
                episodes.append(rows._replace(obs=opened(rows.obs)))
    return episodes
