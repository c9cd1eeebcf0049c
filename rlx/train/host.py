"""The phases of a stage that run on the host: native environments, replay in host memory, numpy work.

Each takes the `RunState`, does one phase of one cycle, and leaves its result there. Device work in between is compiled by
the stage's `Program`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx.envs.options import cores
from rlx.train import phases
from rlx.train.phases import Actor, Episodes
from rlx.train.program import DeviceState, Program
from rlx.types import AgentState, Array, Clock, Collect, Host, Key, PyTree, ReplayState, Row, RunState, Step, Update


def device_state(program: Program, run: RunState) -> DeviceState:
    """What the compiled programs take: the parts of ``run`` that live on the device, shared data left out."""
    agent, buffers = program.agent, program.agent.buffers
    rollouts = {k: v for k, v in run.rollouts.items() if not agent.envs[k].host}
    sources = {}
    for name, source in run.sources.items():
        if name in program.frozen:
            if isinstance(source, ReplayState):
                sources[name] = source._replace(data=None)
        elif buffers[name].device:
            sources[name] = source
    return DeviceState(run.agent, rollouts, sources, run.reports["tally"], run.reports["running"])


def put_back(program: Program, run: RunState, on_device: DeviceState) -> None:
    """The inverse of `device_state`."""
    run.agent = on_device.agent
    run.rollouts = {**run.rollouts, **on_device.rollouts}
    joined = {k: s._replace(data=program.frozen[k]) if k in program.frozen else s for k, s in on_device.sources.items()}
    run.sources = {**run.sources, **joined}
    run.reports["tally"], run.reports["running"] = on_device.tally, on_device.running


def member(tree: PyTree, m: int) -> PyTree:
    return jax.tree.map(lambda x: x[m], tree)


def stack(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *xs: np.stack(xs), *trees)


def to_numpy(tree: PyTree) -> PyTree:
    """Arrays of the device as numpy (a view where that is the CPU); typed keys, and what is on the host, as they are."""
    there = lambda x: isinstance(x, jax.Array) and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.tree.map(lambda x: np.asarray(x) if there(x) else x, tree)


def run_phase(program: Program, run: RunState, j: int) -> None:
    """Phase ``j`` of cycle ``run.cycle``."""
    phase = program.stage.phases[j]
    make = program.jit(("key", j), lambda root, cycle: keys.fold(program.stream(root, j), cycle), (0, None))
    key = make(run.key, np.int32(run.cycle))
    {Collect: _collect, Update: _update, Host: _host}[type(phase)](program, run, j, phase, key)  # type: ignore[operator]


# ---------------------------------------------------------------------------------------------------------------- collect


def actor(program: Program) -> Actor:
    """How the agent acts for environments on the host: compiled, over all members, with the step's key as raw data."""

    def act(state: AgentState, clock: Clock, carry: PyTree, step: Step, data: Array, mode: str) -> Any:
        def fn(state: AgentState, clock: Clock, carry: PyTree, step: Step, data: Array) -> Any:
            return program.agent.act(state, clock, carry, step, jax.random.wrap_key_data(data), mode)

        return program.jit(("act", mode), fn, (0, None, 0, 0, 0))(state, clock, carry, step, data)

    def carry(state: AgentState, n: int, context: PyTree = None) -> PyTree:
        fn = lambda state, context: program.agent.carry(state, n, context)
        return program.jit(("carry", n, context is None), fn, (0, None))(state, context)

    def fold(key: Key, name: str) -> Key:
        return program.jit(("fold", name), lambda k: keys.fold(k, name), (0,))(key)

    return Actor(act, carry, fold)


def _collect(program: Program, run: RunState, j: int, phase: Collect, key: Key) -> None:
    agent, cycle = program.agent, np.int32(run.cycle)
    env, buffer = agent.envs[phase.env], agent.buffers.get(phase.into or "")
    if env.host:
        params, before = program.env_params(phase, run.agent, run.sources), run.rollouts[phase.env]
        clock, how = program.clock(run.cycle, j), actor(program)
        found = phases.collect(phase, env, how, run.agent, clock, params, before, key, program.members)
    else:  # only the rows go to host memory
        there = lambda on_device, frozen, key, cycle: program.collect(phase, j, on_device, frozen, key, cycle)
        roll = program.jit(("collect", j), there, (0, None, 0, None))
        found = roll(device_state(program, run), program.shared, key, cycle)
        found = (found[0], *to_numpy(found[1:]))
    run.rollouts[phase.env], rows, tail, ended = found
    store = buffer is not None and buffer.device
    if buffer is not None and not store:
        add = lambda state, rows, tail: phases.store(phase, buffer, state, rows, tail)
        _each_member(program, run, phase.into or "", add, rows, tail)

    def fn(on_device: DeviceState, rows: Row, tail: Row, ended: Episodes, key: Key, cycle: Array) -> DeviceState:
        return program.freeze_inactive(on_device, program.store_rollout(phase, on_device, rows, tail, ended, key, cycle, store))

    store_rollout = program.jit(("store_rollout", j), fn, (0, 0, 0, 0, 0, None), donate_argnums=0)
    put_back(program, run, store_rollout(device_state(program, run), rows, tail if store else None, ended, key, cycle))


