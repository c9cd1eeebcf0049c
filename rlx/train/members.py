"""What happens to the members of a run between two chunks: exchange, retirement of the dead, and the run by member at last.

`RunState` is by slot while it runs (`rlx.train.spread`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx.train import processes
from rlx.train.program import Program
from rlx.train.spread import EMPTY, Spread
from rlx.types import AgentState, Members, PyTree, ReplayState, RunState

BY_MEMBER = ("agent", "best", "counts")  # what is kept of a member without a slot


def exchange(run: RunState, spread: Spread, members: Members, stage: str) -> dict[str, Any] | None:
    """Each member goes on from what another has learned and from the traced values that `Members.exchange` gives it. One that
    diverged lives again where it takes over from one that is alive. Returns what there is to log, None where nothing moved.

    Raises:
        ValueError: ``exchange`` gave something else than indices and the traced values of all members.
    """
    key = keys.fold(members.keys[0], "exchange", stage, run.cycle)
    now = {k: spread.members(v, 0.0) for k, v in run.agent.hyper.items()}
    index, hyper = members.exchange(now, run.reports["scores"], key)  # type: ignore[misc]
    index, hyper = np.asarray(index), {k: np.asarray(v, np.float32) for k, v in hyper.items()}
    count = run.alive.size
    fits = index.shape == (count,) and ((0 <= index) & (index < count)).all()
    if not fits or set(hyper) != set(now) or any(v.shape != (count,) for v in hyper.values()):
        raise ValueError(
            f"exchange must give indices [{count}] of members and traced values [{count}] of {sorted(now)}; "
            f"it gave {index.tolist()} and { ({k: v.shape for k, v in hyper.items()}) }."
        )
    at = spread.at(np.arange(count))  # slot of each member
    held = np.maximum(spread.ids, 0)[spread.own]  # member in each slot here; an empty slot follows member 0
    learned = _gathered(run.agent.learned, at[index[held]], spread)
    run.agent = AgentState(spread.put({k: jnp.asarray(v[held]) for k, v in hyper.items()}), learned)
    sound, tally = run.alive[index], run.reports["tally"]
    bad = np.where(sound[held], -1, np.asarray(tally.bad)).astype(np.int32)
    run.reports["tally"] = tally._replace(bad=spread.put(jnp.asarray(bad)))
    run.alive = sound & (spread.members(np.asarray(tally.blind), -1) < 0)  # what it sees stays its own
    changed = {k: v for k, v in hyper.items() if not np.array_equal(v, now[k])}
    if not changed and np.array_equal(index, np.arange(count)):
        return None
    return {"event": "exchange", "from": index, **{f"hyper/{k}": v for k, v in changed.items()}}


def _gathered(tree: PyTree, source: np.ndarray, spread: Spread) -> PyTree:
    """Rows ``source`` (numbers among the slots of all processes) of arrays by slot."""
    if processes.count() == 1:
        return moved(tree, source, spread)
    return spread.put(jax.tree.map(lambda x: jnp.asarray(processes.gather(np.asarray(x))[source]), tree))


def moved(tree: PyTree, source: np.ndarray, spread: Spread) -> PyTree:
    """Arrays by slot, to the slots of ``spread``: row ``source[i]`` becomes row ``i``."""
    return spread.put(jax.tree.map(lambda x: x[source], tree))


def survivors(run: RunState, program: Program, devices: Any) -> np.ndarray | None:
    """The living members, where so many died that they fit into half of the slots or fewer."""
    spread, agent = program.spread, program.agent
    if spread is None or processes.count() > 1:
        return None
    if any(e.host for e in agent.envs.values()) or not all(b.device for b in agent.buffers.values()):
        return None  # what lives in host memory stays where it is
    held = spread.ids[spread.ids != EMPTY]
    living = held[run.alive[held]]
    if not len(living) or 2 * Spread.of(living, spread.total, devices).slots > spread.slots:
        return None
    return living


def move(run: RunState, program: Program, new: Spread | None) -> None:
    """The members of ``new`` into their slots there; what the others had learned goes to ``run.retired``."""
    old = program.spread
    assert old is not None and new is not None
    run.retired = {k: _joined(getattr(run, k), old, run.retired.get(k)) for k in BY_MEMBER if getattr(run, k)}
    source = new.places(old.ids)
    run.key, run.agent = moved((run.key, run.agent), source, new)
    run.counts = jax.tree.map(lambda x: x[source], run.counts)
    if run.best:
        run.best = {
            **{k: v[source] for k, v in run.best.items() if k != "learned"},
            "learned": moved(run.best["learned"], source, new),
        }
    run.loops = {k: moved(v, source, new) for k, v in run.loops.items()}
    for name, state in run.sources.items():
        if name not in program.frozen:
            run.sources[name] = moved(state, source, new)
        elif isinstance(state, ReplayState):
            meta, overlay = moved((state.meta, state.overlay), source, new)
            run.sources[name] = ReplayState(meta, state.data, overlay)
    run.reports["tally"], run.reports["running"] = moved((run.reports["tally"], run.reports["running"]), source, new)
    run.slots = new.ids[new.own]


def _joined(tree: PyTree, spread: Spread, rest: PyTree = None) -> PyTree:
    """Arrays by slot as numpy by member; of members without a slot what ``rest`` says, else zeros."""
    if rest is None:
        rest = jax.tree.map(lambda x: np.zeros((), x.dtype), tree)
    return jax.tree.map(lambda x, r: spread.members(np.asarray(x), r), tree, rest)


def by_member(run: RunState, spread: Spread) -> RunState:
    """The finished run: all but loops and sources by member, of all processes; these stay by slot, as ``run.slots`` says."""
    if spread.full:
        return run
    for name in BY_MEMBER:
        if getattr(run, name):
            tree = _joined(getattr(run, name), spread, run.retired.get(name))
            setattr(run, name, tree if name == "counts" else jax.tree.map(jnp.asarray, tree))
    if run.best:
        run.best |= {k: np.asarray(run.best[k]) for k in ("score", "cycle")}
    data = processes.gather(np.asarray(jax.random.key_data(run.key)))
    run.key = jax.random.wrap_key_data(jnp.asarray(data[spread.at(np.arange(spread.total))]))
    run.retired = {}
    return run
