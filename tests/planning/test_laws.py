"""Laws on the device: equal however they are batched, within float32 of the regions, flagged where they do not hold."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx.planning import laws, mpc, mpqp
from rlx.planning.linear import linearise

from . import problems
from .problems import draws, inside, law_of, random_plant, solved


@pytest.fixture(scope="module")
def pendulum():
    program, regions = solved("pendulum")
    return program, regions, laws.piecewise(regions, program)


# --------------------------------------------------------------------------------------------------------------- piecewise


def test_scalar_law_and_what_is_outside():
    program, regions = solved("scalar")
    z = jnp.array([[-1.0], [0.4], [1.0], [2.0], [4.0], [5.0], [-5.0]])
    wanted = np.array([0.5, -0.2, -0.5, -0.5, -0.5, -0.5, 0.5], np.float32)
    move = laws.piecewise(regions, program)(z)
    np.testing.assert_array_equal(move.u[:, 0], wanted)
    np.testing.assert_array_equal(move.outside, np.arange(7) >= 5)
    assert move.region.dtype == jnp.int32 and move.region[0] == 0  # on a facet the lowest wins
    zero = laws.piecewise(regions, program, "zero")(z)
    np.testing.assert_array_equal(zero.u[:, 0], np.where(np.arange(7) >= 5, 0, wanted))
    np.testing.assert_array_equal(zero.outside, move.outside)


@pytest.mark.slow
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["scalar", "double_integrator", "pendulum", "tutorial"])
def test_float32_follows_the_regions(name, compressed):
    """To rounding of the gains, whether hyperplanes are kept once or per region; also where few states are asked for."""
    program, regions = solved(name)
    law = laws.piecewise(regions, program, compressed=compressed)
    z = inside(program, regions, 1000)
    exact = law_of(regions, z)[:, : program.m]
    size = (np.abs(regions.K[:, : program.m]) @ np.abs(z).max(0)).max()
    move = jax.jit(law.__call__)(z.astype(np.float32))
    assert np.abs(move.u - exact).max() < 2e-6 * size
    deep = (regions.b - np.einsum("pqn,bn->bpq", regions.A, z)).min(-1).max(1) > 1e-4
    np.testing.assert_array_equal(np.asarray(move.region)[deep], regions.locate(z)[deep])
    assert not np.asarray(move.outside)[deep].any()
    few = jax.jit(jax.vmap(law))(z[:50].astype(np.float32))
    for a, b in zip(few, move, strict=True):
        np.testing.assert_allclose(a, b[:50], atol=1e-6)


def test_the_paper_s_rounding_errors_are_not_ours(pendulum):
    """6e-6 on the pendulum; a compressed law has the same regions."""
    program, regions, law = pendulum
    z = inside(program, regions, 3000)
    assert np.abs(jax.jit(law.__call__)(z.astype(np.float32)).u - law_of(regions, z)[:, :1]).max() < 6e-6


def test_batched_mapped_and_one_by_one_are_equal_and_compile_once(pendulum):
    program, regions, law = pendulum
    traced = []

    @jax.jit
    def move(law, z):
        traced.append(z.shape)
        return law(z)

    z = jnp.asarray(draws(program, 24), jnp.float32)
    whole = move(law, z)
    again = move(laws.piecewise(regions, program), z + 0)
    assert traced == [(24, 2)]
    mapped = jax.jit(jax.vmap(lambda z: law(z)))(z)
    shaped = move(law, z.reshape(2, 3, 4, 2))
    one = [move(law, point) for point in z]
    assert traced == [(24, 2), (2, 3, 4, 2), (2,)]
    for i in range(3):
        for other in (again[i], mapped[i], shaped[i].reshape(whole[i].shape), jnp.stack([o[i] for o in one])):
            np.testing.assert_allclose(other, whole[i], atol=3e-6)
        assert whole[i].dtype == one[0][i].dtype
    np.testing.assert_array_equal(mapped.region, whole.region)
    changed = move(dataclasses.replace(law, K=law.K * 2, r=law.r * 2), z)  # other numbers, the same program
    assert traced == [(24, 2), (2, 3, 4, 2), (2,)]
    there = ~np.asarray(whole.outside)
    np.testing.assert_allclose(changed.u[there], 2 * whole.u[there], rtol=1e-6)


def test_outside_is_the_nearest_region_by_slack(pendulum):
    program, regions, law = pendulum
    z = draws(program, 2000)
    slack = (regions.b - np.einsum("pqn,bn->bpq", regions.A, z)).min(-1)
    out = slack.max(1) < -1e-4
    clear = np.sort(slack, 1)[:, -1] - np.sort(slack, 1)[:, -2] > 1e-4
    move = jax.jit(law.__call__)(z.astype(np.float32))
    assert 0.1 < out.mean() < 0.2 and np.asarray(move.outside)[out].all()
    np.testing.assert_array_equal(np.asarray(move.region)[out & clear], slack.argmax(1)[out & clear])
    i = slack.argmax(1)
    wanted = np.clip(np.einsum("bn,bn->b", regions.K[i, 0], z) + regions.r[i, 0], -2, 2)
    np.testing.assert_allclose(np.asarray(move.u)[out & clear, 0], wanted[out & clear], atol=1e-4)
    zero = jax.jit(laws.piecewise(regions, program, "zero").__call__)(z.astype(np.float32))
    assert (np.asarray(zero.u)[out] == 0).all()
    np.testing.assert_array_equal(zero.region, move.region)


def test_facets_have_one_input_from_both_sides():
    for name in ("double_integrator", "pendulum"):
        program, regions = solved(name)
        law = jax.jit(laws.piecewise(regions, program).__call__)
        for i, j, z in problems.shared_facets(regions):
            move = law(np.float32(z))
            assert not move.outside and int(move.region) in (i, j)
            for k in (i, j):
                exact = regions.K[k, 0] @ z + regions.r[k, 0]
                assert float(move.u[0]) == pytest.approx(exact, abs=1e-5 * max(1, np.abs(regions.K[k, 0]).max()))


@pytest.mark.slow
@pytest.mark.parametrize("outside", ["nearest", "zero"])
def test_what_is_not_a_number_is_outside_and_stays_so(pendulum, outside):
    program, regions, _ = pendulum
    every = [laws.piecewise(regions, program, outside, compressed=c) for c in (False, True)]
    model = linearise(rlx.envs.make("rlx:upright-pendulum"))
    control = rlx.envs.make("rlx:upright-pendulum").spec.task.control
    every += [laws.quadratic(program), laws.regulator(control, model)]
    for law in every:
        for z in ([np.nan, 0.0], [0.1, np.nan], [np.nan, np.nan]):
            for points in (jnp.array(z), jnp.array([z, [0.01, 0.0]])):
                move = jax.jit(law.__call__)(points)
                assert move.outside.reshape(-1)[0] and np.isnan(np.asarray(move.u).reshape(-1)[0])
            assert not move.outside[1] and np.isfinite(move.u[1]).all()
        move = law(jnp.array([np.inf, 0.0]))
        assert move.outside and not np.asarray(move.u == 0).any()


def test_slopes_are_the_gains_and_selection_has_none(pendulum):
    program, regions, law = pendulum
    slope = jax.jit(jax.vmap(jax.grad(lambda z: law(z).u[0])))
    np.testing.assert_allclose(slope(jnp.asarray(regions.centre, jnp.float32)), regions.K[:, 0], rtol=1e-5, atol=1e-9)
    batch = jax.jit(jax.grad(lambda z: law(z).u.sum()))
    np.testing.assert_allclose(batch(jnp.asarray(regions.centre, jnp.float32)), regions.K[:, 0], rtol=1e-5, atol=1e-9)
    dK = jax.grad(lambda law, z: law(z).u.sum(), allow_int=True)(law, jnp.asarray(regions.centre[1], jnp.float32))
    np.testing.assert_allclose(dK.K[1, 0], regions.centre[1], rtol=1e-6)
    assert not dK.rows.any() and not dK.bounds.any() and not dK.K[0].any()


# -------------------------------------------------------------------------------------------------------------- the others


def test_the_regulator_is_an_affine_law_within_bounds():
    env = rlx.envs.make("rlx:upright-pendulum")
    control, model = env.spec.task.control, linearise(env)
    law, bare = laws.regulator(control, model), laws.regulator(control, model, clipped=False)
    z = jnp.asarray(np.random.default_rng(0).uniform(-0.3, 0.3, (200, 2)), jnp.float32)
    K = -np.array([19.647, 5.721])
    np.testing.assert_allclose(bare(z).u[:, 0], z @ K, atol=0.01)
    np.testing.assert_allclose(law(z).u[:, 0], np.clip(bare(z).u[:, 0], -2, 2), atol=1e-6)
    assert not law(z).outside.any() and not law(z).region.any() and law(z[0]).region.shape == ()
    assert float(jnp.abs(law(z).u).max()) == 2.0


def test_the_regulator_of_a_tracked_plant_knows_where_to_rest():
    env = rlx.envs.make("rlx:cstr", disturbance="both")
    control, model = env.spec.task.control, linearise(env)
    law = laws.regulator(control, model)
    lay = mpc.layout(control, model)
    s_r, u_r = mpc._rest(control, model, lay)
    asked = np.array([0, 0, 0.01, 0, 1.0, -0.005])
    z = asked.copy()
    z[:2], z[3:4] = s_r @ asked, u_r @ asked
    np.testing.assert_allclose(law(jnp.asarray(z, jnp.float32)).u, u_r @ asked, atol=2e-4)


@functools.cache
def quadratic_of(name: str):
    """A program, its regions, and the law that solves it for each state, compiled: (z, active or None) -> (move, active)."""
    if name in ("random", "reactor", "tank"):
        reactor = lambda: problems.reactor("t2-reactor", False)
        tank = lambda: problems.reactor("four-tank", False)
        program = {"random": lambda: problems.random_program(1, 3, 1, 3), "reactor": reactor, "tank": tank}[name]()
        regions = mpqp.solve(program, cache=False)
    else:
        program, regions = solved(name)
    return program, regions, jax.jit(laws.quadratic(program).follow)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["double_integrator", "pendulum", "tutorial", "random", "reactor", "tank"])
def test_solving_each_state_is_the_explicit_law(name):
    """To rounding, in 10 000 states; all that have a solution are inside, all that have none are outside."""
    program, regions, law = quadratic_of(name)
    z = draws(program, 10_000)
    slack = np.concatenate([(regions.b - np.einsum("pqn,bn->bpq", regions.A, part)).min(-1).max(1) for part in np.split(z, 10)])
    move, _ = law(z.astype(np.float32))
    there = slack >= 0
    wanted = law_of(regions, z[there])[:, : program.m]
    off = np.abs(np.asarray(move.u)[there] - wanted) / (program.u_high - program.u_low)
    assert off.max() < 2e-5
    assert not np.asarray(move.outside)[there].any()
    assert np.asarray(move.outside)[slack < -1e-3].all()
    low, high = problems.box(program)
    for i in range(len(low)):
        beyond = np.zeros((2, len(low)), np.float32)
        beyond[:, i] = 1.1 * low[i], 1.1 * high[i]
        assert law(np.resize(beyond, z.shape))[0].outside.all()


@pytest.mark.slow
def test_a_search_that_begins_where_the_last_one_ended_is_short():
    """States that move a little: two changes of the active set are enough, from nothing they are not."""
    program, regions, _ = quadratic_of("tutorial")
    law = jax.jit(laws.quadratic(program, steps=3).follow)  # the last one sees that nothing is left to change
    z = inside(program, regions, 400)
    before, after = z.astype(np.float32), (0.98 * z).astype(np.float32)  # towards the origin, which is inside too
    _, active = jax.jit(laws.quadratic(program).follow)(before)
    cold, warm = law(after)[0], law(after, active)[0]
    wanted = law_of(regions, 0.98 * z)[:, :1]
    fine = ~np.asarray(warm.outside)
    assert fine.mean() > 0.9 and np.asarray(cold.outside).mean() > 0.2
    assert np.abs(np.asarray(warm.u)[fine] - wanted[fine]).max() < 1e-4
    odd = jnp.ones_like(active)  # whatever it begins from, it ends at the solution
    whole, _ = jax.jit(laws.quadratic(program).follow)(after, odd)
    assert not np.asarray(whole.outside).any() and np.abs(np.asarray(whole.u) - wanted).max() < 1e-4


@pytest.mark.slow
def test_slopes_of_the_solution_are_the_regions_gains():
    program, regions, law = quadratic_of("pendulum")
    slope = jax.jit(jax.vmap(jax.grad(lambda z: law(z)[0].u[0])))(jnp.asarray(regions.centre, jnp.float32))
    free = np.abs(law_of(regions, regions.centre)[:, 0]) < 1.999  # at a bound it is clipped besides
    np.testing.assert_allclose(np.asarray(slope)[free], regions.K[free, 0], rtol=1e-4, atol=1e-4)


def test_values_in_float32(pendulum):
    program, regions, law = pendulum
    value = laws.piecewise_value(regions, program, law)
    z = inside(program, regions, 1000)
    U = law_of(regions, z)
    forms = (("bi,ij,bj->b", U, program.H, U), ("bi,ij,bj->b", U, 2 * program.F, z), ("bi,ij,bj->b", z, program.Y, z))
    cost = sum(np.einsum(*form) for form in forms)
    np.testing.assert_allclose(jax.jit(value.__call__)(z.astype(np.float32)), cost, rtol=1e-4)
    at = lambda angle: float(value(jnp.array([angle, 0.0])))
    assert at(0.0) == 0 and at(0.05) == pytest.approx(0.0196, abs=1e-4)


def test_a_law_of_many_inputs():
    control, model = random_plant(2, 2, 2)
    program = mpc.program(control, model, 2)
    regions = mpqp.solve(program, cache=False)
    z = inside(program, regions, 300)
    exact = law_of(regions, z)[:, :2]
    for compressed in (False, True):
        law = laws.piecewise(regions, program, compressed=compressed)
        assert law.regions == len(regions.K)
        move = law(jnp.asarray(z, jnp.float32))
        assert move.u.shape == (300, 2)
        np.testing.assert_allclose(move.u, exact, atol=1e-5)
        np.testing.assert_allclose(law(jnp.asarray(z[7], jnp.float32)).u, exact[7], atol=1e-5)
