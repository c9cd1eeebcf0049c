"""The beginning of a run, the entry into a stage, and a run as one tree of arrays for checkpoints."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx._version import __version__
from rlx.envs.border import NotRepeated
from rlx.replay.buffer import grow
from rlx.train import host, phases
from rlx.train.checkpoint import is_key
from rlx.train.host import device_state, stack
from rlx.train.logging import plain
from rlx.train.phases import COUNTS
from rlx.train.placement import Placement
from rlx.train.program import Program
from rlx.train.schedule import streams
from rlx.types import Agent, AgentState, Collect, Members, Problem, PyTree, ReplayState, Row, RunState, Step


def _mapped(fn: Any, placement: Placement | None) -> Any:
    """``fn`` jitted; with members one after another on their device, so that each gets the bits of its solo run."""
    if placement is None:
        return jax.jit(fn)
    one_by_one = lambda fn, axes: lambda *args: jax.lax.map(lambda a: fn(*a), args)
    return lambda *args: jax.jit(placement.map(fn, (0,) * len(args), one_by_one))(*args)


def frozen_data(problem: Problem) -> dict[str, PyTree]:
    """What all members share: the rows of datasets, and any other data whole."""
    return {k: v.data if isinstance(v, ReplayState) else v for k, v in problem.data.items()}


def data_sources(agent: Agent, problem: Problem, placement: Placement | None) -> dict[str, PyTree]:
    """The problem's data as a run begins with them: of shared rows each member has an index and an overlay of its own."""
    lead = () if placement is None else (placement.per_process,)
    wide = lambda tree: put(placement, own(jax.tree.map(lambda x: jnp.broadcast_to(x, (*lead, *x.shape)), tree)))
    rows = lambda data: ReplayState(wide(data.index), data.data, wide(data.overlay))
    return {name: rows(v) if isinstance(v, ReplayState) else v for name, v in phases.data_of(agent, problem).items()}


def start(
    agent: Agent, problem: Problem, key: Any, init_from: AgentState | None = None, placement: Placement | None = None
) -> RunState:
    """A run before its first stage. ``key``: a typed key, or `Members` (``placement``: as those lie there)."""
    root, given, total, here = key, {}, None, None
    if isinstance(key, Members):
        total = key.keys.shape[0]
        placement = placement or Placement.of(range(total), total)
        here = placement.locate(np.arange(total))[placement.own]
        root, given = placement.put(key.keys[here]), {k: jnp.asarray(v)[here] for k, v in key.hypers.items()}
    members = None if placement is None else placement.per_process
    unknown = sorted(set(given) - set(agent.hyper))
    if unknown:
        raise ValueError(f"{agent.name} has no traced value {', '.join(unknown)}; it has {', '.join(sorted(agent.hyper))}.")
    lead = () if members is None else (members,)
    hyper = {k: jnp.broadcast_to(jnp.asarray(given.get(k, v), jnp.float32), lead) for k, v in agent.hyper.items()}
    state = _mapped(lambda k, h: agent.init(keys.fold(k, "init"), h), placement)(root, hyper)
    if init_from is not None:
        state = state._replace(learned=put(placement, own(_initial(init_from.learned, state.learned, here))))
    sources = data_sources(agent, problem, placement)
    counts = {k: np.zeros(lead, np.int64) for k in (*COUNTS, "eval_steps")}
    each = () if total is None else (total,)
    reports = {"tally": None, "running": put(placement, jnp.ones(lead, bool)), "scores": np.full(each, -np.inf, np.float32)}
    member_ids = None if placement is None else placement.member_ids[placement.own]
    return RunState(root, 0, 0, state, {}, sources, counts, {}, np.ones(each, bool), reports, member_ids)


def _initial(given: PyTree, made: PyTree, here: np.ndarray | None) -> PyTree:
    """``given`` in the shapes that the agent has ``made``: of one run for all members, or of each for its own."""
    wide = lambda new, old: jnp.broadcast_to(new, old.shape) if here is None or new.ndim < old.ndim else jnp.asarray(new)[here]
    return jax.tree.unflatten(jax.tree.structure(made), map(wide, jax.tree.leaves(given), jax.tree.leaves(made)))


