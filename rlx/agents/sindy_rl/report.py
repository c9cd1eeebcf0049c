"""What a run leaves to read: the equations of dynamics, reward and policy, and pictures of the model beside the truth."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.agents.sindy_rl.world import HORIZON, World
from rlx.dynamics.ensemble import Ensemble
from rlx.dynamics.sparse import equations
from rlx.envs import batch, begin, rollout
from rlx.types import AgentState, Env, HostEnv

RUNS = 16  # imagined and real, in the picture


def models(state: AgentState, member: int | None = None) -> dict[str, Any]:
    """What was learned, by name: ``"dynamics"`` (a `SparseModel`, or an `Ensemble` of networks), ``"reward"`` where that is
    learned, and ``"policy"`` once it is distilled."""
    learned = state.learned
    out = {**learned["world"]["model"]["model"], "policy": learned["sparse"]}
    if member is not None:
        out = jax.tree.map(lambda x: x[member], out)
    return {k: v for k, v in out.items() if isinstance(v, Ensemble) or np.any(v.coef)}


def markdown(state: AgentState, names: tuple[str, ...]) -> str:
    """The equations as a page: the aggregate's, and again with the standard deviation of each coefficient over the members."""
    found, n = models(state), state.learned["world"]["low"].shape[-1]
    observed, acting = list(names[:n]), list(names[n:])
    fits = {k: int(np.asarray(v)) for k, v in state.learned["fits"].items()}
    error = f"{float(state.learned['error']):.3g} standard deviations of the data"
    refused = ", ".join(f"{fits[f'refused_{k}']} of the {k}" for k in ("dynamics", "reward"))
    lines = ["# What was found", "", f"{fits['done']} fits, refused: {refused}; error after {HORIZON} steps {error}."]
    if fits["rows_left_out"]:
        lines += ["", f"{fits['rows_left_out']} stored rows were not finite and are left out of the last fit."]
    unsure: list[str] = []
    for kind, title in (("dynamics", "Dynamics, one decision on"), ("reward", "Reward"), ("policy", "Policy")):
        if kind not in found:
            continue
        model = found[kind]
        if isinstance(model, Ensemble):
            lines += ["", f"## {title}", "", _networks(model)]
            continue
        variables = [*observed, *acting] if model.library.variables == len(names) else observed
        targets = {"dynamics": None, "reward": ["r"], "policy": acting}[kind]
        variables = [f"{v}'" for v in variables[:n]] + variables[n:] if kind == "reward" else variables
        lines += ["", f"## {title}", "", "```", equations(model, variables, targets), "```", ""]
        lines += [f"{model.terms} of {model.coef.size} coefficients are not 0."]
        lines[-1] += " The action is this, clipped to [-1, 1]." if kind == "policy" else ""
        unsure += [equations(model, variables, targets, deviations=True)]
    if unsure:
        lines += ["", "## Standard deviations over the members", "", "```", *unsure, "```"]
    return "\n".join(lines) + "\n"


def _networks(model: Ensemble) -> str:
    shape = "-".join(str(n) for n in model.sizes)
    kind = f"{model.count} networks {shape} ({model.network.activation})"
    return f"There are no equations: these are {kind}, {model.parameters} parameters."


@dataclass(frozen=True)
class Report:
    """`rlx.types.Agent.report`."""

    world: World
    names: tuple[str, ...]
    imagined: Env
    params: Callable[[AgentState, Any], Any]  # of it, with the learned state
    env: Env | HostEnv
    act: Any
    encoded: Any

    def __call__(self, state: AgentState, folder: Path) -> list[Path]:
        page, drawn = folder / "equations.md", folder / "portrait.png"
        page.write_text(markdown(state, self.names), encoding="utf-8")
        drawn.write_bytes(self.picture(state))
        return [page, drawn]

    def runs(self, state: AgentState, steps: int, starts: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Observations [T, W, n] of the policy without noise, and which of them are of first episodes [T, W]: of the real
        environment, or from some of ``starts`` [S, n] in the model."""
        env: Env | HostEnv = self.env if starts is None else self.imagined
        vec = batch(env, RUNS, ends="stop")
        params = env.params if starts is None else {**self.params(state, {}), "starts": jnp.asarray(starts)}
        key, clock = jax.random.key(0), None
        act = lambda carry, step, now: self.act(state, clock, carry, step, now, "eval")
        if env.host:
            jitted = jax.jit(lambda step, data: self.act(state, clock, (), step, jax.random.wrap_key_data(data), "eval")[0])
            policy: Any = lambda carry, step, data: (jitted(step, data), carry, {})
            rows = rollout(vec, params, policy, begin(vec, params, (), key), key, steps)[1]
        else:
            rows = jax.jit(lambda key: rollout(vec, params, act, begin(vec, params, (), key), key, steps)[1])(key)
        vec.close()
        obs = np.asarray(rows.obs)
        obs = np.asarray(self.encoded(state.learned, jnp.asarray(obs)))
        return obs, np.asarray(rows.valid)

    def picture(self, state: AgentState) -> bytes:
        """Phase portraits, model beside truth: the policy's runs over the two observations that move most, and these over
        time."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        steps = min(self.env.spec.horizon or 1_000, 1_000)
        truth = self.runs(state, steps)
        both = {"model": self.runs(state, steps, starts=truth[0][0]), "truth": truth}
        first, second = plane(both["truth"][0], self.names)
        figure = Figure(figsize=(10, 7), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, 2)
        limits = [np.concatenate([obs[valid] for obs, valid in both.values()])[:, i] for i in (first, second)]
        for k, (title, (obs, valid)) in enumerate(both.items()):
            top, below = axes[0, k], axes[1, k]
            for w in range(obs.shape[1]):
                line = np.where(valid[:, w, None], obs[:, w], np.nan)
                top.plot(line[:, first], line[:, second], linewidth=0.7, alpha=0.7, color=f"C{k}")
                top.plot(*line[0, [first, second]], "o", markersize=3, color="black")
                below.plot(line[:, first], linewidth=0.7, alpha=0.5, color="C2")
                below.plot(line[:, second], linewidth=0.7, alpha=0.5, color="C4")
            top.set(title=f"{title}: {obs.shape[1]} runs of the policy", xlabel=self.names[first], ylabel=self.names[second])
            top.set(xlim=(limits[0].min(), limits[0].max()), ylim=(limits[1].min(), limits[1].max()))
            below.set(xlabel="decisions", ylabel=f"{self.names[first]} (green), {self.names[second]} (violet)")
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110)
        return picture.getvalue()


def plane(obs: np.ndarray, names: tuple[str, ...]) -> tuple[int, int]:
    """The two observations whose runs cover most of their own extent: what a portrait is drawn over."""
    path = np.abs(np.diff(obs, axis=0)).sum((0, 1)) / (np.ptp(obs.reshape(-1, obs.shape[-1]), axis=0) + 1e-9)
    first, second = np.argsort(-path)[:2]
    return int(min(first, second)), int(max(first, second))
