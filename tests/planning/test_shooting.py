"""The nonlinear controller: on linear plants the explicit law, on a plant of known optimum close to it, within bounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx.planning import mpc, mpqp
from rlx.planning.linear import linearise
from rlx.planning.shooting import Shooting, roots, shooting

from .problems import draws, held, law_of, linear


@pytest.mark.slow
def test_on_a_linear_plant_it_is_the_explicit_law():
    """Of the same horizon, with inputs at their bounds in most states; one step is enough where all is quadratic."""
    model = linear([[1, 1], [0, 1]], [0.5, 1])
    control = held(model, x=4.0)
    program = mpc.program(control, model, 3, state_rows=False)
    regions = mpqp.solve(program, cache=False)
    A, B = (jnp.asarray(x, jnp.float32) for x in (model.A, model.B))
    law = Shooting(control, lambda x, u, d: A @ x + B @ u, roots(control, model), 3, 1, None)
    z = draws(program, 100)
    act = jax.jit(jax.vmap(lambda x: law({"state": x}, law.start())))
    action, plan = act(jnp.asarray(z, jnp.float32))
    wanted = law_of(regions, z)
    assert (np.abs(wanted[:, 0]) > 0.999).mean() > 0.3
    np.testing.assert_allclose(action[:, 0], np.clip(wanted[:, 0], -1, 1), atol=1e-3)
    np.testing.assert_allclose(plan[..., 0], wanted, atol=2e-2)  # where costs are flat, float32 tells them less apart


@pytest.mark.slow
def test_on_the_cubic_plant_it_is_near_the_optimum():
    """Mean discounted cost from 13 starts: 4.123 by dynamic programming, 6.162 of the linear controller."""
    env = rlx.envs.make("rlx:cubic")
    control = env.spec.task.control
    step = lambda x, u, d: jnp.clip(x + 0.1 * (x - 4 * x**3 + u), -2, 2)
    law = Shooting(control, step, roots(control, linearise(env)), 30, 3, None)

    def once(carry, k):
        x, plan = carry
        action, plan = jax.vmap(law)({"state": x}, plan)
        u = 5 * action
        return (step(x, u, None), plan), 0.99**k * (x**2 + u**2)[:, 0]

    start = jnp.linspace(-1.2, 1.2, 13)[:, None], jnp.tile(law.start(), (13, 1, 1))
    cost = jax.jit(lambda start: jax.lax.scan(once, start, jnp.arange(200))[1].sum(0).mean())(start)
    assert 4.1 < float(cost) < 4.25


@pytest.mark.slow
def test_it_follows_set_points_and_keeps_the_bounds():
    """Of a plant with a price on changes and measured disturbances: its costs are those of the environment."""
    env = rlx.envs.make("rlx:cstr", disturbance="both", noise=0.0)
    control = env.spec.task.control
    law = shooting(env, horizon=8, iterations=4)
    state, step = env.reset(env.params, jax.random.key(0))
    told = control.measure(jnp, step.obs)
    low, high = jnp.asarray(control.u_low), jnp.asarray(control.u_high)

    @jax.jit
    def plan(told):
        action, plan = law(told, law.start())
        first = law.errors(told, law.start()), law.errors(told, plan)
        return action, plan, [(e**2).sum() for e in first], (law.errors(told, plan[:1])[: 1 + 1 + 1] ** 2).sum()

    action, plan, (before, after), cost = plan(told)
    assert float(jnp.abs(plan).max()) <= 1 and float(after) < 0.9 * float(before)
    _, new = jax.jit(env.step)(env.params, state, action, jax.random.key(0))
    assert float(cost) == pytest.approx(-float(new.reward), rel=1e-3)
    x = law.move(told["state"], low + (high - low) * (action + 1) / 2, told["disturbance"])
    np.testing.assert_allclose(x, control.measure(jnp, new.obs)["state"], rtol=1e-4)


def test_what_it_cannot_be_made_for():
    with pytest.raises(ValueError, match="which rlx:probe-action lacks"):
        shooting(rlx.envs.make("rlx:probe-action"))
    with pytest.raises(ValueError, match="horizon=0, .* must be at least 1"):
        shooting(rlx.envs.make("rlx:t2-reactor"), horizon=0)
