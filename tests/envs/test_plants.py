"""Plants with control facts: their numbers, their equations, and that the reward is minus the cost that the facts state.

Numbers are of Braniff & Tian, arXiv 2508.16474, or were computed once by independent numpy code; the rest is against SciPy.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, linalg

import rlx.envs
from rlx.envs.control import column, cstr, cubic, reactor, reactor_linear, tanks
from rlx.envs.control.process import runge_kutta
from rlx.types import Control

NAMES = [
    "upright-pendulum",
    "double-integrator",
    "cubic",
    "t2-reactor",
    "t2-reactor-linear",
    "cstr",
    "four-tank",
    "extraction-column",
]
TRACKING = NAMES[5:]
NOISE = {"noise": 0.0}


def make(name, **options):
    return rlx.envs.make(f"rlx:{name}", **({**NOISE, **options} if name in TRACKING else options))


def as_action(c: Control, u):
    return (2 * np.asarray(u) - c.u_low - c.u_high) / (c.u_high - c.u_low)


def linear(env):
    """The drift's Jacobians by state and input at the operating point, their discretisation, then that by the disturbance."""
    c, drift = env.spec.task.control, env.spec.task.drift
    at = as_action(c, c.u)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), env.params)
        f = lambda x, a, d: drift(jnp, params if d is None else {**params, "disturbance": d}, x, a)
        d = None if c.disturbance is None else jnp.asarray(c.disturbance)
        jac = jax.jacfwd(f, (0, 1) if d is None else (0, 1, 2))(jnp.asarray(c.x), jnp.asarray(at), d)
    ac, bc = np.asarray(jac[0]), np.asarray(jac[1]) * 2 / (c.u_high - c.u_low)
    n, m = bc.shape
    block = linalg.expm(np.block([[ac, bc], [np.zeros((m, n + m))]]) * c.dt)
    return ac, bc, block[:n, :n], block[:n, n:], *map(np.asarray, jac[2:])


def gain(a, b, c: Control):
    p = linalg.solve_discrete_are(a, b, c.q, c.r)
    return np.linalg.solve(c.r + b.T @ p @ b, b.T @ p @ a)


def play(env, policy, streams, seed=0):
    """Whole episodes of ``policy(measured, key) -> action [W, m]``: undiscounted returns and whether limits were violated."""
    vec, c = rlx.envs.batch(env, streams, ends="stop"), env.spec.task.control

    def act(carry, step, key):
        return policy(c.measure(jnp, step.obs), key), carry, {}

    roll = lambda k: rlx.envs.rollout(vec, env.params, act, rlx.envs.begin(vec, env.params, (), k), k, env.spec.horizon + 1)[1]
    rows = jax.tree.map(np.asarray, jax.jit(roll)(jax.random.key(seed)))
    violated = (rows.info["violation"] & rows.valid).any(0)
    return np.where(rows.valid, rows.reward, 0).sum(0), violated, rows


# ------------------------------------------------------------------------------------------------------------ the contract


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cstr", {"disturbance": "both", "schedule": "random", "repeat": 2}),
        ("t2-reactor", {"stop_on_violation": False}),
        ("four-tank", {"schedule": "random", "stop_on_violation": True, "penalty": 3.0}),
    ],
)
def test_contract_with_options(name, options):
    assert rlx.envs.check(rlx.envs.make(f"rlx:{name}", time_limit=8, **options), steps=24).exact_resume


