"""What the demonstrations are asked for before anything is compiled."""

from __future__ import annotations

import numpy as np

from rlx.agents import offline
from rlx.envs.outcomes import SUCCESS
from rlx.replay.buffer import overlaid
from rlx.replay.flags import FIRST, LAST, VALID, has
from rlx.types import Problem, ReplayState

NAME = "modem_v2"


def demonstrations(problem: Problem, horizon: int) -> tuple[ReplayState, int]:
    """They and how many decisions they hold. ``horizon``: of the windows that will be drawn from them.

    Raises:
        ValueError: there are none, or of another environment; none does the task; some are longer than an episode, or too short
            for a window.
    """
    data = offline.rows_of(problem, NAME)
    rows, flags, limit = overlaid(data), np.asarray(data.index.flags), problem.envs["train"].spec.horizon
    there, last = has(flags, VALID), has(flags, LAST)
    ends = np.flatnonzero(last.T)
    lengths = np.diff(np.concatenate([np.flatnonzero((has(flags, FIRST) & there).T)[:, None], ends[:, None]], 1))[:, 0]
    if lengths.min() < horizon + 1:
        raise ValueError(
            f"{NAME}: a demonstration has {lengths.min()} decisions; windows of horizon={horizon} need {horizon + 1} at least."
        )
    if limit is not None and lengths.max() > limit:
        raise ValueError(
            f"{NAME}: a demonstration has {lengths.max()} decisions, episodes of {problem.envs['train'].name} have {limit}: "
            "give --time-limit, or demonstrations of this environment."
        )
    name = next((k for k in SUCCESS if k in rows.info), None)
    success = np.asarray(rows.reward > 0 if name is None else rows.info[name])
    if not ((success > 0) & there).any():
        what = "no reward is above 0" if name is None else f"info {name!r} never says so"
        raise ValueError(f"{NAME}: none of the {len(lengths)} demonstrations does the task: {what}.")
    return data, int((there & ~last).sum())
