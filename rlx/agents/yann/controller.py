"""What is known before learning: the controller as a law, the values that go with it, and the units that the networks see."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlx.agents.yann.config import Config
from rlx.agents.yann.networks import BigM, bigm_init
from rlx.planning import laws, mpc
from rlx.planning.linear import Linear, checked, linearise
from rlx.planning.merge import merged
from rlx.planning.mpqp import Regions, solve
from rlx.precision import exact
from rlx.types import Array, Control, Env, HostEnv, Problem

CORNERS = 14  # of so many parameters at most, all corners of the box are looked at


@dataclass(frozen=True)
class Controller:
    """z are parameters of the law, u inputs, both in deviations from the operating point."""

    control: Control
    model: Linear
    law: laws.BaseLaw
    value: laws.PiecewiseValue | None  # of the program, where it was solved for all parameters
    W: np.ndarray  # [nz + m, nz + m] the regulator's discounted action value of [z / scale; u / half]
    z_low: np.ndarray  # [nz] the box of parameters
    z_high: np.ndarray
    scale: np.ndarray  # [nz] half of its widths
    half: np.ndarray  # [m] half of the input's range
    low: np.ndarray  # [m] bounds of u
    high: np.ndarray
    bigm: BigM | None = None
    regions: Regions | None = None
    program: mpc.Program | None = None

    @property
    def count(self) -> int:
        """Regions of the law; 1 where it has none."""
        return 1 if self.regions is None else len(self.regions.K)

    def see(self, obs: Array) -> Array:
        """z [..., nz] of observations."""
        measured, c, outputs = self.control.measure(jnp, obs), self.control, self.control.outputs
        y = c.x if outputs is None else outputs @ c.x
        centres = {"state": c.x, "setpoint": y, "input": c.u, "disturbance": c.disturbance}
        parts = [measured[name] - _single(centre) for name, centre in centres.items() if self.has(name)]  # type: ignore[arg-type]
        return jnp.concatenate(parts, -1)

    @property
    def layout(self) -> mpc.Layout:
        return mpc.layout(self.control, self.model)

    def has(self, name: str) -> bool:
        """Whether z holds a "state", "setpoint", "input" (of the decision before) or "disturbance"."""
        lay = self.layout
        return {"state": lay.n, "setpoint": lay.k, "input": lay.m, "disturbance": lay.d}[name] > 0

    def features(self, z: Array) -> Array:
        return z / _single(self.scale)

    def action(self, u: Array) -> Array:
        """Actions in [-1, 1] for inputs."""
        return (u - _single((self.low + self.high) / 2)) / _single(self.half)

    def input(self, action: Array) -> Array:
        """Inputs of actions in [-1, 1]."""
        return action * _single(self.half) + _single((self.low + self.high) / 2)

    @exact
    def predicted(self, z: Array, u: Array) -> Array:
        """z [..., nz] after the decision u, by the linear model; set-points and disturbances stay."""
        lay, n = self.layout, len(self.control.x)
        dot = lambda M, x: jnp.einsum("ij,...j->...i", _single(M), x)
        ahead = dot(self.model.A, z[..., :n]) + dot(self.model.B, u)
        if lay.d:
            ahead = ahead + dot(self.model.E, z[..., -lay.d :])
        before = [u] if lay.m else []
        return jnp.concatenate([ahead, z[..., n : n + lay.k], *before, z[..., n + lay.k + lay.m :]], -1)

    @exact
    def cost(self, z: Array, u: Array) -> Array:
        """Of one decision [...]."""
        both = jnp.concatenate([z, u], -1)
        return jnp.einsum("...i,ij,...j->...", both, _single(mpc.stage_cost_of_z(self.control, self.model)), both)

    @exact
    def kept(self, z: Array, u: Array, margin: Array) -> Array:
        """The input nearest to ``u``, one limit after the other, with which the linear model stays ``margin`` (a share of the
        half-width) inside the box of states; within the input's bounds."""
        n = len(self.control.x)
        A, B = _single(self.model.A), _single(self.model.B)
        free = jnp.einsum("ij,...j->...i", A, z[..., :n])
        low, high = _single(self.z_low[:n]), _single(self.z_high[:n])
        room = margin * (high - low) / 2
        for i in range(n):
            b = self.model.B[i]
            if not b.any():
                continue
            ahead = free[..., i] + (u * B[i]).sum(-1)
            excess = jnp.maximum(ahead - (high - room)[i], 0) + jnp.minimum(ahead - (low + room)[i], 0)
            u = u - excess[..., None] * _single(b / (b @ b))
        return jnp.clip(u, _single(self.low), _single(self.high))

    @exact
    def probed(self, z: Array, u: Array, change: Array, margin: Array) -> Array:
        """``u`` within the input's bounds, and as much of ``change`` added to it as stays within them and, by the linear model,
        leaves the next state ``margin`` (a share of the half-width) inside the box of states; where ``u`` alone does not, no
        further out than that."""
        n, low, high = len(self.control.x), _single(self.low), _single(self.high)
        u = jnp.clip(u, low, high)
        change = jnp.clip(u + change, low, high) - u
        x_low, x_high = _single(self.z_low[:n]), _single(self.z_high[:n])
        room = margin * (x_high - x_low) / 2
        ahead = self.predicted(z, u)[..., :n]
        way = jnp.einsum("ij,...j->...i", _single(self.model.B), change)
        gap = jnp.where(way > 0, jnp.maximum(x_high - room - ahead, 0), jnp.minimum(x_low + room - ahead, 0))
        share = jnp.where(way == 0, 1.0, gap / jnp.where(way == 0, 1.0, way)).min(-1, keepdims=True)
        return u + jnp.minimum(share, 1.0) * change


