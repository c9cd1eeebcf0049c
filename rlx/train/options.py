"""How a run is observed and kept, and how it can end early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlx.config import check, size


@dataclass(frozen=True)
class Options:
    """How a run is observed and kept. None of it changes a result."""

    log_every: int | None = size(None, least=1)  # cycles between lines of metrics.jsonl; None: 100 lines per stage
    checkpoint_seconds: float = size(60.0, least=0)  # wall-clock time between checkpoints; 0 turns them off except at the end
    checkpoint_cycles: int | None = size(None, least=1)  # and after every so many cycles
    keep: int = size(2, least=1)  # checkpoints kept
    keep_best: bool = True  # remember the agent with the best evaluation return (of the first evaluation)
    resume: bool = True  # go on from the newest checkpoint in the run folder
    progress: bool = True
    tensorboard: bool = False
    wandb: str | None = None  # project name
    chunk_seconds: float = size(2.0, above=0)  # about how long one call into a compiled chunk takes
    chunk_cycles: int | None = size(None, least=1)  # or exactly how many cycles
    explode: float = size(1e12, above=0, finite=False)  # a mean loss beyond this counts as diverged

    def __post_init__(self) -> None:
        check(self, "options")


class Diverged(RuntimeError):
    """NaN, infinity or an exploding loss: says where, which metric, and the last good checkpoint."""


class Stop(Exception):
    """Raised by a callback of `rlx.train.run`: the run ends here, with everything saved, and gives what it has; the same call
    goes on from there. ``values``: to be logged with the line, as what a callback returns."""

    def __init__(self, why: str = "", values: dict[str, Any] | None = None):
        super().__init__(why)
        self.values = values


class Interrupted(RuntimeError):
    """The run was asked to stop (SIGTERM, Ctrl-C) and did so, after a checkpoint; the same call goes on from there."""