@pytest.mark.parametrize("name", [*NAMES, "pendulum"])
def test_the_facts_fit_together(name):
    env = make(name)
    c, task = env.spec.task.control, env.spec.task
    n, m = len(c.x), len(c.u)
    k = n if c.outputs is None else len(c.outputs)
    assert c.q.shape == (k, k) and c.r.shape == (m, m) and len(c.names) == n + m
    assert (c.x_low <= c.x).all() and (c.x <= c.x_high).all() and (c.u_low < c.u).all() and (c.u < c.u_high).all()
    still = task.drift(np, env.params, c.x, as_action(c, c.u))
    assert np.abs(still).max() < 1e-9 * max(1, np.abs(c.x).max())
    lead = np.zeros((3, 2, 1))
    batched = task.drift(np, env.params, c.x + lead, as_action(c, c.u) + lead)
    assert batched.shape == (3, 2, n)
    state, step = env.reset(env.params, jax.random.key(0))
    seen = c.measure(np, np.asarray(step.obs))
    x = state.x if name == "pendulum" else state.x.x
    np.testing.assert_allclose(seen["state"], x, rtol=1e-5, atol=1e-5)
    assert seen["state"].shape == (n,) and ("setpoint" in seen) == ("input" in seen) == (name in TRACKING)
    if name in TRACKING:
        np.testing.assert_allclose(seen["setpoint"], state.x.setpoint, rtol=1e-5)
        np.testing.assert_allclose(seen["input"], c.u, rtol=1e-5)
        assert seen["setpoint"].shape == c.setpoint_low.shape and c.rate.shape == (m, m)


@pytest.mark.parametrize("name", NAMES)
def test_the_reward_is_minus_the_cost(name):
    """By another way: the cost in numpy, written out, from what `measure` says of the observations without noise."""
    penalty = 7.0
    env = make(name, penalty=penalty, stop_on_violation=False, time_limit=6)
    c, low = env.spec.task.control, env.spec.task.control.x_low
    actions = np.random.default_rng(0).uniform(-1.3, 1.3, (6, len(c.u))).astype(np.float32)
    state, step = env.reset(env.params, jax.random.key(1))
    if name == "double-integrator":  # outside, to see the penalty
        state = state._replace(x=state.x._replace(x=jnp.array([3.9, 1.0])))
        step = step._replace(obs=jnp.array([3.9, 1.0]))
    move, told = jax.jit(env.step), []
    for a in actions:
        seen = {key: np.asarray(v, np.float64) for key, v in c.measure(np, np.asarray(step.obs, np.float64)).items()}
        u = c.u_low + (np.clip(a, -1, 1) + 1) / 2 * (c.u_high - c.u_low)
        y = seen["state"] if c.outputs is None else c.outputs @ seen["state"]
        e = y - seen.get("setpoint", c.x)
        expected = e @ c.q @ e + (u - c.u) @ c.r @ (u - c.u)
        if c.rate is not None:
            expected += (u - seen["input"]) @ c.rate @ (u - seen["input"])
        state, step = move(env.params, state, a, jax.random.key(0))
        told.append(bool(step.info["violation"]))
        assert -float(step.reward) == pytest.approx(expected + penalty * told[-1], rel=2e-3, abs=1e-4)
    assert low.shape == c.x.shape and (told[0] or name != "double-integrator")


def test_repeated_decisions_sum_costs_and_change_the_model():
    once, twice = make("double-integrator"), make("double-integrator", repeat=2)
    a, b = twice.spec.task.control.model
    np.testing.assert_array_equal(a, [[1, 2], [0, 1]])
    np.testing.assert_array_equal(b, [[2.0], [2.0]])
    assert twice.spec.task.control.dt == 2 and twice.spec.horizon == 25
    start, _ = once.reset(once.params, jax.random.key(0))
    action, key = jnp.array([0.3]), jax.random.key(0)
    middle, first = once.step(once.params, start, action, key)
    _, second = once.step(once.params, middle, action, key)
    _, both = twice.step(twice.params, start, action, key)
    assert float(both.reward) == pytest.approx(float(first.reward + second.reward), rel=1e-6)
    np.testing.assert_allclose(both.obs, second.obs, rtol=1e-6)


# -------------------------------------------------------------------------------------------------------- regulated plants


def test_pendulum_discretises_to_equation_12():
    for name in ("pendulum", "upright-pendulum"):
        _, _, a, b = linear(make(name))
        np.testing.assert_allclose(a, [[1.0188, 0.0503], [0.7547, 1.0188]], atol=5e-5)
        np.testing.assert_allclose(b, [[0.0038], [0.1509]], atol=5e-5)
    _, _, a, b = linear(make("upright-pendulum"))
    np.testing.assert_allclose(gain(a, b, make("upright-pendulum").spec.task.control), [[19.647, 5.721]], atol=0.02)


