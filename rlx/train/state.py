"""The beginning of a run, the entry into a stage, and a run as one tree of arrays for checkpoints."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx.envs.base import begin
from rlx.train.host import begin_host, live_of, stack
from rlx.train.program import COUNTS, Program, streams
from rlx.types import Agent, AgentState, Collect, Members, Problem, PyTree, ReplayState, Row, RunState, Step


def _mapped(fn: Any, members: int | None) -> Any:
    """``fn`` jitted; with members one after another, so that each gets the bits of its solo run."""
    return jax.jit(fn if members is None else lambda *args: jax.lax.map(lambda a: fn(*a), args))


def frozen_data(problem: Problem) -> dict[str, PyTree]:
    """What all members share: the rows of datasets, and any other data whole."""
    return {k: v.data if isinstance(v, ReplayState) else v for k, v in problem.data.items()}


def start(agent: Agent, problem: Problem, key: Any, init_from: AgentState | None = None) -> RunState:
    """A run before its first stage. ``key``: a typed key, or `Members`."""
    members = key.keys.shape[0] if isinstance(key, Members) else None
    root = key.keys if isinstance(key, Members) else key
    given = key.hypers if isinstance(key, Members) else {}
    unknown = sorted(set(given) - set(agent.hyper))
    if unknown:
        raise ValueError(f"{agent.name} has no traced value {', '.join(unknown)}; it has {', '.join(sorted(agent.hyper))}.")
    lead = () if members is None else (members,)
    hyper = {k: jnp.broadcast_to(jnp.asarray(given.get(k, v), jnp.float32), lead) for k, v in agent.hyper.items()}
    state = _mapped(lambda k, h: agent.init(keys.fold(k, "init"), h), members)(root, hyper)
    if init_from is not None:
        learned = jax.tree.map(lambda new, old: jnp.broadcast_to(new, old.shape), init_from.learned, state.learned)
        state = state._replace(learned=learned)
    sources = {}
    for name, data in problem.data.items():
        if isinstance(data, ReplayState):
            spread = lambda x: jnp.broadcast_to(x, (*lead, *x.shape))
            meta, overlay = own(jax.tree.map(spread, (data.meta, data.overlay)))
            data = ReplayState(meta, data.data, overlay)
        sources[name] = data
    counts = {k: np.zeros(lead, np.int64) for k in (*COUNTS, "eval_steps")}
    reports = {"tally": None, "running": jnp.ones(lead, bool), "scores": np.full(lead, -np.inf, np.float32)}
    return RunState(root, 0, 0, state, {}, sources, counts, {}, np.ones(lead, bool), reports)


def enter(program: Program, run: RunState) -> None:
    """Into the program's stage: its ``enter``, the interactions and buffers that it is the first to use, an empty tally."""
    members, stage = program.members, program.stage
    run.stage, run.cycle = program.index, 0
    run.reports["running"] = jnp.ones_like(run.reports["running"])
    if stage.enter is not None:
        fn = lambda live, root: stage.enter(
            live.agent, program.sources(live, program.frozen), keys.fold(root, stage.name, "enter")
        )
        run.agent = own(_mapped(fn, members)(live_of(program, run), run.key))
    for phase in stage.phases:
        if isinstance(phase, Collect) and phase.env not in run.loops:
            run.loops[phase.env] = _begin(program, run, phase)
        if isinstance(phase, Collect) and phase.into and phase.into not in run.sources:
            run.sources[phase.into] = _new_buffer(program, run, phase)
    live = live_of(program, run)
    buffers = {k: s for k, s in run.sources.items() if k not in program.frozen}
    live = abstract(
        live._replace(
            tally=(),  # type: ignore[arg-type]
            sources={**live.sources, **buffers},
        )
    )
    empty = program.empty_tally(live if members is None else jax.tree.map(_drop, live), program.frozen)
    run.reports["tally"] = own(empty) if members is None else jax.tree.map(lambda x: jnp.stack([x] * members), empty)


def own(tree: PyTree) -> PyTree:
    """Each leaf in a buffer of its own: a donated tree must not hold one buffer twice, as a copied network would."""
    return jax.tree.map(jnp.copy, tree)


