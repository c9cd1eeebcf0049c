"""Linear models of plants, and what is known of them in closed form. Float64 numpy, on the host.

Everything is in deviations from an operating point: s = x - x_ss, u - u_ss, d - d_ss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from rlx.types import Control, Env


class Linear(NamedTuple):
    """s' = A s + B u + E d, one decision."""

    A: np.ndarray  # [n, n]
    B: np.ndarray  # [n, m]
    E: np.ndarray  # [n, l] of measured disturbances; l may be 0


class Target(NamedTuple):
    """Where a linear plant rests for a set-point r and a disturbance d: s_r = S z, u_r = U z with z = [r; d]."""

    S: np.ndarray  # [n, k + l]
    U: np.ndarray  # [m, k + l]


def zero_order_hold(Ac: np.ndarray, Bc: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """The discrete (A, B) of ds/dt = Ac s + Bc u under inputs held for ``dt``: the blocks of expm([[Ac, Bc], [0, 0]] dt)."""
    n, m = Bc.shape
    block = np.zeros((n + m, n + m))
    block[:n, :n], block[:n, n:] = Ac, Bc
    whole = scipy.linalg.expm(block * dt)
    return whole[:n, :n], whole[:n, n:]


def jacobians(drift: Callable[..., Any], params: Any, x: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, ...]:
    """d drift/dx [n, n], d drift/d action [n, m], d drift/d disturbance [n, l] (``params["disturbance"]``, if there is one), in
    float64 at one point. ``drift(xp, params, x, action)`` is a task's."""
    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)
        params, x, action = wide(params), wide(x), wide(action)
        of = jax.jit(jax.jacfwd(lambda x, a, p: drift(jnp, p, x, a), argnums=(0, 1)))
        Ac, Bc = of(x, action, params)
        Ec = np.zeros((len(x), 0))
        if isinstance(params, dict) and "disturbance" in params:
            given = lambda d: drift(jnp, {**params, "disturbance": d}, x, action)
            Ec = jax.jit(jax.jacfwd(given))(params["disturbance"])
        return np.array(Ac), np.array(Bc), np.array(Ec)


def linearise(env: Env, control: Control | None = None) -> Linear:
    """The discrete model of a device environment at its operating point, with inputs and disturbances held for a decision.

    The model that ``control`` (None: the task's own) gives is taken if there is one; otherwise the drift is linearised.

    Raises:
        ValueError: the environment says nothing of its plant, its drift is unknown, or the model is not finite.
    """
    task = env.spec.task
    control = control or task.control
    if control is None:
        raise ValueError(f"{env.name} does not say what a controller may know of it: its Task has no `control`.")
    n, m = len(control.x), len(control.u)
    if control.model is not None:
        A, B = (np.asarray(part, np.float64) for part in control.model)
        return checked(Linear(A, B, np.zeros((n, 0))), env.name)
    if task.drift is None:
        raise ValueError(f"{env.name} has no drift to linearise: give Task.drift, or Control.model.")
    half = (control.u_high - control.u_low) / 2
    action = (control.u - control.u_low) / half - 1
    Ac, Bc, Ec = jacobians(task.drift, env.params, control.x, action)
    A, BE = zero_order_hold(Ac, np.concatenate([Bc / half, Ec], 1), control.dt)
    return checked(Linear(A, BE[:, :m], BE[:, m:]), env.name)


def checked(model: Linear, name: str = "the model") -> Linear:
    """``model`` in float64, if it can be one.

    Raises:
        ValueError: shapes that do not fit, or entries that are not finite.
    """
    A, B, E = (np.atleast_2d(np.asarray(part, np.float64)) for part in model)
    if A.ndim != 2 or A.shape[0] != A.shape[1] or B.shape[0] != len(A) or E.shape[0] != len(A):
        raise ValueError(f"{name}: A must be [n, n], B [n, m], E [n, l]; got {A.shape}, {B.shape}, {E.shape}.")
    if not all(np.isfinite(part).all() for part in (A, B, E)):
        raise ValueError(f"{name}: the linear model has entries that are not finite. Is the operating point an admissible one?")
    return Linear(A, B, E)


def identify(x: np.ndarray, u: np.ndarray, x_next: np.ndarray, d: np.ndarray | None = None, ridge: float = 1e-8) -> Linear:
    """The model that fits triples best in least squares: ``x``, ``x_next`` [T, n], ``u`` [T, m], ``d`` [T, l], in deviations.

    Raises:
        ValueError: lengths differ, values are not finite, or the data do not excite all directions.
    """
    x, u, x_next = (np.asarray(part, np.float64) for part in (x, u, x_next))
    d = np.zeros((len(x), 0)) if d is None else np.asarray(d, np.float64)
    if not len(x) == len(u) == len(x_next) == len(d) or x.shape != x_next.shape:
        raise ValueError(f"identify takes x, x_next [T, n], u [T, m]; got {x.shape}, {x_next.shape}, {u.shape}, d {d.shape}.")
    rows = np.concatenate([x, u, d], 1)
    if not (np.isfinite(rows).all() and np.isfinite(x_next).all()):
        raise ValueError("identify: the data hold values that are not finite.")
    rank = np.linalg.matrix_rank(rows) if len(rows) else 0
    if rank < rows.shape[1]:
        raise ValueError(f"identify: {len(rows)} rows span {rank} of {rows.shape[1]} directions; vary states and inputs more.")
    size = np.sqrt((rows**2).mean(0))
    scaled = rows / size  # so that the ridge means the same for all columns
    gram = scaled.T @ scaled + ridge * len(rows) * np.eye(rows.shape[1])
    found = (np.linalg.solve(gram, scaled.T @ x_next) / size[:, None]).T
    n, m = x.shape[1], u.shape[1]
    return Linear(found[:, :n], found[:, n : n + m], found[:, n + m :])