def test_the_pendulum_is_measured_through_its_observation():
    c = make("pendulum").spec.task.control
    angles = np.linspace(-3, 3, 7)
    seen = c.measure(np, np.stack([np.cos(angles), np.sin(angles), 0.1 * angles], -1))["state"]
    np.testing.assert_allclose(seen, np.stack([angles, 0.1 * angles], -1), atol=1e-12)


@pytest.mark.parametrize(("angle", "cost"), [(0.1, 0.07), (0.2, 0.32), (0.3, 0.86), (0.35, 1.40)])
def test_pendulum_under_its_linear_law(angle, cost):
    """Clipped LQR, which near the upright position is the explicit MPC law."""
    env = make("upright-pendulum")
    _, _, a, b = linear(env)
    k = gain(a, b, env.spec.task.control).astype(np.float32)
    state, _ = env.reset(env.params, jax.random.key(0))
    state = state._replace(x=state.x._replace(x=jnp.array([angle, 0.0])))

    def once(state, _):
        u = -(k * state.x.x).sum(-1)
        state, step = env.step(env.params, state, jnp.clip(u / 2, -1, 1), jax.random.key(0))
        return state, step.reward

    total = -float(jax.jit(lambda s: jax.lax.scan(once, s, None, 200)[1].sum())(state))
    assert total == pytest.approx(cost, rel=0.03, abs=0.005)


def test_upright_pendulum_moves_as_the_pendulum():
    env, plain = make("upright-pendulum"), make("pendulum")
    state, _ = env.reset(env.params, jax.random.key(2))
    other = plain.reset(plain.params, jax.random.key(2))[0]._replace(x=state.x.x)
    step, reference = jax.jit(env.step), jax.jit(plain.step)
    for t in range(60):  # it falls and swings through
        action = jnp.array([np.sin(0.3 * t)])
        state, new = step(env.params, state, action, jax.random.key(0))
        other, expected = reference(plain.params, other, action, jax.random.key(0))
        np.testing.assert_allclose([np.cos(new.obs[0]), np.sin(new.obs[0]), new.obs[1]], expected.obs, atol=2e-3)
        assert float(new.reward) == pytest.approx(float(expected.reward), abs=2e-2)
    assert abs(float(state.x.x[0])) <= np.pi


def test_given_models_are_those_of_the_drift():
    for name in ("double-integrator", "t2-reactor-linear"):
        env = make(name)
        _, _, a, b = linear(env)
        np.testing.assert_allclose(a, env.spec.task.control.model[0], atol=1e-9)
        np.testing.assert_allclose(b, env.spec.task.control.model[1], atol=1e-9)
    ac, bc, *_ = linear(make("cubic"))  # by Euler's method, as the plant itself
    np.testing.assert_allclose([1 + cubic.DT * ac, cubic.DT * bc], np.array(make("cubic").spec.task.control.model), atol=1e-12)


def test_cubic_plant_is_the_formula_and_its_law_costs_six():
    env = make("cubic")
    x, total = np.linspace(-1.2, 1.2, 13), 0.0
    k = gain(np.array([[np.sqrt(0.99) * 1.1]]), np.array([[np.sqrt(0.99) * 0.1]]), env.spec.task.control).item()
    assert k == pytest.approx(2.1842, abs=1e-3)
    for t in range(200):
        u = np.clip(-k * x, -5, 5)
        expected = np.clip(x + 0.1 * (x - 4 * x**3 + u), -2, 2)
        np.testing.assert_allclose(cubic.move(np, env.params, x[:, None], u[:, None] / 5)[:, 0], expected, atol=1e-12)
        total, x = total + 0.99**t * (x**2 + u**2), expected
    assert total.mean() == pytest.approx(5.997, abs=0.02)
    assert make("cubic", c3=1.0).params["c3"] == 1.0


