"""Laws at many parameters go from region to region; they must choose as at one parameter, where all are compared."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.planning import laws, mpc, mpqp
from rlx.planning.linear import Linear
from rlx.types import Control

OUTSIDE = [[30.0, 0.0], [-3.0, 9.0], [np.nan, 0.0], [np.inf, -1.0]]


@pytest.fixture(scope="module")
def solved() -> tuple[mpqp.Regions, mpc.Program]:
    box = np.array([4.0, 4.0])
    control = Control(
        1.0, 0 * box, np.zeros(1), -np.ones(1), np.ones(1), -box, box, np.eye(2), np.eye(1), lambda xp, obs: {"state": obs}
    )
    model = Linear(np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[0.5], [1.0]]), np.zeros((2, 0)))
    program = mpc.program(control, model, 5)
    return mpqp.solve(program, cache=False), program


@pytest.mark.slow
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("count", [60, 5_000])  # from 4 096 on, several regions at a time
def test_many_parameters_are_as_one(solved, compressed, count):
    regions, program = solved
    law = laws.piecewise(regions, program, compressed=compressed)
    points = np.random.default_rng(0).uniform(-4.4, 4.4, (count - len(OUTSIDE), 2))
    z = jnp.asarray(np.concatenate([points, OUTSIDE]), jnp.float32)
    at_once = jax.jit(lambda z: law(z))(z)
    region, outside = (np.asarray(x)[: -len(OUTSIDE)] for x in (at_once.region, at_once.outside))
    slack = np.asarray(law.slacks(z[: -len(OUTSIDE)]))
    inside = slack >= -law.tolerance
    sure = (np.abs(slack + law.tolerance) > 2e-6).all(1)  # else rounding may decide
    assert sure.mean() > 0.99
    assert (outside == ~inside.any(1))[sure].all() and 0.05 < outside.mean() < 0.95
    assert (region == inside.argmax(1))[sure & ~outside].all()
    chosen = np.take_along_axis(slack, region[:, None], 1)[:, 0]
    assert (chosen >= slack.max(1) - 1e-5)[outside].all()  # several regions may be as near
    assert np.asarray(at_once.outside)[-len(OUTSIDE) :].all()
    one = jax.jit(jax.vmap(lambda z: law(z)))(z[: -len(OUTSIDE)])
    np.testing.assert_allclose(np.asarray(one.u)[sure], np.asarray(at_once.u)[: -len(OUTSIDE)][sure], atol=1e-4)


@pytest.mark.slow
def test_any_shape_of_batch_and_gradients(solved):
    law = laws.piecewise(*solved)
    z = jnp.asarray(np.random.default_rng(1).uniform(-2, 2, (3, 4, 2)), jnp.float32)
    flat = law(z.reshape(-1, 2))
    assert (law(z).region.reshape(-1) == flat.region).all()
    slope = jax.vmap(jax.jacobian(lambda z: law(z[None]).u[0]))(z.reshape(-1, 2))
    np.testing.assert_allclose(slope[~flat.outside], law.K[flat.region][~flat.outside], atol=1e-6)
    summed = jax.grad(lambda z: law(z).u.sum())(z.reshape(-1, 2))
    np.testing.assert_allclose(summed, slope.sum(1), atol=1e-6)


def test_not_a_number_is_outside(solved):
    law = laws.piecewise(*solved)
    for z in ([np.nan, 0.0], [0.0, np.inf]):
        assert bool(law(jnp.asarray(z, jnp.float32)).outside)
