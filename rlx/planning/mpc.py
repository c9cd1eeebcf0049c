"""Linear model predictive control as a multi-parametric quadratic program (YANN-RL, eq. 8 and 9).

The parameter z is what the controller sees: z = [s; r; v; d], state, set-point, input of the decision before, disturbance; of
the last three those that there are. Every predicted signal is linear in the inputs U and in z, so a program is a list of
weighted signals and a list of bounded ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rlx.planning.linear import Linear, Target, action_value, check_weights, riccati, symmetric, target, weight
from rlx.types import Control


@dataclass(frozen=True)
class Program:
    """min over U of U'HU + 2 U'Fz + z'Yz, subject to G U <= w + S z, for every z with Th z <= th."""

    H: np.ndarray  # [v, v] symmetric, positive definite
    F: np.ndarray  # [v, nz]
    Y: np.ndarray  # [nz, nz]
    G: np.ndarray  # [rows, v]
    w: np.ndarray  # [rows]
    S: np.ndarray  # [rows, nz]
    Th: np.ndarray  # [th rows, nz]
    th: np.ndarray  # [th rows]
    m: int  # the first m of U are the input now
    u_low: np.ndarray = field(default_factory=lambda: np.array([-np.inf]))  # [m] its bounds
    u_high: np.ndarray = field(default_factory=lambda: np.array([np.inf]))

    def __post_init__(self) -> None:
        rows, v = self.G.shape
        nz = self.F.shape[1]
        wanted = {"H": (v, v), "F": (v, nz), "Y": (nz, nz), "w": (rows,), "S": (rows, nz), "th": (len(self.Th),)}
        wrong = [f"{k} {getattr(self, k).shape}, not {shape}" for k, shape in wanted.items() if getattr(self, k).shape != shape]
        if wrong or self.Th.shape[1:] != (nz,) or not 1 <= self.m <= v:
            raise ValueError(
                f"a program with G {self.G.shape}, F {self.F.shape}, m={self.m}: {'; '.join(wrong) or self.Th.shape}"
            )
        for name in (*wanted, "G", "Th"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"the program's {name} has entries that are not finite: look at weights and bounds.")
        if np.linalg.eigvalsh(symmetric("the program's H", self.H)).min() < 1e-10:
            raise ValueError(
                "the program's H is not positive definite (least eigenvalue 1e-10): give every input a price R > 0."
            )


class Signal(NamedTuple):
    """U and z to a signal: U @ of_u' + z @ of_z'."""

    of_u: np.ndarray  # [k, v]
    of_z: np.ndarray  # [k, nz]


@dataclass(frozen=True)
class Layout:
    """Which entries of z are what, and the target that they ask for."""

    n: int
    k: int  # set-points, 0 where the plant is held at its operating point
    m: int  # inputs of the decision before, 0 where changes are free
    d: int  # disturbances

    @property
    def size(self) -> int:
        return self.n + self.k + self.m + self.d

    def part(self, which: str) -> np.ndarray:
        """The rows of the identity that pick "state", "setpoint", "input" or "disturbance" of z."""
        sizes = {"state": self.n, "setpoint": self.k, "input": self.m, "disturbance": self.d}
        start = 0
        for name, size in sizes.items():
            if name == which:
                return np.eye(self.size)[start : start + size]
            start += size
        raise KeyError(which)

    def rest(self, found: Target) -> tuple[np.ndarray, np.ndarray]:
        """The target as a function of z: [n, nz], [m, nz]."""
        asked = np.concatenate([self.part("setpoint"), self.part("disturbance")])
        return found.S @ asked, found.U @ asked


def layout(control: Control, model: Linear) -> Layout:
    n, m = model.B.shape
    k = 0 if control.setpoint_low is None else len(control.setpoint_low)
    return Layout(n, k, 0 if control.rate is None else m, model.E.shape[1])


