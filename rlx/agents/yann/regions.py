"""What a trained policy does, region by region: its laws in words, how often it was there, what learning changed, how far it
jumps from one region to the next. See `rlx.agents.yann.report`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx.agents.yann.learner import Learner
from rlx.envs import batch, begin, rollout
from rlx.planning.laws import AffineLaw
from rlx.planning.mpqp import Regions
from rlx.types import AgentState, Control, Env, HostEnv

CHAINS, STEPS = 16, 32  # walks through each region, and points of each, at most
MOST = 16_384  # points of all regions together
BESIDE = 1e-6  # so far beyond a facet, in shares of the box, is the neighbour


class Signal(NamedTuple):
    """A parameter of the law or an input."""

    name: str
    unit: str
    centre: float  # what deviations are counted from

    @property
    def symbol(self) -> str:
        """As it stands in a law: a deviation is marked where it is not the value itself."""
        return self.name if self.centre == 0 else f"Δ{self.name}"

    def __str__(self) -> str:
        return f"{self.name} [{self.unit}]" if self.unit else self.name


class Runs(NamedTuple):
    """Episodes of one behaviour, in lockstep; NaN after their ends."""

    z: np.ndarray  # [T + 1, W, nz]
    cost: np.ndarray  # [W]
    violated: np.ndarray  # bool [T + 1, W], on arrival


@dataclass(frozen=True)
class Trained:
    """A policy of this method, opened. z and u are deviations, as everywhere here (`rlx.agents.yann.controller`)."""

    learner: Learner
    state: AgentState
    env: Env | HostEnv

    @property
    def regions(self) -> Regions | None:
        """Of the law; None where it has none."""
        return self.learner.known.regions

    @cached_property
    def _jit(self) -> Any:
        def of(z: Any, region: Any) -> tuple[Any, Any]:
            mlp = self.learner.config.actor == "mlp"
            actor, base = self.state.learned["actor"], self.learner.known.law(z).u
            return base, self.learner.raw(actor, z)[0] - base if mlp else self.learner.residual(actor, z, region)

        return jax.jit(of)

    def inputs(self, z: np.ndarray, region: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(u of the controller, u of the learned policy) [B, m] at z [B, nz]: within the bounds, before gate and filter,
        as in ``region`` [B], which z on a facet leaves open. None: where z is."""
        known, size = self.learner.known, 1 << max(len(z) - 1, 0).bit_length()  # few sizes: few programs
        if region is None:
            region = (
                np.zeros(len(z), int) if self.regions is None else np.asarray(known.law(jnp.asarray(z, jnp.float32)).region)
            )
        padded = np.resize(np.asarray(z, np.float32), (size, z.shape[1])), np.resize(region, size)
        base, added = (np.asarray(x, np.float64)[: len(z)] for x in self._jit(*padded))
        if self.regions is not None:  # exact, and the same from all sides
            K, r = (x[region, : known.low.size] for x in (self.regions.K, self.regions.r))
            law = np.einsum("bmn,bn->bm", K, z) + r
            base, added = law, added + (base - law if self.learner.config.actor == "mlp" else 0)
        return np.clip(base, known.low, known.high), np.clip(base + added, known.low, known.high)

    def runs(self, mode: Literal["base", "eval"], episodes: int = 64, seed: int = 0) -> Runs:
        """Whole episodes from starts that ``seed`` alone decides."""
        key, act = keys.fold(keys.root(seed), "report"), self.learner.act
        streams, steps = batch(self.env, episodes, ends="stop"), (self.env.spec.horizon or 200) + 1
        whole = (lambda f: f) if streams.host else jax.jit
        behave = (jax.jit if streams.host else lambda f: f)(lambda step: act(self.state, step, key, mode)[0])

        def policy(carry: Any, step: Any, now: Any) -> tuple[Any, Any, dict]:
            return behave(step), carry, {}

        def play(key: Any) -> tuple[Any, Any]:
            rows = rollout(streams, streams.params, policy, begin(streams, streams.params, (), key), key, steps)[1]
            return rows, self.learner.known.see(rows.obs)

        try:
            rows, z = whole(play)(key)
        finally:
            streams.close()
        valid = np.asarray(rows.valid)
        z = np.where(valid[..., None], np.asarray(z), np.nan)
        violated = valid & np.asarray(rows.info.get("violation", np.zeros_like(valid)), bool)
        return Runs(z, -(np.asarray(rows.reward) * valid).sum(0), violated)