# ------------------------------------------------------------------------------------------------------------- the reactor


def test_reactor_has_its_steady_state_and_linear_model():
    np.testing.assert_allclose(reactor.STEADY, [0.48613, 1.28613, 2.99943, 475.0], atol=5e-6)
    assert pytest.approx(107.7825, abs=5e-5) == reactor.COOLING
    ac, _, a, b = linear(make("t2-reactor"))
    np.testing.assert_allclose(np.sort(np.linalg.eigvals(ac).real), [-4.339, -0.785, -0.55, -0.55], atol=1e-3)
    assert ac[3, 3] == pytest.approx(1.37, abs=0.005)
    printed = [[0.92187, -0.02608, 0, -0.00229], [-0.06901, 0.96479, 0, -0.00229], [0, 0, 0.99087, 0]]
    np.testing.assert_allclose(a, [*printed, [0.99770, 0.37711, 0.00018, 1.02146]], atol=6e-6)
    np.testing.assert_allclose(b.ravel(), [0, 0, 0, -0.0026], atol=5e-5)
    k = gain(a, b, make("t2-reactor").spec.task.control)
    np.testing.assert_allclose(k, [[-178.77, -67.23, -0.054, -32.49]], atol=0.01)


@pytest.mark.slow
def test_reactor_statistics():
    """400 starts; 40 gave 444 and 119, whose standard errors are about 90 and 25."""
    env = make("t2-reactor")
    _, _, a, b = linear(env)
    k, c = gain(a, b, env.spec.task.control).astype(np.float32), env.spec.task.control

    def law(measured, key):
        dev = measured["state"] - c.x.astype(np.float32)
        return jnp.clip(-(dev * k).sum(-1, keepdims=True), -100, 100) / 100

    total, violated, rows = play(env, law, 400)
    assert not violated.any() and 95 < -total.mean() < 165 and 10 * rows.obs[..., 3].max() < 4.5
    total, violated, rows = play(env, lambda measured, key: jnp.zeros((400, 1)), 400)
    total = total + 1e5 * violated
    assert 1 <= violated.sum() <= 16 and 380 < -total.mean() < 600
    _, violated, rows = play(env, lambda measured, key: -jnp.ones((400, 1)), 400)
    assert violated.all()
    ends = rows.terminated & rows.valid
    assert (ends == (rows.info["violation"] & rows.valid)).all() and not (rows.truncated & rows.valid).any()
    assert (rows.reward[ends] < -1e5).all() and (ends.sum(0) == 1).all()


def test_the_linear_reactor_can_be_held():
    env = make("t2-reactor-linear")
    c = env.spec.task.control
    k = gain(*c.model, c).astype(np.float32)
    law = lambda measured, key: jnp.clip(-(measured["state"] * k).sum(-1, keepdims=True) / 55, -1, 1)
    assert not play(env, law, 200)[1].any()
    assert play(env, lambda measured, key: -jnp.ones((200, 1)), 200)[1].sum() > 20


def test_violations_need_not_end_the_episode():
    """After a runaway everything stays finite; nothing terminates, the time limit truncates."""
    env = make("t2-reactor", stop_on_violation=False, penalty=0.0)
    _, violated, rows = play(env, lambda measured, key: -jnp.ones((4, 1)), 4)
    assert violated.all() and not rows.terminated.any() and rows.truncated[-1].all() and rows.valid.all()
    assert np.isfinite(rows.obs).all() and np.isfinite(rows.reward).all()
    assert rows.info["violation"].sum() > 40


# ------------------------------------------------------------------------------------------------------- tracking plants


@pytest.mark.parametrize("name", TRACKING)
def test_steady_states_are_fixed_points_of_the_integrator(name):
    env = make(name)
    c = env.spec.task.control
    move = {"cstr": partial(cstr.move, ()), "four-tank": tanks.move, "extraction-column": column.move}[name]
    assert np.abs(move(np, env.params, c.x, as_action(c, c.u)) - c.x).max() < 1e-12 * np.abs(c.x).max()