def close(program: Program, run: RunState, name: str | None) -> None:
    """Ends what is pending in a buffer: its tail becomes a truncated row."""
    if name is None:
        return
    buffer = program.agent.buffers[name]
    if buffer.device:
        run.sources[name] = program.jit(("close", name), buffer.close, (0,), donate_argnums=0)(run.sources[name])
    else:
        _each_member(program, run, name, buffer.close)


def _each_member(program: Program, run: RunState, name: str, fn: Any, *args: PyTree) -> None:
    """A host buffer's data are changed in place, member by member through views; only the index is put together again."""
    state = run.sources[name]
    if program.members is None:
        run.sources[name] = fn(state, *args)
        return
    states = [fn(member(state, m), *(member(a, m) for a in args)) for m in range(program.members)]
    indices = jax.tree.map(lambda *xs: jnp.stack(xs), *(s.index for s in states))
    run.sources[name] = state._replace(index=indices)


# ----------------------------------------------------------------------------------------------------------------- update

BLOCK = 32  # updates whose batches are read from host memory ahead of the device,
BLOCK_BYTES = 2**26  # and of large batches as many as are this large together


def _update(program: Program, run: RunState, j: int, phase: Update, key: Key) -> None:
    """Updates on batches that lie, wholly or in part, in host memory.

    The device runs one block asynchronously while the host reads the next; with priorities each draw must see the update
    before it, so blocks are of one.
    """
    clock, names = program.clock(run.cycle, j), phases.prioritised(phase)
    sampler, block = phase.sample, 1 if names or phase.sample.prioritised else _block(program, run, j, phase)
    # draws need the index of replays, and all of other data (which members share); rows stay where they are
    indexed = {k: s._replace(data=None) for k, s in run.sources.items() if isinstance(s, ReplayState)}
    plain = {k: s for k, s in program.frozen.items() if k not in indexed}

    def draw(hyper: Any, indexed: Any, plain: Any, key: Key, i: Any, now: Clock) -> PyTree:
        indexed = {**indexed, **plain}
        one = lambda k, pair: sampler.draw(indexed, hyper, now._replace(updates=now.updates + k), pair[0])
        return jax.vmap(one)(i, phases.update_keys(key, i))

    def learn(before: DeviceState, indexed: Any, batches: PyTree, key: Key, i: Array, now: Clock) -> Any:
        state, priorities, tally = phases.update(phase, before.agent, indexed, before.tally, now, key, i, batches)
        return program.freeze_inactive(before, before._replace(agent=state, tally=tally)), priorities

    drawing = program.jit(("draw", j), draw, (0, 0, None, 0, None, None))
    learning = program.jit(("learn", j), learn, (0, 0, 0, 0, None, None), donate_argnums=0)
    host = {k: to_numpy(s) for k, s in run.sources.items()}
    for start in range(0, phase.n, block):
        i = np.arange(start, min(start + block, phase.n), dtype=np.int32)
        index = to_numpy(drawing(run.agent.hyper, indexed, plain, key, i, clock))
        batches = _read(program, sampler, host, index, len(i))
        alone = device_state(program, run)._replace(rollouts={}, sources={})
        learned, priorities = learning(alone, {k: indexed[k] for k in names}, batches, key, i, clock)
        run.agent, run.reports["tally"], run.reports["running"] = learned.agent, learned.tally, learned.running
        new = phases.with_priorities({k: run.sources[k] for k in names}, priorities)
        run.sources |= new
        indexed |= {k: s._replace(data=None) for k, s in new.items()}


