"""Which run folders this version of rlx can read, and which plans go on from what they hold."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import jax
import numpy as np

from rlx import config
from rlx._version import __version__
from rlx.types import Agent, Key, Members

OLDEST = (0, 2)  # from here on networks, checkpoints and configs are laid out as they are now


def check(written: str | None, where: str | os.PathLike) -> None:
    """To be asked before anything else is read of ``where``, which version ``written`` wrote (None: it does not say).

    Raises:
        ValueError: that version is too old.
    """
    numbers = [int(x) if x.isdecimal() else 0 for x in str(written or "0")[:20].split(".")[:2]]
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


def question(agent: Agent, key: Key | Members) -> dict[str, Any]:
    """What a run was asked, as JSON: its key, its traced values, and the fields of its config but for its budget."""
    keys, hypers = (key.keys, key.hypers) if isinstance(key, Members) else (key, {})
    own: dict[str, Any] = {}
    if dataclasses.is_dataclass(agent.config):
        given = {**config.static(agent.config), **config.hyper(agent.config)}
        own = {k: v for k, v in given.items() if k not in config.budget(agent.config)}
    asked = {
        "key": jax.random.key_data(keys).tolist(),
        "hypers": {k: np.asarray(v, float).tolist() for k, v in hypers.items()},
        "hyper": {k: float(v) for k, v in agent.hyper.items()},
        "config": own,
    }
    return json.loads(json.dumps(asked, default=lambda x: type(x).__name__))


def same_question(agent: Agent, key: Key | Members, meta: dict[str, Any], where: str | os.PathLike) -> None:
    """Raises ValueError where the checkpoint ``meta`` of the run folder ``where`` answers another `question`."""
    mine, theirs = question(agent, key), meta.get("question")
    if theirs is None or json.dumps(mine, sort_keys=True) == json.dumps(theirs, sort_keys=True):
        return
    found = ["another key"] if mine["key"] != theirs["key"] else []
    for part in ("config", "hyper", "hypers"):
        a, b = mine[part], theirs[part]
        found += [f"{k}: {b.get(k)}, not {a.get(k)}" for k in {**a, **b} if str(a.get(k)) != str(b.get(k))]
    raise ValueError(
        f"{where} holds another run ({'; '.join(dict.fromkeys(found))}): give another run folder, or what it was made with. "
        "Only its budget may grow."
    )
