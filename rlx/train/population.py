"""Many runs as one program: seeds times the settings of a grid over traced values.

::

    found = population(agent, problem, seeds=8, grid={"actor_lr": [1e-3, 3e-4]})
    for row in found.table():
        print(row)

Members lie settings first, seeds within each. Member ``i`` gives the result of the run of its seed and setting alone, up to
the order of floating-point sums. `rlx.train.placement` says how members lie on devices.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rlx import config, keys
from rlx.train import memory
from rlx.train.options import Options
from rlx.train.run import run
from rlx.train.stats import of_setting
from rlx.types import Agent, AgentState, Array, Key, Members, Problem, RunState

Grid = Mapping[str, Sequence[float]]
Exchange = Callable[[dict[str, Array], Array, Key], tuple[Array, dict[str, Array]]]


@dataclass(frozen=True)
class Population:
    """What `population` gives. ``seeds`` uint64 [M], ``settings`` {name: [M]}: those of each member."""

    state: RunState  # all with a leading member axis
    seeds: np.ndarray
    settings: dict[str, np.ndarray]

    @property
    def scores(self) -> np.ndarray:
        """The latest mean evaluation return of each member [M]; -inf for one that diverged or was never evaluated."""
        return np.where(self.state.alive, self.state.reports["scores"], -np.inf)

    def member(self, i: int, best: bool = True) -> AgentState:
        """Of one member: what it had learned at its best evaluation, or last."""
        state = self.state.agent
        if best and self.state.best:
            state = state._replace(learned=self.state.best["learned"])
        return jax.tree.map(lambda x: x[i], state)

    def table(self) -> list[dict[str, Any]]:
        """A row per setting, best first: its values, and of the last returns of its seeds what `stats.of_setting` says."""
        rows, scores = [], self.scores
        names = list(self.settings)
        columns = np.stack([self.settings[k] for k in names], 1) if names else np.zeros((len(scores), 0))
        for setting in np.unique(columns, axis=0):
            mine = scores[(columns == setting).all(1)]
            rows.append({**dict(zip(names, setting.tolist(), strict=True)), **of_setting(mine)})
        return sorted(rows, key=lambda r: -r["iqm"])


def settings_of(grid: Grid) -> list[dict[str, float]]:
    """All combinations; the last name varies fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _hint(own: Any, name: str, known: Sequence[str]) -> str:
    return config.nearest(name, known) if own is None else config.hint(own, name)


def traced_grid(
    grid: Mapping[str, Sequence[float | str]], traced: Iterable[str], fixed: Iterable[str] = (), own: Any = None
) -> dict[str, list[float]]:
    """``grid`` with names and numbers as programs take them; ``traced`` and ``fixed`` are the fields that there are,
    ``own`` the config whose bounds hold.

    Raises:
        ValueError: a field that is unknown, static or given twice; no values, the same one twice (as programs take them, in
            float32), values that are no finite numbers or out of bounds.
    """
    out: dict[str, list[float]] = {}
    for given, values in grid.items():
        name = given.removeprefix("agent.").replace("-", "_")
        if name in out:
            raise ValueError(f"{given} is given twice: put all its values into one grid.")
        if name in fixed:
            raise ValueError(
                f"{given} shapes the program, so one program cannot sweep it: `rlx sweep` compiles a program for each value."
            )
        if name not in traced:
            raise ValueError(f"no field {given!r} to sweep.{_hint(own, name, [*traced, *fixed])}")
        try:
            out[name] = [float(v) for v in values]
        except (TypeError, ValueError):
            raise ValueError(f"{given}: {values!r} are not numbers.") from None
        if not out[name] or not np.isfinite(out[name]).all():
            raise ValueError(f"{given}: give one finite number at least, got {list(values)}.")
        each_once(given, out[name])
        if own is not None:
            config.check_values(own, name, out[name])
    return out


def each_once(name: str, values: Sequence[Any]) -> None:
    """Holds a list of values to sweep to different ones, numbers as programs take them, in float32.

    Raises:
        ValueError: there is one twice: a run and its copy are one run.
    """
    seen: dict[Any, Any] = {}
    for value in values:
        taken = np.float32(value).item() if isinstance(value, float) else value
        if taken in seen:
            twice = f"{value!r} is there twice" if value == seen[taken] else f"{seen[taken]!r} and {value!r} are one in float32"
            raise ValueError(f"{name}: {twice}, and a run and its copy count as one: give each value once.")
        seen[taken] = value