def _single(x: Any) -> Array:
    return jnp.asarray(np.asarray(x, np.float64))


def build(config: Config, problem: Problem) -> Controller:
    """Solve the controller's program for the problem's plant. A linear model may be given as ``problem.data["model"]``: A, B
    and, where there are disturbances, E.

    Raises:
        ValueError: the environment says nothing of its plant, or admits no such controller.
    """
    env = problem.envs["train"]
    control = control_of(env)
    model = given_model(problem, env, control)
    lay = mpc.layout(control, model)
    to_go = mpc.cost_to_go(
        control, model, config.discount, mpc.cost_to_go(control, model).P if config.critic_P == "paper" else None
    )
    z_low, z_high = mpc.parameter_box(control, lay)
    low, high = control.u_low - control.u, control.u_high - control.u
    scale, half = np.maximum(np.abs(z_low), np.abs(z_high)), (high - low) / 2
    units = np.concatenate([scale, half])
    W = mpc.action_value_of_z(control, model, to_go.W) * units[:, None] * units
    rest = (W, z_low, z_high, scale, half, low, high)
    if config.law == "lqr" and config.critic != "mpqp":
        return Controller(control, model, laws.regulator(control, model), None, *rest)
    program = mpc.program(control, model, config.horizon, state_rows=config.state_rows, soft=config.soft)
    if config.law == "qp" and config.critic != "mpqp":
        return Controller(control, model, laws.quadratic(program), None, *rest, program=program)
    regions = solve(program)
    explicit = laws.piecewise(regions, program, config.outside, compressed=config.compress)
    value = laws.piecewise_value(regions, program, explicit)
    if config.merge:  # the value is of all moves, and keeps its regions
        regions = merged(regions, program.m)
        explicit = laws.piecewise(regions, program, config.outside, compressed=config.compress)
    law: laws.BaseLaw = explicit
    if config.law != "mpqp":
        law = laws.quadratic(program) if config.law == "qp" else laws.regulator(control, model)
        return Controller(control, model, law, value, *rest, program=program)
    bigm = bigm_init(explicit, corners(z_low, z_high)) if config.mode == "bigm" else None
    return Controller(control, model, law, value, *rest, bigm=bigm, regions=regions, program=program)


def control_of(env: Env | HostEnv) -> Control:
    """What ``env`` says of its plant.

    Raises:
        ValueError: nothing.
    """
    if env.spec.task.control is None:
        raise ValueError(
            f"yann starts from a model predictive controller, and {env.name} does not say what a controller may know of it "
            "(Task.control). Plants that do: rlx:upright-pendulum, rlx:t2-reactor, rlx:cstr, rlx:four-tank and others of rlx:."
        )
    return env.spec.task.control


def given_model(problem: Problem, env: Env | HostEnv, control: Control) -> Linear:
    given = problem.data.get("model")
    if given is not None:
        n = len(control.x)
        model = checked(Linear(given["A"], given["B"], given.get("E", np.zeros((len(given["A"]), 0)))), "problem.data['model']")
        if model.B.shape != (n, len(control.u)):
            raise ValueError(
                f"problem.data['model'] has B {model.B.shape}; {env.name} has {n} states, {len(control.u)} inputs."
            )
        return model
    if not isinstance(env, Env):
        raise ValueError(f"{env.name} steps on the host and has no drift to linearise: give a model as problem.data['model'].")
    return linearise(env, control)


def corners(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Of a box, [2^n, n]; where there are too many, points of all its sides."""
    if len(low) <= CORNERS:
        return np.array(list(itertools.product(*zip(low, high, strict=True))))
    signs = np.sign(np.random.default_rng(0).standard_normal((2**CORNERS, len(low))))
    return np.where(signs > 0, high, low)
