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


def spread(features: Any) -> tuple[float, float, float]:
    """(participation, ratio of eigenvalues, half the sum of their squares) of the second moment of features [N, d]."""
    x = np.asarray(features, np.float64)
    eigenvalues = np.maximum(np.linalg.eigvalsh(x.T @ x / len(x)), 0.0)
    squares = (eigenvalues**2).sum()
    ratio = eigenvalues[-1] / max(eigenvalues[0], 1e-12 * max(eigenvalues[-1], 1e-300))
    return float(eigenvalues.sum() ** 2 / max(squares, 1e-300)), float(ratio), float(squares / 2)


def watched(psi: Any, phi: Any) -> tuple[Watch, list[str]]:
    """What features [N, d] look like, and words where those of tasks have collapsed."""
    found = [spread(x) for x in (psi, phi)]
    words = []
    for name, x, (wide, ratio, _) in zip(("psi", "phi"), (psi, phi), found, strict=True):
        d = x.shape[-1]
        if name == "psi" and d > 1 and wide < max(NARROW * d, 1.5):
            more = f"; eigenvalues of their second moment differ by {ratio:.1g}" if ratio > UNEVEN else ""
            words.append(
                f"task features lie in {wide:.1f} of {d} directions{more}: they have collapsed, and rewards are told apart "
                "along these alone. A larger lambda_psi spreads them, a smaller lr_psi keeps them."
            )
    return Watch(*(np.float32(min(value, 3e38)) for triple in found for value in triple)), words


def asking_nothing(names: Sequence[str], z: Any) -> list[str]:
    """Words on each task of ``names`` whose z, [K, d] or of several members [M, K, d], is 0."""
    asks: Any = np.any(z, -1).reshape(-1, len(names)).all(0)
    said = "all rewards in the sample are 0, so its z is 0, which asks for nothing."
    return [f"task {name!r}: {said}" for name, asking in zip(names, asks, strict=True) if not asking]


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
