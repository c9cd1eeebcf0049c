"""How a run is kept: when it was saved last, where, and what there is to go on from."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlx.train import processes
from rlx.train import state as states
from rlx.train.checkpoint import Checkpoints
from rlx.train.placement import Placement
from rlx.types import Agent, PyTree, RunState


class Saver:
    """The checkpoints of a run, or nothing where it has no folder. ``whole``: as `Checkpoints` takes it."""

    def __init__(self, run_dir: Path | None, keep: int, whole: Callable[[Any], Any] | None = None):
        self.checkpoints = Checkpoints(run_dir / "checkpoints", keep=keep, whole=whole) if run_dir else None
        if self.checkpoints is not None:
            self.checkpoints.claim()
        self.last_save = time.monotonic()
        self.own: int | None = None  # the checkpoint that this run was saved in last, or goes on from

    def overdue(self, seconds: float) -> bool:
        """Whether the last one is more than ``seconds`` ago; 0 is never."""
        return 0 < seconds < time.monotonic() - self.last_save

    def last_good(self) -> str:
        good = self.checkpoints and self.checkpoints.last()
        return f"The last good checkpoint is {good}." if good else "There is no checkpoint before it."

    def save(self, agent: Agent, frozen: dict[str, PyTree], run: RunState, placement: Placement | None, **more: Any) -> None:
        """All of the run, unless it is there already, and sound. ``more``: JSON to be read back with it."""
        if self.checkpoints is None:
            return
        here = number(agent, run)  # which another run may have left, where this one began anew
        there = processes.is_process_zero() and here == self.own and self.checkpoints.sound(here)
        if processes.agree(there=there)["there"]:
            return
        tree, meta = states.pack(agent, frozen, run)
        meta |= {} if placement is None else {"member_ids": placement.member_ids.tolist()}
        self.checkpoints.save(here, tree, {**meta, **more})
        self.own, self.last_save = here, time.monotonic()

    def newest(self, template: Callable[[dict[str, Any]], PyTree]) -> tuple[PyTree, dict[str, Any]] | None:
        """Tree and JSON of the newest readable checkpoint; None where there is none."""
        found = self.checkpoints and self.checkpoints.newest(template)
        self.own = found[0] if found else None
        return found[1:] if found else None


def number(agent: Agent, run: RunState) -> int:
    """Checkpoints are numbered by cycles since the start of the run, stages entered included."""
    return sum(s.cycles + 1 for s in agent.stages[: run.stage]) + run.cycle
