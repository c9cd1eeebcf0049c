"""How good the model of MOPO, MOBILE or MOREC is: on its own data at the end of a run, and on any other (`rlx data score`)."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import files, keys, replay
from rlx.dynamics import EnsembleDynamics
from rlx.dynamics.audit import Audit, audit, draw, windows
from rlx.types import Agent, AgentState, Row

WINDOWS = 256  # pieces of the data that the model is run along
HORIZON = 50  # steps of each, at most, where nobody says


@dataclass(frozen=True)
class Report:
    """`rlx.types.Agent.report`; and where the audit of other data finds the model."""

    method: Any

    def __call__(self, state: AgentState, folder: Path) -> list[Path]:
        found = self.audit(state, replay.export(self.method.data))
        page, drawn = folder / "model.json", folder / "model.png"
        own = {"horizon": found.horizon, **summary(found)}
        files.write_bytes(page, (json.dumps(own, indent=1) + "\n").encode())
        files.write_bytes(drawn, picture(found, float(state.hyper["r_min"])))
        return [page, drawn]

    def audit(self, state: AgentState, episodes: Sequence[Row], horizon: int | None = None) -> Audit:
        """Of the model as imagined episodes have it, the filter with it, along ``episodes`` (rows [T, ...]). Raises ValueError
        for a model that is not learned yet, and a horizon that is longer than all episodes."""
        self.ready(state)
        horizon = horizon or min(HORIZON, self.method.config.horizon, max(len(e.reward) - 1 for e in episodes))
        key = keys.fold(keys.root(0), "audit")
        obs, action = windows(episodes, horizon, WINDOWS, key)
        every = np.concatenate([np.asarray(e.obs, np.float64) for e in episodes])
        model, params = self.method.predicts(state)
        score = scored if self.method.config.filter == "reward" else None
        return audit(model, params, obs, action, every.std(0), key, score, state.learned["scorer"])

    def ready(self, state: AgentState) -> None:
        """Raises ValueError where the run stands before its policy learns."""
        metric_of = {"model": "model/epochs"} | ({"scorer": "scorer/share"} if self.method.config.filter == "reward" else {})
        missing = next((stage for stage, name in metric_of.items() if float(state.learned["told"][name]) == 0), None)
        if missing is not None:
            raise ValueError(f"the stage {missing!r} of this run is not done: let it go on, with the command that began it.")

    def scores(self, state: AgentState, episodes: Sequence[Row]) -> list[dict[str, np.ndarray]]:
        """Of each transition [T - 1] of each episode: "error" of the elites' mean in standard deviations of the data,
        "disagreement", and "score" where there is a scorer. Raises ValueError for a model that is not learned yet."""
        self.ready(state)
        model, params = self.method.predicts(state)
        size = np.concatenate([np.asarray(e.obs, np.float64) for e in episodes]).std(0)
        size, elites = np.where(size < 1e-8, 1.0, size).astype(np.float32), EnsembleDynamics().elites
        with_score = self.method.config.filter == "reward"

        @jax.jit
        def of(obs: Any, action: Any, new: Any) -> dict[str, Any]:
            mean = obs + elites(state.learned["model"], obs, action)[0][..., :-1].mean(0)
            out = {"error": jnp.sqrt((((mean - new) / size) ** 2).mean(-1))}
            out["disagreement"] = jax.vmap(lambda o, a: model.disagreement(params, o, a))(obs, action)
            return out | ({"score": scored(state.learned["scorer"], obs, action, new)} if with_score else {})

        flat = [np.concatenate([np.asarray(cut(e), np.float32) for e in episodes]) for cut in (
            lambda e: e.obs[:-1], lambda e: e.action[:-1], lambda e: e.obs[1:])]  # fmt: skip
        parts = [of(*(x[i : i + 8_192] for x in flat)) for i in range(0, len(flat[0]), 8_192)]
        whole = {k: np.concatenate([np.asarray(p[k]) for p in parts]) for k in parts[0]}
        ends = np.cumsum([len(e.reward) - 1 for e in episodes])[:-1]
        split = {k: np.split(v, ends) for k, v in whole.items()}
        return [{k: v[i] for k, v in split.items()} for i in range(len(episodes))]


def scored(scorer: Any, obs: Any, action: Any, new: Any) -> Any:
    return scorer(obs, action, new)


def of(agent: Agent) -> Report:
    """The audit of ``agent``. Raises ValueError for one without a model of this kind."""
    if not isinstance(agent.report, Report):
        raise ValueError(f"{agent.name!r} has no model of a dataset; mopo, mobile and morec have.")
    return agent.report


def summary(found: Audit) -> dict[str, Any]:
    """Medians, at the first step, half-way and at the last."""
    at = {"first": 0, "middle": found.horizon // 2, "last": found.horizon - 1}
    named = {k: v for k, v in found._asdict().items() if v is not None}
    return {f"{k}_{where}": round(float(v[i, 1]), 4) for k, v in named.items() for where, i in at.items()}


def picture(found: Audit, r_min: float) -> bytes:
    out = io.BytesIO()
    draw(found, r_min).savefig(out, format="png", dpi=110)
    return out.getvalue()
