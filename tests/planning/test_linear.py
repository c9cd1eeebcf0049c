"""Linear models: sampling, linearisation whatever was compiled before, identification, Riccati equations, targets."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

import rlx.envs
from rlx.planning import linear as lin
from rlx.planning import mpc
from rlx.train import Options, run
from tests.train.toys import toy

from .problems import EQUATION_12, held, linear, random_plant

ROOT = Path(__file__).resolve().parents[2]


def make(name: str, **options):
    return rlx.envs.make(f"rlx:{name}", **options)


# --------------------------------------------------------------------------------------------------------- discrete models


def test_zero_order_hold_is_the_motion_under_a_held_input():
    rng = np.random.default_rng(0)
    Ac, Bc, s, u, dt = (
        rng.standard_normal((3, 3)),
        rng.standard_normal((3, 2)),
        rng.standard_normal(3),
        np.array([1.0, -2]),
        0.3,
    )
    A, B = lin.zero_order_hold(Ac, Bc, dt)
    exact = integrate.solve_ivp(lambda t, s: Ac @ s + Bc @ u, (0, dt), s, rtol=1e-12, atol=1e-12).y[:, -1]
    np.testing.assert_allclose(A @ s + B @ u, exact, atol=1e-10)
    A, B = lin.zero_order_hold(np.array([[0.0, 1], [0, 0]]), np.array([[0.0], [1]]), 1.0)  # singular
    np.testing.assert_allclose(A, [[1, 1], [0, 1]], atol=1e-15)
    np.testing.assert_allclose(B, [[0.5], [1]], atol=1e-15)


@pytest.mark.parametrize("name", ["pendulum", "upright-pendulum"])
def test_the_pendulum_linearises_to_equation_12(name):
    model = lin.linearise(make(name))
    np.testing.assert_allclose(model.A, EQUATION_12[0], atol=5e-5)
    np.testing.assert_allclose(model.B, EQUATION_12[1], atol=5e-5)
    assert model.E.shape == (2, 0) and model.A.dtype == np.float64


def test_the_reactor_linearises_to_its_numbers():
    model = lin.linearise(make("t2-reactor"))
    printed = [[0.92187, -0.02608, 0, -0.00229], [-0.06901, 0.96479, 0, -0.00229], [0, 0, 0.99087, 0]]
    np.testing.assert_allclose(model.A, [*printed, [0.99770, 0.37711, 0.00018, 1.02146]], atol=6e-6)
    np.testing.assert_allclose(model.B.ravel(), [0, 0, 0, -0.0026], atol=5e-5)


def test_a_given_model_is_taken_and_disturbances_have_columns():
    env = make("t2-reactor-linear")
    model = lin.linearise(env)
    for part, given in zip(model, env.spec.task.control.model, strict=False):
        np.testing.assert_array_equal(part, given)
    assert lin.linearise(make("cstr", disturbance="both")).E.shape == (2, 2)
    env = make("cstr", disturbance="both")
    c = env.spec.task.control
    model = lin.linearise(env)
    half, at = (c.u_high - c.u_low) / 2, (c.u - c.u_low) / (c.u_high - c.u_low) * 2 - 1
    d, s, u = np.array([0.3, 0.002]), np.array([1e-3, 0.1]), np.array([0.2])
    drift = lambda t, x: env.spec.task.drift(np, {**env.params, "disturbance": c.disturbance + d}, x, at + u / half)
    exact = integrate.solve_ivp(drift, (0, c.dt), c.x + s, rtol=1e-11, atol=1e-13).y[:, -1] - c.x
    np.testing.assert_allclose(model.A @ s + model.B @ u + model.E @ d, exact, rtol=0.02, atol=1e-5)


AFTER_FLOAT32 = """
import jax, jax.numpy as jnp, numpy as np
jax.jit(lambda x: jnp.sin(x) + jnp.exp(x))(jnp.float32(1))
import rlx.envs
from rlx.planning.linear import linearise
model = linearise(rlx.envs.make("rlx:upright-pendulum"))
print(repr(model.A.tolist()))
"""


@pytest.mark.slow
def test_linearisation_does_not_depend_on_what_was_compiled_before():
    """The Jacobian's slope of sin at 0 is 1 to the last bit, also after float32 programs with sines, and after a run."""
    grown = np.cosh(0.05 * np.sqrt(15))
    jax.jit(lambda x: jnp.sin(x) + jnp.cos(x))(jnp.float32(1.0))
    assert lin.linearise(make("upright-pendulum")).A[0, 0] == pytest.approx(grown, abs=1e-14)
    agent, problem = toy(cycles=2)  # on the pendulum
    run(agent, problem, jax.random.key(0), options=Options(progress=False))
    assert lin.linearise(make("upright-pendulum")).A[0, 0] == pytest.approx(grown, abs=1e-14)
    assert jnp.zeros(1).dtype == jnp.float32
    fresh = subprocess.run([sys.executable, "-c", AFTER_FLOAT32], capture_output=True, text=True, check=True, cwd=ROOT)
    np.testing.assert_array_equal(eval(fresh.stdout), lin.linearise(make("upright-pendulum")).A)


