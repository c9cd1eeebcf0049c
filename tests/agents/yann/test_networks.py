"""The networks: the paper's counts and layers, residuals that start at 0 and then move, critics, gradients at bounds."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents.yann import networks as nets
from rlx.agents.yann.controller import corners
from rlx.nn.optim import apply_gradients, optimizer
from rlx.planning import laws
from rlx.planning.laws import FAR, PiecewiseLaw
from tests.planning.problems import box, draws, solved

KINDS = ("block", "paper", "shared")


# ---------------------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize(
    ("regions", "rows", "nz", "width", "counts"), [(7, 32, 2, 16, (15_188, 12_880)), (7, 56, 4, 8, (5_320, 3_416))]
)
def test_the_papers_parameter_counts(regions, rows, nz, width, counts):
    assert nets.parameter_counts(regions, rows, nz, 1, width) == counts
    for init in ("paired", "zero_last"):
        params = jax.eval_shape(
            lambda k, init=init: nets.ResidualNet.of("paper", init, regions, width, 1).init(k, nz), jax.random.key(0)
        )
        assert sum(x.size for x in jax.tree.leaves(params)) == counts[1]


@pytest.mark.parametrize("m", [1, 2, 3])
def test_counts_with_more_outputs(m):
    net = nets.ResidualNet.of("paper", "paired", 3, 4, m)
    params = jax.eval_shape(lambda key: net.init(key, 2), jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(params)) == nets.parameter_counts(3, 10, 2, m, 4)[1]
    x, region = jnp.ones((5, 2)), jnp.arange(5) % 3
    assert jax.eval_shape(lambda p: net.apply(p, x, region), params).shape == (5, m)


# ------------------------------------------------------------------------------------------------ the tutorial's five layers


def tutorial(outside="zero") -> PiecewiseLaw:
    """f = x1 on {0 <= x1 <= 1, 0 <= x2 <= x1} and f = x2 on {0 <= x1 <= x2 <= 1}."""
    rows = np.array([[[-1, 0], [1, 0], [0, -1], [-1, 1]], [[-1, 0], [0, 1], [1, -1], [0, 0]]], np.float32)
    bounds = np.array([[0, 1, 0, 0], [0, 1, 0, FAR]], np.float32)
    K, r = np.array([[[1, 0]], [[0, 1]]], np.float32), np.zeros((2, 1), np.float32)
    low, high = -np.ones(1, np.float32), np.ones(1, np.float32)
    return PiecewiseLaw(*map(jnp.asarray, (K, r, rows, bounds, low, high)), None, 0.0, outside)


POINTS = jnp.array([[0.5, 0.4], [1, 0], [0, 1], [1, 1], [0.5, 0.5], [2, 2]])
BOTH = [[1, 0], [1, 0], [0, 1], [1, 1], [1, 1], [0, 0]]
FIRST = [[1, 0], [1, 0], [0, 1], [1, 0], [1, 0], [0, 0]]
OUTPUTS = [0.5, 1, 1, 1, 0.5, 0]


def test_the_tutorials_layers():
    law = tutorial()
    net = nets.bigm_init(law, np.array([[0.0, 0], [2, 0], [0, 2], [2, 2]]))
    assert net.W1.shape == (7, 2) and float(net.M) == pytest.approx(2.1)  # above all laws at all points, also outside
    np.testing.assert_array_equal(net.W2, [[1] * 4 + [0] * 3, [0] * 4 + [1] * 3])
    np.testing.assert_array_equal(net.b2, [-3, -2])
    y2, y3 = nets.bigm_gates(net, POINTS)
    np.testing.assert_array_equal(y2, BOTH)
    np.testing.assert_array_equal(y3, FIRST)
    v = law.affine(POINTS[:, None], jnp.arange(2))
    np.testing.assert_allclose(nets.bigm_output(net, y3, v)[:, 0], OUTPUTS, atol=1e-7)
    move = law(POINTS)
    np.testing.assert_allclose(move.u[:, 0], OUTPUTS, atol=1e-7)
    np.testing.assert_array_equal(move.region[:5], np.argmax(FIRST[:5], -1))
    np.testing.assert_array_equal(move.outside, [False] * 5 + [True])
    np.testing.assert_allclose(tutorial("nearest")(POINTS).u[:, 0], [*OUTPUTS[:5], 1], atol=1e-7)


def test_laws_above_the_constant_do_not_leak_where_no_region_is():
    """Beyond the points that M was made for; at [2, 2] on the other hand both laws are below it."""
    law = tutorial()
    net = nets.bigm_init(law, np.array([[0.0, 0], [1, 1]]))
    z = jnp.array([[3.0, 5.0], [-4.0, 0.2], [0.5, 0.4], [np.nan, 0.1]])
    _, y3 = nets.bigm_gates(net, z)
    out = nets.bigm_output(net, y3, law.affine(z[:, None], jnp.arange(2)))[:, 0]
    np.testing.assert_allclose(out[:3], [0, 0, 0.5], atol=1e-6)
    np.testing.assert_allclose(law(z[:3]).u[:, 0], [0, 0, 0.5], atol=1e-6)
    assert np.isnan(out[3]) and np.isnan(law(z).u[3, 0])


def test_the_constant_of_layer_four_is_as_small_as_can_be():
    """1 is right; with less, the law that is not active leaks where it is largest."""
    law = tutorial()
    net = nets.bigm_init(law, np.zeros((1, 2)))
    v = law.affine(POINTS[:5, None], jnp.arange(2))
    _, y3 = nets.bigm_gates(net, POINTS[:5])
    output = lambda M: nets.bigm_output(net._replace(M=jnp.float32(M)), y3, v)[:, 0]
    np.testing.assert_allclose(output(1.0), OUTPUTS[:5], atol=1e-7)
    assert np.abs(output(0.9) - np.array(OUTPUTS[:5])).max() > 0.05


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["pendulum", "tutorial"])
def test_big_m_layers_give_the_gather(name, compressed):
    """In float32 to 1e-4; M is above all laws in the box. 1e-9 in float64: see tests/planning/test_double.py."""
    program, regions = solved(name)
    law = laws.piecewise(regions, program, "zero", 0.0, compressed)
    net = nets.bigm_init(law, corners(*box(program)))
    z = jnp.asarray(draws(program, 1000), jnp.float32)

    @jax.jit
    def both(law, net, z):
        _, y3 = nets.bigm_gates(net, z)
        v = law.affine(z[:, None], jnp.arange(law.regions))
        return nets.bigm_output(net, y3, v), law(z).u, jnp.abs(v).max(), y3.sum(-1)

    got, wanted, most, count = both(law, net, z)
    assert float(net.M) > float(most) and set(np.unique(count)) <= {0, 1}
    assert float(net.M) >= 97.7 if name == "pendulum" else True
    wrong = np.abs(got - wanted).max(-1) > 1e-4
    assert wrong.mean() < 2e-3  # two ways to round a row, on facets of the domain
    assert net.W1.shape[0] == (len(law.bounds) - 1 if compressed else regions.rows.sum())


# ------------------------------------------------------------------------------------------------- residuals at the start

P, NZ = 7, 2


def net_of(kind, init="paired", width=4, m=1):
    return nets.ResidualNet.of(kind, init, P, width, m)


@functools.cache
def started(kind: str):
    return jax.jit(lambda key: net_of(kind).init(key, NZ))(jax.random.key(3))


def weights(params):
    """Of the first two layers."""
    return [np.asarray(params["params"][f"Dense_{i}"]["kernel"]) for i in range(2)]


def points(count: int = 10_000):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.uniform(-1, 1, (count, NZ)), jnp.float32), jnp.asarray(rng.integers(0, P, count))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "init", "width"),
    [(kind, init, 16) for kind in KINDS for init in ("zero_last", "paired")] + [("block", "paired", 5)],
)
def test_residuals_start_at_zero_and_have_somewhere_to_go(kind, init, width):
    """0 bitwise, or to 1e-7; a generic loss moves them at once; after one step the units of a pair differ."""

    @jax.jit
    def first_step(x, region):
        net, adam = net_of(kind, init, width), optimizer(jnp.float32(1e-3))
        params = net.init(jax.random.key(3), NZ)
        few = lambda params: net.apply(params, x[:500], region[:500])
        grads = jax.grad(lambda params: ((few(params) - jnp.sin(3 * x[:500, :1]) - 0.5) ** 2).mean())(params)
        new, _ = apply_gradients(adam, params, grads, adam.init(params))
        largest = lambda tree: jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(tree)]).max()
        return params, new, largest(net.apply(params, x, region)), largest(grads), largest(few(new))

    params, new, g, grads, moved = first_step(*points())
    assert float(g) == 0 if init == "zero_last" else float(g) <= 1e-7
    assert float(grads) > 1e-4 and float(moved) > 1e-5
    if init == "paired":
        (wa, wb), (new_wa, new_wb) = weights(params), weights(new)
        half = wa.shape[-1] // 2
        one, two = (..., slice(half)), (..., slice(half, 2 * half))
        above, below = (slice(None), slice(half)), (slice(None), slice(half, 2 * half))
        np.testing.assert_array_equal(wa[one], -wa[two])
        np.testing.assert_array_equal(wb[above], wb[below])
        assert not wa[..., 2 * half :].any() and np.abs(wa).max() <= 0.01  # the odd one sees nothing
        assert np.abs(new_wa[one] + new_wa[two]).max() > 1e-5
        assert np.abs(new_wb[above] - new_wb[below]).max() > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_residuals_of_many_outputs(kind):
    x, region = points(200)

    @jax.jit
    def ways(x, region):
        net = net_of(kind, width=6, m=3)
        params = net.init(jax.random.key(3), NZ)
        params = jax.tree.map(lambda w: w + 0.3 * jnp.cos(jnp.arange(w.size)).reshape(w.shape), params)
        of = lambda x, region: net.apply(params, x, region)
        return of(x, region), jax.vmap(of)(x, region), of(x.reshape(4, 50, NZ), region.reshape(4, 50)), of(x[7], region[7])

    whole, mapped, shaped, one = ways(x, region)
    assert whole.shape == (200, 3) and float(jnp.abs(whole).max()) > 0.01
    np.testing.assert_allclose(mapped, whole, atol=1e-5)
    np.testing.assert_allclose(np.asarray(shaped).reshape(200, 3), whole, atol=1e-5)
    np.testing.assert_allclose(one, whole[7], atol=1e-5)


@pytest.mark.slow
def test_only_a_blocks_own_region_learns():
    x, _ = points(50)
    region = jnp.full(50, 2)
    touched = {}
    for kind in KINDS:
        params = jax.tree.map(lambda w: w + 0.1, started(kind))
        grads = jax.jit(jax.grad(lambda p, kind=kind: (net_of(kind).apply(p, x, region) ** 2).sum()))(params)
        touched[kind] = [np.abs(np.asarray(v)).reshape(len(v), -1).max(1) > 0 for v in jax.tree.leaves(grads)]
    for block in touched["block"]:
        np.testing.assert_array_equal(block, np.arange(P) == 2)
    assert all(leaf.all() for kind in ("shared", "paper") for leaf in touched[kind])
    none = net_of("none", m=4)
    assert none.init(jax.random.key(0), NZ) == {}
    assert none.apply({}, x, region).shape == (50, 4) and not none.apply({}, x, region).any()


def test_the_papers_residual_is_below_its_width():
    params = jax.tree.map(lambda w: 50 * jnp.ones_like(w), started("paper"))
    x, region = points(100)
    net = net_of("paper")
    assert float(jnp.abs(net.apply(params, x, region)).max()) <= 4 + 1e-6
    np.testing.assert_array_equal(net.of_all(params, x)[jnp.arange(100), region], net.apply(params, x, region))


def test_a_trust_bound_keeps_zero_and_slope():
    bound = jnp.array([0.5])
    g = jnp.linspace(-3, 3, 61)[:, None]
    assert float(jnp.abs(nets.bounded(100 * g, bound)).max()) <= 0.5
    assert nets.bounded(jnp.zeros((1, 1)), bound)[0, 0] == 0
    assert float(jax.grad(lambda g: nets.bounded(g, bound)[0])(jnp.zeros(1))[0]) == pytest.approx(1)
    np.testing.assert_array_equal(nets.bounded(g, None), g)


# ----------------------------------------------------------------------------------------------------------------- critics


def forms(seed: int, nz: int = 3, m: int = 2) -> np.ndarray:
    root = np.random.default_rng(seed).standard_normal((nz + m, nz + m))
    return root @ root.T + 0.1 * np.eye(nz + m)


def value_of(params, W, x, nz=3):
    return nets.quadratic(params, nets.Form.of(W, nz), jnp.asarray(x[:, :nz], jnp.float32), jnp.asarray(x[:, nz:], jnp.float32))


@pytest.mark.parametrize("seed", range(2))
def test_the_critics_form_is_the_one_it_was_made_of(seed):
    W, x = forms(seed), np.random.default_rng(9).uniform(-1, 1, (500, 5))
    exact = np.einsum("bi,ij,bj->b", x, W, x)
    np.testing.assert_allclose(value_of(nets.quadratic_init(W, 3), W, x), exact, rtol=2e-5, atol=1e-5)
    least = W[:3, :3] - W[:3, 3:] @ np.linalg.solve(W[3:, 3:], W[3:, :3])
    found = nets.Form.of(W, 3).value(jnp.asarray(x[:, :3], jnp.float32))
    np.testing.assert_allclose(found, np.einsum("bi,ij,bj->b", x[:, :3], least, x[:, :3]), rtol=1e-4, atol=1e-5)


def test_the_critics_form_stays_convex_in_the_input():
    """Whatever has been learned; also where the factor of its curvature is singular."""
    W = forms(1)
    form, start = nets.Form.of(W, 3), nets.quadratic_init(W, 3)

    @jax.jit
    @jax.vmap
    def curvature(params, z):
        return jax.hessian(lambda u: nets.quadratic(params, form, z, u))(jnp.ones(2))

    rng = np.random.default_rng(0)
    size = np.repeat([0.3, 3.0, 30.0, 0.0], 10)
    noise = lambda p: p + jnp.asarray(size.reshape(-1, *[1] * p.ndim) * rng.standard_normal((40, *p.shape)), jnp.float32)
    params = jax.tree.map(noise, start)
    params["L"] = params["L"].at[30:].set(-jnp.array([1.0, 0.0, 1.0]))  # L - L: nothing is left of it
    curved = np.asarray(curvature(params, jnp.asarray(rng.standard_normal((40, 3)), jnp.float32)), np.float64)
    least = np.linalg.eigvalsh(curved)[:, 0]
    assert (least > -1e-6 * np.abs(curved).max((1, 2))).all()
    np.testing.assert_allclose(least[30:], 2 * nets.RIDGE, rtol=1e-3)


def test_every_coefficient_of_the_form_learns():
    W, x = forms(2), np.random.default_rng(0).uniform(-1, 1, (200, 5))
    params = nets.quadratic_init(W, 3)
    grads = jax.grad(lambda p: ((value_of(p, W, x) - 1.0) ** 2).mean())(params)
    assert {k: v.shape for k, v in grads.items()} == {"V": (6,), "L": (3,), "K": (2, 3)}
    assert all((np.abs(np.asarray(g)) > 1e-4).all() for g in grads.values())


@pytest.mark.slow
@pytest.mark.parametrize(("init", "unseen"), [("zero_last", 0), ("zero_last", 2), ("paired", 2)])
def test_the_critics_network_starts_at_zero(init, unseen):
    net, adam = nets.zero_mlp((8, 8, 1), init, unseen), optimizer(jnp.float32(1e-2))
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros(5))
    seen = lambda params: weights(params)[0]
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (10_000, 5)), jnp.float32)
    h = net.apply(params, x)
    assert float(jnp.abs(h).max()) == 0 if init == "zero_last" else float(jnp.abs(h).max()) <= 1e-7
    assert not seen(params)[5 - unseen :].any() and seen(params)[: 5 - unseen].any()
    opt = adam.init(params)
    loss = lambda p: ((net.apply(p, x[:300]) - x[:300, -1:] - x[:300, :1]) ** 2).mean()
    step = jax.jit(lambda p, o: apply_gradients(adam, p, jax.grad(loss)(p), o))
    for _ in range(3):
        params, opt = step(params, opt)
    assert (np.abs(seen(params)).max(1) > 1e-3).all()  # what was not seen is seen where it matters


# -------------------------------------------------------------------------------------------------------- gradients at bounds


def test_gradients_at_bounds_pass_inwards_only():
    low, high = jnp.array([-2.0]), jnp.array([2.0])
    slope = lambda u, dq: float(jax.grad(lambda u: (dq * nets.saturate(u, low, high)).sum())(jnp.array([u]))[0])
    assert slope(3.0, -1.5) == 0 and slope(3.0, 1.5) == 1.5
    assert slope(-3.0, 1.5) == 0 and slope(-3.0, -1.5) == -1.5
    assert slope(2.0, -1.0) == 0 and slope(2.0, 1.0) == 1 and slope(-2.0, 1.0) == 0
    for dq in (-1.5, 1.5):
        assert slope(1.0, dq) == dq
    both = jax.vmap(jax.grad(lambda u: (jnp.array([-1.0, 1.0]) * nets.saturate(u, -jnp.ones(2), jnp.ones(2))).sum()))
    np.testing.assert_array_equal(both(jnp.array([[3.0, 3.0], [-3.0, -3.0], [0.0, 3.0]])), [[0, 1], [-1, 0], [-1, 1]])
    np.testing.assert_array_equal(nets.saturate(jnp.array([3.0, -3.0, 0.5]), -2.0, 2.0), [2, -2, 0.5])
