"""How much memory a population needs, before anything is allocated."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from rlx.envs.base import batch, begin
from rlx.files import free_memory
from rlx.train import phases, processes
from rlx.train.schedule import on_host, streams
from rlx.train.state import outline
from rlx.types import Agent, AgentState, Clock, Problem, PyTree, ReplayState, Update, VecEnv

SPARE = 0.9  # of the free memory: compilers and allocators want some too


def needs(agent: Agent, problem: Problem) -> dict[str, int]:
    """Bytes that one member takes, by part: each buffer, what is learned, the largest batch, the environments. Nothing is
    allocated.

    What is learned counts four times: itself, the best so far, and two copies while an update works on it.
    """
    state, rows = outline(agent, problem)
    parts = {name: agent.buffers[name].nbytes(row) for name, row in rows.items()}
    parts["learned"] = 4 * _size(state)
    parts["batch"] = _batch(agent, problem, state.hyper, rows)
    parts["environments"] = sum(_rollout(agent, state, env, streams(env)) for env in agent.envs.values())
    evals = [(problem.envs[e.env], e.episodes, e.context) for e in agent.evals]
    parts["evaluation"] = max(
        (_rollout(agent, state, batch(env, n, ends="stop"), n, context) for env, n, context in evals if not env.host), default=0
    )
    return parts


def unpacked(agent: Agent, problem: Problem) -> dict[str, int]:
    """Bytes that buffers would take of one member if they kept rows as these are emitted; of those that do not, by name."""
    lean = {name: replace(b, pack=None) for name, b in agent.buffers.items() if b.pack is not None}
    rows = outline(agent, problem)[1] if lean else {}
    return {name: b.nbytes(rows[name]) for name, b in lean.items()}


def _rollout(agent: Agent, state: AgentState, env: VecEnv, count: int, context: PyTree = None) -> int:
    """Of an interaction of ``count`` streams; of those on the host only what the policy remembers."""
    carry = jax.eval_shape(lambda state: agent.carry(state, count, context), state)
    begun = () if env.host else jax.eval_shape(lambda carry: begin(env, env.params, carry, jax.random.key(0)), carry)
    return _size((carry, begun))


def _batch(agent: Agent, problem: Problem, hyper: dict[str, Any], rows: dict[str, Any]) -> int:
    """Of the largest batch that an update on the device sees."""
    sources = {
        **phases.data_of(agent, problem),
        **{name: jax.eval_shape(agent.buffers[name].init, row) for name, row in rows.items()},
    }
    clock, key = Clock(np.int32(0), np.int32(0), np.int32(0)), jax.random.key(0)
    updates = [phase for stage in agent.stages for phase in stage.phases if isinstance(phase, Update)]
    draw = lambda phase: jax.eval_shape(lambda hyper, sources: phase.sample(hyper, clock, sources, key), hyper, sources)
    return max((_size(draw(phase)) for phase in updates if not on_host(agent, problem, phase)), default=0)


def _size(tree: PyTree) -> int:
    item = lambda x: 8 if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else np.dtype(x.dtype).itemsize
    return sum(int(np.prod(x.shape)) * item(x) for x in jax.tree.leaves(tree) if hasattr(x, "dtype"))


def shared(problem: Problem, there: Sequence[Any] = ()) -> int:
    """Bytes that every device holds once: of data, without those that lie on the devices ``there``, and on no others, by now;
    and of environments' parameters, such as a distractor's bank."""
    data = [v.data if isinstance(v, ReplayState) else v for v in problem.data.values()]
    data = [x for x in jax.tree.leaves(data) if isinstance(x, jax.Array) and x.devices() != set(there)]
    return _size(data) + _size([env.params for env in problem.envs.values()])


def available(devices: Sequence[Any]) -> int | None:
    """Bytes that are free on each of ``devices``; None where the device does not say."""
    stats = [d.memory_stats() for d in devices if d.platform != "cpu"]
    if any(s is None or "bytes_limit" not in s for s in stats):
        return None
    if stats:
        return int(SPARE * min(s["bytes_limit"] - s.get("bytes_in_use", 0) for s in stats if s))
    free = free_memory()
    return None if free is None else int(SPARE * free / len(devices))


def peak() -> int:
    """The most bytes that were in use on one device so far; on the CPU, by this process."""
    stats = [d.memory_stats() for d in jax.local_devices() if d.platform != "cpu"]
    found = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
    return max(found) if found else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def most(agent: Agent, problem: Problem, devices: Sequence[Any], limit: int | None = None) -> int | None:
    """How many members fit at once on ``devices`` of this process and as many of each other one, with ``limit`` bytes each
    (None: what is free); None where nobody knows."""
    free = available(devices) if limit is None else limit
    if free is None:
        return None
    free -= shared(problem, devices if limit is None else ())  # of data that are in use by now nothing is free
    return processes.count() * len(devices) * max(0, free // max(1, sum(needs(agent, problem).values())))


def check(agent: Agent, problem: Problem, members: int, devices: Sequence[Any], limit: int | None = None) -> None:
    """Raises ValueError where ``members`` do not fit on ``devices``, with the largest number that would."""
    can = most(agent, problem, devices, limit)
    if can is None or members <= can:
        return
    one = needs(agent, problem)
    free = available(devices) if limit is None else limit
    parts = ", ".join(f"{name} {_human(size)}" for name, size in sorted(one.items(), key=lambda x: -x[1]))
    who = f"{members} members do" if members > 1 else "one member does"
    remedy = f"At most {can} fit: give fewer, let them take turns (waves auto), or make" if can else "Make"
    raise ValueError(
        f"{who} not fit: each needs {_human(sum(one.values()))} ({parts}), and each of {len(devices)} device(s) has "
        f"{_human(free or 0)}. {remedy} what is large smaller."
    )


def _human(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