def _box(name: str, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(f"bounds of {name} must be finite, got {low} to {high}.")
    if not (low < high).all():
        raise ValueError(f"bounds of {name} leave nothing between them: {low} to {high}.")
    return low, high


def parameter_box(control: Control, lay: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of z in deviations, [nz] each."""
    outputs = _outputs(control, lay.n)
    parts = [("states", control.x_low, control.x_high, control.x)]
    if lay.k:
        parts.append(("set-points", control.setpoint_low, control.setpoint_high, outputs @ control.x))  # type: ignore[arg-type]
    if lay.m:
        parts.append(("inputs", control.u_low, control.u_high, control.u))
    if lay.d:
        if control.disturbance is None:
            raise ValueError("the plant has measured disturbances and its Control gives no bounds of them.")
        parts.append(
            ("disturbances", control.disturbance_low, control.disturbance_high, control.disturbance)  # type: ignore[arg-type]
        )
    boxes = [(*_box(name, low, high), centre) for name, low, high, centre in parts]
    return np.concatenate([low - c for low, _, c in boxes]), np.concatenate([high - c for _, high, c in boxes])


def program(
    control: Control,
    model: Linear,
    horizon: int,
    *,
    terminal_weight: np.ndarray | None = None,
    state_rows: bool = True,
    soft: float | None = None,
    terminal: tuple[np.ndarray, np.ndarray] | None = None,
    state_polytope: tuple[np.ndarray, np.ndarray] | None = None,
) -> Program:
    """The controller's program over ``horizon`` decisions, with a cost-to-go behind it.

    Args:
        terminal_weight: of the last state (and input, where changes cost); None: the undiscounted cost-to-go.
        state_rows: keep predicted states inside the box of ``control``.
        soft: the price of violating state rows, per unit squared of the largest violation; None: they are hard.
        terminal: (F_f, g_f) with F_f s_N <= g_f.
        state_polytope: (F_s, g_s) with F_s s_k <= g_s for k = 1..horizon, and for s itself.

    Raises:
        ValueError: bounds, weights or a plant that admit no controller.
    """
    if horizon < 1:
        raise ValueError(f"a horizon of {horizon} decisions: give at least 1.")
    lay = layout(control, model)
    R = np.asarray(control.r, np.float64)
    check_weights(control.q, R if control.rate is None else R + weight("rate", control.rate, len(R)))
    if terminal_weight is not None:
        terminal_weight = weight("terminal_weight", terminal_weight, lay.n + lay.m)
    inputs, states = _signals(model, lay, horizon)
    P = cost_to_go(control, model).P if terminal_weight is None else terminal_weight
    H, F, Y = _cost(control, model, lay, inputs, states, P)
    z_low, z_high = parameter_box(control, lay)
    Th, th = np.concatenate([np.eye(lay.size), -np.eye(lay.size)]), np.concatenate([z_high, -z_low])
    u_low, u_high = _box("inputs", control.u_low - control.u, control.u_high - control.u)
    s_low, s_high = z_low[: lay.n], z_high[: lay.n]
    hard = [row for u in inputs for row in _between(u, u_low, u_high)]
    kept = [row for s in states[1:] for row in _between(s, s_low, s_high)] if state_rows else []
    if state_polytope is not None:
        Fs, gs = state_polytope
        kept += [(Signal(Fs @ s.of_u, Fs @ s.of_z), gs) for s in states[1:]]
        Th, th = np.concatenate([Th, Fs @ lay.part("state")]), np.concatenate([th, gs])
    if terminal is not None:
        kept.append((Signal(terminal[0] @ states[-1].of_u, terminal[0] @ states[-1].of_z), terminal[1]))
    G, w, S = _stack(hard + kept, H.shape[0], lay.size)
    if soft is not None and kept:
        H, F, G, w, S = _softened(H, F, G, w, S, sum(len(b) for _, b in hard), soft)
    return Program(H, F, Y, G, w, S, Th, th, len(control.u), u_low, u_high)


def _signals(model: Linear, lay: Layout, horizon: int) -> tuple[list[Signal], list[Signal]]:
    """Inputs u_0..u_{N-1} and states s_0..s_N."""
    n, m = model.B.shape
    v = m * horizon
    drifts = model.E @ lay.part("disturbance")
    inputs = [Signal(np.eye(v)[k * m : (k + 1) * m], np.zeros((m, lay.size))) for k in range(horizon)]
    states = [Signal(np.zeros((n, v)), lay.part("state"))]
    for u in inputs:
        s = states[-1]
        states.append(Signal(model.A @ s.of_u + model.B @ u.of_u, model.A @ s.of_z + drifts))
    return inputs, states


def _cost(
    control: Control, model: Linear, lay: Layout, inputs: list[Signal], states: list[Signal], P: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """H, F, Y. The first state's cost does not depend on U, but the value function needs it."""
    outputs = _outputs(control, lay.n)
    s_r, u_r = _rest(control, model, lay)
    away = lambda signal, rest: Signal(signal.of_u, signal.of_z - rest)
    r_y = outputs @ s_r
    weighted = [(away(Signal(outputs @ s.of_u, outputs @ s.of_z), r_y), control.q) for s in states[:-1]]
    weighted += [(away(u, u_r), control.r) for u in inputs]
    before = Signal(np.zeros_like(inputs[0].of_u), lay.part("input"))
    if lay.m:
        pairs = zip([before, *inputs[:-1]], inputs, strict=True)
        weighted += [(Signal(b.of_u - a.of_u, b.of_z - a.of_z), np.asarray(control.rate)) for a, b in pairs]
    wide = np.concatenate([away(states[-1], s_r).of_u, *([away(inputs[-1], u_r).of_u] if lay.m else [])])
    wide_z = np.concatenate([away(states[-1], s_r).of_z, *([away(inputs[-1], u_r).of_z] if lay.m else [])])
    weighted.append((Signal(wide, wide_z), P))
    total = lambda a, b: sum(getattr(x, a).T @ W @ getattr(x, b) for x, W in weighted)
    H, F, Y = total("of_u", "of_u"), total("of_u", "of_z"), total("of_z", "of_z")
    return (H + H.T) / 2, F, (Y + Y.T) / 2


def _outputs(control: Control, n: int) -> np.ndarray:
    return np.eye(n) if control.outputs is None else np.asarray(control.outputs, np.float64)


def _rest(control: Control, model: Linear, lay: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Where z asks the plant to rest: states [n, nz] and inputs [m, nz]; 0 where it is held at its operating point."""
    if not (lay.k or lay.d):
        return np.zeros((lay.n, lay.size)), np.zeros((len(control.u), lay.size))
    outputs = _outputs(control, lay.n)
    found, given = target(model, outputs), 0 if lay.k else len(outputs)  # set-points that are not in z are 0
    return lay.rest(Target(found.S[:, given:], found.U[:, given:]))


class CostToGo(NamedTuple):
    """Of the plant without limits: V(e) = e'Pe with e = s - s_r, or [s - s_r; v - u_r] where changes of the input cost; and the
    action value W over [e; u - u_r]."""

    P: np.ndarray
    W: np.ndarray


def cost_to_go(control: Control, model: Linear, discount: float = 1.0, P: np.ndarray | None = None) -> CostToGo:
    """The linear-quadratic regulator's. ``P`` given: the action value that looks ahead to that instead.

    Raises:
        ValueError: as `rlx.planning.linear.riccati`.
    """
    n, m = model.B.shape
    outputs = _outputs(control, n)
    A, B, Q, R, cross = model.A, model.B, outputs.T @ control.q @ outputs, np.asarray(control.r, np.float64), None
    if control.rate is not None:  # the state remembers the input before
        rate = np.asarray(control.rate, np.float64)
        A = np.block([[A, np.zeros((n, m))], [np.zeros((m, n + m))]])
        B = np.concatenate([B, np.eye(m)])
        Q = np.block([[Q, np.zeros((n, m))], [np.zeros((m, n)), rate]])
        R, cross = R + rate, np.concatenate([np.zeros((n, m)), -rate])
    P = riccati(A, B, Q, R, discount, cross) if P is None else P
    return CostToGo(P, action_value(A, B, Q, R, P, discount, cross))


def action_value_of_z(control: Control, model: Linear, W: np.ndarray) -> np.ndarray:
    """An action value over [e; u - u_r] as one over [z; u], [nz + m, nz + m]."""
    to = _errors(control, model)
    return to.T @ W @ to


def value_of_z(control: Control, model: Linear, P: np.ndarray) -> np.ndarray:
    """A cost-to-go e'Pe as a form of z, [nz, nz]."""
    to = _errors(control, model)[: len(P), : -len(control.u)]
    return to.T @ P @ to


def stage_cost_of_z(control: Control, model: Linear) -> np.ndarray:
    """The cost of one decision as a form of [z; u], [nz + m, nz + m]."""
    n, m = model.B.shape
    outputs, size = _outputs(control, n), n + (m if control.rate is not None else 0)
    W = np.zeros((size + m, size + m))
    W[:n, :n], W[size:, size:] = outputs.T @ control.q @ outputs, control.r
    if control.rate is not None:
        change = np.concatenate([np.zeros((m, n)), -np.eye(m), np.eye(m)], 1)  # u - v
        W += change.T @ control.rate @ change
    return action_value_of_z(control, model, W)


def _errors(control: Control, model: Linear) -> np.ndarray:
    """[z; u] to [e; u - u_r]."""
    lay, m = layout(control, model), len(control.u)
    s_r, u_r = _rest(control, model, lay)
    e = [lay.part("state") - s_r] + ([lay.part("input") - u_r] if lay.m else [])
    size = sum(map(len, e))
    return np.block([[np.concatenate(e), np.zeros((size, m))], [-u_r, np.eye(m)]])


def _between(signal: Signal, low: np.ndarray, high: np.ndarray) -> list[tuple[Signal, np.ndarray]]:
    return [(signal, high), (Signal(-signal.of_u, -signal.of_z), -low)]


def _stack(rows: list[tuple[Signal, np.ndarray]], v: int, nz: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signals with upper bounds as G U <= w + S z."""
    G = np.concatenate([signal.of_u for signal, _ in rows] or [np.zeros((0, v))])
    S = np.concatenate([-signal.of_z for signal, _ in rows] or [np.zeros((0, nz))])
    return G, np.concatenate([bound for _, bound in rows] or [np.zeros(0)]), S


def _softened(
    H: np.ndarray, F: np.ndarray, G: np.ndarray, w: np.ndarray, S: np.ndarray, hard: int, price: float
) -> tuple[np.ndarray, ...]:
    """One more variable, the largest violation of the rows from ``hard`` on: every z with admissible inputs has a solution. It
    is not below 0 at any optimum, so no row has to say so."""
    if price <= 0:
        raise ValueError(f"soft={price}: the price of violations must be positive.")
    v = len(H)
    slack = np.where(np.arange(len(G)) < hard, 0.0, -1.0)[:, None]
    H = np.block([[H, np.zeros((v, 1))], [np.zeros((1, v)), np.full((1, 1), price)]])
    return H, np.concatenate([F, np.zeros((1, F.shape[1]))]), np.concatenate([G, slack], 1), w, S
