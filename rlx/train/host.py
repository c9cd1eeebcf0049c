"""The phases of a stage that run on the host: native environments, replay in host memory, numpy work.

Each takes the `RunState`, does one phase of one cycle, and leaves its result there. Device work in between is compiled by
the stage's `Program`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx.envs.base import begin, rollout
from rlx.train.program import DeviceState, Program, count, streams, update_keys
from rlx.types import Collect, Host, Key, Out, PyTree, ReplayState, RunState, Update


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
    """Leaves as numpy (a view where the device is the CPU); typed keys as they are."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x), tree)


def run_phase(program: Program, run: RunState, j: int) -> None:
    """Phase ``j`` of cycle ``run.cycle``."""
    phase = program.stage.phases[j]
    make = program.jit(("key", j), lambda root, cycle: keys.fold(program.stream(root, j), cycle), (0, None))
    key = make(run.key, np.int32(run.cycle))
    {Collect: _collect, Update: _update, Host: _host}[type(phase)](program, run, j, phase, key)  # type: ignore[operator]


# ---------------------------------------------------------------------------------------------------------------- collect


def acting(program: Program, mode: str) -> Any:
    """``agent.act`` compiled for loops on the host: the step's key comes as raw data."""

    def act(state: Any, clock: Any, carry: Any, step: Any, data: Any) -> Any:
        return program.agent.act(state, clock, carry, step, jax.random.wrap_key_data(data), mode)

    return program.jit(("act", mode), act, (0, None, 0, 0, 0))


def new_carry(program: Program, run: RunState, n: int, context: PyTree = None) -> PyTree:
    fn = lambda state, context: program.agent.carry(state, n, context)
    return program.jit(("carry", n, context is None), fn, (0, None))(run.agent, context)


def begin_host(program: Program, run: RunState, name: str, key: Key, params: PyTree) -> Any:
    env, members = program.agent.envs[name], program.members
    return begin(env, params, new_carry(program, run, streams(env)), key, members)


def _collect(program: Program, run: RunState, j: int, phase: Collect, key: Key) -> None:
    agent, buffer = program.agent, program.agent.buffers.get(phase.into or "")
    env, clock = agent.envs[phase.env], program.clock(run.cycle, j)
    if env.host:
        params = phase.params(run.agent, run.sources) if phase.params else env.params
        if phase.fresh:
            if buffer is not None:
                close(program, run, phase.into)
            fresh = program.jit("fresh", lambda k: keys.fold(k, "reset"), (0,))
            run.rollouts[phase.env] = begin_host(program, run, phase.env, fresh(key), params)
        act = acting(program, phase.mode)
        policy = lambda carry, step, data: act(run.agent, clock, carry, step, data)
        rollout_state, rows, tail = rollout(env, params, policy, run.rollouts[phase.env], key, phase.steps, program.members)
        run.rollouts[phase.env] = rollout_state
    else:
        rows, tail = _device_rows(program, run, j, phase, key)
    store = buffer is not None and buffer.device
    if phase.into and not store:
        _add_on_host(program, run, phase.into, rows, tail)
    fn = lambda on_device, rows, tail, key, cycle: program.store_rollout(phase, on_device, rows, tail, key, cycle, store)
    store_rollout = program.jit(("store_rollout", j), fn, (0, 0, 0, 0, None), donate_argnums=0)
    put_back(program, run, store_rollout(device_state(program, run), rows, tail if store else None, key, np.int32(run.cycle)))


def _device_rows(program: Program, run: RunState, j: int, phase: Collect, key: Key) -> tuple[PyTree, PyTree]:
    """A device rollout whose rows go to host memory."""
    if phase.fresh:
        close(program, run, phase.into)
    env = program.agent.envs[phase.env]

    def roll(on_device: DeviceState, frozen: PyTree, key: Key, cycle: Any) -> Any:
        params = program.env_params(phase, on_device.agent, program.sources(on_device, frozen))
        rollout_state, clock = on_device.rollouts[phase.env], program.clock(cycle, j)
        if phase.fresh:
            rollout_state = begin(env, params, program.agent.carry(on_device.agent, env.n), keys.fold(key, "reset"))
        policy = lambda carry, step, now: program.agent.act(on_device.agent, clock, carry, step, now, phase.mode)
        return rollout(env, params, policy, rollout_state, key, phase.steps)

    fn = program.jit(("roll", j), roll, (0, None, 0, None))
    run.rollouts[phase.env], rows, tail = fn(device_state(program, run), program.frozen, key, np.int32(run.cycle))
    return to_numpy(rows), to_numpy(tail)


