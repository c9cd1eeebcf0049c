"""`run`: an agent through its stages, with evaluation, logs, checkpoints and resume."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx.envs.base import HostVec
from rlx.train import layout, processes
from rlx.train import members as membership
from rlx.train import state as states
from rlx.train.checkpoint import Checkpoints
from rlx.train.compilation import compile_seconds, use_persistent_cache
from rlx.train.evaluate import Evaluator, summary
from rlx.train.host import close, device_state, put_back, run_phase
from rlx.train.logging import Logger, Progress
from rlx.train.options import Diverged, Interrupted, Options
from rlx.train.placement import EMPTY, Placement
from rlx.train.plan import only, validate
from rlx.train.program import Program, due
from rlx.train.signals import Signals
from rlx.types import Agent, AgentState, Collect, Eval, Members, Problem, RunState

LOOK = 0.5  # seconds between two looks at the device from stages that run on the host


def run(
    agent: Agent,
    problem: Problem,
    key: Any,
    run_dir: str | os.PathLike | None = None,
    *,
    options: Options | None = None,
    init_from: AgentState | None = None,
    stages: Iterable[str] | None = None,
    on_report: Callable[[dict[str, Any]], None] | None = None,
    devices: Sequence[Any] | None = None,
) -> RunState:
    """Train ``agent`` on ``problem``. A pure function of ``key`` on a given machine: options do not change the result.

    Args:
        key: a typed key, or `Members` for many runs as one program (all results get a leading member axis), spread over the
            devices of all processes. See `rlx.train.population`.
        run_dir: where metrics, checkpoints and the result go; None keeps nothing. A folder with checkpoints is resumed.
        init_from: learned state to begin with, such as another run's ``RunState.agent``.
        stages: names of the stages to run, None for all.
        on_report: called with each evaluation's report.
        devices: those of this process to use for members; None: all.

    Raises:
        ValueError: something does not fit together, found before anything is compiled.
        Diverged: a metric or an observation stopped being finite.
        Interrupted: SIGTERM or Ctrl-C; everything is saved.
        rlx.train.processes.Gone: another process of the job does not answer any more.
    """
    agent = agent if stages is None else only(agent, stages)
    validate(agent, problem, key)
    use_persistent_cache()
    with Signals() as signals:
        return _Runner(agent, problem, key, run_dir, options or Options(), on_report, devices, signals).go(init_from)


class _Runner:
    def __init__(
        self,
        agent: Agent,
        problem: Problem,
        key: Any,
        run_dir: str | os.PathLike | None,
        options: Options,
        on_report: Any,
        devices: Sequence[Any] | None,
        signals: Signals,
    ):
        self.signals, self.asked_for, self.agent, self.problem, self.key = signals, agent, agent, problem, key
        self.options, self.on_report, self.devices = options, on_report, devices
        self.members = key if isinstance(key, Members) else None
        self.exchange = self.members if self.members and self.members.exchange else None
        self.placement: Placement | None = None
        self.frozen = states.frozen_data(problem)
        self.run_dir = run_dir = Path(run_dir) if run_dir is not None else None
        zero = processes.is_process_zero()
        self.logger = Logger(run_dir if zero else None, options.tensorboard and zero, options.wandb if zero else None)
        self.total = sum(s.cycles for s in agent.stages)
        self.progress: Any = None
        self.last_look = self.last_save = self.started = time.monotonic()
        self.unseen, self.past_seconds = 0, 0.0
        self.compile_at_start = compile_seconds()
        self.evaluators: dict[tuple[str, int], Evaluator] = {}
        if self.members is not None:
            self._place(range(self.members.keys.shape[0]))
        whole = self.placement.whole if self.placement is not None and processes.count() > 1 else None
        self.checkpoints = Checkpoints(run_dir / "checkpoints", keep=options.keep, whole=whole) if run_dir else None

    def _place(self, members: Sequence[int] | np.ndarray) -> None:
        """From now on these members, each in a place of its own."""
        assert self.members is not None
        self.placement = placement = Placement.of(members, self.members.keys.shape[0], self.devices)
        wide = lambda e: replace(e, members=placement.per_process) if isinstance(e, HostVec) else e
        self.agent = replace(self.asked_for, envs={k: wide(e) for k, e in self.asked_for.envs.items()})
        self.frozen = placement.everywhere(states.frozen_data(self.problem))
        self.evaluators = {}

    # ----------------------------------------------------------------------------------------------------------- the run

    def go(self, init_from: AgentState | None) -> RunState:
        self.run = states.start(self.agent, self.problem, self.key, init_from, self.placement)
        restored = self._restore()
        try:
            with Progress(self.agent.name, self.total, self.options.progress and processes.is_process_zero()) as self.progress:
                first = self.run.stage
                for index in range(first, len(self.agent.stages)):
                    if not (restored and index == first):
                        self._enter(index)
                    self._run_stage()
            self._save(final=True)
            return self.run if self.placement is None else membership.by_member(self.run, self.placement)
        except processes.Gone as e:
            raise processes.Gone(f"{e} Start all processes again: the same command goes on. {self._last_good()}") from e
        finally:
            self.logger.close()

    def _enter(self, index: int) -> None:
        self.program = Program(self.agent, self.problem, index, self.frozen, self.placement)
        before = str(jax.tree.structure(self.run.agent.learned))
        states.enter(self.program, self.run)
        if str(jax.tree.structure(self.run.agent.learned)) != before:
            self.run.best, self.run.retired = {}, {}  # of who died before there is nothing of the new kind

    def _run_stage(self) -> None:
        run = self.run
        n, fast = self.options.chunk_cycles or 1, self.options.chunk_cycles
        while not self._over():
            begun = time.monotonic()
            if self.program.host_due(run.cycle):
                self._mixed_cycle()
                done = 1
            else:
                n = processes.agree(n=n)["n"]
                done = self._chunk(min(n, self._distance()))
                took = time.monotonic() - begun
                if not fast and done == n and took < self.options.chunk_seconds / 2:
                    n *= 2
                elif not fast and took > self.options.chunk_seconds:
                    n = max(1, n // 2)
            self._between(done)

    def _chunk(self, n: int) -> int:
        """Up to ``n`` cycles in one call; the number done. Where a stage stops early, all processes stop together."""
        run, program = self.run, self.program
        state, done = program.chunk(device_state(program, run), run.key, run.cycle, n)
        if program.stage.stop is not None:
            most = processes.agree(done=done)["done"]
            if most > done:
                state, more = program.chunk(state, run.key, run.cycle + done, most - done, ignore_stop=True)
                done += more
        put_back(program, run, state)
        run.cycle += done
        return done

    def _over(self) -> bool:
        stage, run = self.program.stage, self.run
        if run.cycle >= stage.cycles or stage.stop is None:
            return run.cycle >= stage.cycles
        return not processes.agree(running=int(np.asarray(run.reports["running"]).any()))["running"]

    def _mixed_cycle(self) -> None:
        """A cycle with host work: runs of device phases compiled together, host phases one by one."""
        program, run = self.program, self.run
        waiting: list[int] = []

        def flush() -> None:
            if waiting:
                put_back(program, run, program.phases(tuple(waiting), device_state(program, run), run.key, run.cycle))
                waiting.clear()

        for j, phase in enumerate(program.stage.phases):
            if not due(phase, run.cycle):
                continue
            if program.on_host[j]:
                flush()
                run_phase(program, run, j)
            else:
                waiting.append(j)
        flush()
        if program.stage.stop is not None:
            put_back(program, run, program.jit("stop", program.ask_stop, (0,), donate_argnums=0)(device_state(program, run)))
        run.cycle += 1

    def _distance(self) -> int:
        """Cycles until something on the host has to happen."""
        stage, cycle = self.program.stage, self.run.cycle
        every = [self._log_every(), *(e.every for e in self._evals())]
        every += [self.options.checkpoint_cycles] if self.options.checkpoint_cycles else []
        every += [self.exchange.every] if self.exchange else []
        distances = [stage.cycles - cycle, *(e - cycle % e for e in every)]
        distances += [p.every - 1 - cycle % p.every for p, h in zip(stage.phases, self.program.on_host, strict=True) if h]
        return max(1, min(distances))

    def _log_every(self) -> int:
        return self.options.log_every or max(1, self.program.stage.cycles // 100)

    def _evals(self) -> list[Eval]:
        name = self.program.stage.name
        return [e for e in self.agent.evals if not e.stages or name in e.stages]

    def _between(self, done: int) -> None:
        """Between two chunks: checks, evaluations, logs, checkpoints."""
        run, over, seconds, every = self.run, self._over(), self.options.checkpoint_seconds, self.options.checkpoint_cycles
        evals = [e for e in self._evals() if over or run.cycle % e.every == 0]
        log = over or run.cycle % self._log_every() == 0
        save = bool(every and run.cycle % every == 0) or 0 < seconds < time.monotonic() - self.last_save
        look = time.monotonic() - self.last_look > LOOK
        asked = processes.agree(save=save, look=look, stop=bool(self.signals.asked))
        save, look = bool(asked["save"]), bool(asked["look"])
        if asked["stop"] and not self.signals.asked:
            self.signals.asked = "a signal to another process of the job"
        self.unseen += done
        if evals or log or save or self.exchange or self.signals.asked or look:
            self._look()  # waits for the device; otherwise host and device go on side by side
        if evals:
            self._evaluate(evals)
        if log:
            self._log()
        if self.exchange and self.placement and run.cycle % self.exchange.every == 0:
            event = membership.exchange(run, self.placement, self.exchange, self.program.stage.name)
            if event:
                self._write("event", event)
        if evals and not self.exchange:
            self._compact()
        if save or self.signals.asked:
            self._save()
        if self.signals.asked:
            cycles = self.program.stage.cycles
            raise Interrupted(
                f"{self.signals.asked}: stopped in stage {self.program.stage.name!r} after cycle {run.cycle} of {cycles}. "
                + ("The same command goes on from there." if self.run_dir else "Nothing was kept: there is no run folder.")
            )

    def _look(self) -> None:
        self._check()
        self.progress.advance(self.unseen, **self._speeds())
        self.unseen, self.last_look = 0, time.monotonic()

    # -------------------------------------------------------------------------------------------------------- evaluation

    def _evaluate(self, evals: list[Eval]) -> None:
        run, program, report = self.run, self.program, {}
        for e in evals:
            where = (e.name, program.index)
            if where not in self.evaluators:
                self.evaluators[where] = Evaluator(program, e)
            report[e.name] = self.evaluators[where](run)
            run.counts["eval_steps"] = run.counts["eval_steps"] + report[e.name]["lengths"].sum(-1)
        for name, episodes in report.items():
            line = summary(name, {k: self._by_member(v) for k, v in episodes.items()})
            self._write("eval", line)
            if self.on_report:
                self.on_report({**line, **self._where()})
        first = next(iter(report))
        score = report[first]["returns"].mean(-1).astype(np.float32)
        run.reports["scores"] = np.where(run.alive, self._by_member(score, -np.inf), -np.inf).astype(np.float32)
        if self.options.keep_best and first == self._evals()[0].name:
            run.best = states.better(run, score)
        make = program.jit("report key", lambda k, cycle: keys.fold(k, "on_eval", program.stage.name, cycle), (0, None))
        hook = program.jit("on_eval", self.agent.on_eval, (0, 0, 0))
        arrays = {name: {k: jnp.asarray(v) for k, v in e.items()} for name, e in report.items()}
        run.agent = states.own(hook(run.agent, arrays, make(run.key, np.int32(run.cycle))))
        alive = run.reports["scores"][np.isfinite(run.reports["scores"])] if self.members else score
        self.progress.score(float(np.mean(alive)) if np.size(alive) else float("nan"))

    def _by_member(self, places: Any, rest: Any = np.nan) -> np.ndarray:
        """An array by place as one by member, ``rest`` where a member has no place any more."""
        return np.asarray(places) if self.placement is None else self.placement.by_member(places, rest)

    def _compact(self) -> None:
        """At evaluations, so that the plan alone says when: how many share a program may move the last bit of a sum."""
        living, old = membership.survivors(self.run, self.program, self.devices), self.program
        if living is None:
            return
        self._place(living)
        membership.move(self.run, old, self.placement)
        self.program = Program(self.agent, self.problem, old.index, self.frozen, self.placement)
        self._write("event", {"event": "half of the members or more have diverged: the others go on by themselves"})

    # -------------------------------------------------------------------------------------------------- checks and records

    def _check(self) -> None:
        """Raise before anything spoiled is saved. A diverged member of several is frozen by its program and marked dead."""
        tally, run = self.run.reports["tally"], self.run
        nan_update, nan_cycle = np.asarray(tally.first_nan_update), np.asarray(tally.first_nan_cycle)
        if self.members is not None:
            run.alive = run.alive & self._by_member((nan_update < 0) & (nan_cycle < 0), False)
            if run.alive.any():
                return
            nan_update, nan_cycle = processes.gather(nan_update), processes.gather(nan_cycle)
        fault = self.program.fault(tally, nan_update, nan_cycle)
        if fault:
            raise Diverged(f"{fault} {self._last_good()}")

    def _last_good(self) -> str:
        good = self.checkpoints and self.checkpoints.last()
        return f"The last good checkpoint is {good}." if good else "There is no checkpoint before it."

    def _where(self) -> dict[str, Any]:
        run, new = self.run, self.run.reports["tally"].counts
        counts = {k: v + np.asarray(new[k]) if k in new else v for k, v in run.counts.items()}
        past = run.retired.get("counts", dict.fromkeys(counts, 0))
        counts = {k: self._by_member(v, past[k]) for k, v in counts.items()}
        wall = self.past_seconds + time.monotonic() - self.started
        return {"stage": self.program.stage.name, "cycle": run.cycle, **counts, "wall_s": round(wall, 3)}

    def _speeds(self) -> dict[str, Any]:
        where = self._where()
        return {
            "stage": where["stage"],
            "updates": int(np.sum(where["updates"])),
            "env_steps": int(np.sum(where["env_steps"])),
            "compile_s": compile_seconds() - self.compile_at_start,
        }

    def _write(self, kind: str, values: dict[str, Any]) -> None:
        self.logger.write(kind, {**self._where(), **values})

    def _log(self) -> None:
        """Means since the last line; the tally begins anew."""
        run, tally = self.run, self.run.reports["tally"]
        n = {k: np.asarray(v) for k, v in tally.n.items() if np.any(v)}  # of the others there is nothing to say
        means = {k: np.where(n[k] > 0, np.asarray(tally.sums[k]) / np.maximum(n[k], 1), np.nan) for k in n}
        huge = {k: v for k, v in means.items() if "loss" in k and np.max(np.abs(v)) > self.options.explode}
        if huge and self.members is None:
            name, value = next(iter(huge.items()))
            raise Diverged(f"{name} exploded to {float(value):.3g} before cycle {run.cycle}. {self._last_good()}")
        self._write("train", {k: self._by_member(v) for k, v in means.items()})
        for k, v in tally.counts.items():
            run.counts[k] = run.counts[k] + np.asarray(v)
        zero = self.program.jit("zero", lambda x: jax.tree.map(jnp.zeros_like, x), (0,))((tally.counts, tally.sums, tally.n))
        run.reports["tally"] = tally._replace(counts=zero[0], sums=zero[1], n=zero[2])

    # -------------------------------------------------------------------------------------------------------- checkpoints

    def _number(self) -> int:
        """Checkpoints are numbered by cycles since the start of the run, stages entered included."""
        return sum(s.cycles + 1 for s in self.agent.stages[: self.run.stage]) + self.run.cycle

    def _save(self, final: bool = False) -> None:
        if self.checkpoints is None or (self._number() in self.checkpoints.steps() and not final):
            return
        self.logger.flush()
        tree, meta = states.pack(self.agent, self.frozen, self.run)
        meta |= {} if self.placement is None else {"member_ids": self.placement.member_ids.tolist()}
        meta |= {"lines": self.logger.lines, "seconds": self.past_seconds + time.monotonic() - self.started, "final": final}
        if self._number() not in self.checkpoints.steps():
            self.checkpoints.save(self._number(), tree, meta)
        self.last_save = time.monotonic()

    def _restore(self) -> bool:
        """Into the newest readable checkpoint of the run folder, if there is one."""
        if self.checkpoints is None or not self.options.resume:
            return False
        found = self.checkpoints.newest(self._abstract)
        if found is None:
            self.logger.truncate(0)
            return False
        _, tree, meta = found
        lost = states.unpack(self.agent, self.frozen, self.run, tree, meta, self.placement)
        self.logger.truncate(meta["lines"])
        self.past_seconds = meta["seconds"]
        for name in lost:
            self._cut(name)
        return True

    def _abstract(self, meta: dict[str, Any]) -> Any:
        layout.check(meta.get("rlx"), self.run_dir or "")
        if meta.get("agent") != self.agent.name:
            raise ValueError(
                f"{self.run_dir} holds a run of {meta.get('agent')!r}, not of {self.agent.name!r}: "
                "give another run folder, or the agent that it was made with."
            )
        if self.members is not None:
            self._place([m for m in meta["member_ids"] if m != EMPTY])
            self.run = states.start(self.agent, self.problem, self.key, None, self.placement)
        for index in range(meta["stage"] + 1):
            self._enter(index)
        return states.template(self.agent, self.frozen, self.run, meta)

    def _cut(self, env: str) -> None:
        """An interaction that could not be saved ends here: its pending step is stored as truncated."""
        for phase in self.program.stage.phases:
            if isinstance(phase, Collect) and phase.env == env and phase.into:
                close(self.program, self.run, phase.into)
        self._write("event", {"event": f"resumed with a new episode of {env}, which cannot be saved: not bit-exact"})