def opened(policy: Any) -> Trained:
    """``policy`` (`rlx.train.Policy`, or opened already) with the controller that it was trained from.

    Raises:
        ValueError: it is of another method.
    """
    if isinstance(policy, Trained):
        return policy
    learner = getattr(policy.agent.report, "learner", None)
    if not isinstance(learner, Learner):
        raise ValueError(f"a policy of 'yann' has regions to report; this one is of {policy.agent.name!r}.")
    return Trained(learner, policy.state, policy.problem.envs["train"])


# ----------------------------------------------------------------------------------------------------------------- names


def signals(learner: Learner) -> tuple[list[Signal], list[Signal]]:
    """Of z [nz] and of u [m]."""
    c, lay = learner.known.control, learner.known.layout
    n, m = len(c.x), len(c.u)
    names = c.names if len(c.names) == n + m else (*(f"x{i + 1}" for i in range(n)), *(f"u{i + 1}" for i in range(m)))
    of = [Signal(*re.fullmatch(r"(.*?)\s*(?:\[(.*)\])?", name).groups(""), 0.0) for name in names]  # type: ignore
    centred = [s._replace(centre=float(x)) for s, x in zip(of, [*c.x, *c.u], strict=True)]
    states, inputs = centred[:n], centred[n:]
    z = list(states)
    if lay.k:
        z += [s._replace(name=f"{s.name}_set") for s in _outputs(c, states)]
    if lay.m:
        z += [u._replace(name=f"{u.name}_before") for u in inputs]
    if lay.d:
        z += [Signal(f"d{i + 1}", "", float(d)) for i, d in enumerate(np.asarray(c.disturbance))]
    return z, inputs


def _outputs(c: Control, states: list[Signal]) -> list[Signal]:
    if c.outputs is None:
        return states
    y = c.outputs @ c.x
    single = [(row != 0).sum() == 1 and row.max() == 1 for row in c.outputs]
    own = [states[int(np.argmax(row))] for row in c.outputs]
    return [s if one else Signal(f"y{i + 1}", "", float(y[i])) for i, (s, one) in enumerate(zip(own, single, strict=True))]


def law_text(K: np.ndarray, r: np.ndarray, z: Sequence[Signal], u: Sequence[Signal], scale: np.ndarray) -> str:
    """``"u = -19.6 angle - 5.72 rate"`` of K [m, nz], r [m]. Terms are left out that make less than 1e-6 of the largest one
    anywhere in the box of half-widths ``scale``."""
    lines = []
    for row, const, signal in zip(K, r, u, strict=True):
        least = 1e-6 * max(np.abs(row * scale).max(), abs(const), 1e-12)
        terms = [(k, s.symbol) for k, s, size in zip(row, z, scale, strict=True) if abs(k) * size > least]
        terms += [(const, "")] if abs(const) > least or not terms else []
        text = " ".join(f"{'-' if k < 0 else '+'} {_number(abs(k))} {name}".strip() for k, name in terms)
        lines.append(f"{signal.symbol} = {text.removeprefix('+ ').replace('- ', '-', 1) if text[0] == '-' else text[2:]}")
    return "; ".join(lines)


def _number(x: float) -> str:
    return f"{x:.4g}"


def row_names(learner: Learner) -> list[str]:
    """Of the rows of the controller's program: ``"torque(0) max"`` bounds the first input, ``"angle(1) min"`` the state after
    it."""
    program, config = learner.known.program, learner.config
    if program is None:
        return []
    z, u = signals(learner)
    ends, n = ("max", "min"), len(learner.known.control.x)
    names = [f"{s.name}({k}) {end}" for k in range(config.horizon) for end in ends for s in u]
    if config.state_rows:
        names += [f"{s.name}({k + 1}) {end}" for k in range(config.horizon) for end in ends for s in z[:n]]
    names += ["nothing violated"] if config.soft is not None and config.state_rows else []
    return names if len(names) == len(program.G) else [f"row {i}" for i in range(len(program.G))]


