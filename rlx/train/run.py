"""`run`: an agent through its stages, with evaluation, logs, checkpoints and resume."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx.envs.base import HostVec
from rlx.precision import in_float32
from rlx.train import layout, processes
from rlx.train import members as membership
from rlx.train import state as states
from rlx.train.compilation import use_persistent_cache
from rlx.train.cycles import chunk, mixed, over
from rlx.train.evaluate import Evaluations, summary
from rlx.train.host import close
from rlx.train.lock import held
from rlx.train.options import Diverged, Interrupted, Options
from rlx.train.placement import EMPTY, Placement, by_member
from rlx.train.plan import as_key, only, validate
from rlx.train.program import program_of
from rlx.train.recording import LOOK, Callback, Recorder, means
from rlx.train.saving import Saver
from rlx.train.schedule import Schedule
from rlx.train.signals import Signals
from rlx.types import Agent, AgentState, Collect, Eval, Key, Members, Problem, RunState


@in_float32
def run(
    agent: Agent,
    problem: Problem,
    key: Key | Members | int,
    run_dir: str | os.PathLike | None = None,
    *,
    options: Options | None = None,
    init_from: AgentState | None = None,
    stages: Iterable[str] | None = None,
    callback: Callback | None = None,
    devices: Sequence[Any] | None = None,
) -> RunState:
    """Train ``agent`` on ``problem``. A pure function of ``key`` on a given machine: options do not change the result.

    Args:
        key: a seed, a typed key, or `Members` for many runs as one program (all results get a leading member axis), spread
            over the devices of all processes. See `rlx.train.population`.
        run_dir: where metrics, checkpoints and the result go; None keeps nothing. A folder with checkpoints is resumed.
        init_from: learned state to begin with, such as another run's ``RunState.agent``.
        stages: names of the stages to run, None for all.
        callback: called as ``callback(line, state)`` with each line before it is written (``line["kind"]`` is "train", "eval"
            or "event"; values are scalars, or [M] with members) and the agent's state, whose arrays are given up when
            training goes on: copy what is to be kept. It may return a dict of values to be logged with the line, and may
            raise `Stop`.
        devices: those of this process to use for members; None: all.

    Raises:
        ValueError: something does not fit together, found before anything is compiled; somebody else trains in ``run_dir``.
        Diverged: a metric or an observation stopped being finite.
        Interrupted: SIGTERM or Ctrl-C; everything is saved.
        rlx.train.processes.Gone: another process of the job does not answer any more.
    """
    agent = agent if stages is None else only(agent, stages)
    key = as_key(key)
    validate(agent, problem, key, init_from)
    use_persistent_cache()
    run_dir = None if run_dir is None else Path(run_dir).expanduser()
    alone = held(run_dir) if run_dir is not None and processes.is_process_zero() else contextlib.nullcontext()
    with alone, Signals() as signals:
        return _Runner(agent, problem, key, run_dir, options or Options(), callback, devices, signals).go(init_from)


class _Runner:
    """Goes through the plan: compiled chunks and host phases, and between them what `Schedule` says."""

    def __init__(
        self,
        agent: Agent,
        problem: Problem,
        key: Key | Members,
        run_dir: Path | None,
        options: Options,
        callback: Callback | None,
        devices: Sequence[Any] | None,
        signals: Signals,
    ):
        self.signals, self.asked_for, self.agent, self.problem, self.key = signals, agent, agent, problem, key
        self.options, self.devices = options, devices
        self.members = key if isinstance(key, Members) else None
        self.placement: Placement | None = None
        self.frozen = states.frozen_data(problem)
        self.evaluations = Evaluations()
        self.run_dir = run_dir
        self.recorder = Recorder(run_dir, options, agent.name, sum(s.cycles for s in agent.stages), callback)
        if self.members is not None:
            self._place(range(self.members.keys.shape[0]))
        whole = self.placement.whole if self.placement is not None and processes.count() > 1 else None
        self.saver = Saver(run_dir, options.keep, whole)

    def _place(self, members: Sequence[int] | np.ndarray) -> None:
        """From now on these members, each in a place of its own."""
        assert self.members is not None
        self.placement = placement = Placement.of(members, self.members.keys.shape[0], self.devices)
        wide = lambda e: replace(e, members=placement.per_process) if isinstance(e, HostVec) else e
        self.agent = replace(self.asked_for, envs={k: wide(e) for k, e in self.asked_for.envs.items()})
        self.frozen = placement.everywhere(states.frozen_data(self.problem))
        self.evaluations = Evaluations()

    # ----------------------------------------------------------------------------------------------------------- the run

    def go(self, init_from: AgentState | None) -> RunState:
        self.run = states.start(self.agent, self.problem, self.key, init_from, self.placement)
        try:
            restored = self._restore()
            with self.recorder.progress:
                first = self.run.stage
                for index in range(first, len(self.agent.stages)):
                    if not (restored and index == first):
                        self._enter(index)
                    self._run_stage()
                    if self.recorder.stop:
                        break
            self._save()
            if self.recorder.stop:
                states.begin_tally(self.program, self.run)  # counted since the last line, which the checkpoint has as such
            if self.run_dir is not None and processes.agree(stop=bool(self.signals.asked))["stop"]:
                self._stop()
            return self.run if self.placement is None else membership.by_member(self.run, self.placement)
        except processes.Gone as e:
            good = self.saver.last_good()
            raise processes.Gone(f"{e} Start all processes again: the same command goes on. {good}") from e
        finally:
            self.recorder.logger.close()
            self._close()

    def _close(self) -> None:
        """The environments that were opened; what they held (licences, ports, memory) is free again."""
        self.evaluations.close()
        for env in self.agent.envs.values():
            env.close()

    def _program(self, index: int) -> None:
        self.program = program_of(self.agent, self.problem, index, self.frozen, self.placement)
        self.schedule = Schedule.of(self.agent, self.problem, index, self.options, self.members)

    def _enter(self, index: int) -> None:
        self._program(index)
        self.evaluations.close()  # those of the stage before, whose environments may be dear
        before = str(jax.tree.structure(self.run.agent.learned))
        states.enter(self.program, self.run)
        if str(jax.tree.structure(self.run.agent.learned)) != before:
            self.run.best, self.run.retired = {}, {}  # of who died before there is nothing of the new kind

    def _run_stage(self) -> None:
        run = self.run
        n, fast = self.options.chunk_cycles or 1, self.options.chunk_cycles
        while not over(self.program, self.run) and not self.recorder.stop:
            begun = time.monotonic()
            if self.schedule.host_due(run.cycle):
                done = mixed(self.program, run)
            else:
                n = processes.agree(n=n)["n"]
                done = chunk(self.program, run, min(n, self.schedule.distance(run.cycle)))
                took = time.monotonic() - begun
                if not fast and done == n and took < self.options.chunk_seconds / 2:
                    n *= 2
                elif not fast and took > self.options.chunk_seconds:
                    n = max(1, n // 2)
            self._between(done)

    # ------------------------------------------------------------------------------------------------------ between chunks

    def _between(self, done: int) -> None:
        run, recorder, todo = self.run, self.recorder, self.schedule.after(self.run.cycle, over(self.program, self.run))
        save = todo.save or self.saver.overdue(self.options.checkpoint_seconds)
        look = time.monotonic() - recorder.last_look > LOOK
        asked = processes.agree(save=save, look=look, stop=bool(self.signals.asked))
        stop = bool(asked["stop"])  # as all agreed; a signal that comes from here on waits for the next time
        recorder.unseen += done
        exchanges = self.schedule.exchange_every is not None
        if todo.evals or todo.log or asked["save"] or exchanges or stop or asked["look"]:
            self._check()  # waits for the device; otherwise host and device go on side by side
            recorder.look(run, self.program)
        if todo.evals:
            self._evaluate(todo.evals)
        if todo.log:
            self._log()
        if todo.exchange and self.placement and self.members:
            event = membership.exchange(run, self.placement, self.members, self.program.stage.name)
            if event:
                recorder.write("event", event, run, self.program)
        if todo.evals and not exchanges:
            self._compact()
        if recorder.callback is not None and processes.agree(stop=bool(recorder.stop))["stop"]:
            recorder.stop = recorder.stop or "the callback of another process"
        if asked["save"] or stop:
            self._save()
        if stop:
            self._stop()

    def _stop(self) -> None:
        where = f"stage {self.program.stage.name!r} after cycle {self.run.cycle} of {self.program.stage.cycles}"
        kept = "The same command goes on from there." if self.run_dir else "Nothing was kept: there is no run folder."
        raise Interrupted(f"{self.signals.asked or 'a signal to another process of the job'}: stopped in {where}. {kept}")

    def _evaluate(self, evals: Sequence[Eval]) -> None:
        run, program, placement = self.run, self.program, self.placement
        report = self.evaluations(run, program, evals)
        for ev, episodes in zip(evals, report.values(), strict=True):
            line = summary(ev, {k: self._of_living(v) for k, v in episodes.items()})
            self.recorder.write("eval", line, run, program)
        first = next(iter(report))
        score = report[first]["returns"].mean(-1).astype(np.float32)
        run.reports["scores"] = np.where(run.alive, by_member(placement, score, -np.inf), -np.inf).astype(np.float32)
        if self.options.keep_best and first == self.schedule.evals[0].name:
            run.best = states.better(run, score)
        make = program.jit("report key", lambda k, cycle: keys.fold(k, "on_eval", program.stage.name, cycle), (0, None))
        hook = program.jit("on_eval", self.agent.on_eval, (0, 0, 0))
        arrays = {name: {k: jnp.asarray(v) for k, v in e.items()} for name, e in report.items()}
        run.agent = states.own(hook(run.agent, arrays, make(run.key, np.int32(run.cycle))))
        alive = run.reports["scores"][np.isfinite(run.reports["scores"])] if self.members else score
        self.recorder.progress.score(float(np.mean(alive)) if np.size(alive) else float("nan"))

    def _compact(self) -> None:
        """At evaluations, so that the plan alone says when: how many share a program may move the last bit of a sum."""
        living, old = membership.survivors(self.run, self.program, self.devices), self.program
        if living is None:
            return
        self._place(living)
        membership.move(self.run, old, self.placement)
        self._program(old.index)
        event = {"event": "half of the members or more have diverged: the others go on by themselves"}
        self.recorder.write("event", event, self.run, self.program)

    def _check(self) -> None:
        """Raise before anything spoiled is saved. A diverged member of several is frozen by its program and marked dead."""
        tally, run = self.run.reports["tally"], self.run
        nan_update, nan_cycle = np.asarray(tally.first_nan_update), np.asarray(tally.first_nan_cycle)
        if self.members is not None:
            run.alive = run.alive & by_member(self.placement, (nan_update < 0) & (nan_cycle < 0), False)
            if run.alive.any():
                return
            nan_update, nan_cycle = processes.gather(nan_update), processes.gather(nan_cycle)
        fault = self.program.fault(tally, nan_update, nan_cycle)
        if fault:
            raise Diverged(f"{fault} {self.saver.last_good()}")

    def _log(self) -> None:
        """A training line; the tally begins anew."""
        run, tally = self.run, self.run.reports["tally"]
        values = means(tally)
        huge = {k: v for k, v in values.items() if "loss" in k and np.max(np.abs(v)) > self.options.explode}
        if huge and self.members is None:
            name, value = next(iter(huge.items()))
            good = self.saver.last_good()
            raise Diverged(f"{name} exploded to {float(value):.3g} before cycle {run.cycle}. {good}")
        self.recorder.write("train", {k: self._of_living(v) for k, v in values.items()}, run, self.program)
        states.begin_tally(self.program, run)

    def _of_living(self, array: Any) -> np.ndarray:
        """Values by place as a line has them: by member, NaN for one that diverged, which its frozen policy says nothing of."""
        found = by_member(self.placement, array)
        if self.members is None or self.run.alive.all():
            return found
        return np.where(self.run.alive.reshape(-1, *[1] * (found.ndim - 1)), found, np.nan)

    # -------------------------------------------------------------------------------------------------------- checkpoints

    def _save(self) -> None:
        self.recorder.logger.flush()
        more: dict[str, Any] = {"lines": self.recorder.logger.lines, "seconds": self.recorder.seconds}
        more["question"] = layout.question(self.asked_for, self.key)
        self.saver.save(self.agent, self.frozen, self.run, self.placement, **more)

    def _restore(self) -> bool:
        """Into the newest readable checkpoint of the run folder, if there is one; else lines that are there go, too."""
        if self.run_dir is None:
            return False
        found = self.saver.newest(self._template) if self.options.resume else None
        if found is None:
            self.recorder.goes_on(0)
            return False
        tree, meta = found
        lost = states.unpack(self.agent, self.frozen, self.run, tree, meta, self.placement)
        done = sum(s.cycles for s in self.agent.stages[: self.run.stage]) + self.run.cycle
        self.recorder.goes_on(meta["lines"], meta["seconds"], done)
        for name, why in lost.items():
            self._cut(name, why)
        return True

    def _template(self, meta: dict[str, Any]) -> Any:
        """The tree to read a checkpoint into: the run at the entry of the stage where it was saved."""
        layout.check(meta.get("rlx"), self.run_dir or "")
        if meta.get("agent") != self.agent.name:
            raise ValueError(
                f"{self.run_dir} holds a run of {meta.get('agent')!r}, not of {self.agent.name!r}: "
                "give another run folder, or the agent that it was made with."
            )
        layout.same_question(self.asked_for, self.key, meta, self.run_dir or "")
        layout.same_past(self.agent, meta, self.run_dir or "")
        if self.members is not None:
            self._close()
            self._place([m for m in meta["member_ids"] if m != EMPTY])
            self.run = states.start(self.agent, self.problem, self.key, None, self.placement)
        for index in range(meta["stage"] + 1):
            self._enter(index)
        return states.template(self.agent, self.frozen, self.run, meta)

    def _cut(self, env: str, why: str) -> None:
        """An interaction that cannot go on ends here: its pending step is stored as truncated, and another one begins."""
        self.run.rollouts.pop(env, None)
        for phase in self.program.stage.phases:
            if isinstance(phase, Collect) and phase.env == env:
                self.run.rollouts[env] = states.begin(self.program, self.run, phase)
                close(self.program, self.run, phase.into)
        event = {"event": f"resumed with a new episode of {env}, which {why}: not bit-exact"}
        self.recorder.write("event", event, self.run, self.program)
