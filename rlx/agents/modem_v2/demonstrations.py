"""What the demonstrations are asked for before anything is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlx.agents import offline
from rlx.agents.modem_v2.config import Config
from rlx.envs.outcomes import SUCCESS
from rlx.replay.buffer import overlaid
from rlx.replay.returns import pieces
from rlx.types import Leaf, Problem, ReplayState

NAME = "modem_v2"


def demonstrations(problem: Problem, horizon: int) -> tuple[ReplayState, int]:
    """They and how many decisions they hold. ``horizon``: of the windows that will be drawn from them.

    Raises:
        ValueError: there are none, or of another environment; none does the task; some are longer than an episode, or too short
            for a window.
    """
    data = offline.rows_of(problem, NAME)
    rows, episodes, limit = overlaid(data), pieces(data), problem.envs["train"].spec.horizon
    lengths = np.bincount(episodes.number) - 1
    if lengths.min() < horizon + 1:
        raise ValueError(
            f"{NAME}: a demonstration has {lengths.min()} decisions; windows of horizon={horizon} need {horizon + 1} at least."
        )
    if limit is not None and lengths.max() > limit:
        raise ValueError(
            f"{NAME}: a demonstration has {lengths.max()} decisions, episodes of {problem.envs['train'].name} have {limit}: "
            "give --time-limit, or demonstrations of this environment, with the same --repeat."
        )
    name = next((k for k in SUCCESS if k in rows.info), None)
    outcome = np.asarray(rows.reward if name is None else rows.info[name])[tuple(episodes.place[~episodes.begins].T)]
    if not (outcome > 0).any() and (name or not np.ptp(outcome)):  # rewards of 0 and -1, or of costs alone, say something too
        what = f"info {name!r} never says so" if name else "no reward is above 0, nor above another"
        raise ValueError(f"{NAME}: none of the {len(lengths)} demonstrations does the task: {what}.")
    return data, int(lengths.sum())


def require_infos(c: Config, env: Mapping[str, Leaf], data: Mapping[str, Any]) -> None:
    """What the environment and the ``data`` (rows [C, W, ...]) tell beside observations.

    Raises:
        ValueError: settings name an info that the environment lacks, or, if rewards depend on it, the data; the reward is no
            single number; both tell something in different shapes.
    """
    counted = dict.fromkeys(k + end for k, leaf in env.items() for end in leaf.reduces)  # as evaluations name it
    for setting, name, where, there in (
        ("reward", c.reward, "the environment", env),
        ("reward", c.reward, "the data", data),
        ("penalty", c.penalty, "the environment", env),
        ("penalty", c.penalty, "the data", data),
        ("success", c.success if c.handover.kind == "gated" else "", "the environment", counted),
    ):
        if name and name not in there:
            raise ValueError(f"{NAME}: {setting}={name!r} is no info of {where}, which has {', '.join(there) or 'none'}.")
    if c.reward and env[c.reward].shape:
        raise ValueError(
            f"{NAME}: reward={c.reward!r} is {list(env[c.reward].shape)} numbers a decision; name one that is one."
        )
    for name in env.keys() & data.keys():
        mine, theirs = list(env[name].shape), list(data[name].shape[2:])
        if mine != theirs:
            raise ValueError(
                f"{NAME}: info {name!r} of the data is {theirs}, that of the environment {mine}: demonstrate anew, or leave it "
                "out."
            )