# ----------------------------------------------------------------------------------------------------------------- table


def table(policy: Any, seed: int = 0) -> list[dict[str, Any]]:
    """One dict per region of the law of ``policy`` (one for all, where the law has no regions):

    ``region``, ``law`` in words, ``K`` [m, nz] and ``r`` [m]; ``active`` rows of the program; ``visits`` until then;
    ``residual_mean`` and ``residual_max``, what learning changed at points all over the region; ``jump``, the largest one of
    the learned policy seen at a facet, and ``jump_to``, the region behind (None: no other is). Changes and jumps are of each
    input, [m], in its unit and within its bounds.
    """
    it = opened(policy)
    learner, regions = it.learner, it.regions
    z, u = signals(learner)
    visits = np.asarray(it.state.learned["visits"])
    none = {"jump": np.zeros(learner.m), "jump_to": None}
    if regions is None:
        random = np.random.default_rng(keys.checked(seed))
        points = random.uniform(learner.known.z_low, learner.known.z_high, (2_048, learner.nz))
        law: Any = learner.known.law
        given: dict[str, Any] = {"law": "the program, solved for each state", "K": None, "r": None}
        if isinstance(law, AffineLaw):
            K, r = np.asarray(law.K, np.float64), np.asarray(law.r, np.float64)
            given = {"law": law_text(K, r, z, u, learner.known.scale) + ", within its bounds", "K": K, "r": r}
        return [{"region": 0, **given, "active": [], "visits": int(visits[0]), **_changes(it, points, None), **none}]
    points, facets, beyond = walks(regions, np.random.default_rng(keys.checked(seed)))
    changed = _changes(it, points.reshape(-1, learner.nz), np.repeat(np.arange(len(points)), points.shape[1]))
    jumps = _jumps(it, facets, beyond)
    rows = row_names(learner)
    out = []
    for i in range(len(regions.K)):
        K, r = regions.K[i, : learner.m], regions.r[i, : learner.m]
        row = {"region": i, "law": law_text(K, r, z, u, learner.known.scale), "K": K, "r": r}
        row |= {"active": [rows[j] for j in np.flatnonzero(regions.active[i])], "visits": int(visits[i])}
        out.append({**row, **{k: v[i] for k, v in changed.items()}, **jumps.get(i, none)})
    return out