def _block(program: Program, run: RunState, j: int, phase: Update) -> int:
    if j not in program.blocks:
        alone = lambda tree: member(tree, 0) if program.members else tree
        shapes = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)

        def batch(hyper: Any, sources: Any) -> PyTree:
            mine = {k: _member_source(program, k, s, 0) if program.members else s for k, s in sources.items()}
            return phase.sample(alone(hyper), program.clock(0, j), mine, jax.random.key(0))

        one = jax.eval_shape(batch, shapes(run.agent.hyper), {**shapes(program.frozen), **shapes(run.sources)})
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(one)) * (program.members or 1)
        program.blocks[j] = max(1, min(BLOCK, BLOCK_BYTES // max(size, 1)))
    return program.blocks[j]


def _read(program: Program, sampler: Any, host: dict[str, PyTree], index: PyTree, count: int) -> PyTree:
    """Batches [count, ...] (or [M, count, ...]) of the drawn indices."""
    if program.members is None:
        return stack(list(_readers().map(lambda i: sampler.read(host, member(index, i)), range(count))))
    whose = lambda m: {k: s if k in program.frozen else member(s, m) for k, s in host.items()}
    views = [whose(m) for m in range(program.members)]
    one = lambda m: stack([sampler.read(views[m], member(member(index, m), i)) for i in range(count)])
    return stack(list(_readers().map(one, range(program.members))))


@functools.cache
def _readers() -> ThreadPoolExecutor:
    """Threads that gather rows: numpy lets others run while it copies."""
    return ThreadPoolExecutor(min(8, cores()), thread_name_prefix="rlx-read")


# ------------------------------------------------------------------------------------------------------------------- host


def _host(program: Program, run: RunState, j: int, phase: Host, key: Key) -> None:
    state, sources = to_numpy(run.agent), {k: to_numpy(s) for k, s in run.sources.items()}
    if program.members is None or phase.batched:
        new_state, new_sources = phase.fn(state, sources, key)
    else:
        new = []
        for m in range(program.members):
            mine = {k: _member_source(program, k, s, m) for k, s in sources.items()}
            new.append(phase.fn(member(state, m), mine, key[m]))
        new_state = stack([to_numpy(s) for s, _ in new])
        new_sources = {k: _join([s[k] for _, s in new], program, k) for k in sources}
    where = f"the host phase {j} of stage {program.stage.name!r}"
    _same(state, new_state, f"the agent state from {where}")
    before = device_state(program, run)
    after = before._replace(agent=_to_device(run.agent, state, new_state))
    run.agent = (
        program.jit("freeze_inactive", program.freeze_inactive, (0, 0))(before, after).agent if program.members else after.agent
    )
    for k, new_source in new_sources.items():
        if not isinstance(new_source, ReplayState):
            continue  # frozen data other than replays cannot change
        old, now = sources[k], run.sources[k]
        if set(old.overlay) == set(new_source.overlay):
            _same(old.overlay, new_source.overlay, f"the overlay of {k!r} from {where}")
            overlay = _to_device(now.overlay, old.overlay, new_source.overlay)
        else:
            overlay = jax.tree.map(jnp.array, new_source.overlay)
        _same(old.index, new_source.index, f"the index of {k!r} from {where}")
        data = now.data
        if k not in program.frozen:
            _same(old.data, new_source.data, f"the rows of {k!r} from {where}")
            data = _to_device(now.data, old.data, new_source.data) if program.agent.buffers[k].device else new_source.data
        run.sources[k] = ReplayState(_to_device(now.index, old.index, new_source.index), data, overlay)


def _to_device(original: PyTree, given: PyTree, new: PyTree) -> PyTree:
    """Leaves that the host changed as arrays on the device; those it left alone are not copied."""
    return jax.tree.map(lambda o, g, n: o if n is g else jnp.array(n), original, given, new)


def _member_source(program: Program, name: str, source: PyTree, m: int) -> PyTree:
    if name not in program.frozen:
        return member(source, m)
    if not isinstance(source, ReplayState):
        return source
    return ReplayState(member(source.index, m), source.data, member(source.overlay, m))


def _join(parts: list[PyTree], program: Program, name: str) -> PyTree:
    if name not in program.frozen:
        return stack([to_numpy(p) for p in parts])
    if not isinstance(parts[0], ReplayState):
        return parts[0]
    mine = stack([to_numpy((p.index, p.overlay)) for p in parts])
    return ReplayState(mine[0], parts[0].data, mine[1])


def _same(old: PyTree, new: PyTree, what: str) -> None:
    """Raise unless structures, shapes and dtypes agree: a compiled program goes on with what comes back."""
    a, b = jax.tree_util.tree_flatten_with_path(old), jax.tree_util.tree_flatten_with_path(new)
    if str(a[1]) != str(b[1]):
        raise ValueError(f"{what} has another structure: expected {a[1]}, got {b[1]}.")
    for (path, x), (_, y) in zip(a[0], b[0], strict=True):
        y = np.asarray(y) if not hasattr(y, "dtype") else y
        if x.shape != y.shape or x.dtype != y.dtype:
            name = jax.tree_util.keystr(path)
            raise ValueError(f"{what}: leaf {name} must be {x.dtype}{x.shape}, got {y.dtype}{y.shape}.")