def check_initial(agent: Agent, problem: Problem, init_from: AgentState, members: int | None) -> None:
    """Raises ValueError where ``init_from`` is not what ``agent`` begins with, of one run or of each of so many ``members``."""
    named = jax.tree_util.tree_leaves_with_path
    shapes = lambda tree, cut: {jax.tree_util.keystr(path): tuple(x.shape[cut:]) for path, x in named(tree)}
    want = shapes(outline(agent, problem, -1)[0].learned, 0)
    one, each = shapes(init_from.learned, 0), shapes(init_from.learned, 1)
    of_each = members is not None and each == want and {len(x) for x in jax.tree.leaves(init_from.learned)} == {members}
    if one != want and not of_each:
        name = next(k for k in {**want, **one} if want.get(k) != one.get(k))
        raise ValueError(
            f"init_from does not fit: {name} has shape {one.get(name, 'none')}, that of {agent.name} here is "
            f"{want.get(name, 'none')}. Give what an agent of the same kind and sizes has learned."
        )


def put(placement: Placement | None, tree: PyTree) -> PyTree:
    """Arrays by place to their devices, where there are members."""
    return tree if placement is None else placement.put(tree)


def enter(program: Program, run: RunState) -> None:
    """Into the program's stage: its ``enter``, the interactions and buffers that it is the first to use, an empty tally."""
    members, stage, placement = program.members, program.stage, program.placement
    run.stage, run.cycle = program.index, 0
    run.reports["running"] = put(placement, jnp.ones(run.reports["running"].shape, bool))
    if stage.enter is not None:
        fn = lambda on_device, root: stage.enter(
            on_device.agent, program.sources(on_device, program.shared), keys.fold(root, stage.name, "enter")
        )
        run.agent = own(_mapped(fn, placement)(device_state(program, run), run.key))
    for phase in stage.phases:
        if isinstance(phase, Collect) and phase.env not in run.rollouts:
            run.rollouts[phase.env] = begin(program, run, phase)
        if isinstance(phase, Collect) and phase.into and phase.into not in run.sources:
            run.sources[phase.into] = _new_buffer(program, run, phase)
    on_device = device_state(program, run)
    buffers = {k: s for k, s in run.sources.items() if k not in program.frozen}
    on_device = abstract(
        on_device._replace(
            tally=(),  # type: ignore[arg-type]
            sources={**on_device.sources, **buffers},
        )
    )
    empty = program.empty_tally(on_device if members is None else jax.tree.map(_drop, on_device), abstract(program.frozen))
    wide = empty if members is None else jax.tree.map(lambda x: jnp.stack([x] * members), empty)
    run.reports["tally"] = put(placement, own(wide))


def begin_tally(program: Program, run: RunState) -> None:
    """What was tallied so far into the counts of the run, and the tally to zero; what was not finite is remembered."""
    tally = run.reports["tally"]
    for k, v in tally.counts.items():
        run.counts[k] = run.counts[k] + np.asarray(v)
    begun = {"counts": 0, "sums": 0, "n": 0, "episodes": 0, "peaks": -np.inf}
    blank = lambda x: {k: jax.tree.map(lambda leaf, v=v: jnp.full_like(leaf, v), x[k]) for k, v in begun.items()}
    run.reports["tally"] = tally._replace(**program.jit("zero", blank, (0,))({k: getattr(tally, k) for k in begun}))


def own(tree: PyTree) -> PyTree:
    """Each leaf in a buffer of its own: a donated tree must not hold one buffer twice, as a copied network would."""
    return jax.tree.map(jnp.copy, tree)


