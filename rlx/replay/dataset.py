"""Whole episodes as one record, `Dataset`: what every reader of files gives, and how one is put together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.replay import columns
from rlx.replay.flags import pack, without
from rlx.types import PyTree, ReplayIndex, ReplayState, Row


@dataclass(frozen=True)
class Dataset:
    """Whole episodes, one after another.

    ``rows``: leaves [N, ...], numpy or mapped from files; episode ``i`` is the rows from ``offsets[i]`` to ``offsets[i + 1]``
    (int64 [episodes + 1]). ``notes`` say what the reader took, left out and found odd. A sequence of its episodes, each a
    `rlx.types.Row` of views.
    """

    rows: Row
    offsets: np.ndarray
    name: str = "the dataset"
    format: str = ""
    notes: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Row:
        if not -len(self) <= i < len(self):
            raise IndexError(f"{self.name} has {len(self)} episodes, there is no episode {i}.")
        a, b = self.offsets[i % len(self)], self.offsets[i % len(self) + 1]
        return jax.tree.map(lambda x: x[a:b], self.rows)

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(len(self)))

    @property
    def transitions(self) -> int:
        return len(self.rows.reward) - len(self)

    @property
    def lengths(self) -> np.ndarray:
        """Decisions of each episode, int64 [episodes]."""
        return np.diff(self.offsets) - 1

    @property
    def returns(self) -> np.ndarray:
        """Sum of rewards of each episode, float64 [episodes]."""
        reward = np.asarray(self.rows.reward[:], np.float64)
        return np.add.reduceat(reward, self.offsets[:-1]) if len(self) else np.zeros(0)

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in jax.tree.leaves(without(self.rows))) + len(self.rows.reward)

    def select(self, episodes: Sequence[int] | np.ndarray) -> Dataset:
        """These episodes, in this order, in memory."""
        chosen = [self[int(i)] for i in episodes]
        if not chosen:
            raise ValueError(f"{self.name}: no episodes were selected of {len(self)}.")
        rows = jax.tree.map(lambda *xs: np.concatenate(xs), *chosen)
        return replace(self, rows=rows, offsets=np.cumsum([0, *(len(e.reward) for e in chosen)]))

    def replay(self, device: bool = True) -> ReplayState:
        """As a replay of one stream, never to be added to; with ``device=False`` the rows stay where they are."""
        put: Callable[[Any], Any] = (lambda x: jnp.asarray(x[:])) if device else (lambda x: x)
        data = jax.tree.map(lambda x: put(columns.as_stream(x)), without(self.rows))
        flags = pack(jax.tree.map(lambda x: np.asarray(x[:])[:, None], self.rows._replace(**_NO_DATA)))
        index = ReplayIndex(
            head=jnp.int32(0),
            size=jnp.int32(len(flags)),
            tail=jnp.bool_(False),
            flags=jnp.asarray(flags),
            priority=jnp.zeros((0, 0), jnp.float32),
        )
        return ReplayState(index, data, {})


_NO_DATA: dict[str, Any] = dict.fromkeys(("obs", "action", "info", "extras"), ())


def from_rows(
    obs: PyTree,
    action: PyTree,
    reward: np.ndarray,
    terminated: np.ndarray,
    offsets: np.ndarray,
    info: PyTree = None,
    extras: PyTree = None,
    finite: bool = False,
) -> tuple[Row, np.ndarray]:
    """Rows [N, ...] and offsets of a `Dataset`, from one row per observation: ``reward`` and ``terminated`` of the arrival,
    which at first rows are not looked at; nor are actions at last ones. Arrays that need no change are taken as they are.
    ``finite``: the caller has seen that all values are.

    Raises:
        ValueError: an episode of fewer than two rows, something that is not finite, or an end before the last row.
    """
    lengths = np.diff(offsets)
    if not len(lengths):
        raise ValueError("there are no episodes.")
    if lengths.min() < 2:
        at = int(np.argmin(lengths))
        raise ValueError(f"episode {at} has {lengths[at]} rows; a transition needs two.")
    first, last = np.zeros(len(reward), bool), np.zeros(len(reward), bool)
    first[offsets[:-1]], last[offsets[1:] - 1] = True, True
    reward = replaced(np.asarray(reward, np.float32), first, 0)
    early = terminated & ~last & ~first
    if early.any():
        end = int(np.argmax(early))
        where = int(np.searchsorted(offsets, end, "right")) - 1
        raise ValueError(f"episode {where} ends at row {end - offsets[where]} of {lengths[where]}; cut it there.")
    action = jax.tree.map(lambda x: replaced(x, last, 0), action)
    trees = {} if finite else {"obs": obs, "action": action, "reward": reward, "info": info, "extras": extras}
    for name, tree in trees.items():
        each = lambda path, x, name=name: columns.finite(x, "/".join([name, *(str(getattr(p, "key", p)) for p in path)]))
        jax.tree_util.tree_map_with_path(each, tree)
    ended = terminated & last
    row = Row(obs, reward, ended, last & ~ended, first, info or {}, action, extras or {}, np.ones(len(reward), bool))
    return row, np.asarray(offsets, np.int64)


def replaced(x: np.ndarray, where: np.ndarray, value: Any) -> np.ndarray:
    """``x`` with ``value`` at ``where``, a copy if that is a change."""
    if not np.any(x[where] != value):
        return x
    x = x.copy()
    x[where] = value
    return x


def from_steps(
    obs: PyTree,
    final: PyTree,
    action: PyTree,
    reward: np.ndarray,
    terminated: np.ndarray,
    borders: np.ndarray,
    info: PyTree = None,
) -> tuple[Row, np.ndarray]:
    """The same from one entry per step [N, ...]: the observation, the action taken there, and the reward and end that followed.
    ``final`` [E, ...] is what came after the last step of each episode; ``borders`` int [E + 1] says where episodes begin.
    ``info`` belongs to the observations; of the final one there is none, so the last is repeated. All values are to be
    finite, which the caller has seen."""
    episodes = len(borders) - 1
    offsets = borders + np.arange(episodes + 1)
    long = len(reward) > 64 * episodes  # slices are faster than a scatter where there are few
    places = None if long else np.arange(len(reward)) + np.repeat(np.arange(episodes), np.diff(borders))

    def scattered(x: np.ndarray, shift: int, rest: Any) -> np.ndarray:
        """``x`` in the rows from ``shift`` on of each episode, ``rest`` in the row that is left."""
        out = columns.empty((len(reward) + episodes, *x.shape[1:]), x.dtype)
        if places is None:
            for i in range(episodes):
                a, b = borders[i], borders[i + 1]
                out[a + i + shift : b + i + shift] = x[a:b]
        else:
            out[places + shift] = x
        out[offsets[:-1] if shift else offsets[1:] - 1] = rest
        return out

    ends = borders[1:] - 1
    return from_rows(
        jax.tree.map(lambda x, y: scattered(x, 0, y), obs, final),
        jax.tree.map(lambda x: scattered(x, 0, np.zeros((), x.dtype)), action),
        scattered(np.asarray(reward, np.float32), 1, 0),
        scattered(terminated, 1, False),
        offsets,
        jax.tree.map(lambda x: scattered(x, 0, x[ends]), info or {}),
        finite=True,
    )


def fitted(data: Dataset, bounds: Any) -> Dataset:
    """With the bounds "data": actions in units in which -1 and 1 stand for the least and greatest of each component in all of
    ``data``, so that an action means the same in every episode. With other bounds, which readers apply, as it is."""
    return scaled(data, spans(data)) if columns.of_data(bounds) else data


def spans(data: Dataset) -> PyTree:
    """The least and the greatest of each component of the actions, [2, ...] for each leaf [N, ...]. Those of last rows lead
    nowhere and are not looked at; choices, which are counted, have none: [2, 0]."""
    taken = np.ones(len(data.rows.reward), bool)
    taken[data.offsets[1:] - 1] = False
    none = np.zeros((2, 0))
    each = lambda x: np.stack([f(np.asarray(x[:])[taken], 0) for f in (np.min, np.max)]) if x.dtype.kind == "f" else none
    return jax.tree.map(each, data.rows.action)


def wider(one: PyTree, other: PyTree) -> PyTree:
    """The `spans` of both together."""
    return jax.tree.map(lambda a, b: np.stack([np.minimum(a[0], b[0]), np.maximum(a[1], b[1])]), one, other)


def scaled(data: Dataset, found: PyTree) -> Dataset:
    """With its float actions in units in which -1 and 1 stand for what `spans` ``found``."""
    last = np.zeros(len(data.rows.reward), bool)
    last[data.offsets[1:] - 1] = True
    each = lambda x, span: replaced(columns.scaled(np.asarray(x[:]), columns.apart(*span), "action"), last, 0)
    action = jax.tree.map(lambda x, span: each(x, span) if x.dtype.kind == "f" else x, data.rows.action, found)
    return replace(data, rows=data.rows._replace(action=action))


def renamed(data: Dataset, names: Mapping[str, str]) -> Dataset:
    """With observations of other ``names``, new ones by old ones (``arm/position`` of a dict in a dict); others keep theirs.

    Raises:
        ValueError: observations are one array, there is none of an old name, or two would have one name.
    """
    if not names:
        return data
    leaves = by_name(data.rows.obs)
    unknown = [old for old in names if not old or old not in leaves]
    if unknown:
        held = ", ".join(leaves) if isinstance(data.rows.obs, Mapping) else "one array, without a name"
        raise ValueError(f"there is no observation {unknown[0]!r} to be called {names[unknown[0]]!r}; there is {held}.")
    obs = tree_of([names.get(old, old) for old in leaves], list(leaves.values()))
    return replace(data, rows=data.rows._replace(obs=obs))


def by_name(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree, by `columns.path_name`; of a single array by ""."""
    return {columns.path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def tree_of(names: Sequence[str], leaves: Sequence[Any]) -> PyTree:
    """Observations of these paths: dicts in dicts, or where the one path is "" a single array. Raises ValueError where two
    would have one name."""
    if list(names) == [""]:
        return leaves[0]
    twice = [k for i, k in enumerate(names) for j, other in enumerate(names) if i != j and f"{k}/".startswith(f"{other}/")]
    if twice or "" in names:
        raise ValueError(
            f"two observations would be called {[*twice, ''][0]!r} of {', '.join(names)}; each needs its own name."
        )
    found: dict[str, Any] = {}
    for path, x in zip(names, leaves, strict=True):
        *groups, last = path.split("/")
        functools.reduce(lambda inner, group: inner.setdefault(group, {}), groups, found)[last] = x
    return found


def agreed(meta: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """What both say alike."""
    return {k: v for k, v in meta.items() if k in other and other[k] == v}


def join(parts: Iterable[Dataset]) -> Dataset:
    """Several as one, in this order. Of what is known about them stays what all say alike, such as the environment.

    Raises:
        ValueError: none, or ones whose rows differ in their leaves, shapes or dtypes; the message names the first.
    """
    given = list(parts)
    if len(given) < 2:
        if not given:
            raise ValueError("there are no datasets to join.")
        return given[0]
    alike(given)
    rows = jax.tree.map(lambda *xs: np.concatenate(xs), *(d.rows for d in given))
    ends = np.cumsum([0, *(len(d.rows.reward) for d in given)])
    offsets = np.concatenate([np.zeros(1, np.int64), *(d.offsets[1:] + e for d, e in zip(given, ends, strict=False))])
    formats = dict.fromkeys(d.format for d in given)
    notes = dict.fromkeys(n for d in given for n in d.notes)
    name = f"{given[0].name} and {len(given) - 1} more"
    meta = functools.reduce(agreed, [d.meta for d in given])
    return Dataset(rows, offsets, name, ", ".join(formats), tuple(notes), meta)


def alike(given: Sequence[Dataset]) -> None:
    """Raises ValueError where rows differ in their leaves, shapes or dtypes; the message names the first."""
    kind = lambda d: {name: (x.dtype, x.shape[1:]) for name, x in by_name(d.rows).items()}
    wanted = kind(given[0])
    for other in given[1:]:
        found = kind(other)
        if found != wanted:
            name = next(k for k in {**wanted, **found} if wanted.get(k) != found.get(k))
            text = lambda x: f"{x[0]}{list(x[1])}" if x else "nothing"
            raise ValueError(
                f"{other.name} does not go with {given[0].name}: {name} is {text(found.get(name))} there, "
                f"{text(wanted.get(name))} here: keep them apart."
            )
