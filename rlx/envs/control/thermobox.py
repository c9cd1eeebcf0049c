"""A box that is cooled: its temperature T moves by

    T' = keep (T - p) + leak + sigma N(0, 1),    p = (a + 1) / 2 the power, and the reward is -|T' + 2|

So it is to be held at -2; without power it warms up to leak / (1 - keep). One number and one action: what a model has learned
of it can be looked at. The refrigerator of a synthetic task (Luo et al. 2024, arXiv:2310.05422) made small.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.control.base import bars, plant
from rlx.types import Env, Leaf, Task

PARAMS = {"keep": 0.98, "leak": 0.3, "sigma": 0.02, "wanted": -2.0}
OPEN = {**PARAMS, "keep": 0.92, "leak": 1.2}  # with the door open


class State(NamedTuple):
    """What is in the box."""

    temperature: Any  # [1]
    noise: Any  # [1], of the decision that is taken


def arrive(xp: Any, p: Any, obs: Any, action: Any) -> Any:
    """The next temperature without noise."""
    return p["keep"] * (obs - 0.5 * (action + 1.0)) + p["leak"]


def draw(pen: Any, size: int, x: State) -> None:
    """A thermometer from -12 to 16."""
    bars(pen, size, np.clip((x.temperature + 12.0) / 28.0, 0.02, 1.0), (0.48,), (0.1, 0.9), (204, 77, 77))


def make(repeat: int = 1, time_limit: int | None = None, door: str = "shut", wanted: float = -2.0, shift: float = 0.0) -> Env:
    """Observation [1] (the temperature), one action (the power), 100 decisions. ``door``: "shut" or "open". ``wanted``: where
    it is to be held; ``shift`` is added to each reward.

    Raises:
        ValueError: another ``door``.
    """
    if door not in ("shut", "open"):
        raise ValueError(f"rlx:thermobox: door={door!r} is unknown; give 'shut' or 'open'.")
    params = {**(OPEN if door == "open" else PARAMS), "wanted": wanted, "shift": shift}
    reward = lambda xp, p, x, action, new: p["shift"] - xp.abs(new.temperature[..., 0] - p["wanted"])
    score = lambda xp, obs, action: shift - xp.abs(obs[..., 0] - wanted)
    follows = None if repeat > 1 else lambda xp, obs, action: arrive(xp, params, obs, xp.clip(action, -1.0, 1.0))
    return plant(
        "rlx:thermobox",
        task=Task(lambda xp, p, x: x.temperature, reward, score=score, arrive=follows, names=("T", "power")),
        obs=Leaf((1,)),
        actions=1,
        params={k: np.float32(v) for k, v in params.items()},
        start=lambda p, key: State(10.0 + jax.random.normal(key, (1,)), jnp.zeros(1)),
        advance=lambda p, x, action: x._replace(temperature=arrive(jnp, p, x.temperature, action) + x.noise),
        renew=lambda p, x, key: x._replace(noise=p["sigma"] * jax.random.normal(key, (1,))),
        horizon=100,
        repeat=repeat,
        time_limit=time_limit,
        draw=draw,
    )
