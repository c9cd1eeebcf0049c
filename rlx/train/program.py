"""A stage as compiled programs.

`Program` turns the phases of one stage into pure functions of the `DeviceState` (agent, interactions, buffers, tally) and
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
from rlx.envs.base import HostVec, begin, rollout
from rlx.replay import update_priorities
from rlx.train.placement import AXIS, P, Placement
from rlx.types import (
    Agent,
    AgentState,
    Array,
    Clock,
    Collect,
    Host,
    Key,
    Out,
    Phase,
    Problem,
    PyTree,
    ReplayState,
    RolloutState,
    Row,
    Sources,
    Stage,
    Update,
    VecEnv,
)

COUNTS = ("env_steps", "sim_steps", "model_steps", "updates")


class Tally(NamedTuple):
    """What a run counts on the device between two looks from the host."""

    counts: dict[str, Array]  # int32, COUNTS
    sums: dict[str, Array]  # float32, metric sums
    n: dict[str, Array]  # float32, how many were summed
    first_nan_update: Array  # int32: the update that first gave a non-finite metric, -1 if none
    first_nan_cycle: Array  # int32: the cycle that first brought a non-finite observation or reward, -1 if none


class DeviceState(NamedTuple):
    """The part of `RunState` that compiled programs take and give (donated); one leading member axis if there are members."""

    agent: AgentState
    rollouts: dict[str, RolloutState]  # device environments only
    sources: dict[str, ReplayState]  # device buffers; of shared data the member's own part (index, overlay)
    tally: Tally
    running: Array  # bool: Stage.stop has not said stop


# ----------------------------------------------------------------------------------------------------------------- clocks


def due(phase: Phase, cycle: Any) -> Any:
    return (cycle + 1) % phase.every == 0


def streams(env: VecEnv) -> int:
    """Streams per member."""
    return env.per if isinstance(env, HostVec) else env.n


def amount(agent: Agent, phase: Phase) -> tuple[int, int]:
    """(env steps, updates) of one run of a phase. Imagined steps are not counted."""
    if isinstance(phase, Collect):
        return (phase.steps * streams(agent.envs[phase.env]) if phase.counts == "real" else 0), 0
    return (0, phase.n) if isinstance(phase, Update) else (0, 0)


def budget(agent: Agent, stage: Stage) -> tuple[int, int]:
    """(env steps, updates) of a whole stage."""
    sizes = [[a * (stage.cycles // p.every) for a in amount(agent, p)] for p in stage.phases]
    env_steps, updates = zip(*sizes, strict=True) if sizes else ((0,), (0,))
    return sum(env_steps), sum(updates)


def clock_at(agent: Agent, stage_index: int, cycle: Any, before: int) -> Clock:
    """The clock in ``cycle`` of a stage, before its phase number ``before``: a function of the plan alone."""
    stage = agent.stages[stage_index]
    past = [budget(agent, s) for s in agent.stages[:stage_index]]
    total = [sum(p[0] for p in past), sum(p[1] for p in past)]
    for j, phase in enumerate(stage.phases):
        times = cycle // phase.every + (due(phase, cycle) * 1 if j < before else 0)
        for k, a in enumerate(amount(agent, phase)):
            total[k] = total[k] + a * times
    whole = lambda x: jnp.asarray(x, jnp.int32) if isinstance(x, jax.Array) else np.asarray(x, np.int32)
    return Clock(whole(cycle), whole(total[0]), whole(total[1]))


# ---------------------------------------------------------------------------------------------------------------- program


def update_keys(key: Key, i: Array) -> Key:
    """Of updates ``i`` [n] in one run of a phase: keys [n, 2] to sample and to update with."""
    return jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(i)


def count(tally: Tally, outs: Out, length: int, clock: Clock) -> Tally:
    """What ``length`` updates said (leaves [n]), the first of them at ``clock``, added to the tally."""
    counts = {**tally.counts, "updates": tally.counts["updates"] + length}
    if not outs.metrics:
        return tally._replace(counts=counts)
    metrics, valid = {k: jnp.asarray(v, jnp.float32) for k, v in outs.metrics.items()}, outs.valid or {}
    metrics = {k: jnp.where(valid[k], v, 0) if k in valid else v for k, v in metrics.items()}
    sums = {k: v + metrics[k].sum() if k in metrics else v for k, v in tally.sums.items()}
    times = {k: valid[k].sum() if k in valid else length for k in metrics}
    n = {k: v + times[k] if k in metrics else v for k, v in tally.n.items()}
    wrong = ~jnp.isfinite(sum(metrics.values()))
    nan_update = jnp.where(
        (tally.first_nan_update < 0) & wrong.any(), clock.updates + jnp.argmax(wrong), tally.first_nan_update
    ).astype(jnp.int32)
    return tally._replace(counts=counts, sums=sums, n=n, first_nan_update=nan_update)


class Program:
    """The compiled form of stage ``index``. ``frozen``: shared data by name, broadcast to members."""

    def __init__(
        self, agent: Agent, problem: Problem, index: int, frozen: dict[str, PyTree], placement: Placement | None = None
    ):
        self.agent, self.problem, self.index, self.frozen, self.placement = agent, problem, index, frozen, placement
        self.members = None if placement is None else placement.per_process
        self.stage = agent.stages[index]
        self.on_host = [self._is_host(p) for p in self.stage.phases]
        self._jitted: dict[Any, Callable] = {}
        chunk: Callable = self._run_chunk
        if placement is not None:
            chunk = placement.shard(chunk, (0, None, 0, None, None, None), (P(AXIS), P()))
        self._chunk = jax.jit(chunk, donate_argnums=0)

    def _is_host(self, phase: Phase) -> bool:
        if isinstance(phase, Host):
            return True
        if isinstance(phase, Collect):
            into = self.agent.buffers.get(phase.into) if phase.into else None
            return self.agent.envs[phase.env].host or (into is not None and not into.device)
        return any(not self.agent.buffers[s].device for s in phase.sample.sources if s in self.agent.buffers)

    def host_due(self, cycle: int) -> bool:
        """Whether some phase of this cycle runs on the host."""
        return any(h and due(p, cycle) for h, p in zip(self.on_host, self.stage.phases, strict=True))

    def jit(self, name: Any, fn: Callable, axes: Any = None, **options: Any) -> Callable:
        """``fn`` compiled once under ``name``, mapped over members with in-axes ``axes`` where the run has members."""
        if name not in self._jitted:
            self._jitted[name] = jax.jit(
                fn if self.placement is None or axes is None else self.placement.map(fn, axes), **options
            )
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
        on_device, done = self._chunk(on_device, self.frozen, root, np.int32(cycle), np.int32(n), np.bool_(ignore_stop))
        return on_device, int(done)

    def _run_chunk(
        self, on_device: DeviceState, frozen: PyTree, root: Key, cycle: Array, n: Array, ignore_stop: Array
    ) -> tuple[DeviceState, Array]:
        which = tuple(j for j, host in enumerate(self.on_host) if not host)  # no host phase is due in these cycles

        def one(on_device: DeviceState, frozen: PyTree, streams: dict[int, Key], cycle: Array) -> DeviceState:
            return self.run_phases(which, on_device, frozen, streams, cycle, whole=True)

        all_streams = lambda root: {j: self.stream(root, j) for j in which}
        step, make = (
            (one, all_streams) if self.placement is None else (jax.vmap(one, (0, None, 0, None)), jax.vmap(all_streams))
        )
        streams = make(root)

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

        return self.jit(("phases", which), fn, (0, None, 0, None), donate_argnums=0)(
            on_device, self.frozen, root, np.int32(cycle)
        )

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
        return (
            on_device._replace(running=on_device.running & ~self.stage.stop(on_device.agent)) if self.stage.stop else on_device
        )

    # ------------------------------------------------------------------------------------------------------------- phases

    def sources(self, on_device: DeviceState, frozen: PyTree) -> dict[str, Any]:
        """What samplers and methods see: buffers, and shared data joined with the member's own index and overlay."""
        joined = {k: ReplayState(s.index, frozen[k], s.overlay) if k in frozen else s for k, s in on_device.sources.items()}
        return {**frozen, **joined}

    def _collect(self, phase: Collect, j: int, on_device: DeviceState, frozen: PyTree, key: Key, cycle: Array) -> DeviceState:
        env, rollout_state, clock = self.agent.envs[phase.env], on_device.rollouts[phase.env], self.clock(cycle, j)
        params = self.env_params(phase, on_device.agent, self.sources(on_device, frozen))
        buffers = dict(on_device.sources)
        if phase.fresh:
            if phase.into:
                buffers[phase.into] = self.agent.buffers[phase.into].close(buffers[phase.into])
            rollout_state = begin(env, params, self.agent.carry(on_device.agent, env.n), keys.fold(key, "reset"))

        def policy(carry: PyTree, step: Any, now: Key) -> Any:
            return self.agent.act(on_device.agent, clock, carry, step, now, phase.mode)

        rollout_state, rows, tail = rollout(env, params, policy, rollout_state, key, phase.steps)
        on_device = on_device._replace(rollouts={**on_device.rollouts, phase.env: rollout_state}, sources=buffers)
        return self.store_rollout(phase, on_device, rows, tail, key, cycle)

    def env_params(self, phase: Collect, state: AgentState, sources: Sources) -> PyTree:
        return phase.params(state, sources) if phase.params else self.agent.envs[phase.env].params

    def store_rollout(
        self, phase: Collect, on_device: DeviceState, rows: Row, tail: Row, key: Key, cycle: Array, store: bool = True
    ) -> DeviceState:
        """Rows into their buffer, their count into the tally, and a look at them for the agent."""
        env, buffers, state = self.agent.envs[phase.env], dict(on_device.sources), on_device.agent
        if phase.into and store:
            buffers[phase.into] = self.agent.buffers[phase.into].add(buffers[phase.into], rows, tail)
        if phase.observe:
            state = phase.observe(state, rows, keys.fold(key, "observe"))
        steps = jnp.sum(rows.valid & ~rows.last, dtype=jnp.int32)
        counts = dict(on_device.tally.counts)
        new = {"env_steps": steps, "sim_steps": steps * env.spec.repeat} if phase.counts == "real" else {"model_steps": steps}
        counts.update({k: counts[k] + v for k, v in new.items()})
        floats = [x for x in jax.tree.leaves((rows.obs, rows.reward)) if jnp.issubdtype(x.dtype, jnp.floating)]
        fine = jnp.stack([jnp.isfinite(x).all() for x in floats]).all()
        nan_cycle = jnp.where((on_device.tally.first_nan_cycle < 0) & ~fine, cycle, on_device.tally.first_nan_cycle).astype(
            jnp.int32
        )
        tally = on_device.tally._replace(counts=counts, first_nan_cycle=nan_cycle)
        return on_device._replace(agent=state, sources=buffers, tally=tally)

    def _update(self, phase: Update, j: int, on_device: DeviceState, frozen: PyTree, key: Key, cycle: Array) -> DeviceState:
        clock, sources, names = self.clock(cycle, j), self.sources(on_device, frozen), self.prioritised(phase)

        def one(carry: tuple, x: tuple) -> tuple:
            (state, priorities), (i, pair) = carry, x
            seen = {
                **sources,
                **{k: sources[k]._replace(index=sources[k].index._replace(priority=new)) for k, new in priorities.items()},
            }
            now = clock._replace(updates=clock.updates + i)
            batch = phase.sample(state.hyper, now, seen, pair[0])
            state, out = phase.update(state, now, batch, pair[1])
            if names:
                priorities = self.update_priorities(phase, seen, batch, out)
            return (state, priorities), out._replace(priority=None)

        i = jnp.arange(phase.n)
        priorities = {k: sources[k].index.priority for k in names}
        outs: Out
        (state, priorities), outs = jax.lax.scan(one, (on_device.agent, priorities), (i, update_keys(key, i)))
        buffers = dict(on_device.sources)
        for k, new in priorities.items():
            buffers[k] = buffers[k]._replace(index=buffers[k].index._replace(priority=new))
        return on_device._replace(agent=state, sources=buffers, tally=count(on_device.tally, outs, phase.n, clock))

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

    def prioritised(self, phase: Update) -> tuple[str, ...]:
        return (phase.priorities_of,) if isinstance(phase.priorities_of, str) else phase.priorities_of

    def update_priorities(self, phase: Update, sources: Sources, batch: PyTree, out: Out) -> dict[str, Array]:
        """New priorities of the buffers whose priorities this phase updates."""
        index = batch.index if isinstance(batch.index, dict) else {k: batch.index for k in self.prioritised(phase)}
        return {k: update_priorities(sources[k], index[k], out.priority).index.priority for k in self.prioritised(phase)}

    def empty_tally(self, on_device: DeviceState, frozen: PyTree) -> Tally:
        """Zeros of the structure that this stage fills; ``on_device`` of one member, its tally ignored."""
        zero = {k: jnp.int32(0) for k in COUNTS}
        names: dict[str, None] = {}
        for j, phase in enumerate(self.stage.phases):
            if isinstance(phase, Update):
                names.update(dict.fromkeys(self._metric_names(phase, j, on_device, frozen)))
        empty = {k: jnp.float32(0) for k in names}
        return Tally(zero, empty, dict(empty), jnp.int32(-1), jnp.int32(-1))

    def _metric_names(self, phase: Update, j: int, on_device: DeviceState, frozen: PyTree) -> list[str]:
        def outs(state: AgentState, sources: Any) -> Out:
            clock, key = self.clock(0, j), jax.random.key(0)
            batch = phase.sample(state.hyper, clock, sources, key)
            return phase.update(state, clock, batch, key)[1]

        out = jax.eval_shape(outs, on_device.agent, self.sources(on_device, frozen))
        wrong = {k: v.shape for k, v in out.metrics.items() if v.shape}
        if wrong:
            raise ValueError(f"metrics of an update must be scalars; stage {self.stage.name!r} gave shapes {wrong}.")
        flag = lambda v: (v.shape, v.dtype) == ((), bool)
        odd = {k: f"{v.dtype}{v.shape}" for k, v in (out.valid or {}).items() if k not in out.metrics or not flag(v)}

        if odd:
            raise ValueError(
                f"Out.valid names metrics, a bool each; stage {self.stage.name!r} gave {odd} where its metrics are "
                f"{', '.join(out.metrics) or 'none'}."
            )
        return list(out.metrics)
