"""What happens when: stages in whole episodes, and schedules over decisions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp

from rlx.agents.modem_v2.config import Config
from rlx.nn.optim import linear
from rlx.types import Array, Clock, Spec

BLOCK = 100  # updates of cloning in a cycle at most


@dataclass(frozen=True)
class Times:
    """An episode of L decisions is L + 1 rows, and rows are what is collected; the number of decisions is constant within an
    episode, as all streams see it."""

    length: int  # L
    streams: int
    seed: int  # decisions of all streams before the model learns
    cycles: int  # episodes of each stream after its first planned one
    cloning: tuple[int, int]  # cycles, and updates in each
    updates: tuple[int, int]  # of the warm-up, and of each later cycle

    @staticmethod
    def of(c: Config, spec: Spec, bc_updates: int) -> Times:
        """Raises ValueError for settings that cannot be."""
        if spec.horizon is None:
            raise ValueError("modem_v2 learns between episodes, and these have no end: give a time limit.")
        if not c.env_steps and not bc_updates:
            raise ValueError("modem_v2: with env_steps=0 and bc_updates=0 nothing learns: give one of both.")
        each = spec.horizon * c.n_envs
        if c.env_steps and c.seed_steps % each:
            up = -(-c.seed_steps // each) * each
            raise ValueError(
                f"modem_v2: seed_steps={c.seed_steps} are no whole episodes of {spec.horizon} decisions in {c.n_envs} streams; "
                f"give {up}."
            )
        if c.env_steps and c.env_steps < c.seed_steps + 2 * each:
            raise ValueError(
                f"modem_v2: env_steps={c.env_steps} leave nothing after seed_steps={c.seed_steps}: give "
                f"{c.seed_steps + 2 * each} or more, or 0 for the clone alone."
            )
        cycles = math.ceil((c.env_steps - c.seed_steps) / each) - 1 if c.env_steps else 0
        first, later = (max(1, math.ceil(n * c.utd - 1e-6)) for n in (c.seed_steps, each))
        block = next(n for n in range(BLOCK, 0, -1) if bc_updates % n == 0)
        return Times(spec.horizon, c.n_envs, c.seed_steps, cycles, (bc_updates // block, block), (first, later))

    @property
    def decisions(self) -> int:
        """Of one cycle, of all streams."""
        return self.length * self.streams

    @property
    def episode(self) -> int:
        """Rows per stream of one cycle."""
        return self.length + 1

    @property
    def first(self) -> int:
        """Rows per stream of seeding."""
        return self.seed // self.decisions * self.episode

    @property
    def rows(self) -> int:
        """Per stream, that a whole run stores."""
        return self.first + (1 + self.cycles) * self.episode

    def acting(self, clock: Clock) -> Array:
        """Decisions before this cycle's, k: whole numbers, so that no schedule is late by rounding."""
        rows = jnp.asarray(clock.env_steps) // self.streams
        return ((rows - rows // self.episode) * self.streams).astype(jnp.float32)

    def model_updates(self, clock: Clock) -> Array:
        """Updates of the model before this one: those of cloning are none."""
        return clock.updates - math.prod(self.cloning)

    def learning(self, clock: Clock, stage: str) -> Array:
        """At which decision an update stands, k + i: the warm-up's from ``seed`` on, later ones among those of their cycle."""
        done = self.model_updates(clock)
        if stage == "warm":
            return self.seed + done * (self.seed / self.updates[0])
        done = done - self.updates[0]
        return self.seed + self.decisions + done * (self.decisions / self.updates[1])


def share_at(k: Array, h: dict[str, Array], batch: int) -> Array:
    """The share of demonstrations in a batch, whole windows of them rounded down."""
    share = linear(h["demo_share"], h["demo_share_end"], k / h["demo_steps"])
    return jnp.floor(share * batch) / batch


def handed_over(k: Array, h: dict[str, Array], times: Times, cap: Array | None) -> Array:
    """The probability that the planner decides; ``cap`` [] limits it."""
    alpha = linear(jnp.float32(0), jnp.float32(1), (k - times.seed) / h["handover.steps"])
    return alpha if cap is None else jnp.minimum(alpha, cap)