def walks(regions: Regions, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By hit and run from the centres: points all over each region [p, c, nz], points on its facets, and these moved a little
    outwards."""
    p, _, nz = regions.A.shape
    A, scale = regions.A * regions.scale, regions.scale
    chains, steps = (CHAINS, STEPS) if p * CHAINS * STEPS <= MOST else (4, max(4, MOST // (4 * p)))
    x = np.repeat(regions.centre[:, None] / scale, chains, 1)
    inside, facets, beyond = [], [], []
    for _ in range(steps):
        way = random.standard_normal(x.shape)
        way /= np.linalg.norm(way, axis=-1, keepdims=True)
        room, rate = regions.b[:, None] - x @ A.transpose(0, 2, 1), way @ A.transpose(0, 2, 1)  # [p, chains, q]
        with np.errstate(divide="ignore", invalid="ignore"):
            far = np.where(rate > 1e-12, room / rate, np.inf).min(-1, keepdims=True)
            back = np.where(rate < -1e-12, room / rate, -np.inf).max(-1, keepdims=True)
        facets.append((x + far * way) * scale)
        beyond.append((x + (far + BESIDE) * way) * scale)
        x = x + (back + (far - back) * random.uniform(0.001, 0.999, far.shape)) * way
        inside.append(x * scale)
    return np.concatenate(inside, 1), np.concatenate(facets, 1), np.concatenate(beyond, 1)


def _changes(it: Trained, points: np.ndarray, region: np.ndarray | None) -> dict[str, Any]:
    """Mean and largest |u learned - u controller| over points, [regions, m] each; [m] where there is no ``region``."""
    base, learned = it.inputs(points, region)
    size = np.abs(learned - base)
    if region is None:
        return {"residual_mean": size.mean(0), "residual_max": size.max(0)}
    size = size.reshape(region.max() + 1, -1, size.shape[-1])
    return {"residual_mean": size.mean(1), "residual_max": size.max(1)}


def _jumps(it: Trained, facets: np.ndarray, beyond: np.ndarray) -> dict[int, dict[str, Any]]:
    """Of the regions that have neighbours: the largest jump, and where to."""
    p, c, nz = facets.shape
    z, here = facets.reshape(-1, nz), np.repeat(np.arange(p), c)
    assert it.regions is not None
    there = it.regions.locate(beyond.reshape(-1, nz))
    across = (there >= 0) & (there != here)
    z, here, there = z[across], here[across], there[across]
    if not len(z):
        return {}
    size = np.abs(it.inputs(z, here)[1] - it.inputs(z, there)[1])
    out: dict[int, dict[str, Any]] = {}
    for i in np.unique(here):
        mine = here == i
        worst = np.argmax((size[mine] / it.learner.known.half).max(-1))
        most = size[mine].max(0)
        out[int(i)] = {"jump": most, "jump_to": int(there[mine][worst]) if (most > 1e-9).any() else None}
    return out


def markdown(
    policy: Any, rows: list[dict[str, Any]] | None = None, runs: tuple[Runs, Runs] | None = None, most: int = 40
) -> str:
    """The table as a page: ``rows`` of `table`, the ``most`` visited; and costs of ``runs`` of (controller, learned policy)."""
    it = opened(policy)
    rows = table(it) if rows is None else rows
    z, u = signals(it.learner)
    per = " / ".join(map(str, u))
    biggest = np.max([row["jump"] for row in rows], 0)
    lines = [f"# The regions of yann on {it.env.name}", ""]
    lines += [f"{len(rows)} region{'s' * (len(rows) > 1)} over {', '.join(map(str, z))}."]
    moved = [f"{s.name} from {_number(s.centre)}" for s in (*z, *u) if s.centre != 0]
    lines += [f"Δ is the deviation: {', '.join(moved)}."] if moved else []
    lines += [f"Largest jump of the learned policy from one region to the next: {_many(biggest)} in {per}."]
    if runs is not None:
        worse = [f"{r.cost.mean():.4g} ({int(r.violated.any(0).sum())} with violations)" for r in runs]
        count = len(runs[0].cost)
        lines += ["", f"Mean cost over the same {count} starts: the controller {worse[0]}, the learned policy {worse[1]}."]
    if not np.any([row["residual_max"] for row in rows]):
        lines += [
            "",
            "Learning changed nothing yet, or what it changed was no better at evaluations than the controller itself.",
        ]
    shown = rows if len(rows) <= most else sorted(rows, key=lambda row: -row["visits"])[:most]
    lines += [] if shown is rows else ["", f"The {most} regions that were visited most, of {len(rows)}:"]
    head = ("region", "law of the controller", "active rows", "visits", "change, mean", "change, max", "jump", "to")
    lines += ["", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in shown:
        active, to = ", ".join(row["active"]) or "none", "" if row["jump_to"] is None else str(row["jump_to"])
        sizes = [_many(row[name]) for name in ("residual_mean", "residual_max", "jump")]
        cells = (str(row["region"]), row["law"], active, f"{row['visits']:,}", *sizes, to)
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Change: how far learning moved {per}, at points all over the region. Jump: the largest one of the learned policy",
        "seen at a facet to a neighbour; the controller itself has none. Inputs are counted within their bounds.",
        f"`{u[0].name}(0) max` is the upper bound of the first input, `{z[0].name}(1) min` the lower bound of the next state.",
    ]
    return "\n".join(lines) + "\n"


def _many(x: Sequence[float]) -> str:
    return " / ".join("0" if abs(v) < 1e-12 else f"{v:.3g}" for v in x)
