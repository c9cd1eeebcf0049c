"""Whether features have collapsed, and what a run leaves behind for people: the z of each task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlx.types import AgentState

NARROW, UNEVEN = 0.1, 1e6  # shares of directions, ratios of eigenvalues, beyond which features are called collapsed


class Watch(NamedTuple):
    """Of the features of many states: float32."""

    psi_participation: Any  # in how many directions they lie, d at most: (sum of eigenvalues)^2 / sum of squares
    psi_eigenvalue_ratio: Any  # the largest over the least, of their second moment
    psi_off_diagonal: Any  # of the regulariser; d / 2 where they are spread evenly
    phi_participation: Any
    phi_eigenvalue_ratio: Any
    phi_off_diagonal: Any


class Spread(NamedTuple):
    """Of the second moment of features."""

    participation: float  # (sum of eigenvalues)^2 / sum of squares
    eigenvalue_ratio: float  # the largest over the least
    off_diagonal: float  # half the sum of squares


def spread(features: Any) -> Spread:
    """Of features [N, d]."""
    x = np.asarray(features, np.float64)
    eigenvalues = np.maximum(np.linalg.eigvalsh(x.T @ x / len(x)), 0.0)
    squares = (eigenvalues**2).sum()
    ratio = eigenvalues[-1] / max(eigenvalues[0], 1e-12 * max(eigenvalues[-1], 1e-300))
    return Spread(float(eigenvalues.sum() ** 2 / max(squares, 1e-300)), float(ratio), float(squares / 2))


def watched(
    psi: Any, phi: Any, orthonormal: Sequence[str] = ("psi", "phi"), linear: Sequence[str] = ()
) -> tuple[Watch, list[str]]:
    """What features [N, d] look like, and words where they have collapsed: those of tasks, and those of states where the loss
    has them ``orthonormal``. Encoders without layers are ``linear``: their rank is at most the numbers of an observation and
    one, so that all of d directions cannot be asked of them."""
    found, asked = [spread(x) for x in (psi, phi)], {"psi"} | (set(orthonormal) - set(linear))
    words = []
    for name, x, stats in zip(("psi", "phi"), (psi, phi), found, strict=True):
        message = _collapse(name, x.shape, stats, name in linear) if name in asked else ""
        advice = f" A larger lambda_{name} spreads them, a smaller lr_{name} keeps them." if name in orthonormal else ""
        words += [message + advice] if message else []
    return Watch(*(np.float32(min(value, 3e38)) for stats in found for value in stats)), words


def _collapse(name: str, shape: tuple[int, ...], stats: Spread, linear: bool) -> str:
    """What is to be said of the features of an encoder, [N, d]; "" where they have not collapsed."""
    (n, d), (wide, ratio, off) = shape, stats
    half = wide < 2  # off_diagonal is more than half of what it is where all features are one
    narrow = d > 1 and (wide < max(NARROW * d, 1.5) or (half and d > 2))
    uneven = ratio > UNEVEN and not linear and n >= 2 * d  # few features leave directions out by chance
    if not (narrow or uneven):
        return ""
    of, what = ("task", "rewards") if name == "psi" else ("state", "states")
    more = f", off_diagonal is {off:.3g} of at most {off * wide:.3g}" if half else ""
    more += f"; eigenvalues of their second moment differ by {ratio:.1g}" if ratio > UNEVEN else ""
    end, along = ("they have collapsed", "these") if narrow else ("some directions are lost", "the others")
    return f"{of} features lie in {wide:.1f} of {d} directions{more}: {end}, and {what} are told apart along {along} alone."


def asking_nothing(names: Sequence[str], z: Any) -> list[str]:
    """Words on each task of ``names`` whose z, [K, d] or of several members [M, K, d], is 0."""
    asks: Any = np.any(z, -1).reshape(-1, len(names)).all(0)
    message = "all rewards in the sample are 0, so its z is 0, which asks for nothing."
    return [f"task {name!r}: {message}" for name, asking in zip(names, asks, strict=True) if not asking]


@dataclass(frozen=True)
class Report:
    """`rlx.types.Agent.report`; and where `rlx.agents.td_jepa.ZeroShot` finds the functions of the agent."""

    method: Any

    def __call__(self, state: AgentState, folder: Path) -> list[Path]:
        learned = state.learned
        watch = learned["watch"]
        page = {
            "features": self.method.config.features,
            "tasks": dict(zip(self.method.tasks.names, np.asarray(learned["tasks"], float).tolist(), strict=True)),
            "watch": {name: float(value) for name, value in zip(Watch._fields, watch, strict=True)},
        }
        path = folder / "tasks.json"
        path.write_text(json.dumps(page, indent=2) + "\n", encoding="utf-8")
        return [path]
