"""Nonlinear model predictive control by shooting, for plants whose equations are known: how good a controller could be, where
dynamic programming cannot be had. The baseline of methods that are given a linear model only.

Inputs over a horizon are optimised by sequential quadratic programming with the Gauss-Newton Hessian, which is good here since
costs are squares (Diehl, Bock and Schloeder 2005, "A real-time iteration scheme for nonlinear optimization in optimal feedback
control", SIAM Journal on Control and Optimization 43). States follow from them (single shooting); steps keep the inputs' bounds
exactly and are shortened until the cost falls; the plan of the decision before, moved on by one, is where the next one begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from rlx.planning import mpc
from rlx.planning.linear import Linear, linearise
from rlx.planning.nearest import nearest
from rlx.precision import exact
from rlx.types import Array, Control, Env

SHARES = (1.0, 0.5, 0.2, 0.05, 0.01, 0.0)  # of a step, of which the cheapest is taken
RIDGE = 1e-6  # of the Hessian's mean diagonal: keeps float32 from dividing by nothing


@dataclass(frozen=True)
class Shooting:
    """``law(told, plan)``: the action [m] now and the plan [horizon, m] of actions, for what `Control.measure` tells of one
    state. Begin with ``law.start()``, and then give it the plan that came last."""

    control: Control
    move: Callable[[Array, Array, Array], Array]  # (x [n], u [m], disturbance [l]) -> x [n] after one decision, physical units
    roots: dict[str, np.ndarray]  # R of each weight W = R'R: "q", "r", "rate", and "end" over z
    horizon: int
    iterations: int
    soft: float | None

    def start(self) -> Array:
        """The plan of the operating point's input."""
        c = self.control
        rest = (np.asarray(c.u) - c.u_low) / (c.u_high - c.u_low) * 2 - 1
        return jnp.tile(jnp.asarray(rest, jnp.float32), (self.horizon, 1))

    def __call__(self, measured: dict[str, Array], plan: Array) -> tuple[Array, Array]:
        plan = jnp.concatenate([plan[1:], plan[-1:]])
        better = lambda plan, _: (self.improved(measured, plan), None)
        plan = jax.lax.scan(better, plan, None, self.iterations)[0]
        return plan[0], plan

    @exact
    def improved(self, measured: dict[str, Array], plan: Array) -> Array:
        """One step of sequential quadratic programming."""
        flat = plan.ravel()
        errors = lambda flat: self.errors(measured, flat.reshape(plan.shape))
        e, J = errors(flat), jax.jacfwd(errors)(flat)
        H = J.T @ J
        L = jnp.linalg.cholesky(H + RIDGE * (jnp.trace(H) / len(flat) + 1e-12) * jnp.eye(len(flat)))
        to = jax.scipy.linalg.solve_triangular(L, jnp.eye(len(flat)), lower=True)  # steps are to' V, where the Hessian is 1
        size = jnp.linalg.norm(to, axis=0)
        G = (to / size).T
        room = jnp.concatenate([(1 - flat) / size, (1 + flat) / size])
        V = nearest(jnp.concatenate([G, -G]), room, -to @ (J.T @ e))
        step = to.T @ V.point
        tried = jnp.clip(flat + jnp.array(SHARES)[:, None] * step, -1.0, 1.0)
        costs = (jax.vmap(errors)(tried) ** 2).sum(-1)
        best = tried[jnp.argmin(jnp.where(jnp.isfinite(costs), costs, jnp.inf))]
        return jnp.where(jnp.isfinite(best), best, flat).reshape(plan.shape)

    @exact
    def errors(self, measured: dict[str, Array], plan: Array) -> Array:
        """What the cost of a plan [horizon, m] is the sum of squares of."""
        c, dot = self.control, lambda R, x: jnp.asarray(R, jnp.float32) @ x
        C = np.eye(len(c.x)) if c.outputs is None else c.outputs
        aim = measured.get("setpoint", jnp.asarray(C @ c.x, jnp.float32))
        d = measured.get("disturbance", jnp.zeros(0))
        low, high = jnp.asarray(c.x_low, jnp.float32), jnp.asarray(c.x_high, jnp.float32)

        def once(carry: tuple[Array, Array], action: Array) -> tuple[tuple[Array, Array], Array]:
            x, before = carry
            u = (c.u_low + c.u_high) / 2 + (c.u_high - c.u_low) / 2 * action
            parts = [dot(self.roots["q"], dot(C, x) - aim), dot(self.roots["r"], u - c.u)]
            parts += [dot(self.roots["rate"], u - before)] if c.rate is not None else []
            x = self.move(x, u, d)
            if self.soft is not None:
                out = jnp.maximum(x - high, 0) + jnp.minimum(x - low, 0)
                parts.append(np.sqrt(self.soft) * out / ((high - low) / 2))
            return (x, u), jnp.concatenate(parts)

        u = jnp.asarray(c.u, jnp.float32)
        (x, u), each = jax.lax.scan(once, (measured["state"], measured.get("input", u)), plan)
        z = [x - c.x] + ([aim - C @ c.x] if "setpoint" in measured else []) + ([u - c.u] if c.rate is not None else [])
        z += [d - c.disturbance] if c.disturbance is not None else []
        return jnp.concatenate([each.ravel(), dot(self.roots["end"], jnp.concatenate(z))])