def test_what_cannot_be_linearised_is_said():
    env = make("upright-pendulum")
    bare = dataclasses.replace(env, spec=dataclasses.replace(env.spec, task=dataclasses.replace(env.spec.task, control=None)))
    with pytest.raises(ValueError, match="Task has no `control`"):
        lin.linearise(bare)
    bare = dataclasses.replace(env, spec=dataclasses.replace(env.spec, task=dataclasses.replace(env.spec.task, drift=None)))
    with pytest.raises(ValueError, match="no drift to linearise"):
        lin.linearise(bare)
    broken = dataclasses.replace(env, params={**env.params, "length": np.nan})
    with pytest.raises(ValueError, match="not finite"):
        lin.linearise(broken)


@pytest.mark.parametrize(
    ("A", "B", "E", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 1)), np.zeros((2, 0)), "A must be"),
        (np.eye(2), np.zeros((3, 1)), np.zeros((2, 0)), "A must be"),
        (np.eye(2), np.zeros((2, 1)), np.zeros((1, 1)), "A must be"),
        (np.full((2, 2), np.inf), np.zeros((2, 1)), np.zeros((2, 0)), "not finite"),
        (np.zeros((2, 2, 2)), np.zeros((2, 1)), np.zeros((2, 0)), "A must be"),
    ],
)
def test_models_of_other_shapes_are_refused(A, B, E, message):
    with pytest.raises(ValueError, match=f"plant: .*{message}"):
        lin.checked(lin.Linear(A, B, E), "plant")


# ---------------------------------------------------------------------------------------------------------- identification


def test_identification_finds_the_model():
    """Columns have other sizes, which the ridge must not see."""
    scale = np.array([1e-2, 50.0])
    plain = linear([[0.9, 0.2], [-0.1, 1.1]], [[0.1], [0.5]], [[0.3], [0.0]])
    model = lin.Linear(plain.A * scale[:, None] / scale, plain.B * scale[:, None], plain.E * scale[:, None])
    rng = np.random.default_rng(0)
    x, u, d = rng.standard_normal((60, 2)) * scale, rng.standard_normal((60, 1)), rng.standard_normal((60, 1))
    ahead = x @ model.A.T + u @ model.B.T + d @ model.E.T
    for found, true in zip(lin.identify(x, u, ahead, d), model, strict=True):
        np.testing.assert_allclose(found / scale[:, None], true / scale[:, None], rtol=1e-6, atol=1e-7)
    noisy = lin.identify(x, u, ahead + 1e-3 * scale * rng.standard_normal(x.shape), d)
    np.testing.assert_allclose(noisy.A / scale[:, None] * scale, plain.A, atol=2e-3)
    assert lin.identify(x, u, x @ model.A.T + u @ model.B.T).E.shape == (2, 0)


