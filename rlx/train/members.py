"""What happens to the members of a run between two chunks: exchange, retirement of the dead, and the run by member at last.

`RunState` is by place while it runs (`rlx.train.placement`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx.train import processes
from rlx.train.placement import EMPTY, Placement
from rlx.train.program import Program
from rlx.types import AgentState, Members, PyTree, ReplayState, RunState

BY_MEMBER = ("agent", "best", "counts")  # what is kept of a member without a place


def exchange(run: RunState, placement: Placement, members: Members, stage: str) -> dict[str, Any] | None:
    """Each member goes on from what another has learned and from the traced values that `Members.exchange` gives it. One that
    diverged lives again where it takes over from one that is alive. Returns what there is to log, None where nothing moved.

    Raises:
        ValueError: ``exchange`` gave something else than indices and the traced values of all members.
    """
    key = keys.fold(members.keys[0], "exchange", stage, run.cycle)
    now = {k: placement.by_member(v, 0.0) for k, v in run.agent.hyper.items()}
    index, hyper = members.exchange(now, run.reports["scores"], key)  # type: ignore[misc]
    index, hyper = np.asarray(index), {k: np.asarray(v, np.float32) for k, v in hyper.items()}
    count = run.alive.size
    fits = index.shape == (count,) and ((0 <= index) & (index < count)).all()
    if not fits or set(hyper) != set(now) or any(v.shape != (count,) for v in hyper.values()):
        raise ValueError(
            f"exchange must give indices [{count}] of members and traced values [{count}] of {sorted(now)}; "
            f"it gave {index.tolist()} and { ({k: v.shape for k, v in hyper.items()}) }."
        )
    at = placement.place_of(np.arange(count))  # place of each member
    held = np.maximum(placement.member_ids, 0)[placement.own]  # member in each place here; an empty place follows member 0
    learned = _gathered(run.agent.learned, at[index[held]], placement)
    run.agent = AgentState(placement.put({k: jnp.asarray(v[held]) for k, v in hyper.items()}), learned)
    sound, tally = run.alive[index], run.reports["tally"]
    nan_update = np.where(sound[held], -1, np.asarray(tally.first_nan_update)).astype(np.int32)
    run.reports["tally"] = tally._replace(first_nan_update=placement.put(jnp.asarray(nan_update)))
    run.alive = sound & (placement.by_member(np.asarray(tally.first_nan_cycle), -1) < 0)  # what it sees stays its own
    changed = {k: v for k, v in hyper.items() if not np.array_equal(v, now[k])}
    if not changed and np.array_equal(index, np.arange(count)):
        return None
    return {"event": "exchange", "from": index, **{f"hyper/{k}": v for k, v in changed.items()}}


def _gathered(tree: PyTree, source: np.ndarray, placement: Placement) -> PyTree:
    """Rows ``source`` (numbers among the places of all processes) of arrays by place."""
    if processes.count() == 1:
        return moved(tree, source, placement)
    return placement.put(jax.tree.map(lambda x: jnp.asarray(processes.gather(np.asarray(x))[source]), tree))


def moved(tree: PyTree, source: np.ndarray, placement: Placement) -> PyTree:
    """Arrays by place, to the places of ``placement``: row ``source[i]`` becomes row ``i``."""
    return placement.put(jax.tree.map(lambda x: x[source], tree))


def survivors(run: RunState, program: Program, devices: Any) -> np.ndarray | None:
    """The living members, where so many died that they fit into half of the places or fewer."""
    placement, agent = program.placement, program.agent
    if placement is None or processes.count() > 1:
        return None
    if any(e.host for e in agent.envs.values()) or not all(b.device for b in agent.buffers.values()):
        return None  # what lives in host memory stays where it is
    held = placement.member_ids[placement.member_ids != EMPTY]
    living = held[run.alive[held]]
    if not len(living) or 2 * Placement.of(living, placement.total, devices).per_process > placement.per_process:
        return None
    return living


def move(run: RunState, program: Program, new: Placement | None) -> None:
    """The members of ``new`` into their places there; what the others had learned goes to ``run.retired``."""
    old = program.placement
    assert old is not None and new is not None
    run.retired = {k: _joined(getattr(run, k), old, run.retired.get(k)) for k in BY_MEMBER if getattr(run, k)}
    source = new.locate(old.member_ids)
    run.key, run.agent = moved((run.key, run.agent), source, new)
    run.counts = jax.tree.map(lambda x: x[source], run.counts)
    if run.best:
        run.best = {
            **{k: v[source] for k, v in run.best.items() if k != "learned"},
            "learned": moved(run.best["learned"], source, new),
        }
    run.rollouts = {k: moved(v, source, new) for k, v in run.rollouts.items()}
    for name, state in run.sources.items():
        if name not in program.frozen:
            run.sources[name] = moved(state, source, new)
        elif isinstance(state, ReplayState):
            index, overlay = moved((state.index, state.overlay), source, new)
            run.sources[name] = ReplayState(index, state.data, overlay)
    run.reports["tally"], run.reports["running"] = moved((run.reports["tally"], run.reports["running"]), source, new)
    run.member_ids = new.member_ids[new.own]


def _joined(tree: PyTree, placement: Placement, rest: PyTree = None) -> PyTree:
    """Arrays by place as numpy by member; of members without a place what ``rest`` says, else zeros."""
    if rest is None:
        rest = jax.tree.map(lambda x: np.zeros((), x.dtype), tree)
    return jax.tree.map(lambda x, r: placement.by_member(np.asarray(x), r), tree, rest)


def agent_by_member(run: RunState, placement: Placement | None) -> AgentState:
    """`RunState.agent` as others see it: with a leading axis of all members, where there are members."""
    if placement is None or placement.full:
        return run.agent
    return _joined(run.agent, placement, run.retired.get("agent"))


def by_member(run: RunState, placement: Placement) -> RunState:
    """The finished run: by member, of all processes, but for rollouts and sources, which stay by place (``run.member_ids``)."""
    if placement.full:
        return run
    for name in BY_MEMBER:
        if getattr(run, name):
            tree = _joined(getattr(run, name), placement, run.retired.get(name))
            setattr(run, name, tree if name == "counts" else jax.tree.map(jnp.asarray, tree))
    if run.best:
        run.best |= {k: np.asarray(run.best[k]) for k in ("score", "cycle")}
    data = processes.gather(np.asarray(jax.random.key_data(run.key)))
    run.key = jax.random.wrap_key_data(jnp.asarray(data[placement.place_of(np.arange(placement.total))]))
    run.retired = {}
    return run