@pytest.mark.parametrize(
    ("drift", "move", "params", "dt", "x", "actions", "tolerance"),
    [
        (reactor.drift, reactor.move, reactor.PARAMS, 1 / 60, reactor.STEADY, 1, 1e-8),
        (reactor_linear.drift, reactor_linear.move, {}, 1 / 60, [0.1, 0.1, -0.1, -10], 1, 1e-8),
        (partial(cstr.drift, ()), partial(cstr.move, ()), cstr.PARAMS, 26 / 60, cstr.START, 1, 5e-5),
        (tanks.drift, tanks.move, tanks.PARAMS, 1000 / 60, tanks.START, 2, 1e-6),
        (column.drift, column.move, column.PARAMS, 0.05, column.START, 2, 2e-5),
    ],
)
def test_integrators_follow_scipys(drift, move, params, dt, x, actions, tolerance):
    rng, x = np.random.default_rng(0), np.array(x, np.float64)
    on_device = jax.jit(partial(move, jnp, params))
    for _ in range(20):
        a = rng.uniform(-0.5, 1, actions)
        exact = integrate.solve_ivp(lambda t, x, a=a: drift(np, params, x, a), (0, dt), x, "LSODA", rtol=1e-11, atol=1e-13).y[
            :, -1
        ]
        np.testing.assert_allclose(move(np, params, x, a), exact, atol=tolerance, rtol=0)
        np.testing.assert_allclose(on_device(jnp.float32(x), jnp.float32(a)), exact, rtol=2e-4, atol=1e-4)
        x = exact


def test_runge_kutta_is_of_fourth_order():
    drift = lambda xp, p, x, a: -x + 0 * a
    error = [abs(runge_kutta(drift, np, {}, np.ones(1), np.zeros(1), 1.0, n, lambda xp, x: x)[0] - np.exp(-1)) for n in (4, 8)]
    assert error[0] / error[1] == pytest.approx(16, rel=0.2)


def test_cstr_reaches_known_steady_states():
    x, jacket = cstr.steady(0.877253)
    assert x[1] == pytest.approx(324.475, abs=0.01) and jacket == pytest.approx(300.0, abs=0.01)  # the well-known one


def test_tanks_reach_the_levels_of_the_schedule():
    for h3, h4 in tanks.SETPOINTS:
        x, u = tanks.steady(h3, h4)
        a = as_action(make("four-tank").spec.task.control, u)
        assert (np.abs(a) < 1).all() and np.abs(tanks.drift(np, tanks.PARAMS, x, a)).max() < 1e-15


def test_disturbances_move_the_plant_are_seen_and_have_a_gradient():
    env = make("cstr", disturbance="both")
    c = env.spec.task.control
    *_, effect = linear(env)
    np.testing.assert_allclose(effect, [[0, 1], [1, 0]], atol=1e-12)  # flow over volume is 1
    still = jnp.float32(as_action(c, c.u))
    state, step = env.reset(env.params, jax.random.key(0))
    move, seen = jax.jit(env.step), []
    for _ in range(60):
        before = np.asarray(state.x.x, np.float64)
        there = {**env.params, "disturbance": np.asarray(state.x.disturbance)}
        expected = cstr.move(tuple(cstr.DISTURBANCES), np, there, before, np.asarray(still))
        seen.append(c.measure(np, np.asarray(step.obs))["disturbance"])
        state, step = move(env.params, state, still, jax.random.key(0))
        np.testing.assert_allclose(state.x.x, expected, rtol=1e-5)
    assert bool(step.truncated)
    expected = [[a, b] for a, b in zip(*(cstr.DISTURBANCES[name][2] for name in cstr.DISTURBANCES), strict=True)]
    np.testing.assert_allclose(np.array(seen)[::15], expected, rtol=1e-6)
    alone = make("cstr", disturbance="feed-concentration")
    assert alone.spec.obs.shape == (5,) and alone.spec.task.control.disturbance.tolist() == [1.0]
    assert make("cstr").spec.task.control.disturbance is None and make("cstr").spec.obs.shape == (4,)
    with pytest.raises(ValueError, match="disturbance='rain'"):
        make("cstr", disturbance="rain")