def members(who: Sequence[tuple[int, Mapping[str, float]]], exchange: Exchange | None = None, every: int = 1) -> Members:
    """Members of these seeds and settings (traced values by name, the same names in all).

    Raises:
        ValueError: a seed that is none (`rlx.keys.root`), or a member twice.
    """
    each_once("members", [(seed, *(f"{k}={np.float32(v)}" for k, v in sorted(setting.items()))) for seed, setting in who])
    roots = keys.roots(seed for seed, _ in who)
    hypers = {k: jnp.array([setting[k] for _, setting in who], jnp.float32) for k in who[0][1]}
    return Members(roots, hypers, exchange, every)


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    numbers = list(range(seeds)) if isinstance(seeds, int) else [keys.checked(s) for s in seeds]
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds={seeds!r}: give a number of seeds, at least 1, or different seeds from 0 on.")
    return numbers


def population(
    agent: Agent,
    problem: Problem,
    seeds: int | Sequence[int] = 1,
    grid: Grid | None = None,
    run_dir: str | os.PathLike | None = None,
    *,
    exchange: Exchange | None = None,
    every: int = 1,
    devices: Sequence[Any] | None = None,
    waves: int | Literal["auto"] | None = None,
    limit: int | None = None,
    options: Options | None = None,
) -> Population:
    """Train ``agent`` with all seeds and all settings of ``grid`` as one program, spread over ``devices`` (None: all).

    Args:
        exchange, every: population-based training, see `rlx.types.Members` and `tournament`.
        waves: so many parts of the population one after another, each in a folder of its own; "auto": as many as memory
            needs; None: one, refused where it does not fit.
        limit: bytes of memory per device to plan with; None: what is free.

    Raises:
        ValueError: a field that cannot be swept, more members than fit (with the number that would), and all that `run` raises.
    """
    fixed = config.static(agent.config) if agent.config else ()
    chosen = settings_of(traced_grid(grid or {}, agent.hyper, fixed, agent.config or None))
    numbers = _seeds(seeds)
    who = [(seed, setting) for setting in chosen for seed in numbers]
    parts = turns(agent, problem, len(who), tuple(devices or jax.local_devices()), waves, limit)
    if len(parts) > 1 and exchange:
        raise ValueError("members of different waves cannot be exchanged: give waves=None and fewer members.")
    states = []
    for k, (a, b) in enumerate(parts):
        folder = None if run_dir is None else Path(run_dir) / (f"wave{k}" if len(parts) > 1 else "")
        states.append(run(agent, problem, members(who[a:b], exchange, every), folder, options=options, devices=devices))
    names = {k: np.array([setting[k] for _, setting in who]) for k in chosen[0]}
    return Population(_one_after_another(states), np.array([seed for seed, _ in who], np.uint64), names)


