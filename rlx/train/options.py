"""How a run is observed and kept, and how it can end early."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """How a run is observed and kept. None of it changes a result."""

    log_every: int | None = None  # cycles between lines of metrics.jsonl; None: 100 lines per stage
    checkpoint_seconds: float = 60.0  # wall-clock time between checkpoints; 0 turns them off except at the end
    checkpoint_cycles: int | None = None  # and after every so many cycles
    keep: int = 2  # checkpoints kept
    keep_best: bool = True  # remember the agent with the best evaluation return (of the first evaluation)
    resume: bool = True  # go on from the newest checkpoint in the run folder
    progress: bool = True
    tensorboard: bool = False
    wandb: str | None = None  # project name
    chunk_seconds: float = 2.0  # about how long one call into a compiled chunk takes
    chunk_cycles: int | None = None  # or exactly how many cycles
    explode: float = 1e12  # a mean loss beyond this counts as diverged


class Diverged(RuntimeError):
    """NaN, infinity or an exploding loss: says where, which metric, and the last good checkpoint."""


class Interrupted(RuntimeError):
    """The run was asked to stop (SIGTERM, Ctrl-C) and did so, after a checkpoint; the same call goes on from there."""