def test_identification_refuses_poor_data():
    rng = np.random.default_rng(0)
    x, u = rng.standard_normal((50, 2)), rng.standard_normal((50, 1))
    with pytest.raises(ValueError, match="span 2 of 3"):
        lin.identify(x, -x[:, :1] * 0.5, x)  # the input under feedback alone says nothing of its own effect
    with pytest.raises(ValueError, match="span 2 of 3"):
        lin.identify(x, np.zeros((50, 1)), x)
    with pytest.raises(ValueError, match="2 rows span 2 of 3"):
        lin.identify(x[:2], u[:2], x[:2])
    with pytest.raises(ValueError, match="0 rows"):
        lin.identify(x[:0], u[:0], x[:0])
    with pytest.raises(ValueError, match="not finite"):
        lin.identify(x, u * np.nan, x)
    with pytest.raises(ValueError, match=r"takes x, x_next"):
        lin.identify(x, u[:-1], x)


# --------------------------------------------------------------------------------------------------------------- Riccati


def test_scalar_values_in_closed_form():
    """A = B = Q = R = 1: P^2 = P + 1, and with a discount g: g P^2 + (1 - 2 g) P - 1 = 0."""
    one = np.eye(1)
    P = lin.riccati(one, one, one, one)
    assert P[0, 0] == pytest.approx(1.6180340, abs=1e-7) and P[0, 0] == pytest.approx((1 + 5**0.5) / 2, abs=1e-12)
    W = lin.action_value(one, one, one, one, P, 1.0)
    np.testing.assert_allclose(W, [[1 + P[0, 0], P[0, 0]], [P[0, 0], 1 + P[0, 0]]], atol=1e-12)
    assert lin.gain(W, 1)[0, 0] == pytest.approx(0.6180340, abs=1e-7)
    P = lin.riccati(one, one, one, one, 0.99)
    assert P[0, 0] == pytest.approx(1.6152512, abs=1e-7)
    assert 0.99 * P[0, 0] ** 2 + (1 - 2 * 0.99) * P[0, 0] - 1 == pytest.approx(0, abs=1e-12)
    assert lin.gain(lin.action_value(one, one, one, one, P, 0.99), 1)[0, 0] == pytest.approx(0.6152512, abs=1e-7)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("discount", [1.0, 0.99, 0.8])
def test_the_least_action_value_is_the_value(seed, discount):
    rng = np.random.default_rng(seed)
    n, m = 3, 1 + seed % 2
    A = rng.standard_normal((n, n))
    A *= 0.95 / np.abs(np.linalg.eigvals(A)).max()
    B, Q, R = rng.standard_normal((n, m)), np.eye(n), np.diag(rng.uniform(0.1, 1, m))
    P = lin.riccati(A, B, Q, R, discount)
    W = lin.action_value(A, B, Q, R, P, discount)
    for s in rng.uniform(-1, 1, (20, n)):
        both = np.concatenate([s, -lin.gain(W, n) @ s])
        assert abs(both @ W @ both - s @ P @ s) < 1e-10


def test_cross_weights_are_those_of_the_sum():
    """A weight of (u - v)^2, by simulation of the closed loop."""
    control, model = random_plant(3, 2, 1)
    control = dataclasses.replace(control, rate=np.array([[0.7]]))
    P, W = mpc.cost_to_go(control, model)
    K = lin.gain(W, 3)
    s, v, total = np.array([0.3, -0.2]), np.array([0.4]), 0.0
    start = np.concatenate([s, v])
    for _ in range(400):
        u = -K @ np.concatenate([s, v])
        total += s @ control.q @ s + u @ control.r @ u + (u - v) @ control.rate @ (u - v)
        s, v = model.A @ s + model.B @ u, u
    assert start @ P @ start == pytest.approx(total, rel=1e-10)


