"""A stage as compiled programs.

`Program` turns the phases of one stage into pure functions of the *live* state (agent, interactions, buffers, tally) and
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
from rlx.replay import reweigh
from rlx.train.spread import AXIS, P, Spread
from rlx.types import (
    Agent,
    AgentState,
    Array,
    Clock,
    Collect,
    Host,
    Key,
    Loop,
    Out,
    Phase,
    Problem,
    PyTree,
    ReplayState,
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
    bad: Array  # int32: the update that first gave a non-finite metric, -1 if none
    blind: Array  # int32: the cycle that first brought a non-finite observation or reward, -1 if none


class Live(NamedTuple):
    """The part of `RunState` that compiled programs take and give (donated); one leading member axis if there are members."""

    agent: AgentState
    loops: dict[str, Loop]  # device environments only
    sources: dict[str, ReplayState]  # device buffers; of shared data the member's own part (meta, overlay)
    tally: Tally
    running: Array  # bool: Stage.stop has not said stop


# ----------------------------------------------------------------------------------------------------------------- clocks


def due(phase: Phase, cycle: Any) -> Any:
    return (cycle + 1) % phase.every == 0


def streams(env: VecEnv) -> int:
    """Streams per member."""
    return env.per if isinstance(env, HostVec) else env.n


def amount(agent: Agent, phase: Phase) -> tuple[int, int]:
    """(slots, updates) of one run of a phase. Imagined slots are not counted."""
    if isinstance(phase, Collect):
        return (phase.steps * streams(agent.envs[phase.env]) if phase.counts == "real" else 0), 0
    return (0, phase.n) if isinstance(phase, Update) else (0, 0)


def budget(agent: Agent, stage: Stage) -> tuple[int, int]:
    """(slots, updates) of a whole stage."""
    sizes = [[a * (stage.cycles // p.every) for a in amount(agent, p)] for p in stage.phases]
    slots, updates = zip(*sizes, strict=True) if sizes else ((0,), (0,))
    return sum(slots), sum(updates)


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


def count(tally: Tally, metrics: dict[str, Array], length: int, clock: Clock) -> Tally:
    """The metrics [n] of ``length`` updates, the first of them at ``clock``, added to the tally."""
    counts = {**tally.counts, "updates": tally.counts["updates"] + length}
    if not metrics:
        return tally._replace(counts=counts)
    metrics = {k: jnp.asarray(v, jnp.float32) for k, v in metrics.items()}
    sums = {k: v + metrics[k].sum() if k in metrics else v for k, v in tally.sums.items()}
    n = {k: v + length if k in metrics else v for k, v in tally.n.items()}
    wrong = ~jnp.isfinite(sum(metrics.values()))
    bad = jnp.where((tally.bad < 0) & wrong.any(), clock.updates + jnp.argmax(wrong), tally.bad).astype(jnp.int32)
    return tally._replace(counts=counts, sums=sums, n=n, bad=bad)


class Program:
    """The compiled form of stage ``index``. ``frozen``: shared data by name, broadcast to members."""

    def __init__(self, agent: Agent, problem: Problem, index: int, frozen: dict[str, PyTree], spread: Spread | None = None):
        self.agent, self.problem, self.index, self.frozen, self.spread = agent, problem, index, frozen, spread
        self.members = None if spread is None else spread.slots
        self.stage = agent.stages[index]
        self.on_host = [self._is_host(p) for p in self.stage.phases]
        self._jitted: dict[Any, Callable] = {}
        chunk: Callable = self._run_chunk
        if spread is not None:
            chunk = spread.shard(chunk, (0, None, 0, None, None, None), (P(AXIS), P()))
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
            self._jitted[name] = jax.jit(fn if self.spread is None or axes is None else self.spread.map(fn, axes), **options)
        return self._jitted[name]

    def stream(self, root: Key, j: int) -> Key:
        """The key stream of phase ``j``; its key in a cycle is ``fold(stream, cycle)``."""
        return keys.fold(root, self.stage.name, type(self.stage.phases[j]).__name__.lower(), j)

    def clock(self, cycle: Any, before: int) -> Clock:
        return clock_at(self.agent, self.index, cycle, before)

    # ------------------------------------------------------------------------------------------------------ device cycles

    def chunk(self, live: Live, root: Key, cycle: int, n: int, insist: bool = False) -> tuple[Live, int]:
        """Up to ``n`` cycles in one call; fewer where `Stage.stop` said stop to all, unless told to ``insist``.
        ``live`` is donated."""
        live, done = self._chunk(live, self.frozen, root, np.int32(cycle), np.int32(n), np.bool_(insist))
        return live, int(done)

    def _run_chunk(self, live: Live, frozen: PyTree, root: Key, cycle: Array, n: Array, insist: Array) -> tuple[Live, Array]:
        which = tuple(j for j, host in enumerate(self.on_host) if not host)  # no host phase is due in these cycles

        def one(live: Live, frozen: PyTree, streams: dict[int, Key], cycle: Array) -> Live:
            return self.run_phases(which, live, frozen, streams, cycle, whole=True)

        all_streams = lambda root: {j: self.stream(root, j) for j in which}
        step, make = (one, all_streams) if self.spread is None else (jax.vmap(one, (0, None, 0, None)), jax.vmap(all_streams))
        streams = make(root)

        def body(carry: tuple[Array, Live]) -> tuple[Array, Live]:
            i, live = carry
            return i + 1, step(live, frozen, streams, cycle + i)

        def more(carry: tuple[Array, Live]) -> Array:
            go = carry[0] < n
            if self.stage.stop is None:
                return go
            running = carry[1].running.any()
            return go & (insist | (running if self.spread is None else self.spread.any(running)))

        done, live = jax.lax.while_loop(more, body, (jnp.int32(0), live))
        return live, done

    def phases(self, which: tuple[int, ...], live: Live, root: Key, cycle: int) -> Live:
        """Some device phases of one cycle, for cycles that also have host work. ``live`` is donated."""

        def fn(live: Live, frozen: PyTree, root: Key, cycle: Array) -> Live:
            return self.run_phases(which, live, frozen, {j: self.stream(root, j) for j in which}, cycle)

        return self.jit(("phases", which), fn, (0, None, 0, None), donate_argnums=0)(live, self.frozen, root, np.int32(cycle))

    def run_phases(
        self, which: tuple[int, ...], live: Live, frozen: PyTree, streams: dict[int, Key], cycle: Array, whole: bool = False
    ) -> Live:
        """The phases numbered ``which``, of one member. ``whole``: they are a cycle, and the clock says which are due."""
        before = live
        for j in which:
            phase = self.stage.phases[j]

            def run(live: Live, j: int = j, phase: Any = phase) -> Live:
                do = self._collect if isinstance(phase, Collect) else self._update
                return do(phase, j, live, frozen, keys.fold(streams[j], cycle), cycle)

            if whole and phase.every > 1:
                live = jax.lax.cond(due(phase, cycle), run, lambda live: live, live)
            else:
                live = run(live)
        live = self.hold(before, live)
        return self.ask_stop(live) if whole else live

    def hold(self, before: Live, after: Live) -> Live:
        """Among members, one that has stopped or diverged keeps what it had learned. Only this is selected: a select over a
        replay would copy it."""
        if self.members is None:
            return after
        go = before.running & (after.tally.bad < 0)
        learned = jax.tree.map(lambda new, old: jnp.where(go, new, old), after.agent.learned, before.agent.learned)
        return after._replace(agent=after.agent._replace(learned=learned))

    def ask_stop(self, live: Live) -> Live:
        """End of a cycle: does the stage stop?"""
        return live._replace(running=live.running & ~self.stage.stop(live.agent)) if self.stage.stop else live

    # ------------------------------------------------------------------------------------------------------------- phases

    def sources(self, live: Live, frozen: PyTree) -> dict[str, Any]:
        """What samplers and methods see: buffers, and shared data joined with the member's own index and overlay."""
        joined = {k: ReplayState(s.meta, frozen[k], s.overlay) if k in frozen else s for k, s in live.sources.items()}
        return {**frozen, **joined}

    def _collect(self, phase: Collect, j: int, live: Live, frozen: PyTree, key: Key, cycle: Array) -> Live:
        env, loop, clock = self.agent.envs[phase.env], live.loops[phase.env], self.clock(cycle, j)
        params = self.env_params(phase, live.agent, self.sources(live, frozen))
        buffers = dict(live.sources)
        if phase.fresh:
            if phase.into:
                buffers[phase.into] = self.agent.buffers[phase.into].close(buffers[phase.into])
            loop = begin(env, params, self.agent.carry(live.agent, env.n), keys.fold(key, "reset"))

        def policy(carry: PyTree, step: Any, now: Key) -> Any:
            return self.agent.act(live.agent, clock, carry, step, now, phase.mode)

        loop, rows, tail = rollout(env, params, policy, loop, key, phase.steps)
        live = live._replace(loops={**live.loops, phase.env: loop}, sources=buffers)
        return self.absorb(phase, live, rows, tail, key, cycle)

    def env_params(self, phase: Collect, state: AgentState, sources: Sources) -> PyTree:
        return phase.params(state, sources) if phase.params else self.agent.envs[phase.env].params

    def absorb(self, phase: Collect, live: Live, rows: Row, tail: Row, key: Key, cycle: Array, store: bool = True) -> Live:
        """Rows into their buffer, their count into the tally, and a look at them for the agent."""
        env, buffers, state = self.agent.envs[phase.env], dict(live.sources), live.agent
        if phase.into and store:
            buffers[phase.into] = self.agent.buffers[phase.into].add(buffers[phase.into], rows, tail)
        if phase.observe:
            state = phase.observe(state, rows, keys.fold(key, "observe"))
        steps = jnp.sum(rows.valid & ~rows.last, dtype=jnp.int32)
        counts = dict(live.tally.counts)
        new = {"env_steps": steps, "sim_steps": steps * env.spec.repeat} if phase.counts == "real" else {"model_steps": steps}
        counts.update({k: counts[k] + v for k, v in new.items()})
        floats = [x for x in jax.tree.leaves((rows.obs, rows.reward)) if jnp.issubdtype(x.dtype, jnp.floating)]
        fine = jnp.stack([jnp.isfinite(x).all() for x in floats]).all()
        blind = jnp.where((live.tally.blind < 0) & ~fine, cycle, live.tally.blind).astype(jnp.int32)
        tally = live.tally._replace(counts=counts, blind=blind)
        return live._replace(agent=state, sources=buffers, tally=tally)

    def _update(self, phase: Update, j: int, live: Live, frozen: PyTree, key: Key, cycle: Array) -> Live:
        clock, sources, names = self.clock(cycle, j), self.sources(live, frozen), self.reweighed(phase)

        def one(carry: tuple, x: tuple) -> tuple:
            (state, weights), (i, pair) = carry, x
            seen = {**sources, **{k: sources[k]._replace(meta=sources[k].meta._replace(weight=w)) for k, w in weights.items()}}
            now = clock._replace(updates=clock.updates + i)
            batch = phase.sample(state.hyper, now, seen, pair[0])
            state, out = phase.update(state, now, batch, pair[1])
            if names:
                weights = self.reweigh(phase, seen, batch, out)
            return (state, weights), out.metrics

        i = jnp.arange(phase.n)
        weights = {k: sources[k].meta.weight for k in names}
        metrics: dict[str, Array]
        (state, weights), metrics = jax.lax.scan(one, (live.agent, weights), (i, update_keys(key, i)))
        buffers = dict(live.sources)
        for k, w in weights.items():
            buffers[k] = buffers[k]._replace(meta=buffers[k].meta._replace(weight=w))
        return live._replace(agent=state, sources=buffers, tally=count(live.tally, metrics, phase.n, clock))

    def fault(self, tally: Tally, bad: np.ndarray, blind: np.ndarray) -> str:
        """What stopped being finite; empty where nothing did. ``bad`` and ``blind``: those of the tally, of all members."""
        if (blind >= 0).any():
            envs = {self.agent.envs[p.env].name for p in self.stage.phases if isinstance(p, Collect)}
            where = f"cycle {blind.max()} of stage {self.stage.name!r}"
            return f"an observation or reward of {', '.join(sorted(envs))} was not finite in {where}."
        if (bad >= 0).any():
            names = [k for k, v in tally.sums.items() if not np.isfinite(np.asarray(v)).all()]
            return f"{', '.join(names)} stopped being finite at update {bad.max()}."
        return ""

    def reweighed(self, phase: Update) -> tuple[str, ...]:
        return (phase.reweighs,) if isinstance(phase.reweighs, str) else phase.reweighs

    def reweigh(self, phase: Update, sources: Sources, batch: PyTree, out: Out) -> dict[str, Array]:
        """New priority weights of the buffers that this phase reweighs."""
        index = batch.index if isinstance(batch.index, dict) else {k: batch.index for k in self.reweighed(phase)}
        return {k: reweigh(sources[k], index[k], out.priority).meta.weight for k in self.reweighed(phase)}

    def empty_tally(self, live: Live, frozen: PyTree) -> Tally:
        """Zeros of the structure that this stage fills; ``live`` of one member, its tally ignored."""
        zero = {k: jnp.int32(0) for k in COUNTS}
        names: dict[str, None] = {}
        for j, phase in enumerate(self.stage.phases):
            if isinstance(phase, Update):
                names.update(dict.fromkeys(self._metric_names(phase, j, live, frozen)))
        empty = {k: jnp.float32(0) for k in names}
        return Tally(zero, empty, dict(empty), jnp.int32(-1), jnp.int32(-1))

    def _metric_names(self, phase: Update, j: int, live: Live, frozen: PyTree) -> list[str]:
        def outs(state: AgentState, sources: Any) -> dict[str, Array]:
            clock, key = self.clock(0, j), jax.random.key(0)
            batch = phase.sample(state.hyper, clock, sources, key)
            return phase.update(state, clock, batch, key)[1].metrics

        shapes = jax.eval_shape(outs, live.agent, self.sources(live, frozen))
        wrong = {k: v.shape for k, v in shapes.items() if v.shape}
        if wrong:
            raise ValueError(f"metrics of an update must be scalars; stage {self.stage.name!r} gave shapes {wrong}.")
        return list(shapes)
