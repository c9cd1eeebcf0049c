"""D4RL (Fu et al. 2020, arXiv:2004.07219) and what is written like it: flat columns, one entry per step.

``observations`` [N, n], ``actions`` [N, m], ``rewards`` [N], ``terminals`` [N], ``timeouts`` [N], in HDF5 or an ``.npz``,
often with ``next_observations`` and ``infos/qpos``, ``infos/qvel``. Entry ``i`` holds what followed its action. Some write
``dones`` for the ends. NeoRL (Qin et al. 2022, arXiv:2102.00714) has other names, and ``index``, where each trajectory ends.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlx.replay import columns
from rlx.replay.dataset import Dataset, fitted, from_steps
from rlx.replay.datasets import hdf5
from rlx.replay.datasets.found import (
    CUTS,
    Found,
    Layout,
    Piece,
    Reading,
    first_episodes,
    look,
    need,
    one_length,
    one_per_entry,
    runs,
)
from rlx.replay.datasets.found import reading as reading_of
from rlx.types import Row

_KNOWN = ("observations", "actions", "rewards", "terminals", "timeouts", "dones", "next_observations")
_SMALL = ("rewards", "terminals", "timeouts", "dones", "index")  # one number per entry, or fewer
_INFOS = {"infos/qpos": "qpos", "infos/qvel": "qvel"}
BLOCK = 2**24  # bytes of a column in a file that are looked at in one go
_NEORL = {"obs": "observations", "action": "actions", "reward": "rewards", "done": "terminals", "next_obs": "next_observations"}


def from_d4rl(data: Mapping[str, Any] | str | os.PathLike, bounds: Any = None, **reading: Any) -> Dataset:
    """Episodes of D4RL's layout, from its arrays by name or a file of them. ``bounds`` and the rest as in `Reading`.

    Episodes end at ``terminals`` and ``timeouts``; without ``timeouts``, where ``next_observations`` and the next observation
    differ. Where both are there, they must agree. Without ``next_observations``, the outcome of the last action before a
    timeout is unknown and that transition is left out (a warning says how many); at a terminal, where nothing is
    bootstrapped, the last observation stands for the unknown one, so that its reward is kept.

    Raises:
        ValueError: missing keys, unequal lengths, what is no number or not finite, ends that are not 0 or 1, actions beyond
            their bounds, or no way to know where episodes end.
    """
    options = reading_of(bounds=bounds, **reading)
    if isinstance(data, str | os.PathLike):
        with columns.of(data):
            return fitted(_read(look(Path(data)), options), options.bounds)
    with columns.of("D4RL data"):
        return fitted(dataset(dict(data), "D4RL data", options), options.bounds)


def dataset(columns_by_name: dict[str, Any], name: str, reading: Reading, index: np.ndarray | None = None) -> Dataset:
    """`from_d4rl` of arrays, as a reader calls it. ``index``: where trajectories end for certain, whatever columns say."""
    _only("D4RL", reading, (*_KNOWN, *_INFOS, *columns_by_name))
    taken = {k: v for k, v in columns_by_name.items() if k not in reading.ignore}
    return _dataset(taken if index is None else taken | {"index": index}, name, "D4RL", reading)


def _only(layout: str, reading: Reading, known: Iterable[str]) -> None:
    reading.only(layout, "bounds", *("dones",) * (layout == "D4RL"), "horizon", "ignore", known=tuple(known))


def _read(found: Found, reading: Reading) -> Dataset:
    _only("D4RL", reading, (*_KNOWN, *_INFOS, *found.arrays))
    _one_array_each(found, _KNOWN)
    arrays = found.load([k for k in (*_KNOWN, *_INFOS) if k not in reading.ignore])
    return _dataset(arrays, str(found.path), "D4RL", reading)


def _read_neorl(found: Found, reading: Reading) -> Dataset:
    _only("NeoRL", reading, (*_NEORL, "index", *found.arrays))
    arrays = found.load([k for k in (*_NEORL, "index") if k not in reading.ignore])
    renamed = {_NEORL.get(k, k): v for k, v in arrays.items()}
    return _dataset(renamed, str(found.path), "NeoRL", reading)


class _Entries(NamedTuple):
    """What a file holds, entry by entry: columns by name, of which the wide ones may lie in the file (`hdf5.Stored`), what
    terminated, bool [N], and where episodes begin, int [E + 1]."""

    columns: dict[str, Any]
    terminal: np.ndarray
    borders: np.ndarray
    notes: tuple[str, ...]
    meta: dict[str, Any]


def _dataset(given: dict[str, Any], name: str, format: str, reading: Reading) -> Dataset:
    held = _entries(given, name, reading)
    return Dataset(*_rows(held, 0, len(held.borders) - 1, reading), name, format, held.notes, held.meta)


def _one_array_each(found: Found, names: Iterable[str]) -> None:
    """Raises ValueError where one of ``names`` is a group, of several observations or actions."""
    odd = next((k for k in names if k in found.names and k not in found.arrays), None)
    if odd is not None:
        inner = ", ".join(k for k in found.arrays if k.startswith(f"{odd}/"))
        raise ValueError(f"{odd} is a group, of {inner}; of this layout it is one array [N, ...]: copy one of them to {odd}.")


def _entries(given: dict[str, Any], name: str, reading: Reading) -> _Entries:
    free = "rewards" in reading.ignore
    if not free and "rewards" not in given and {"observations", "actions"} <= given.keys():
        raise ValueError(f"it lacks rewards; it has {', '.join(given)}. With ignore=rewards they are 0.")
    need(given, _KNOWN[: 2 if free else 3])
    here = lambda v, k: v if isinstance(v, hdf5.Stored) else columns.numbers(v, k)
    given = {k: here(v, k) for k, v in given.items() if k in (*_KNOWN, *_INFOS, "index")}
    trajectories = given.pop("index", None)
    given.setdefault("rewards", np.zeros(given["observations"].shape[:1], np.float32))
    count = one_length(given)
    for k, v in given.items():
        if isinstance(v, np.ndarray):
            columns.finite(v, k)
    obs, following = given["observations"], given.get("next_observations")
    if following is not None and following.shape != obs.shape:
        raise ValueError(f"next_observations is {list(following.shape)}, observations {list(obs.shape)}; they must be alike.")
    given["rewards"] = one_per_entry(given["rewards"], "rewards")
    terminal, ends, notes = _ends(given, trajectories, reading)
    notes += ["no rewards: they are 0"] * free
    ends[-1] = True
    borders = first_episodes(np.concatenate([[0], np.flatnonzero(ends) + 1]), reading)
    lost = 0 if following is not None else int((~terminal[borders[1:] - 1]).sum())
    if lost:
        message = f"{lost} of {count} transitions are left out, the last before each timeout: there are no next_observations "
        notes.append(f"{message}to say what followed")
        warnings.warn(f"{name}: {message}to say what followed.", stacklevel=2)
    return _Entries(given, terminal, borders, tuple(notes), dict(CUTS) if lost else {})


def _rows(held: _Entries, begin: int, stop: int, reading: Reading) -> tuple[Row, np.ndarray]:
    """Rows and offsets of the episodes from ``begin`` to ``stop``."""
    borders = held.borders[begin : stop + 1] - held.borders[begin]
    a, b = int(held.borders[begin]), int(held.borders[stop])
    given = {k: columns.finite(v[a:b], k, a) if isinstance(v, hdf5.Stored) else v[a:b] for k, v in held.columns.items()}
    obs, rewards, terminal = given["observations"], given["rewards"], held.terminal[a:b]
    actions = columns.bounded(given["actions"], reading.bounds, "actions", a)
    info = {short: given[k] for k, short in _INFOS.items() if k in given}
    if "next_observations" in given:
        return from_steps(obs, given["next_observations"][borders[1:] - 1], actions, rewards, terminal, borders, info)
    (obs, final), actions, rewards, terminal, info, borders = _without_outcome(obs, actions, rewards, terminal, info, borders)
    return from_steps(obs, final, actions, rewards, terminal, borders, info)


def _pieces(found: Found, reading: Reading, format: str, names: Mapping[str, str]) -> list[Piece] | None:
    """Of HDF5, where rows can be read alone: what marks ends is read as a whole, the rest as it is asked for. ``names``: what
    D4RL calls the columns."""
    if found.kind != "hdf5":
        return None
    _only(format, reading, (*names, *found.arrays))
    _one_array_each(found, names)
    called = {k: names[k] for k in found.arrays if k in names and k not in reading.ignore}
    small = found.load([k for k, v in called.items() if v in _SMALL])
    given = {v: small[k] if k in small else hdf5.Stored(found.path, k, found.arrays[k].shape) for k, v in called.items()}
    held = _entries(given, str(found.path), reading)
    count, total = len(held.terminal), sum(found.arrays[k].nbytes for k, v in called.items() if v in held.columns)

    def piece(begin: int, stop: int) -> Callable[[int | None], Dataset]:
        def read(most: int | None) -> Dataset:
            last = stop if most is None else min(stop, begin + most)
            return Dataset(*_rows(held, begin, last, reading), str(found.path), format, held.notes, held.meta)

        return read

    whole = (np.diff(held.borders) > 1) | held.terminal[held.borders[1:] - 1] | ("next_observations" in held.columns)
    if not whole.any():
        raise columns.Empty(f"there is no whole transition in {held.borders[-1]} entries.")
    return [piece(*run) for run in runs(held.borders * (total / count)) if whole[slice(*run)].any()]


def _without_outcome(
    obs: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    terminal: np.ndarray,
    info: dict[str, np.ndarray],
    borders: np.ndarray,
) -> tuple:
    """Where nothing says what came after the last entry of an episode: at a terminal its own observation stands for it, else
    the entry is an observation alone. Gives ((obs, final), actions, rewards, terminal, info, borders)."""
    total, last = borders[-1], borders[1:] - 1
    unknown = ~terminal[last]
    alone = np.diff(borders) == 1
    keep = np.ones(total, bool)
    keep[last[unknown]] = False
    final = obs[last]
    lengths = np.diff(borders) - unknown
    whole = lengths > 0
    if not whole.any():
        raise columns.Empty(f"there is no whole transition in {total} entries.")
    assert (whole | (alone & unknown)).all()
    new = np.concatenate([[0], np.cumsum(lengths[whole])])
    infos = {k: v[keep] for k, v in info.items()}
    return (obs[keep], final[whole]), actions[keep], rewards[keep], terminal[keep], infos, new


# ------------------------------------------------------------------------------------------------- where episodes end


def _ends(
    given: dict[str, np.ndarray], trajectories: np.ndarray | None, reading: Reading
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """What terminated, bool [N]; where episodes end, bool [N]; and what is to be said about it."""
    flags = {k: columns.flags(one_per_entry(given[k], k), k) for k in ("terminals", "timeouts", "dones") if k in given}
    count = len(given["rewards"])
    terminal, timeout, notes = flags.get("terminals"), flags.get("timeouts"), _unused(flags, trajectories, reading)
    if terminal is None:
        if "dones" not in flags:
            raise ValueError(f"it lacks terminals; it has {', '.join(given)}.")
        terminal, timeout = _of_dones(flags["dones"], timeout, given, reading)
    both = terminal & timeout if timeout is not None else np.zeros(count, bool)
    if both.any():
        notes.append(f"{int(both.sum())} entries are terminal and a timeout: taken as terminal")
    if trajectories is not None:
        marks = _trajectory_ends(trajectories, count)
        timeout = marks if timeout is None else timeout | marks
    if timeout is None and reading.horizon is not None:
        timeout = _after(terminal, reading.horizon)
    following = given.get("next_observations")
    if following is None:
        if timeout is None:
            raise ValueError(_ask(given, terminal))
        ends = terminal | timeout
        if reading.horizon == 0:
            notes.append(_jump_words(given, ends))
        return terminal, ends, list(filter(None, notes))
    obs = given["observations"]
    jump = _jumps(following, obs)
    if timeout is None:
        notes.append("no timeouts: episodes end where next_observations and the next observation differ")
        return terminal, terminal | jump, notes
    wrong = jump & ~(terminal | timeout)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"after entry {at} comes another observation than its next_observations says, and neither terminals nor timeouts "
            f"end an episode there ({int(wrong.sum())} such entries): the two are out of step. With ignore=timeouts episodes "
            "end where observations jump; or mend them."
        )
    return terminal, terminal | timeout, notes


def _jumps(following: Any, obs: Any) -> np.ndarray:
    """Where the next observation is another than next_observations says, bool [N]. Of columns in a file a block at a time."""
    if isinstance(obs, np.ndarray):
        return np.append(columns.differ(following[:-1], obs[1:]), False)
    found = np.zeros(len(obs), bool)
    for a, b in _blocks(obs):
        next_obs = columns.finite(following[a:b], "next_observations", a)
        found[a : b - 1] = columns.differ(next_obs[:-1], columns.finite(obs[a:b], "observations", a)[1:])
    return found


def _blocks(column: Any) -> list[tuple[int, int]]:
    """Of a column [N, ...]: blocks of rows, each from the last row of the one before on."""
    rows = max(1, BLOCK // max(1, 4 * math.prod(column.shape[1:])))
    return [(a, min(a + rows + 1, len(column))) for a in range(0, max(1, len(column) - 1), rows)]


def _unused(flags: Mapping[Any, np.ndarray], trajectories: np.ndarray | None, reading: Reading) -> list[str]:
    """What was said that this file does not leave open."""
    ends = "timeouts" if "timeouts" in flags else "index" if trajectories is not None else ""
    ends = ends or ("dones" if "terminals" not in flags and reading.dones == "truncated" else "")
    notes = ["dones= is not used: there are terminals"] * (reading.dones is not None and "terminals" in flags)
    if reading.horizon is not None and ends and (reading.dones != "both" or "terminals" in flags):
        notes.append(f"horizon= is not used: {ends} say where episodes were cut")
    return notes


def _of_dones(
    dones: np.ndarray, timeout: np.ndarray | None, given: dict[str, np.ndarray], reading: Reading
) -> tuple[np.ndarray, np.ndarray | None]:
    """Terminals and timeouts of a file that has ``dones``."""
    if reading.dones is None:
        raise ValueError(
            "it has dones and no terminals, and dones may mark terminal states, where a value ends, or time limits, where it "
            "goes on: say which by dones=terminated, dones=truncated, or dones=both with horizon=STEPS (of commands: "
            f"--data-option dones=terminated). "
            f"{_jump_words(given, dones)}"
        )
    if reading.dones == "terminated":
        return dones, timeout
    if reading.dones == "truncated":
        return np.zeros_like(dones), dones if timeout is None else dones | timeout
    if not reading.horizon:
        raise ValueError("dones=both needs horizon=STEPS: a done after so many steps is the time limit, an earlier one is not.")
    steps = _steps_since(dones)
    at_limit = dones & (steps == reading.horizon)
    return dones & ~at_limit, at_limit if timeout is None else at_limit | timeout


def _steps_since(ends: np.ndarray) -> np.ndarray:
    """Of each entry, which step of its episode it is, from 1 on."""
    starts = np.zeros(len(ends), np.int64)
    starts[1:][ends[:-1]] = np.flatnonzero(ends[:-1]) + 1
    return np.arange(1, len(ends) + 1) - np.maximum.accumulate(starts)


def _after(terminal: np.ndarray, horizon: int) -> np.ndarray:
    """Cuts after ``horizon`` steps since the last end (0: nowhere)."""
    return _steps_since(terminal) % horizon == 0 if horizon else np.zeros_like(terminal)


def _trajectory_ends(index: np.ndarray, count: int) -> np.ndarray:
    """Marks of NeoRL's ``index``: entries at which trajectories end, the first of the next one."""
    given = index.reshape(-1)
    whole = bool(given.size) and bool(np.isfinite(given).all())
    places = given.astype(np.int64) if whole else np.zeros(1, np.int64)
    if not whole or (places != given).any() or (np.diff(places) < 0).any() or places[0] < 0 or places[-1] > count:
        reason = f"it goes from {given.min()} to {given.max()}" if given.size else "it is empty"
        raise ValueError(f"index does not say where trajectories end among {count} entries: {reason}.")
    marks = np.zeros(count, bool)
    marks[places[places > 0] - 1] = True
    return marks