def shooting(
    env: Env, horizon: int = 20, iterations: int = 5, substeps: int = 4, soft: float | None = 1e3, model: Linear | None = None
) -> Shooting:
    """The controller that knows the equations of ``env``, `Task.drift`; ``substeps`` steps of fourth order integrate them.

    Args:
        iterations: of sequential quadratic programming per decision.
        soft: the price of leaving the box of states, per half-width squared; None: it is no limit.
        model: the linear one whose cost-to-go stands behind the horizon. None: the plant linearised.

    Raises:
        ValueError: ``env`` does not say what its plant is, or sizes below 1.
    """
    task = env.spec.task
    if task.control is None or task.drift is None:
        raise ValueError(
            f"shooting needs the equations of a plant and its costs (Task.drift, Task.control), which {env.name} lacks."
        )
    if min(horizon, iterations, substeps) < 1:
        raise ValueError(f"horizon={horizon}, iterations={iterations} and substeps={substeps} must be at least 1.")
    control, drift = task.control, task.drift
    h = control.dt / substeps

    def move(x: Array, u: Array, d: Array) -> Array:
        action = (u - control.u_low) / (control.u_high - control.u_low) * 2 - 1
        params = {**env.params, "disturbance": d} if control.disturbance is not None else env.params
        slope = lambda x: drift(jnp, params, x, action)

        def once(x: Array, _: None) -> tuple[Array, None]:
            a = slope(x)
            b = slope(x + h / 2 * a)
            c = slope(x + h / 2 * b)
            return x + h / 6 * (a + 2 * b + 2 * c + slope(x + h * c)), None

        return jax.lax.scan(once, x, None, substeps)[0]

    return Shooting(control, move, roots(control, model or linearise(env, control)), horizon, iterations, soft)


def roots(control: Control, model: Linear) -> dict[str, np.ndarray]:
    """R of each weight W = R'R: of outputs "q", inputs "r", changes "rate", and "end", the cost-to-go of `rlx.planning.mpc`
    as a form of z."""
    weights = {"q": control.q, "r": control.r, "end": mpc.value_of_z(control, model, mpc.cost_to_go(control, model).P)}
    weights |= {} if control.rate is None else {"rate": control.rate}
    return {name: _root(np.asarray(W, np.float64)) for name, W in weights.items()}


def _root(W: np.ndarray) -> np.ndarray:
    value, vectors = np.linalg.eigh((W + W.T) / 2)
    return np.sqrt(np.maximum(value, 0.0))[:, None] * vectors.T