def turns(
    agent: Agent, problem: Problem, count: int, devices: Sequence[Any], waves: int | str | None, limit: int | None = None
) -> list[tuple[int, int]]:
    """``count`` members in ``waves``: which go together, as (first, last + 1).

    Raises:
        ValueError: ``waves`` is no number of waves, or they do not fit.
    """
    if waves is None or waves == "auto":
        can = memory.most(agent, problem, devices, limit) if waves == "auto" else None
        number = 1 if can is None else -(-count // max(1, min(can, count)))
    elif isinstance(waves, int) and 1 <= waves <= count:
        number = waves
    else:
        raise ValueError(f"waves={waves!r}: give 'auto', or a number from 1 to {count}, the members.")
    memory.check(agent, problem, -(-count // number), devices, limit)
    return split(count, number)


def split(count: int, number: int) -> list[tuple[int, int]]:
    """``count`` members in ``number`` waves or fewer of equal size, the last one may be smaller: (first, last + 1) of each."""
    each = -(-count // number)
    return [(a, min(a + each, count)) for a in range(0, count, each)]


def _one_after_another(states: list[RunState]) -> RunState:
    """Runs of different members as one, their interactions and buffers left out."""
    if len(states) == 1:
        return states[0]
    last = states[-1]
    joined = lambda *xs: np.concatenate(xs) if isinstance(xs[0], np.ndarray) else jnp.concatenate(xs)
    pick = lambda name: jax.tree.map(joined, *(getattr(s, name) for s in states))
    reports = {k: jax.tree.map(joined, *(s.reports[k] for s in states)) for k in ("running", "scores")}
    return RunState(
        pick("key"), last.stage, last.cycle, pick("agent"), {}, {}, pick("counts"), pick("best"), pick("alive"), reports
    )


def pmap(agent: Agent, problem: Problem, keys: Key, run_dir: str | os.PathLike | None = None, **more: Any) -> RunState:
    """`run` for those who think in a leading device axis, as `jax.pmap` has it: ``keys`` [D, m] are ``m`` members on each of
    the first ``D`` devices, and so is the result [D, m, ...], but for rollouts and sources, which stay as they lie.

    Raises:
        ValueError: keys of another shape, or fewer devices than D.
    """
    have = jax.local_devices()
    if keys.ndim != 2 or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise ValueError(f"pmap takes typed keys [devices, members], such as jax.random.split(key, (D, m)); got {keys.shape}.")
    if keys.shape[0] > len(have):
        raise ValueError(f"keys {keys.shape} are for {keys.shape[0]} devices; there are {len(have)}.")
    state = run(agent, problem, Members(keys.reshape(-1)), run_dir, devices=have[: keys.shape[0]], **more)
    apart = lambda x: x.reshape(keys.shape + x.shape[1:])
    for name in ("key", "agent", "counts", "best", "alive"):
        setattr(state, name, jax.tree.map(apart, getattr(state, name)))
    return state


def tournament(
    fraction: float = 0.25,
    factors: Sequence[float] = (0.8, 1.25),
    only: Sequence[str] | None = None,
    redraw: Mapping[str, Sequence[float]] | None = None,
    chance: float = 0.25,
    most: Mapping[str, float] | None = None,
) -> Exchange:
    """Truncation selection for population-based training (Jaderberg et al. 2017, arXiv:1711.09846, section 4): the worst
    ``fraction`` goes on from members drawn from the best one, with traced values multiplied by one of ``factors`` each.

    ``only``: names of the values that move; None: those in which members differ. ``redraw``: values by name, one of which a
    loser takes with probability ``chance`` in place of a factor. ``most``: the largest that a value may become, such as 1 for
    a discount.

    Raises:
        ValueError: a fraction outside (0, 0.5], no factors, or a chance outside [0, 1].
    """
    if not 0 < fraction <= 0.5 or not len(factors) or not 0 <= chance <= 1:
        raise ValueError(
            f"tournament(fraction={fraction}, factors={factors}, chance={chance}): a fraction in (0, 0.5], some factors, and a "
            "probability."
        )

    def exchange(hypers: dict[str, Array], scores: Array, key: Key) -> tuple[Array, dict[str, Array]]:
        count = len(scores)
        cut = max(1, int(fraction * count))
        order = np.argsort(-np.asarray(scores), kind="stable")
        a, b = jax.random.split(key)
        c = jax.random.fold_in(key, 1)
        best = order[:cut][np.asarray(jax.random.randint(a, (count,), 0, cut))]
        losers = np.zeros(count, bool)
        losers[order[count - cut :]] = True
        losers &= np.asarray(scores)[best] > np.asarray(scores)  # nobody gives way to its equal
        index = np.where(losers, best, np.arange(count))
        which = jax.random.randint(b, (len(hypers), count), 0, len(factors))
        scale = np.asarray(factors, np.float32)[np.asarray(which)]
        drawn = np.asarray(jax.random.uniform(c, (len(hypers), 2, count)))
        out = {}
        for k, (name, values) in enumerate(sorted(hypers.items())):
            moves = name in only if only is not None else bool(np.ptp(values) > 0)
            moved = values[index] * scale[k]
            if redraw and name in redraw:
                choices = np.asarray(redraw[name], np.float32)
                anew = choices[np.minimum((drawn[k, 0] * len(choices)).astype(int), len(choices) - 1)]
                moved = np.where(drawn[k, 1] < chance, anew, moved)
            moved = np.minimum(moved, (most or {}).get(name, np.inf))
            out[name] = np.where(losers & moves, moved, values[index])
        return index, out

    return exchange