def abstract(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _drop(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)


def begin(program: Program, run: RunState, phase: Collect) -> Any:
    """The interaction of a phase at its first rows."""
    env = program.agent.envs[phase.env]
    key = _mapped(lambda k: keys.fold(k, "begin", phase.env), program.placement)(run.key)
    if env.host:
        params = program.env_params(phase, run.agent, run.sources)
        return phases.start(env, host.actor(program), run.agent, params, key, program.members)

    def fn(on_device: Any, key: Any) -> Any:
        params = program.env_params(phase, on_device.agent, program.sources(on_device, program.shared))
        return phases.start(env, program.actor, on_device.agent, params, key)

    return program.jit(("begin", phase.env), fn, (0, 0))(device_state(program, run), key)


def example_row(program: Program, state: AgentState, phase: Collect) -> Row:
    """Shapes and dtypes of what a phase stores, without leading axes. ``state``: of one member; its shapes are enough.

    Raises:
        ValueError: the agent's action is not of the environment's shape, or not the number of a choice where it takes one.
    """
    agent, env = program.agent, program.agent.envs[phase.env]
    n = streams(env)
    leaf = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape), x.dtype), tree)
    flag: Any = jax.ShapeDtypeStruct((n,), bool)
    real: Any = jax.ShapeDtypeStruct((n,), jnp.float32)
    step = Step(leaf(env.spec.obs), real, flag, flag, flag, leaf(env.spec.info))

    def fn(state: AgentState, step: Step) -> Any:
        carry = agent.carry(state, n)
        action, _, extras = agent.act(state, program.clock(0, 0), carry, step._replace(info={}), jax.random.key(0), phase.mode)
        return Row(*step, action=action, extras=extras, valid=step.first)

    row = jax.eval_shape(fn, abstract(state), step)
    given, wanted = getattr(row.action, "shape", type(row.action).__name__), (n, *env.spec.action.shape)
    if given != wanted:
        raise ValueError(
            f"{agent.name} acts with actions of shape {given} in mode {phase.mode!r}; {env.name} takes {wanted} "
            f"({n} streams of {env.spec.action.shape})."
        )
    if env.spec.action.choices is not None and row.action.dtype != env.spec.action.dtype:
        raise ValueError(
            f"{agent.name} acts with {row.action.dtype} in mode {phase.mode!r}; {env.name} takes one of "
            f"{env.spec.action.choices} choices, {np.dtype(env.spec.action.dtype)} from 0 on."
        )
    return jax.tree.map(_drop, row)


def outline(agent: Agent, problem: Problem, stage: int | None = None) -> tuple[AgentState, dict[str, Row]]:
    """Shapes alone, of one member: the agent's state in ``stage`` (None: the last one; -1: before the first) and a row of each
    buffer so far."""
    frozen = frozen_data(problem)
    hyper = {k: jnp.float32(v) for k, v in agent.hyper.items()}
    state = jax.eval_shape(lambda: agent.init(jax.random.key(0), hyper))
    sources: dict[str, Any] = {k: abstract(v) for k, v in phases.data_of(agent, problem).items()}
    rows: dict[str, Row] = {}
    for index in range(len(agent.stages) if stage is None else stage + 1):
        program = Program(agent, problem, index, frozen)
        enter = program.stage.enter
        if enter is not None:
            state = jax.eval_shape(lambda state, sources, f=enter: f(state, sources, jax.random.key(0)), state, sources)
        for phase in program.stage.phases:
            if isinstance(phase, Collect) and phase.into and phase.into not in rows:
                row = rows[phase.into] = example_row(program, state, phase)
                sources[phase.into] = jax.eval_shape(lambda b=agent.buffers[phase.into], row=row: b.init(row))
    return state, rows


def _new_buffer(program: Program, run: RunState, phase: Collect) -> ReplayState:
    state = run.agent if program.members is None else jax.tree.map(_drop, run.agent)
    buffer, row = program.agent.buffers[phase.into or ""], example_row(program, state, phase)
    if program.members is None:
        return buffer.init(row)
    if not buffer.device:
        states = [buffer.init(row) for _ in range(program.members)]
        data = stack([s.data for s in states])
        return ReplayState(jax.tree.map(lambda *xs: jnp.stack(xs), *(s.index for s in states)), data, {})
    placement = program.placement
    assert placement is not None
    numbers = placement.put(jnp.arange(program.members))
    return jax.jit(placement.map(lambda _: buffer.init(row), 0))(numbers)


# ------------------------------------------------------------------------------------------------------------ checkpoints


