"""`run`: an agent through its stages, with evaluation, logs, checkpoints and resume."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx.envs.base import HostVec
from rlx.train import state as states
from rlx.train.checkpoint import Checkpoints
from rlx.train.compilation import compile_seconds, use_persistent_cache
from rlx.train.evaluate import Evaluator
from rlx.train.host import close, live_of, put_back, run_phase
from rlx.train.logging import Logger, Progress
from rlx.train.options import Diverged, Interrupted, Options
from rlx.train.plan import validate
from rlx.train.program import Program, due
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
) -> RunState:
    """Train ``agent`` on ``problem``. A pure function of ``key`` on a given machine: options do not change the result.

    Args:
        key: a typed key, or `Members` for many runs as one program (all results get a leading member axis).
        run_dir: where metrics, checkpoints and the result go; None keeps nothing. A folder with checkpoints is resumed.
        init_from: learned state to begin with, such as another run's ``RunState.agent``.
        stages: names of the stages to run, None for all.
        on_report: called with each evaluation's report.

    Raises:
        ValueError: something does not fit together, found before anything is compiled.
        Diverged: a metric or an observation stopped being finite.
        Interrupted: SIGTERM or Ctrl-C; everything is saved.
    """
    if stages is not None:
        names = list(stages)
        unknown = set(names) - {s.name for s in agent.stages}
        if unknown:
            raise ValueError(f"unknown stages {sorted(unknown)}; {agent.name} has {[s.name for s in agent.stages]}.")
        agent = replace(agent, stages=tuple(s for s in agent.stages if s.name in names))
    validate(agent, problem, key)
    use_persistent_cache()
    runner = _Runner(agent, problem, key, Path(run_dir) if run_dir is not None else None, options or Options(), on_report)
    with _signals(runner):
        return runner.go(init_from)


class _signals:
    """SIGTERM and SIGINT become a request that the runner honours between two chunks. Main thread only."""

    def __init__(self, runner: _Runner):
        self.runner = runner
        self.old: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for s in (signal.SIGTERM, signal.SIGINT):
                self.old[s] = signal.signal(s, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        del frame
        if self.runner.asked_to_stop:  # asked twice: at once
            raise KeyboardInterrupt
        self.runner.asked_to_stop = signal.Signals(number).name

    def __exit__(self, *error: Any) -> None:
        for s, handler in self.old.items():
            signal.signal(s, handler)


class _Runner:
    def __init__(self, agent: Agent, problem: Problem, key: Any, run_dir: Path | None, options: Options, on_report: Any):
        self.agent, self.problem, self.key, self.options, self.on_report = agent, problem, key, options, on_report
        self.members = key.keys.shape[0] if isinstance(key, Members) else None
        self.exchange = key if isinstance(key, Members) and key.exchange else None
        if self.members is not None:
            wide = {k: replace(e, members=self.members) if isinstance(e, HostVec) else e for k, e in agent.envs.items()}
            self.agent = replace(agent, envs=wide)
        self.frozen = states.frozen_data(problem)
        self.asked_to_stop = ""
        self.run_dir = run_dir
        self.checkpoints = Checkpoints(run_dir / "checkpoints", keep=options.keep) if run_dir else None
        self.logger = Logger(run_dir, tensorboard=options.tensorboard, wandb=options.wandb)
        self.total = sum(s.cycles for s in agent.stages)
        self.progress: Any = None
        self.last_look = self.last_save = self.started = time.monotonic()
        self.unseen = 0
        self.past_seconds = 0.0
        self.compile_at_start = compile_seconds()
        self.evaluators: dict[tuple[str, int], Evaluator] = {}

    # ----------------------------------------------------------------------------------------------------------- the run

    def go(self, init_from: AgentState | None) -> RunState:
        self.run = states.start(self.agent, self.problem, self.key, init_from)
        restored = self._restore()
        try:
            with Progress(self.agent.name, self.total, enabled=self.options.progress) as self.progress:
                first = self.run.stage
                for index in range(first, len(self.agent.stages)):
                    if not (restored and index == first):
                        self._enter(index)
                    self._run_stage()
            self._save(final=True)
        finally:
            self.logger.close()
        return self.run

    def _enter(self, index: int) -> None:
        self.program = Program(self.agent, self.problem, index, self.frozen, self.members)
        before = str(jax.tree.structure(self.run.agent.learned))
        states.enter(self.program, self.run)
        if str(jax.tree.structure(self.run.agent.learned)) != before:
            self.run.best = {}

    def _run_stage(self) -> None:
        run = self.run
        n, fast = self.options.chunk_cycles or 1, self.options.chunk_cycles
        while not self._over():
            begun = time.monotonic()
            if self.program.host_due(run.cycle):
                self._mixed_cycle()
                done = 1
            else:
                live, done = self.program.chunk(live_of(self.program, run), run.key, run.cycle, min(n, self._distance()))
                put_back(self.program, run, live)
                run.cycle += done
                took = time.monotonic() - begun
                if not fast and done == n and took < self.options.chunk_seconds / 2:
                    n *= 2
                elif not fast and took > self.options.chunk_seconds:
                    n = max(1, n // 2)
            self._between(done)

    def _over(self) -> bool:
        stage, run = self.program.stage, self.run
        return run.cycle >= stage.cycles or (stage.stop is not None and not np.asarray(run.reports["running"]).any())

    def _mixed_cycle(self) -> None:
        """A cycle with host work: runs of device phases compiled together, host phases one by one."""
        program, run = self.program, self.run
        waiting: list[int] = []

        def flush() -> None:
            if waiting:
                put_back(program, run, program.phases(tuple(waiting), live_of(program, run), run.key, run.cycle))
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
            put_back(program, run, program.jit("stop", program.ask_stop, (0,), donate_argnums=0)(live_of(program, run)))
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
        self.unseen += done
        if evals or log or save or self.exchange or self.asked_to_stop or time.monotonic() - self.last_look > LOOK:
            self._look()  # waits for the device; otherwise host and device go on side by side
        if evals:
            self._after_evaluation({e.name: self._evaluate(e) for e in evals})
        if log:
            self._log()
        if self.exchange and run.cycle % self.exchange.every == 0:
            self._exchange(self.exchange)
        if save or self.asked_to_stop:
            self._save()
        if self.asked_to_stop:
            cycles = self.program.stage.cycles
            raise Interrupted(
                f"{self.asked_to_stop}: stopped in stage {self.program.stage.name!r} after cycle {run.cycle} of {cycles}. "
                + ("The same command goes on from there." if self.run_dir else "Nothing was kept: there is no run folder.")
            )

    def _look(self) -> None:
        self._check()
        self.progress.advance(self.unseen, **self._speeds())
        self.unseen, self.last_look = 0, time.monotonic()

    # -------------------------------------------------------------------------------------------------------- evaluation

    def _evaluate(self, ev: Eval) -> dict[str, np.ndarray]:
        where = (ev.name, self.program.index)
        if where not in self.evaluators:
            self.evaluators[where] = Evaluator(self.program, ev)
        episodes = self.evaluators[where](self.run)
        self.run.counts["eval_steps"] = self.run.counts["eval_steps"] + episodes["lengths"].sum(-1)
        return episodes

    def _after_evaluation(self, report: dict[str, Any]) -> None:
        run, program = self.run, self.program
        for name, episodes in report.items():
            line = {"eval": name, "return_mean": episodes["returns"].mean(-1), "return_std": episodes["returns"].std(-1)}
            line.update({f"{k}_mean": v.mean(-1) for k, v in episodes.items() if k != "returns"}, returns=episodes["returns"])
            self._write("eval", line)
            if self.on_report:
                self.on_report({**line, **self._where()})
        first = next(iter(report))
        score = report[first]["returns"].mean(-1).astype(np.float32)
        run.reports["scores"] = score
        if self.options.keep_best and first == self._evals()[0].name:
            self._keep_best(score)
        make = program.jit("report key", lambda k, cycle: keys.fold(k, "on_eval", program.stage.name, cycle), (0, None))
        hook = program.jit("on_eval", self.agent.on_eval, (0, 0, 0))
        arrays = {name: {k: jnp.asarray(v) for k, v in e.items()} for name, e in report.items()}
        run.agent = states.own(hook(run.agent, arrays, make(run.key, np.int32(run.cycle))))
        self.progress.score(float(np.mean(score)))

    def _exchange(self, members: Members) -> None:
        """Population-based training: each member goes on from the one that ``exchange`` names, as one gather."""
        run, name = self.run, self.program.stage.name
        key = keys.fold(members.keys[0], "exchange", name, run.cycle)
        index = members.exchange(run.agent, run.reports["scores"], key)  # type: ignore[misc]
        run.agent = jax.tree.map(lambda x: x[index], run.agent)

    def _keep_best(self, score: np.ndarray) -> None:
        new = states.new_best(self.run, score)
        old = self.run.best
        if old:
            better = new["score"] > old["score"]
            pick = lambda a, b: jnp.where(better.reshape(better.shape + (1,) * (a.ndim - better.ndim)), a, b)
            new = {
                "score": np.where(better, new["score"], old["score"]),
                "learned": jax.tree.map(pick, new["learned"], old["learned"]),
                "cycle": np.where(better, new["cycle"], old["cycle"]),
            }
        self.run.best = new

    # -------------------------------------------------------------------------------------------------- checks and records

    def _check(self) -> None:
        """Raise before anything spoiled is saved. A diverged member of several is frozen by its program and marked dead."""
        tally, run = self.run.reports["tally"], self.run
        bad, blind = np.asarray(tally.bad), np.asarray(tally.blind)
        if self.members is not None:
            run.alive = run.alive & (bad < 0) & (blind < 0)
            if run.alive.any():
                return
        if (blind >= 0).any():
            envs = {p.env for p in self.program.stage.phases if isinstance(p, Collect)}
            raise Diverged(
                f"an observation or reward of {', '.join(self.agent.envs[e].name for e in envs)} was not finite in cycle "
                f"{blind.max()} of stage {self.program.stage.name!r}. {self._last_good()}"
            )
        if (bad >= 0).any():
            names = [k for k, v in tally.sums.items() if not np.isfinite(np.asarray(v)).all()]
            raise Diverged(f"{', '.join(names)} stopped being finite at update {bad.max()}. {self._last_good()}")

    def _last_good(self) -> str:
        steps = self.checkpoints.steps() if self.checkpoints else []
        if not steps:
            return "There is no checkpoint before it."
        return f"The last good checkpoint is {self.checkpoints.directory / str(steps[-1])}."  # type: ignore[union-attr]

    def _where(self) -> dict[str, Any]:
        run, new = self.run, self.run.reports["tally"].counts
        counts = {k: v + np.asarray(new[k]) if k in new else v for k, v in run.counts.items()}
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
        means = {k: np.asarray(v) / np.maximum(np.asarray(tally.n[k]), 1) for k, v in tally.sums.items()}
        huge = {k: v for k, v in means.items() if "loss" in k and np.max(np.abs(v)) > self.options.explode}
        if huge and self.members is None:
            name, value = next(iter(huge.items()))
            raise Diverged(f"{name} exploded to {float(value):.3g} before cycle {run.cycle}. {self._last_good()}")
        self._write("train", means)
        for k, v in tally.counts.items():
            run.counts[k] = run.counts[k] + np.asarray(v)
        zero = jax.tree.map(jnp.zeros_like, (tally.counts, tally.sums, tally.n))
        run.reports["tally"] = tally._replace(counts=zero[0], sums=zero[1], n=zero[2])

    # -------------------------------------------------------------------------------------------------------- checkpoints

    def _number(self) -> int:
        """Checkpoints are numbered by cycles since the start of the run, stages entered included."""
        return sum(s.cycles + 1 for s in self.agent.stages[: self.run.stage]) + self.run.cycle

    def _save(self, final: bool = False) -> None:
        if self.checkpoints is None:
            return
        if self._number() in self.checkpoints.steps() and not final:
            return
        self.logger.flush()
        tree, meta = states.pack(self.agent, self.frozen, self.run)
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
        lost = states.unpack(self.agent, self.frozen, self.run, tree, meta)
        self.logger.truncate(meta["lines"])
        self.past_seconds = meta["seconds"]
        for name in lost:
            self._cut(name)
        return True

    def _abstract(self, meta: dict[str, Any]) -> Any:
        if meta.get("agent") != self.agent.name:
            raise ValueError(
                f"{self.run_dir} holds a run of {meta.get('agent')!r}, not of {self.agent.name!r}: "
                "give another run folder, or the agent that it was made with."
            )
        for index in range(self.run.stage if hasattr(self, "program") else 0, meta["stage"] + 1):
            self._enter(index)
        return states.template(self.agent, self.frozen, self.run, meta)

    def _cut(self, env: str) -> None:
        """An interaction that could not be saved ends here: its pending step is stored as truncated."""
        for phase in self.program.stage.phases:
            if isinstance(phase, Collect) and phase.env == env and phase.into:
                close(self.program, self.run, phase.into)
        self._write("event", {"event": f"resumed with a new episode of {env}, which cannot be saved: not bit-exact"})