def abstract(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _drop(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)


def _begin(program: Program, run: RunState, phase: Collect) -> Any:
    env, members = program.agent.envs[phase.env], program.members
    key = _mapped(lambda k: keys.fold(k, "begin", phase.env), members)(*((run.key,) if members is None else (run.key,)))
    if env.host:
        params = phase.params(run.agent, run.sources) if phase.params else env.params
        return begin_host(program, run, phase.env, key, params)

    def fn(live: Any, key: Any) -> Any:
        params = program.env_params(phase, live.agent, program.sources(live, program.frozen))
        return begin(env, params, program.agent.carry(live.agent, env.n), key)

    fn = fn if members is None else jax.vmap(fn)
    return jax.jit(fn)(live_of(program, run), key)


def example_row(program: Program, state: AgentState, phase: Collect) -> Row:
    """Shapes and dtypes of what a phase stores, without leading axes. ``state``: of one member; its shapes are enough.

    Raises:
        ValueError: the agent's action is not of the environment's shape.
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
    return jax.tree.map(_drop, row)


def outline(agent: Agent, problem: Problem, stage: int | None = None) -> tuple[AgentState, dict[str, Row]]:
    """Shapes alone, of one member: the agent's state in ``stage`` (None: the last one) and a row of each buffer so far."""
    frozen = frozen_data(problem)
    hyper = {k: jnp.float32(v) for k, v in agent.hyper.items()}
    state = jax.eval_shape(lambda: agent.init(jax.random.key(0), hyper))
    sources: dict[str, Any] = {k: abstract(v) for k, v in problem.data.items()}
    rows: dict[str, Row] = {}
    for index in range(len(agent.stages) if stage is None else stage + 1):
        program = Program(agent, problem, index, frozen, None)
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
        return ReplayState(jax.tree.map(lambda *xs: jnp.stack(xs), *(s.meta for s in states)), data, {})
    return jax.jit(lambda: jax.vmap(lambda _: buffer.init(row))(jnp.arange(program.members)))()


# ------------------------------------------------------------------------------------------------------------ checkpoints


def pack(agent: Agent, frozen: dict[str, PyTree], run: RunState) -> tuple[PyTree, dict[str, Any]]:
    """``run`` as a tree of arrays, and what must be known beforehand to read it back."""
    loops: dict[str, Any] = {}
    uncertain = []
    for name, loop in run.loops.items():
        saved = agent.envs[name].save(loop.env)
        if saved is None:
            uncertain.append(name)
            saved = {}
        loops[name] = loop._replace(env=saved)
    sources = {}
    for name, source in run.sources.items():
        if isinstance(source, ReplayState):
            sources[name] = source._replace(data={}) if name in frozen else source
    tree = {
        "key": run.key,
        "agent": run.agent,
        "loops": loops,
        "sources": sources,
        "counts": run.counts,
        "alive": run.alive,
        "best": run.best,
        "reports": run.reports,
    }
    shapes = lambda tree: {k: [list(v.shape), str(v.dtype)] for k, v in tree.items()}
    meta = {
        "agent": agent.name,
        "stage": run.stage,
        "cycle": run.cycle,
        "has_best": bool(run.best),
        "overlays": {k: shapes(s.overlay) for k, s in sources.items()},
        "host_envs": {k: shapes(loops[k].env) for k in loops if agent.envs[k].host and k not in uncertain},
        "not_saved": uncertain,
    }
    return tree, meta


def template(agent: Agent, frozen: dict[str, PyTree], run: RunState, meta: dict[str, Any]) -> PyTree:
    """The tree to read a checkpoint into: abstract leaves for the device, numpy ones where numpy is asked for (which keeps
    64 bits). ``run`` has just entered the stage that ``meta`` names."""
    if meta["has_best"]:
        run.best = new_best(run, np.zeros(run.alive.shape, np.float32))
    tree, _ = pack(agent, frozen, run)
    tree = jax.tree.map(lambda x: np.empty_like(x) if isinstance(x, np.ndarray) else abstract(x), tree)
    leaf = lambda shape, dtype: jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
    for name, shapes in meta["overlays"].items():
        overlay = {k: leaf(*v) for k, v in shapes.items()}
        tree["sources"][name] = tree["sources"][name]._replace(overlay=overlay)
    for name, shapes in meta["host_envs"].items():
        saved = {k: np.empty(tuple(s), np.dtype(d)) for k, (s, d) in shapes.items()}
        tree["loops"][name] = tree["loops"][name]._replace(env=saved)
    return tree


def unpack(agent: Agent, frozen: dict[str, PyTree], run: RunState, tree: PyTree, meta: dict[str, Any]) -> list[str]:
    """A restored tree into ``run``. Returns the environments that could not be saved: their interaction starts anew."""
    run.key, run.agent, run.counts, run.best = tree["key"], tree["agent"], tree["counts"], tree["best"]
    run.alive, run.cycle, run.stage = np.asarray(tree["alive"]), meta["cycle"], meta["stage"]
    run.reports.update(tree["reports"])
    for name, source in tree["sources"].items():
        run.sources[name] = source._replace(data=frozen[name]) if name in frozen else source
        if name not in frozen and not agent.buffers[name].device:
            data = jax.tree.map(lambda x: np.array(x), source.data)  # own and writable: adds change it in place
            run.sources[name] = source._replace(data=data)
    for name, loop in tree["loops"].items():
        if name in meta["not_saved"]:
            continue
        env = agent.envs[name]
        if env.host:
            numpy = jax.tree.map(np.array, (loop.step, loop.done))
            loop = loop._replace(env=env.load(jax.tree.map(np.asarray, loop.env)), step=numpy[0], done=numpy[1])
        run.loops[name] = loop
    return list(meta["not_saved"])


def new_best(run: RunState, score: np.ndarray) -> dict[str, Any]:
    """The best so far, as a copy: what is learned next is written over the buffers of ``run.agent``."""
    copy = jax.tree.map(lambda x: x.copy(), run.agent.learned)
    return {"score": np.asarray(score, np.float32), "learned": copy, "cycle": np.full(run.alive.shape, run.cycle, np.int64)}
