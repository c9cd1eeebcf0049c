"""How much memory a population needs, before anything is allocated."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx.envs.base import begin
from rlx.train import processes
from rlx.train.schedule import streams
from rlx.train.state import outline
from rlx.types import Agent, Problem, PyTree, ReplayState

SPARE = 0.9  # of the free memory: compilers and allocators want some too


def needs(agent: Agent, problem: Problem) -> dict[str, int]:
    """Bytes that one member takes, by part: each buffer, what is learned, the environments. Nothing is allocated.

    What is learned counts four times: itself, the best so far, and two copies while an update works on it.
    """
    state, rows = outline(agent, problem)
    parts = {name: agent.buffers[name].nbytes(row) for name, row in rows.items()}
    parts["learned"] = 4 * _size(state)
    rollouts: list[Any] = []
    for env in agent.envs.values():
        carry = jax.eval_shape(lambda state, env=env: agent.carry(state, streams(env)), state)
        rollouts.append(carry)
        if not env.host:
            fn = lambda carry, env=env: begin(env, env.params, carry, jax.random.key(0))
            rollouts.append(jax.eval_shape(fn, carry))
    parts["environments"] = _size(rollouts)
    return parts


def _size(tree: PyTree) -> int:
    item = lambda x: 8 if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else np.dtype(x.dtype).itemsize
    return sum(int(np.prod(x.shape)) * item(x) for x in jax.tree.leaves(tree) if hasattr(x, "dtype"))


def shared(problem: Problem) -> int:
    """Bytes of data that every device holds once."""
    data = [v.data if isinstance(v, ReplayState) else v for v in problem.data.values()]
    return _size([x for x in jax.tree.leaves(data) if isinstance(x, jax.Array)])


def available(devices: Sequence[Any]) -> int | None:
    """Bytes that are free on each of ``devices``; None where the device does not say."""
    stats = [d.memory_stats() for d in devices if d.platform != "cpu"]
    if any(s is None or "bytes_limit" not in s for s in stats):
        return None
    if stats:
        return int(SPARE * min(s["bytes_limit"] - s.get("bytes_in_use", 0) for s in stats if s))
    free = _free_memory()
    return None if free is None else int(SPARE * free / len(devices))


def peak() -> int:
    """The most bytes that were in use on one device so far; on the CPU, by this process."""
    stats = [d.memory_stats() for d in jax.local_devices() if d.platform != "cpu"]
    found = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
    return max(found) if found else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _free_memory() -> int | None:
    """Of this machine, or of the container that we are in."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable")))
    except (OSError, StopIteration):
        pass
    try:
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return min(found) if found else None


def most(agent: Agent, problem: Problem, devices: Sequence[Any], limit: int | None = None) -> int | None:
    """How many members fit at once on ``devices`` of this process and as many of each other one, with ``limit`` bytes each
    (None: what is free); None where nobody knows."""
    free = available(devices) if limit is None else limit
    if free is None:
        return None
    return processes.count() * len(devices) * max(0, (free - shared(problem)) // max(1, sum(needs(agent, problem).values())))


def check(agent: Agent, problem: Problem, members: int, devices: Sequence[Any], limit: int | None = None) -> None:
    """Raises ValueError where ``members`` do not fit on ``devices``, with the largest number that would."""
    can = most(agent, problem, devices, limit)
    if can is None or members <= can:
        return
    one = needs(agent, problem)
    free = available(devices) if limit is None else limit
    parts = ", ".join(f"{name} {_human(size)}" for name, size in sorted(one.items(), key=lambda x: -x[1]))
    largest = f"At most {can} fit: give" if can else "Not even one fits: give"
    raise ValueError(
        f"{members} members do not fit: each needs {_human(sum(one.values()))} ({parts}), and each of {len(devices)} "
        f"device(s) has {_human(free or 0)}. {largest} fewer, a smaller buffer, or let them take turns (waves auto)."
    )


def _human(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