def _ask(given: dict[str, np.ndarray], terminal: np.ndarray) -> str:
    return (
        "without timeouts and next_observations nothing says where episodes end that did not terminate: say horizon=STEPS if "
        "they were cut after so many, horizon=0 if none was (of commands: --data-option horizon=STEPS), or add timeouts, 1 at "
        f"the last entry of each that was cut. "
        f"{_jump_words(given, terminal)}"
    )


def _jump_words(given: dict[str, np.ndarray], ends: np.ndarray) -> str:
    """The largest step between neighbouring observations that no end explains."""
    obs = given["observations"]
    if len(obs) < 2:
        return ""
    if ends[:-1].all():
        return "Every entry is marked as an end, each an episode of one step."
    far = lambda x: np.abs(np.diff(x.reshape(len(x), -1).astype(np.float32), axis=0)).max(1)
    steps = np.concatenate([far(obs[a:b]) for a, b in _blocks(obs)])
    usual, steps = float(np.median(steps)), np.where(ends[:-1], -1, steps)
    at = int(np.argmax(steps))
    place = f"after entry {at} (half are below {usual:.4g})"
    return f"The largest jump of an observation that nothing marks is {steps[at]:.4g}, {place}."


def _is_d4rl(found: Found) -> bool:
    """Without rewards too where it has timeouts, which OGBench's files have not, so that what is asked for is named."""
    ends = found.names & {"terminals", "dones"}
    return found.has("observations", "actions") and bool(ends) and bool(found.names & {"rewards", "timeouts"})


LAYOUT = Layout(
    "D4RL",
    "observations, actions, rewards, terminals, timeouts [N, ...] (HDF5, .npz)",
    _is_d4rl,
    _read,
    pieces=lambda f, r: _pieces(f, r, "D4RL", {k: k for k in (*_KNOWN, *_INFOS)}),
)
NEORL = Layout(
    "NeoRL",
    "obs, action, reward, done, index, next_obs (.npz)",
    lambda f: f.has("obs", "action", "reward", "done", "index"),
    _read_neorl,
    pieces=lambda f, r: _pieces(f, r, "NeoRL", {**_NEORL, "index": "index"}),
)
