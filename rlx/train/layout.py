"""Which run folders this version of rlx can read, and which plans go on from what they hold."""

from __future__ import annotations

import os
from typing import Any

from rlx._version import __version__
from rlx.types import Agent

OLDEST = (0, 2)  # from here on networks, checkpoints and configs are laid out as they are now


def check(written: str | None, where: str | os.PathLike) -> None:
    """To be asked before anything else is read of ``where``, which version ``written`` wrote (None: it does not say).

    Raises:
        ValueError: that version is too old.
    """
    numbers = [int(x) if x.isdigit() else 0 for x in (written or "0").split(".")[:2]]
    if tuple(numbers) < OLDEST:
        version = f"rlx {written}" if written else f"an rlx before {'.'.join(map(str, OLDEST))}"
        raise ValueError(
            f"{where} was written by {version}; this is rlx {__version__}, whose networks and checkpoints are laid out in "
            "another way. Use it with the version that wrote it, or train again in another run folder."
        )


def same_past(agent: Agent, meta: dict[str, Any], where: str | os.PathLike) -> None:
    """Raises ValueError unless ``agent`` would have come to the checkpoint ``meta`` of the run folder ``where``: stages that
    are over had the same cycles, and the one that goes on has at least as many as were done. So a larger budget goes on."""
    plan, stage, done = meta["plan"], meta["stage"], meta["cycle"]
    mine = [[s.name, s.cycles] for s in agent.stages]
    if [name for name, _ in plan] != [name for name, _ in mine] or plan[:stage] != mine[:stage] or mine[stage][1] < done:
        words = lambda plan: ", ".join(f"{name} {cycles}" for name, cycles in plan)
        raise ValueError(
            f"{where} stands in stage {plan[stage][0]!r} after {done} cycles of a plan of {words(plan)} cycles; the plan now "
            f"is {words(mine)}. Only that stage and later ones may get longer: give another run folder."
        )
