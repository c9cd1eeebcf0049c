"""Programs of controllers against simulation: costs, limits, set-points, changes of the input, disturbances, bad input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import rlx.envs
from rlx.planning import linear as lin
from rlx.planning import mpc, mpqp
from rlx.types import Control

from . import problems
from .problems import draws, held, linear, random_plant


def tracking(seed: int, n: int = 3, m: int = 2, k: int = 2, disturbances: int = 1) -> tuple[Control, lin.Linear]:
    """A random plant with set-points, priced changes of the input, and measured disturbances, away from the origin."""
    rng = np.random.default_rng(seed)
    control, model = random_plant(seed, n, m)
    model = model._replace(E=0.1 * rng.standard_normal((n, disturbances)))
    x, u, d = rng.standard_normal(n), rng.standard_normal(m), rng.standard_normal(disturbances)
    outputs, root = rng.standard_normal((k, n)), rng.standard_normal((k, k))
    more = {"setpoint_low": outputs @ x - 0.3, "setpoint_high": outputs @ x + 0.3, "rate": np.diag(rng.uniform(0.1, 1, m))}
    if disturbances:
        more |= {"disturbance": d, "disturbance_low": d - 0.5, "disturbance_high": d + 0.5}
    facts = {"x": x, "x_low": x - 20, "x_high": x + 20, "u": u, "u_low": u - 9, "u_high": u + 9}
    return dataclasses.replace(control, **facts, outputs=outputs, q=root @ root.T + np.eye(k), **more), model


def disturbed() -> tuple[Control, lin.Linear]:
    """A plant that is held, with one input for three states, under a measured disturbance."""
    control, model = random_plant(4, 3, 1)
    one = {"disturbance": np.zeros(1), "disturbance_low": -np.ones(1), "disturbance_high": np.ones(1)}
    return dataclasses.replace(control, **one), model._replace(E=np.array([[0.1], [0.0], [-0.2]]))


def simulate(control: Control, model: lin.Linear, z: np.ndarray, inputs: np.ndarray, P: np.ndarray) -> tuple[float, np.ndarray]:
    """The cost in physical units, as `rlx.types.Control` states it, with the cost-to-go P behind the last input [N, m]; and the
    states after each input, in deviations."""
    lay = mpc.layout(control, model)
    s, r, v, d = (lay.part(name) @ z for name in ("state", "setpoint", "input", "disturbance"))
    outputs = np.eye(lay.n) if control.outputs is None else control.outputs
    y_r = outputs @ control.x + (r if lay.k else 0)
    total, states = 0.0, []
    rest = lin.target(model, outputs) if lay.k or lay.d else lin.Target(np.zeros((lay.n, 0)), np.zeros((len(control.u), 0)))
    asked = np.concatenate([r if lay.k else np.zeros(len(outputs)), d])[: rest.S.shape[1]]
    s_r, u_r = rest.S @ asked, rest.U @ asked  # least squares of all outputs where there are more than inputs
    for u in inputs:
        e = outputs @ (control.x + s) - (y_r if lay.k else outputs @ (control.x + s_r))
        total += e @ control.q @ e + (u - u_r) @ control.r @ (u - u_r)
        if lay.m:
            total += (u - v) @ control.rate @ (u - v)
        s, v = model.A @ s + model.B @ u + model.E @ d, u
        states.append(s)
    e = np.concatenate([s - s_r, v - u_r]) if lay.m else s - s_r
    return total + e @ P @ e, np.array(states)


PLANTS = {
    "held": lambda: random_plant(5, 3, 2),
    "tracked": lambda: tracking(0),
    "no disturbance": lambda: tracking(1, disturbances=0),
    "disturbed": lambda: disturbed(),
    "fewer inputs": lambda: tracking(2, n=2, m=1, k=1),
}


@pytest.mark.parametrize("horizon", [1, 2, 4])
@pytest.mark.parametrize("name", PLANTS)
def test_the_objective_is_the_simulated_cost(name, horizon):
    """For any inputs, also bad ones; and rows hold exactly where the simulation keeps the limits. Also for one decision."""
    control, model = PLANTS[name]()
    rng = np.random.default_rng(0)
    program = mpc.program(control, model, horizon)
    P, m = mpc.cost_to_go(control, model).P, len(control.u)
    kept = 0
    for z in draws(program, 40) * rng.uniform(0, 1, (40, 1)):
        U = rng.uniform(-1.2, 1.2, (horizon, m)) * (control.u_high - control.u_low) / 2
        cost, states = simulate(control, model, z, U, P)
        flat = U.ravel()
        got = flat @ program.H @ flat + 2 * flat @ program.F @ z + z @ program.Y @ z
        assert got == pytest.approx(cost, rel=1e-8)
        fine = (U >= control.u_low - control.u).all() and (U <= control.u_high - control.u).all()
        fine &= (states >= control.x_low - control.x).all() and (states <= control.x_high - control.x).all()
        assert (program.G @ flat <= program.w + program.S @ z).all() == fine
        kept += fine
    assert program.G.shape == (2 * horizon * (m + len(control.x)), horizon * m) and (kept > 0 or horizon > 1)


def test_one_decision_by_hand():
    control, model = random_plant(7, 2, 1)
    P = np.diag([2.0, 3.0])
    program = mpc.program(control, model, 1, terminal_weight=P)
    np.testing.assert_allclose(program.H, control.r + model.B.T @ P @ model.B)
    np.testing.assert_allclose(program.F, model.B.T @ P @ model.A)
    np.testing.assert_allclose(program.Y, control.q + model.A.T @ P @ model.A)
    np.testing.assert_allclose(program.G, np.concatenate([[[1], [-1]], model.B, -model.B]))
    np.testing.assert_allclose(program.S, np.concatenate([np.zeros((2, 2)), -model.A, model.A]))
    np.testing.assert_allclose(program.w, [*control.u_high, *control.u_high, *control.x_high, *control.x_high])
    assert program.m == 1 and program.u_high == control.u_high


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("name", PLANTS)
def test_without_limits_it_is_the_regulator(name, horizon):
    control, model = PLANTS[name]()
    program = mpc.program(control, model, horizon)
    W = mpc.action_value_of_z(control, model, mpc.cost_to_go(control, model).W)
    nz = program.F.shape[1]
    K = np.linalg.solve(W[nz:, nz:], W[nz:, :nz])
    first = np.linalg.solve(program.H, program.F)[: program.m]
    np.testing.assert_allclose(first, K, atol=1e-8 * np.abs(K).max())


def test_an_action_value_is_one_cost_and_the_rest():
    control, model = tracking(0)
    discount = 0.9
    to_go = mpc.cost_to_go(control, model, discount)
    W, C = mpc.action_value_of_z(control, model, to_go.W), mpc.stage_cost_of_z(control, model)
    rng = np.random.default_rng(0)
    program = mpc.program(control, model, 1)
    for z in draws(program, 20):
        u = rng.standard_normal(2)
        both = np.concatenate([z, u])
        zero = np.zeros_like(to_go.P)
        assert both @ C @ both == pytest.approx(simulate(control, model, z, u[None], zero)[0], rel=1e-9)
        assert both @ W @ both == pytest.approx(simulate(control, model, z, u[None], discount * to_go.P)[0], rel=1e-9)


# ----------------------------------------------------------------------------------------------------------- closed loops


def settle(program: mpc.Program, model: lin.Linear, z: np.ndarray, lay: mpc.Layout, steps: int = 200):
    """The closed loop on the linear model: inputs [steps, m] and the parameter at the end."""
    inputs = []
    for _ in range(steps):
        found = mpqp.optimum(program, z)
        assert found is not None
        u = found[0][: program.m]
        inputs.append(u)
        ahead = model.A @ z[: lay.n] + model.B @ u + model.E @ (lay.part("disturbance") @ z)
        z = np.concatenate([ahead, z[lay.n : lay.n + lay.k], *([u] if lay.m else []), lay.part("disturbance") @ z])
    return np.array(inputs), z


@pytest.mark.parametrize("rate", [None, 0.5])
def test_a_double_integrator_follows_set_points(rate):
    model = linear([[1, 1], [0, 1]], [0.5, 1])
    more = {"outputs": np.array([[1.0, 0]]), "setpoint_low": np.array([-2.0]), "setpoint_high": np.array([2.0])}
    control = held(model, x=4.0, **{**more, "q": np.eye(1), "rate": None if rate is None else np.array([[rate]])})
    program, lay = mpc.program(control, model, 3), mpc.layout(control, model)
    rest = np.array([1.5, 0, 1.5, *([0.0] if rate else [])])
    U, _ = mpqp.optimum(program, rest)
    np.testing.assert_allclose(U, 0, atol=1e-9)  # there, nothing moves
    start = np.array([-2.0, 0, 1.5, *([0.0] if rate else [])])
    inputs, end = settle(program, model, start, lay, 60)
    np.testing.assert_allclose(end[:2], [1.5, 0], atol=1e-6)
    assert np.abs(inputs).max() <= 1 + 1e-9


def test_changes_of_the_input_have_their_price():
    model = linear([[1, 1], [0, 1]], [0.5, 1])
    move = []
    for rate in (1e-6, 1.0, 30.0):
        control = held(model, x=4.0, rate=np.array([[rate]]))
        program, lay = mpc.program(control, model, 3, state_rows=False), mpc.layout(control, model)
        inputs, end = settle(program, model, np.array([1.5, 0, 0.0]), lay, 80)
        np.testing.assert_allclose(end, 0, atol=1e-3)
        move.append(np.abs(np.diff(inputs, axis=0, prepend=0)).max())
    assert move[0] > 1.5 * move[1] > 3 * move[2]


@pytest.mark.parametrize("disturbance", ["feed-temperature", "both"])
def test_the_reactor_follows_set_points_under_disturbances(disturbance):
    """On its linear model without offset, though the disturbance is not at its steady value."""
    env = rlx.envs.make("rlx:cstr", disturbance=disturbance)
    control, model = env.spec.task.control, lin.linearise(env)
    program, lay = mpc.program(control, model, 3, state_rows=False), mpc.layout(control, model)
    low, high = mpc.parameter_box(control, lay)
    assert program.F.shape[1] == lay.size == 4 + len(control.disturbance)
    d = 0.3 * high[4:]
    start = np.concatenate([0.2 * low[:2], [0.01], [0.0], d])
    inputs, end = settle(program, model, start, lay)
    assert abs(control.outputs @ end[:2] - 0.01)[0] < 1e-7 and np.abs(inputs[-1] - inputs[-2]).max() < 1e-7
    assert (inputs >= control.u_low - control.u - 1e-9).all() and (inputs <= control.u_high - control.u + 1e-9).all()
    U, _ = mpqp.optimum(program, end)
    np.testing.assert_allclose(U, np.repeat(inputs[-1], 3), atol=1e-5)
    blind = model._replace(E=np.zeros((2, 0)))
    plain = dataclasses.replace(control, disturbance=None)
    program = mpc.program(plain, blind, 3, state_rows=False)  # one that does not see the disturbance stays off
    s, v = start[:2], np.zeros(1)
    for _ in range(200):
        v = mpqp.optimum(program, np.array([*s, 0.01, *v]))[0][:1]
        s = model.A @ s + model.B @ v + model.E @ d
    assert abs(s[0] - 0.01) > 1e-4


# ---------------------------------------------------------------------------------------------------------- kinds of limits


def test_soft_limits_admit_everything_and_change_little_inside():
    hard = problems.pendulum()
    model = linear(*problems.EQUATION_12)
    control = held(model, q=[1, 0.1], r=0.001, u=2.0, x=[2.0, 8.0])
    soft = mpc.program(control, model, 2, soft=1e4)
    assert soft.H.shape == (3, 3) and soft.m == 1
    regions = mpqp.solve(soft, cache=False)
    z = draws(soft, 4000)
    assert (regions.locate(z) >= 0).all()
    unlimited = int(np.argmin(regions.active.sum(1)))
    assert not regions.active[unlimited].any()
    np.testing.assert_allclose(regions.K[unlimited, :1], [[-19.64749, -5.721032]], atol=1e-4)
    kept = mpqp.solve(hard, cache=False)
    there = kept.locate(z) >= 0
    assert 0.8 < there.mean() < 0.9
    U, V = problems.law_of(regions, z[there])[:, 0], problems.law_of(kept, z[there])[:, 0]
    assert (np.abs(U - V) < 1e-6).mean() > 0.9
    assert np.abs(problems.law_of(regions, z)[:, 0]).max() <= 2 + 1e-9
    violation = problems.law_of(regions, z)[:, 2]
    assert (violation >= -1e-9).all() and (violation[~there] > 0).all()
    with pytest.raises(ValueError, match="price of violations must be positive"):
        mpc.program(control, model, 2, soft=0.0)


def test_terminal_sets_and_polytopes_of_states():
    control, model = random_plant(2, 2, 1)
    rng = np.random.default_rng(0)
    end = rng.standard_normal((3, 2)), np.ones(3)
    sides = rng.standard_normal((2, 2)), np.full(2, 1.5)
    program = mpc.program(control, model, 3, terminal=end, state_polytope=sides, state_rows=False)
    for z in draws(program, 60) * 0.5:
        U = rng.uniform(-1, 1, (3, 1)) * control.u_high
        _, states = simulate(control, model, z, U, np.zeros((2, 2)))
        fine = (end[0] @ states[-1] <= end[1]).all() and (sides[0] @ states.T <= sides[1][:, None]).all()
        assert (program.G @ U.ravel() <= program.w + program.S @ z).all() == fine
        assert (program.Th @ z <= program.th).all() == (sides[0] @ z <= sides[1]).all()


# ---------------------------------------------------------------------------------------------------------------- bad input


def changed(**parts) -> Control:
    return dataclasses.replace(held(linear([[1.1, 1], [0, 1]], [0.5, 1]), x=4.0), **parts)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"r": np.zeros((1, 1))}, "R must be positive definite"),
        ({"q": np.diag([1.0, -1.0])}, "Q must be positive semi-definite"),
        ({"u_low": np.array([np.nan])}, "bounds of inputs must be finite"),
        ({"u_high": np.array([np.inf])}, "bounds of inputs must be finite"),
        ({"x_low": np.array([np.nan, -4])}, "bounds of states must be finite"),
        ({"u_low": np.ones(1), "u_high": np.ones(1)}, "bounds of inputs leave nothing"),
        ({"u_low": np.ones(1), "u_high": -np.ones(1)}, "bounds of inputs leave nothing"),
        ({"x_low": np.array([4.0, -4])}, "bounds of states leave nothing"),
        ({"q": np.full((2, 2), np.nan)}, "weights Q and R must be finite"),
        ({"rate": -np.eye(1)}, "positive"),
        ({"r": -np.eye(1)}, "R must be positive definite"),
        ({"q": np.array([[1.0, 0.8], [0.0, 1.0]])}, "Q is not symmetric: .* by up to 0.8"),
    ],
)
@pytest.mark.parametrize("terminal_weight", [None, np.eye(2)])
def test_facts_that_admit_no_controller(parts, message, terminal_weight):
    """Also where no cost-to-go has to be found."""
    terminal_weight = np.eye(3) if "rate" in parts and terminal_weight is not None else terminal_weight
    with pytest.raises(ValueError, match=message):
        mpc.program(changed(**parts), linear([[1.1, 1], [0, 1]], [0.5, 1]), 2, terminal_weight=terminal_weight)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.eye(3), r"terminal_weight must be \[2, 2\]"),
        (np.diag([1.0, -0.1]), "terminal_weight must be positive semi-definite"),
        (np.diag([1.0, np.nan]), "terminal_weight has entries that are not finite"),
        (np.array([[1.0, 0.0], [0.8, 1.0]]), "terminal_weight is not symmetric"),
    ],
)
def test_costs_behind_the_horizon_that_are_none(weight, message):
    with pytest.raises(ValueError, match=message):
        mpc.program(changed(), linear([[1.1, 1], [0, 1]], [0.5, 1]), 2, terminal_weight=weight)


def test_inputs_may_be_free_where_their_changes_cost():
    model = linear([[0.9, 1], [0, 0.5]], [0.5, 1])
    free = dataclasses.replace(held(model, x=4.0), r=np.zeros((1, 1)), rate=np.eye(1))
    assert np.linalg.eigvalsh(mpc.program(free, model, 2, terminal_weight=np.eye(3)).H).min() > 0.1


def test_plants_and_horizons_that_admit_no_controller():
    model = linear([[1.1, 0], [0, 0.5]], [0.0, 1])
    with pytest.raises(ValueError, match="stabilisable"):
        mpc.program(held(model), model, 2)
    model = linear([[1.1, 1], [0, 1]], [0.5, 1])
    for horizon in (0, -1):
        with pytest.raises(ValueError, match="give at least 1"):
            mpc.program(held(model), model, horizon)
    resting = linear([[0.9, 1], [0, 0.5]], [0.5, 1], np.eye(2))
    with pytest.raises(ValueError, match="gives no bounds of them"):
        mpc.program(held(resting), resting, 2)
