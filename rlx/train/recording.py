"""What a run says while it goes on: lines of metrics, to files and to a callback, and progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlx.train import members as membership
from rlx.train import processes
from rlx.train.compilation import compile_seconds
from rlx.train.logging import Logger, Progress
from rlx.train.options import Options, Stop
from rlx.train.phases import Tally
from rlx.train.placement import by_member
from rlx.train.program import Program
from rlx.types import AgentState, RunState

Callback = Callable[[dict[str, Any], AgentState], dict[str, Any] | None]

LOOK = 0.5  # seconds between two looks at the device from stages that run on the host


class Recorder:
    """Lines and progress of a run. Metrics are means since the line before."""

    def __init__(self, run_dir: Path | None, options: Options, name: str, cycles: int, callback: Callback | None = None):
        zero = processes.is_process_zero()
        self.logger = Logger(run_dir if zero else None, options.tensorboard and zero, options.wandb if zero else None)
        self.progress = Progress(name, cycles, options.progress and zero)
        self.callback = callback
        self.stop: str | None = None  # what a callback said when it stopped the run
        self.unseen = 0  # cycles since the last look
        self.last_look = self.started = time.monotonic()
        self.compiled_before = compile_seconds()

    @property
    def seconds(self) -> float:
        """Of the whole run, what was restored included."""
        return time.monotonic() - self.started

    def goes_on(self, lines: int, seconds: float = 0.0, cycles: int = 0) -> None:
        """After ``lines`` lines, so many seconds and cycles; what was written later is written again."""
        self.logger.truncate(lines)
        self.progress.done = cycles
        self.started = time.monotonic() - seconds

    def where(self, run: RunState, program: Program) -> dict[str, Any]:
        """Where the run is: its stage, its cycle, and what was counted."""
        new = run.reports["tally"].counts
        counts = {k: v + np.asarray(new[k]) if k in new else v for k, v in run.counts.items()}
        past = run.retired.get("counts", dict.fromkeys(counts, 0))
        counts = {k: by_member(program.placement, v, past[k]) for k, v in counts.items()}
        return {"stage": program.stage.name, "cycle": run.cycle, **counts, "wall_s": round(self.seconds, 3)}

    def write(self, kind: str, values: dict[str, Any], run: RunState, program: Program) -> None:
        """One line, with what the callback adds to it.

        Raises:
            ValueError: the callback gave something else than new values by name.
        """
        line = {"kind": kind, **self.where(run, program), **values}
        self.logger.write(kind, {**line, **self._more(line, run, program)})

    def _more(self, line: dict[str, Any], run: RunState, program: Program) -> dict[str, Any]:
        if self.callback is None:
            return {}
        try:
            more = self.callback(dict(line), membership.agent_by_member(run, program.placement))
        except Stop as stop:
            self.stop = str(stop) or "the callback"
            more = stop.values
        if more is None:
            return {}
        if not isinstance(more, dict) or not all(isinstance(k, str) and k not in line for k in more):
            given = sorted(map(str, more)) if isinstance(more, dict) else type(more).__name__
            raise ValueError(
                f"a callback returns None, or a dict of values by new names to log with the line; it gave {given}, "
                f"and the line has {sorted(line)}."
            )
        return more

    def look(self, run: RunState, program: Program) -> None:
        """Tells the progress so far; to be called when the device has done all that it was given."""
        where = self.where(run, program)
        counts = {k: int(np.sum(where[k])) for k in ("updates", "env_steps")}
        compiled = compile_seconds() - self.compiled_before
        self.progress.advance(self.unseen, stage=where["stage"], compile_s=compiled, **counts)
        self.unseen, self.last_look = 0, time.monotonic()


def means(tally: Tally) -> dict[str, np.ndarray]:
    """The metrics of a tally by name, of each member NaN where it has none; those that nobody has are left out. Of training
    decisions what their info says, ``decisions/NAME``; of training episodes that ended their number, mean return and length."""
    n = {k: np.asarray(v) for k, v in tally.n.items() if np.any(v)}
    out = {k: _mean(tally.sums[k], n[k]) for k in n}
    peaks = {k: np.asarray(v) for k, v in tally.peaks.items() if np.isfinite(v).any()}
    out |= {k: np.where(np.isfinite(v), v, np.nan) for k, v in peaks.items()}
    count, returns, lengths = map(np.asarray, tally.episodes)
    if count.any():
        out |= {"episodes": count, "episode_return": _mean(returns, count), "episode_length": _mean(lengths, count)}
    return out


def _mean(total: Any, n: np.ndarray) -> np.ndarray:
    return np.where(n > 0, np.asarray(total) / np.maximum(n, 1), np.nan)