@pytest.mark.parametrize("name", TRACKING)
def test_schedules_are_fixed_or_drawn_and_held(name):
    def plans(schedule, seed):
        env = make(name, schedule=schedule)
        state, step = env.reset(env.params, jax.random.key(seed))
        c, move, seen = env.spec.task.control, jax.jit(env.step), []
        for _ in range(60):
            seen.append(c.measure(np, np.asarray(step.obs))["setpoint"])
            state, step = move(env.params, state, jnp.zeros(len(c.u)), jax.random.key(0))
        assert bool(step.truncated) and not step.terminated
        return np.array(seen), c

    fixed, c = plans("fixed", 0)
    module = {"cstr": cstr, "four-tank": tanks, "extraction-column": column}[name]
    wanted = np.array(module.SETPOINTS).reshape(len(module.SETPOINTS), -1)
    np.testing.assert_allclose(fixed, np.repeat(wanted, 60 // len(wanted), 0), rtol=1e-5)
    drawn, other = plans("random", 0)[0], plans("random", 1)[0]
    assert not np.allclose(drawn, other) and (drawn >= c.setpoint_low - 1e-6).all() and (drawn <= c.setpoint_high + 1e-6).all()
    changes = np.flatnonzero(np.abs(np.diff(drawn, axis=0)).max(-1) > 1e-6) + 1
    assert set(changes) <= set(range(0, 60, 60 // len(wanted)))
    with pytest.raises(ValueError, match="schedule='often'"):
        make(name, schedule="often")


@pytest.mark.parametrize("name", TRACKING)
def test_noise_is_in_what_is_measured_and_nowhere_else(name):
    quiet, loud = make(name), rlx.envs.make(f"rlx:{name}")
    share = {"cstr": 0.001}.get(name, 0.05)
    c = loud.spec.task.control
    n, key = len(c.x), jax.random.key(0)
    a, b = quiet.reset(quiet.params, key), loud.reset(loud.params, key)
    step, ratios = jax.jit(quiet.step), []
    for t in range(40):
        np.testing.assert_array_equal(a[0].x.x, b[0].x.x)
        assert float(a[1].reward) == float(b[1].reward)
        truth, seen = (c.measure(np, np.asarray(s[1].obs, np.float64)) for s in (a, b))
        for part in seen:
            if part != "state":
                np.testing.assert_array_equal(truth[part], seen[part])
        ratios.append((seen["state"] - truth["state"]) / truth["state"])
        action, key = jnp.full(len(c.u), np.sin(t), jnp.float32), jax.random.fold_in(key, t)
        a, b = step(quiet.params, a[0], action, key), step(loud.params, b[0], action, key)
    assert np.std(ratios) == pytest.approx(share, rel=0.25) and np.shape(ratios) == (40, n)
    assert abs(np.corrcoef(np.ravel(ratios)[:-n], np.ravel(ratios)[n:])[0, 1]) < 0.3


def test_limits_are_told_apart_from_the_end():
    env = make("four-tank", stop_on_violation=False)
    stops = make("four-tank", stop_on_violation=True)
    full = jnp.array([-1.0, 1.0])  # the second pump fills tank 3 over its edge
    (state, step), (other, end) = (e.reset(e.params, jax.random.key(0)) for e in (env, stops))
    move, halt = jax.jit(env.step), jax.jit(stops.step)
    while not step.last:
        state, step = move(env.params, state, full, jax.random.key(0))
        if not end.last:
            other, end = halt(stops.params, other, full, jax.random.key(0))
        assert bool(step.info["violation"]) == bool((state.x.x > 0.6).any())
    assert step.info["violation"] and step.truncated and not step.terminated
    assert end.info["violation"] and end.terminated and not end.truncated and int(other.t) < 60