def close(program: Program, run: RunState, name: str | None) -> None:
    """Ends what is pending in a buffer: its tail becomes a truncated row."""
    if name is None:
        return
    buffer = program.agent.buffers[name]
    if buffer.device:
        run.sources[name] = program.jit(("close", name), buffer.close, (0,), donate_argnums=0)(run.sources[name])
    else:
        _each_member(program, run, name, buffer.close)


def _add_on_host(program: Program, run: RunState, name: str, rows: PyTree, tail: PyTree) -> None:
    _each_member(program, run, name, program.agent.buffers[name].add, rows, tail)


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

BLOCK = 32  # updates whose batches are read from host memory ahead of the device


def _update(program: Program, run: RunState, j: int, phase: Update, key: Key) -> None:
    """Updates on batches that lie, wholly or in part, in host memory.

    The device runs one block asynchronously while the host reads the next; with priorities each draw must see the update
    before it, so blocks are of one.
    """
    clock, names = program.clock(run.cycle, j), program.prioritised(phase)
    sampler, block = phase.sample, 1 if names or phase.sample.prioritised else BLOCK
    # draws need the index of replays, and all of other data (which members share); rows stay where they are
    seen = {k: s._replace(data=None) for k, s in run.sources.items() if isinstance(s, ReplayState)}
    plain = {k: s for k, s in program.frozen.items() if k not in seen}

    def draw(hyper: Any, seen: Any, plain: Any, key: Key, i: Any, now: Any) -> PyTree:
        seen = {**seen, **plain}
        one = lambda k, pair: sampler.draw(seen, hyper, now._replace(updates=now.updates + k), pair[0])
        return jax.vmap(one)(i, update_keys(key, i))

    def learn(on_device: DeviceState, frozen: PyTree, batches: PyTree, key: Key, i: Any, now: Any) -> Any:
        def one(state: Any, x: Any) -> Any:
            batch, k, pair = x
            state, out = phase.update(state, now._replace(updates=now.updates + k), batch, pair[1])
            return state, out

        state, outs = jax.lax.scan(one, on_device.agent, (batches, i, update_keys(key, i)))
        at = now._replace(updates=now.updates + i[0])
        return on_device._replace(agent=state, tally=count(on_device.tally, outs, len(i), at)), outs.priority

    drawing = program.jit(("draw", j), draw, (0, 0, None, 0, None, None))
    learning = program.jit(("learn", j), learn, (0, None, 0, 0, None, None), donate_argnums=0)
    host = {k: to_numpy(s) for k, s in run.sources.items()}
    for start in range(0, phase.n, block):
        i = np.arange(start, min(start + block, phase.n), dtype=np.int32)
        index = to_numpy(drawing(run.agent.hyper, seen, plain, key, i, clock))
        batches = _read(program, sampler, host, index, len(i))
        on_device, priority = learning(device_state(program, run), program.frozen, batches, key, i, clock)
        put_back(program, run, on_device)
        for k, new in _new_priorities(program, phase, host, batches, priority).items():
            state = run.sources[k]
            run.sources[k] = state._replace(index=state.index._replace(priority=new))
            seen[k] = run.sources[k]._replace(data=None)


def _read(program: Program, sampler: Any, host: dict[str, PyTree], index: PyTree, count: int) -> PyTree:
    """Batches [count, ...] (or [M, count, ...]) of the drawn indices."""
    if program.members is None:
        return stack([sampler.read(host, member(index, i)) for i in range(count)])
    whose = lambda m: {k: s if k in program.frozen else member(s, m) for k, s in host.items()}
    views = [whose(m) for m in range(program.members)]
    return stack([stack([sampler.read(v, member(member(index, m), i)) for i in range(count)]) for m, v in enumerate(views)])


def _new_priorities(program: Program, phase: Update, host: dict[str, PyTree], batches: PyTree, priority: PyTree) -> dict:
    if not program.prioritised(phase):
        return {}
    fn = lambda seen, batch, priority: program.update_priorities(phase, seen, batch, Out({}, priority))
    seen = {k: host[k]._replace(data=None) for k in program.prioritised(phase)}
    first = lambda tree: jax.tree.map(lambda x: x[0] if program.members is None else x[:, 0], tree)
    return program.jit(("priorities", phase.priorities_of), fn, (0, 0, 0))(seen, first(batches), first(priority))


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
