"""A stage as compiled programs.

`Program` turns the phases of one stage into functions of the `DeviceState` (agent, interactions, buffers, tally) and
compiles them: whole chunks of cycles where every phase runs on the device, single phases around host work. Trip counts are
traced, so one compiled chunk serves every length and how a run is cut never changes its bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx.replay.buffer import in_host_memory
from rlx.train import phases
from rlx.train.phases import COUNTS, Actor, Episodes, Tally
from rlx.train.placement import AXIS, P, Placement
from rlx.train.schedule import clock_at, due, on_host
from rlx.types import (
    Agent,
    AgentState,
    Array,
    Clock,
    Collect,
    Key,
    Problem,
    PyTree,
    ReplayState,
    RolloutState,
    Row,
    Sources,
    Stage,
    Update,
)


class DeviceState(NamedTuple):
    """The part of `RunState` that compiled programs take and give (donated); one leading member axis if there are members."""

    agent: AgentState
    rollouts: dict[str, RolloutState]  # device environments only
    sources: dict[str, ReplayState]  # device buffers; of shared data the member's own part (index, overlay)
    tally: Tally
    running: Array  # bool: Stage.stop has not said stop


class Program:
    """The compiled form of stage ``index``. ``frozen``: shared data by name, broadcast to members; of these, compiled code is
    given what is not in host memory, ``shared``."""

    def __init__(
        self, agent: Agent, problem: Problem, index: int, frozen: dict[str, PyTree], placement: Placement | None = None
    ):
        self.agent, self.problem, self.index, self.frozen, self.placement = agent, problem, index, frozen, placement
        self.members = None if placement is None else placement.per_process
        self.stage: Stage = agent.stages[index]
        self.on_host = [on_host(agent, problem, p) for p in self.stage.phases]
        self.shared = {k: v for k, v in frozen.items() if not in_host_memory(problem.data.get(k))}
        self.actor = Actor(agent.act, agent.carry, keys.fold)
        self._jitted: dict[Any, Callable] = {}
        self.blocks: dict[int, int] = {}  # of phases that read from the host: updates whose batches are read together
        chunk: Callable = self._run_chunk
        if placement is not None:
            chunk = placement.shard(chunk, (0, None, 0, None, None, None), (P(AXIS), P()))
        self._chunk = jax.jit(chunk, donate_argnums=0)

    def jit(self, name: Any, fn: Callable, axes: Any = None, **options: Any) -> Callable:
        """``fn`` compiled once under ``name``, mapped over members with in-axes ``axes`` where the run has members."""
        if name not in self._jitted:
            mapped = fn if self.placement is None or axes is None else self.placement.map(fn, axes)
            self._jitted[name] = jax.jit(mapped, **options)
        return self._jitted[name]

    def stream(self, root: Key, j: int) -> Key:
        """The key stream of phase ``j``; its key in a cycle is ``fold(stream, cycle)``."""
        return keys.fold(root, self.stage.name, type(self.stage.phases[j]).__name__.lower(), j)

    def clock(self, cycle: Any, before: int) -> Clock:
        return clock_at(self.agent, self.index, cycle, before)

    # ------------------------------------------------------------------------------------------------------ device cycles

    def chunk(
        self, on_device: DeviceState, root: Key, cycle: int, n: int, ignore_stop: bool = False
    ) -> tuple[DeviceState, int]:
        """Up to ``n`` cycles in one call; fewer where `Stage.stop` said stop to all, unless told to ``ignore_stop``.
        ``on_device`` is donated."""
        on_device, done = self._chunk(on_device, self.shared, root, np.int32(cycle), np.int32(n), np.bool_(ignore_stop))
        return on_device, int(done)

    def _run_chunk(
        self, on_device: DeviceState, frozen: PyTree, root: Key, cycle: Array, n: Array, ignore_stop: Array
    ) -> tuple[DeviceState, Array]:
        which = tuple(j for j, host in enumerate(self.on_host) if not host)  # no host phase is due in these cycles

        def one(on_device: DeviceState, frozen: PyTree, streams: dict[int, Key], cycle: Array) -> DeviceState:
            return self.run_phases(which, on_device, frozen, streams, cycle, whole=True)

        all_streams = lambda root: {j: self.stream(root, j) for j in which}
        each = (lambda fn, axes: fn) if self.placement is None else jax.vmap
        step, streams = each(one, (0, None, 0, None)), each(all_streams, (0,))(root)

        def body(carry: tuple[Array, DeviceState]) -> tuple[Array, DeviceState]:
            i, on_device = carry
            return i + 1, step(on_device, frozen, streams, cycle + i)

        def more(carry: tuple[Array, DeviceState]) -> Array:
            go = carry[0] < n
            if self.stage.stop is None:
                return go
            running = carry[1].running.any()
            return go & (ignore_stop | (running if self.placement is None else self.placement.any(running)))

        done, on_device = jax.lax.while_loop(more, body, (jnp.int32(0), on_device))
        return on_device, done

    def phases(self, which: tuple[int, ...], on_device: DeviceState, root: Key, cycle: int) -> DeviceState:
        """Some device phases of one cycle, for cycles that also have host work. ``on_device`` is donated."""

        def fn(on_device: DeviceState, frozen: PyTree, root: Key, cycle: Array) -> DeviceState:
            return self.run_phases(which, on_device, frozen, {j: self.stream(root, j) for j in which}, cycle)

        compiled = self.jit(("phases", which), fn, (0, None, 0, None), donate_argnums=0)
        return compiled(on_device, self.shared, root, np.int32(cycle))

    def run_phases(
        self,
        which: tuple[int, ...],
        on_device: DeviceState,
        frozen: PyTree,
        streams: dict[int, Key],
        cycle: Array,
        whole: bool = False,
    ) -> DeviceState:
        """The phases numbered ``which``, of one member. ``whole``: they are a cycle, and the clock says which are due."""
        before = on_device
        for j in which:
            phase = self.stage.phases[j]

            def run(on_device: DeviceState, j: int = j, phase: Any = phase) -> DeviceState:
                do = self._collect if isinstance(phase, Collect) else self._update
                return do(phase, j, on_device, frozen, keys.fold(streams[j], cycle), cycle)

            if whole and phase.every > 1:
                on_device = jax.lax.cond(due(phase, cycle), run, lambda on_device: on_device, on_device)
            else:
                on_device = run(on_device)
        on_device = self.freeze_inactive(before, on_device)
        return self.ask_stop(on_device) if whole else on_device

    def freeze_inactive(self, before: DeviceState, after: DeviceState) -> DeviceState:
        """Among members, one that has stopped or diverged keeps what it had learned. Only this is selected: a select over a
        replay would copy it."""
        if self.members is None:
            return after
        go = before.running & (after.tally.first_nan_update < 0)
        learned = jax.tree.map(lambda new, old: jnp.where(go, new, old), after.agent.learned, before.agent.learned)
        return after._replace(agent=after.agent._replace(learned=learned))

    def ask_stop(self, on_device: DeviceState) -> DeviceState:
        """End of a cycle: does the stage stop?"""
        if self.stage.stop is None:
            return on_device
        return on_device._replace(running=on_device.running & ~self.stage.stop(on_device.agent))

    # ------------------------------------------------------------------------------------------------------------- phases

    def sources(self, on_device: DeviceState, frozen: PyTree) -> dict[str, Any]:
        """What samplers and methods see: buffers, and shared data joined with the member's own index and overlay."""
        joined = {k: ReplayState(s.index, frozen[k], s.overlay) if k in frozen else s for k, s in on_device.sources.items()}
        return {**frozen, **joined}

    def env_params(self, phase: Collect, state: AgentState, sources: Sources) -> PyTree:
        return phase.params(state, sources) if phase.params else self.agent.envs[phase.env].params

    def collect(
        self, phase: Collect, j: int, on_device: DeviceState, frozen: PyTree, key: Key, cycle: Array
    ) -> tuple[RolloutState, Row, Row, Episodes]:
        """`phases.collect` in a device environment."""
        params = self.env_params(phase, on_device.agent, self.sources(on_device, frozen))
        env, before, clock = self.agent.envs[phase.env], on_device.rollouts[phase.env], self.clock(cycle, j)
        return phases.collect(phase, env, self.actor, on_device.agent, clock, params, before, key)

    def store_rollout(
        self,
        phase: Collect,
        on_device: DeviceState,
        rows: Row,
        tail: Row,
        ended: Episodes,
        key: Key,
        cycle: Array,
        store: bool = True,
    ) -> DeviceState:
        """Rows into their buffer (unless that is in host memory), into the tally, and to the agent where it observes them."""
        buffers, state = dict(on_device.sources), on_device.agent
        if phase.into and store:
            buffers[phase.into] = phases.store(phase, self.agent.buffers[phase.into], buffers[phase.into], rows, tail)
        if phase.observe:
            state = phase.observe(state, rows, keys.fold(key, "observe"))
        tally = phases.count_rows(on_device.tally, phase, self.agent.envs[phase.env], rows, ended, cycle)
        return on_device._replace(agent=state, sources=buffers, tally=tally)

    def _collect(self, phase: Collect, j: int, on_device: DeviceState, frozen: PyTree, key: Key, cycle: Array) -> DeviceState:
        after, rows, tail, ended = self.collect(phase, j, on_device, frozen, key, cycle)
        on_device = on_device._replace(rollouts={**on_device.rollouts, phase.env: after})
        return self.store_rollout(phase, on_device, rows, tail, ended, key, cycle)

    def _update(self, phase: Update, j: int, on_device: DeviceState, frozen: PyTree, key: Key, cycle: Array) -> DeviceState:
        current, clock = self.sources(on_device, frozen), self.clock(cycle, j)
        given = on_device.agent, current, on_device.tally, clock, key
        state, priorities, tally = phases.update(phase, *given, jnp.arange(phase.n))
        sources = dict(phases.with_priorities(on_device.sources, priorities))
        return on_device._replace(agent=state, sources=sources, tally=tally)

    def fault(self, tally: Tally, nan_update: np.ndarray, nan_cycle: np.ndarray) -> str:
        """What stopped being finite; empty where nothing did. ``nan_update``, ``nan_cycle``: the tally's, of all members."""
        if (nan_cycle >= 0).any():
            envs = {self.agent.envs[p.env].name for p in self.stage.phases if isinstance(p, Collect)}
            where = f"cycle {nan_cycle.max()} of stage {self.stage.name!r}"
            return f"an observation or reward of {', '.join(sorted(envs))} was not finite in {where}."
        if (nan_update >= 0).any():
            names = [k for k, v in tally.sums.items() if not np.isfinite(np.asarray(v)).all()]
            return f"{', '.join(names)} stopped being finite at update {nan_update.max()}."
        return ""

    def empty_tally(self, on_device: DeviceState, frozen: PyTree) -> Tally:
        """Zeros of the structure that this stage fills; ``on_device`` of one member, its tally ignored."""
        zero = {k: jnp.int32(0) for k in COUNTS}
        names: dict[str, None] = {}
        peaks: dict[str, Any] = {}
        for j, phase in enumerate(self.stage.phases):
            if isinstance(phase, Update):
                current, clock = self.sources(on_device, frozen), self.clock(0, j)
                names.update(dict.fromkeys(phases.metric_names(self.agent, phase, on_device.agent, current, clock)))
            elif isinstance(phase, Collect) and phase.counts == "real":
                averaged, greatest = phases.decision_infos(self.agent.envs[phase.env].spec)
                names.update(dict.fromkeys(averaged))
                peaks |= {k: jnp.float32(-jnp.inf) for k in greatest}
        empty = {k: jnp.float32(0) for k in names}
        return Tally(zero, empty, dict(empty), peaks, jnp.int32(-1), jnp.int32(-1), Episodes.none())


def program_of(
    agent: Agent, problem: Problem, index: int, frozen: dict[str, PyTree], placement: Placement | None = None
) -> Program:
    """The compiled form of stage ``index``. A solo run leaves it with the agent, as long as that lives: another run of the same
    agent on the same problem compiles nothing."""
    if placement is not None:
        return Program(agent, problem, index, frozen, placement)
    made: dict[int, Program] = vars(agent).setdefault("programs", {})
    if index not in made or made[index].problem is not problem:
        made[index] = Program(agent, problem, index, frozen)
    return made[index]
