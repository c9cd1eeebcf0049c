"""One batch from several sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.replay.samplers import Items, Segments, Sequences
from rlx.types import Array, Clock, Key, Row, Sampler, Sources


def mix(samplers: Sequence[Sampler], share: float | Sequence[float] | Callable[[dict[str, Array], Clock], Array]) -> Sampler:
    """One batch from samplers of equal batches of one kind: the first ``round(share * B)`` entries from the first sampler, the
    rest from the second.

    For more than two samplers ``share`` is one number per sampler (the cumulative sum is rounded). It may be a function of
    (hyper, clock), which makes it a schedule (``floor(p B) / B`` rounds down). Importance weights are scaled to a maximum of 1
    among the entries from each source. The batch's ``index`` is a dict by source, with ``t = -1`` for entries that come
    from elsewhere: this is what `rlx.replay.update_priorities` takes.
    """
    names = [s.sources[0] for s in samplers]
    if len(samplers) < 2 or any(len(s.sources) != 1 for s in samplers) or len(set(names)) < len(names):
        raise ValueError(f"mix takes two or more plain samplers of different sources, got {[s.sources for s in samplers]}.")
    if not callable(share) and np.shape(share) not in ((), (len(names),)):
        raise ValueError(f"mix: {len(names)} samplers need one share for the first of two, or one each; got {share}.")

    def draw(sources: Sources, hyper: dict[str, Array], clock: Clock, key: Key) -> Any:
        k = jax.random.split(key, len(names))
        part = jnp.asarray(share(hyper, clock) if callable(share) else share, jnp.float32)
        if part.shape not in ((), (len(names),)) or (part.shape == () and len(names) > 2):
            raise ValueError(f"mix: the share has shape {part.shape}; {len(names)} samplers need ({len(names)},).")
        upto = part[None] if part.shape == () else jnp.cumsum(part)[:-1]
        return tuple(s.draw(sources, hyper, clock, k) for s, k in zip(samplers, k, strict=True)), upto

    def read(sources: Sources, drawn: Any) -> Any:
        return blend([s.read(sources, d) for s, d in zip(samplers, drawn[0], strict=True)], names, drawn[1])

    return Sampler(draw, read, tuple(names), any(s.prioritised for s in samplers))


def beside(**samplers: Sampler) -> Sampler:
    """A batch of each, as a dict by these names, for updates that compare what several sources hold."""

    def draw(sources: Sources, hyper: dict[str, Array], clock: Clock, key: Key) -> Any:
        keys = jax.random.split(key, len(samplers))
        return {name: s.draw(sources, hyper, clock, k) for (name, s), k in zip(samplers.items(), keys, strict=True)}

    def read(sources: Sources, drawn: Any) -> Any:
        return {name: s.read(sources, drawn[name]) for name, s in samplers.items()}

    names = tuple(dict.fromkeys(name for s in samplers.values() for name in s.sources))
    return Sampler(draw, read, names, any(s.prioritised for s in samplers.values()))


def blend(batches: Sequence[Any], names: Sequence[str], upto: Array) -> Any:
    """Batches of one kind entry by entry: those below ``round(upto[0] * B)`` from the first, and so on."""
    one = batches[0]
    if len({type(b) for b in batches}) > 1 or isinstance(one, Items):
        raise ValueError(f"mix: the samplers must give one kind of batch of rows, got {[type(b).__name__ for b in batches]}.")
    sizes = {b.index.t.shape[0] for b in batches}
    if len(sizes) > 1:
        raise ValueError(f"mix: all samplers must have one batch size, got {sorted(sizes)}.")
    xp, size = (np if isinstance(one.index.t, np.ndarray) else jnp), sizes.pop()
    which = (xp.arange(size)[:, None] >= xp.round(upto * size)).sum(-1)  # number of each entry's sampler

    def pick(axis: int, *leaves: Array) -> Array:
        out = leaves[-1]
        for i, leaf in enumerate(leaves[:-1]):
            out = xp.where((which == i).reshape([-1 if a == axis else 1 for a in range(out.ndim)]), leaf, out)
        return out

    def join(field: str, parts: list[Any], axis: int) -> Any:
        if field in ("extras", "info"):  # what all of them have
            return {k: pick(axis, *(p[k] for p in parts)) for k in parts[0] if all(k in p for p in parts)}
        if isinstance(parts[0], Row):
            return Row(*(join(f, [getattr(p, f) for p in parts], axis) for f in Row._fields))
        if len({jax.tree.structure(p) for p in parts}) > 1:
            raise ValueError(f"mix: {field!r} has another structure in each of {', '.join(names)}.")
        return jax.tree.map(lambda *leaves: pick(axis, *leaves), *parts)

    if hasattr(one, "weight"):
        batches = [b._replace(weight=_scaled(xp, b.weight, which == i)) for i, b in enumerate(batches)]
    time_major = isinstance(one, Sequences | Segments)
    axes = {f: int(time_major and f not in ("weight", "returns")) for f in one._fields if f != "index"}
    index = {
        n: b.index._replace(t=xp.where(which == i, b.index.t, -1)) for i, (n, b) in enumerate(zip(names, batches, strict=True))
    }
    return type(one)(**{f: join(f, [getattr(b, f) for b in batches], axis) for f, axis in axes.items()}, index=index)


def _scaled(xp: Any, weight: Array, mine: Array) -> Array:
    """Importance weights [B] to a maximum of 1 among those that are taken (``mine``, bool [B])."""
    most = xp.where(mine, weight, 0).max()
    return weight / xp.where(most > 0, most, 1)