def test_the_papers_critic_is_not_consistent_and_ours_is():
    """The undiscounted cost-to-go in a discounted action value is off by 0.064 on the pendulum."""
    A, B = EQUATION_12
    Q, R = np.diag([1, 0.1]), np.array([[0.001]])
    value = lambda W: W[:2, :2] - W[:2, 2:] @ lin.gain(W, 2)
    P = lin.riccati(A, B, Q, R)
    np.testing.assert_allclose(P, [[7.826339, 0.298493], [0.298493, 0.145278]], atol=2e-6)
    papers = lin.action_value(A, B, Q, R, P, 0.99)
    assert np.abs(value(papers) - P).max() == pytest.approx(0.0644, abs=5e-4)
    ours = lin.riccati(A, B, Q, R, 0.99)
    np.testing.assert_allclose(value(lin.action_value(A, B, Q, R, ours, 0.99)), ours, atol=1e-13)


def test_the_cubic_plants_regulator():
    control, model = held(linear(1.1, 0.1), u=5.0, x=2.0), linear(1.1, 0.1)
    P, W = mpc.cost_to_go(control, model, 0.99)
    assert P[0, 0] == pytest.approx(25.0261, abs=5e-5) and lin.gain(W, 1)[0, 0] == pytest.approx(2.1842, abs=5e-5)


@pytest.mark.parametrize(
    ("A", "B", "Q", "R", "message"),
    [
        (np.eye(2) * 1.1, [[1.0], [0.0]], np.eye(2), np.eye(1), "stabilisable"),
        (np.eye(2) * 1.1, np.eye(2), np.eye(2), np.diag([1.0, 0.0]), "R must be positive definite"),
        (np.eye(2) * 1.1, np.eye(2), np.eye(2), np.diag([1.0, -1.0]), "R must be positive definite"),
        (np.eye(2) * 1.1, np.eye(2), np.diag([1.0, -0.1]), np.eye(2), "Q must be positive semi-definite"),
    ],
)
def test_plants_without_a_regulator_are_refused(A, B, Q, R, message):
    with pytest.raises(ValueError, match=message):
        lin.riccati(A, np.array(B), Q, R)


# --------------------------------------------------------------------------------------------------------------- targets


def test_targets_are_where_the_plant_rests():
    rng = np.random.default_rng(1)
    for n, m, k in ((2, 1, 1), (3, 2, 2), (3, 2, 1)):
        _, model = random_plant(n + m, n, m)
        model = model._replace(E=rng.standard_normal((n, 2)))
        C = rng.standard_normal((k, n))
        found = lin.target(model, C)
        z = rng.standard_normal(k + 2)
        s, u = found.S @ z, found.U @ z
        np.testing.assert_allclose(model.A @ s + model.B @ u + model.E @ z[k:], s, atol=1e-9)
        np.testing.assert_allclose(C @ s, z[:k], atol=1e-9)


def test_targets_with_fewer_inputs_than_outputs_are_as_near_as_can_be():
    _, model = random_plant(4, 3, 1)
    model = model._replace(E=np.array([[0.1], [0.0], [-0.2]]))
    found = lin.target(model, np.eye(3))
    z = np.array([0.3, -0.2, 0.1, 0.7])
    s, u = found.S @ z, found.U @ z
    np.testing.assert_allclose(model.A @ s + model.B @ u + model.E @ z[3:], s, atol=1e-9)
    for v in u + np.array([[-1e-3], [1e-3]]):
        other = np.linalg.solve(np.eye(3) - model.A, model.B @ v + model.E @ z[3:])
        assert ((s - z[:3]) ** 2).sum() < ((other - z[:3]) ** 2).sum()


def test_targets_that_cannot_be_held():
    integrator = linear([[1, 1], [0, 1]], [0.5, 1])
    found = lin.target(integrator, np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(found.S, [[1], [0]], atol=1e-12)
    np.testing.assert_allclose(found.U, [[0]], atol=1e-12)
    with pytest.raises(ValueError, match="cannot rest"):
        lin.target(integrator, np.array([[0.0, 1.0]]))  # a speed
    drifting = linear(np.eye(2), [1.0, 0.0], [0.0, 1.0])  # a disturbance that no input answers
    with pytest.raises(ValueError, match="cannot rest"):
        lin.target(drifting, np.array([[1.0, 0.0]]))