def pack(agent: Agent, frozen: dict[str, PyTree], run: RunState) -> tuple[PyTree, dict[str, Any]]:
    """``run`` as a tree of arrays, and what must be known beforehand to read it back."""
    rollouts: dict[str, Any] = {}
    uncertain = []
    for name, rollout_state in run.rollouts.items():
        saved = agent.envs[name].save(rollout_state.env)
        if saved is None:
            uncertain.append(name)
            saved = {}
        rollouts[name] = rollout_state._replace(env=saved)
    sources = {}
    for name, source in run.sources.items():
        if isinstance(source, ReplayState):
            sources[name] = source._replace(data={}) if name in frozen else source
    tree = {
        "key": run.key,
        "agent": run.agent,
        "rollouts": rollouts,
        "sources": sources,
        "counts": run.counts,
        "best": run.best,
        "tally": run.reports["tally"],
        "running": run.reports["running"],
        "retired": run.retired,
    }
    shapes = lambda tree: {k: [list(v.shape), str(v.dtype)] for k, v in tree.items()}
    meta = {
        "rlx": __version__,
        "agent": agent.name,
        "stage": run.stage,
        "cycle": run.cycle,
        "plan": [[stage.name, stage.cycles] for stage in agent.stages],
        "capacity": {k: agent.buffers[k].capacity for k in sources if k in agent.buffers},
        "has_best": bool(run.best),
        "retired": sorted(run.retired),
        "alive": np.asarray(run.alive).tolist(),
        "scores": plain(run.reports["scores"]),
        "overlays": {k: shapes(s.overlay) for k, s in sources.items()},
        "host_envs": {k: shapes(rollouts[k].env) for k in rollouts if agent.envs[k].host and k not in uncertain},
        "not_saved": uncertain,
    }
    return tree, meta


def template(agent: Agent, frozen: dict[str, PyTree], run: RunState, meta: dict[str, Any]) -> PyTree:
    """The tree to read a checkpoint into: numpy throughout, which takes nothing of the device and keeps 64 bits, but for typed
    keys. ``run`` has just entered the stage that ``meta`` names."""
    before = len(meta["member_ids"]) if "member_ids" in meta else None
    if meta["has_best"]:
        run.best = new_best(run, np.zeros(np.shape(run.counts["updates"]), np.float32))
    tree, _ = pack(agent, frozen, run)
    for name, shapes in meta["overlays"].items():
        overlay = {k: jax.ShapeDtypeStruct(tuple(v), np.dtype(d)) for k, (v, d) in shapes.items()}
        tree["sources"][name] = tree["sources"][name]._replace(overlay=overlay)
    tree = jax.tree.map(lambda x: _later(x, before), tree)
    for name, capacity in meta["capacity"].items():
        if capacity < agent.buffers[name].capacity:
            tree["sources"][name] = _of_capacity(tree["sources"][name], capacity)
    for name, shapes in meta["host_envs"].items():
        saved = {k: np.empty(tuple(s), np.dtype(d)) for k, (s, d) in shapes.items()}
        tree["rollouts"][name] = tree["rollouts"][name]._replace(env=saved)
    if meta["retired"]:
        tree["retired"] = {k: jax.tree.map(lambda x: _later(x, run.alive.size), tree[k]) for k in meta["retired"]}
    return tree


def source_template(agent: Agent, problem: Problem, meta: dict[str, Any], name: str) -> PyTree:
    """The part of a checkpoint's tree that holds one replay, to read it alone: as numpy, which takes nothing of the device."""
    buffer = replace(agent.buffers[name], capacity=meta["capacity"][name])
    shapes = jax.eval_shape(buffer.init, outline(agent, problem, meta["stage"])[1][name])
    lead = (len(meta["member_ids"]),) if "member_ids" in meta else ()
    overlay = {k: np.empty(v, d) for k, (v, d) in meta["overlays"][name].items()}
    wide = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), (*lead, *x.shape)), shapes)
    return {"sources": {name: wide._replace(overlay=overlay)}}


def _of_capacity(source: ReplayState, capacity: int) -> ReplayState:
    """The template of a replay that had so many rows, from that of a larger one."""
    axis, now = np.ndim(source.index.head), source.index.flags.shape[-2]
    fewer = lambda x: x if x.shape[axis : axis + 1] != (now,) else _later(np.take(x, range(capacity), axis))
    return jax.tree.map(fewer, source)


def _later(x: Any, lead: int | None = None) -> Any:
    """Stands for an array of that shape and dtype (its first axis replaced by ``lead``), and takes no memory."""
    shape = x.shape if lead is None else (lead, *x.shape[1:])
    return jax.ShapeDtypeStruct(shape, x.dtype) if is_key(x) else np.broadcast_to(np.zeros((), x.dtype), shape)