def riccati(
    A: np.ndarray, B: np.ndarray, Q: np.ndarray, R: np.ndarray, discount: float = 1.0, cross: np.ndarray | None = None
) -> np.ndarray:
    """P of the cost-to-go s'Ps [n, n] of min sum_t discount^t (s'Qs + u'Ru + 2 s' cross u): the discrete algebraic Riccati
    equation of (sqrt(discount) A, sqrt(discount) B).

    Raises:
        ValueError: weights are not finite, R not positive definite, Q not positive semi-definite, or no input can stabilise the
            plant.
    """
    check_weights(Q, R)
    root = np.sqrt(discount)
    try:
        return scipy.linalg.solve_discrete_are(root * A, root * B, Q, R, s=cross)
    except (np.linalg.LinAlgError, ValueError) as e:
        raise ValueError(
            f"no cost-to-go: the Riccati equation has no stabilising solution ({e}). Can the inputs reach every unstable mode, "
            "and do the weights Q see it? (A, B) must be stabilisable, (Q, A) detectable."
        ) from e


def check_weights(Q: np.ndarray, R: np.ndarray) -> None:
    """Raises ValueError for weights of states and inputs with which there is no sound cost."""
    if not (np.isfinite(Q).all() and np.isfinite(R).all()):
        raise ValueError("the weights Q and R must be finite.")
    weight("Q", Q, len(Q))
    if np.linalg.eigvalsh(symmetric("R", R)).min() < 1e-10:
        raise ValueError("R must be positive definite (least eigenvalue 1e-10): every input needs a price.")


def weight(name: str, W: Any, size: int) -> np.ndarray:
    """``W`` [size, size] of a cost x'Wx in float64.

    Raises:
        ValueError: another shape, entries that are not finite, not symmetric, or costs below 0.
    """
    W = np.asarray(W, np.float64)
    if W.shape != (size, size):
        raise ValueError(f"{name} must be [{size}, {size}], got {W.shape}.")
    if not np.isfinite(W).all():
        raise ValueError(f"{name} has entries that are not finite.")
    if np.linalg.eigvalsh(symmetric(name, W)).min() < -1e-9 * max(1.0, np.abs(W).max()):
        raise ValueError(f"{name} must be positive semi-definite.")
    return W


def symmetric(name: str, W: np.ndarray) -> np.ndarray:
    """``W`` [n, n], if it is symmetric up to rounding: of a triangle it cannot be told which matrix it stands for.

    Raises:
        ValueError: else.
    """
    off = np.abs(W - W.T).max(initial=0.0)
    if off > 1e-8 * np.abs(W).max(initial=0.0):
        raise ValueError(
            f"{name} is not symmetric: entries differ from those across the diagonal by up to {off:.3g}. Give all of it: "
            "of one triangle T that is T + T' - diag(T); where W stands for the form x'Wx, it is (W + W') / 2."
        )
    return W


def action_value(
    A: np.ndarray, B: np.ndarray, Q: np.ndarray, R: np.ndarray, P: np.ndarray, discount: float, cross: np.ndarray | None = None
) -> np.ndarray:
    """W [n + m, n + m] of Q0(s, u) = [s; u]' W [s; u] = cost(s, u) + discount V(A s + B u), V = s'Ps (YANN-RL, section 4.2)."""
    ss = Q + discount * A.T @ P @ A
    su = discount * A.T @ P @ B + (0 if cross is None else cross)
    uu = R + discount * B.T @ P @ B
    return np.block([[ss, su], [su.T, uu]])


def gain(W: np.ndarray, n: int) -> np.ndarray:
    """K [m, n] of the best input u = -K s of a quadratic action value ``W`` [n + m, n + m]."""
    return np.linalg.solve(W[n:, n:], W[n:, :n])


def target(model: Linear, outputs: np.ndarray) -> Target:
    """Where the plant rests with outputs y = C s = r under a disturbance d; with fewer inputs than outputs as near to that as
    can be (least squares), with more the smallest state and input.

    Raises:
        ValueError: no input holds the set-points, such as at an integrator's output that cannot rest, or the disturbance.
    """
    n, m = model.B.shape
    k, d = len(outputs), model.E.shape[1]
    still = np.concatenate([np.eye(n) - model.A, -model.B], 1)
    pushed = np.concatenate([np.zeros((n, k)), model.E], 1)
    output_map = np.concatenate([outputs, np.zeros((k, m))], 1)
    wanted = np.concatenate([np.eye(k), np.zeros((k, d))], 1)
    rest = np.linalg.lstsq(still, pushed, rcond=None)[0]
    free = scipy.linalg.null_space(still)  # where else it rests
    rest = rest + free @ np.linalg.lstsq(output_map @ free, wanted - output_map @ rest, rcond=None)[0]
    off = np.abs(still @ rest - pushed).max(initial=0.0) / max(1.0, np.abs(pushed).max(initial=0.0))
    if off > 1e-6 or (k <= m and np.abs(output_map @ rest - wanted).max(initial=0.0) > 1e-6):
        raise ValueError("the plant cannot rest at these set-points: I - A and B leave a direction that drifts.")
    return Target(rest[:n], rest[n:])