def unpack(
    agent: Agent,
    frozen: dict[str, PyTree],
    run: RunState,
    tree: PyTree,
    meta: dict[str, Any],
    placement: Placement | None = None,
) -> dict[str, str]:
    """A restored tree into ``run``, each member in its place. Returns the environments whose interaction must start anew, with
    the reason: they could not be saved, or what was played again came out differently."""
    place = None if placement is None else placement.locate(np.array(meta["member_ids"]))[placement.own]
    mine = lambda tree: tree if place is None else jax.tree.map(lambda x: x[place], tree)
    device = lambda tree: put(placement, jax.tree.map(lambda x: x if is_key(x) else jnp.array(x), mine(tree)))
    run.key, run.agent, run.counts = device(tree["key"]), device(tree["agent"]), mine(tree["counts"])
    run.best = {**mine(tree["best"]), "learned": device(tree["best"]["learned"])} if tree["best"] else {}
    run.alive, run.cycle, run.stage, run.retired = np.array(meta["alive"]), meta["cycle"], meta["stage"], tree["retired"]
    scores = np.asarray(jax.tree.map(float, meta["scores"]), np.float32)
    run.reports.update(tally=device(tree["tally"]), running=device(tree["running"]), scores=scores)
    for name, source in tree["sources"].items():
        if name in agent.buffers and source.index.flags.shape[-2] < agent.buffers[name].capacity:
            source = grow(source, agent.buffers[name].capacity)
        if name in frozen:
            run.sources[name] = ReplayState(device(source.index), frozen[name], device(source.overlay))
        elif agent.buffers[name].device:
            run.sources[name] = device(source)
        else:  # numpy, own and writable: adds change it in place
            data = jax.tree.map(np.array, mine(source.data))
            run.sources[name] = ReplayState(device(source.index), data, device(source.overlay))
    lost = dict.fromkeys(meta["not_saved"], "cannot be saved")
    for name, rollout_state in tree["rollouts"].items():
        if name in lost:
            continue
        env = agent.envs[name]
        if env.host:
            arrays = _streams_of(rollout_state.env, place, len(meta.get("member_ids", ())))
            own_numpy = jax.tree.map(np.array, mine(rollout_state._replace(env=(), carry=())))
            try:
                run.rollouts[name] = own_numpy._replace(env=env.load(arrays), carry=device(rollout_state.carry))
            except NotRepeated:
                lost[name] = "does not repeat an episode from its seed and its actions"
        else:
            run.rollouts[name] = device(rollout_state)
    return lost


def _streams_of(arrays: dict[str, np.ndarray], place: np.ndarray | None, before: int) -> dict[str, np.ndarray]:
    """Of what a host environment saved of ``before`` places, that of those that ``place`` names."""
    if place is None or np.array_equal(place, np.arange(before)):
        return arrays
    wrong = [k for k, x in arrays.items() if not x.ndim or len(x) % before]
    if wrong:
        raise ValueError(f"this run goes on with as many places as before only ({before}), since {wrong} is not by stream.")
    return {k: x.reshape(before, -1, *x.shape[1:])[place].reshape(-1, *x.shape[1:]) for k, x in arrays.items()}


def new_best(run: RunState, score: np.ndarray) -> dict[str, Any]:
    """The best so far, as a copy: what is learned next is written over the buffers of ``run.agent``."""
    copy = jax.tree.map(lambda x: x.copy(), run.agent.learned)
    return {"score": np.asarray(score, np.float32), "learned": copy, "cycle": np.full(np.shape(score), run.cycle, np.int64)}


def better(run: RunState, score: np.ndarray) -> dict[str, Any]:
    """The best so far, where ``score`` belongs to what is there now."""
    new, old = new_best(run, score), run.best
    if not old:
        return new
    # of equals the latest, which may have learned more besides; what has no number gives way to all
    wins = (new["score"] >= old["score"]) | np.isnan(old["score"])
    pick = lambda a, b: jnp.where(wins.reshape(wins.shape + (1,) * (a.ndim - wins.ndim)), a, b)
    return {
        "score": np.where(wins, new["score"], old["score"]),
        "learned": jax.tree.map(pick, new["learned"], old["learned"]),
        "cycle": np.where(wins, new["cycle"], old["cycle"]),
    }
