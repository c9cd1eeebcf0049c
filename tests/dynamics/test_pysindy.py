"""Models of pysindy become sparse models and environments, and the other way round: both predict the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pysindy
import pytest
from pysindy import (
    ConcatLibrary,
    CustomLibrary,
    DiscreteSINDy,
    FourierLibrary,
    GeneralizedLibrary,
    ParameterizedLibrary,
    PDELibrary,
    PolynomialLibrary,
    SINDy,
    TensoredLibrary,
    WeakPDELibrary,
)
from pysindy.optimizers import SR3, STLSQ, EnsembleOptimizer, WrappedOptimizer
from scipy.integrate import solve_ivp
from sklearn.linear_model import Ridge

from rlx.dynamics import SparseDynamics, as_env
from rlx.dynamics.sparse import Dictionary, SparseModel, affine, equations, fit, from_pysindy, load, poly, save, to_pysindy
from rlx.envs import batch, begin, check, rollout

pytestmark = pytest.mark.filterwarnings("ignore:.*(Sparsity parameter|did not converge).*")
CART = ["p", "c", "s", "v", "w", "u"]


def lorenz(t, z):
    return [10 * (z[1] - z[0]), z[0] * (28 - z[2]) - z[1], z[0] * z[1] - 8 / 3 * z[2]]


@pytest.fixture(scope="module")
def attractor():
    t = np.arange(0, 5, 0.002)
    return t, solve_ivp(lorenz, (0, 5), [-8, 8, 27], t_eval=t, rtol=1e-10, atol=1e-10).y.T


@pytest.fixture(scope="module")
def duffing():
    """x'' = x - x^3 - 0.3 x' + u: states [N, 2], inputs [N, 1] and derivatives [N, 2]."""
    rng = np.random.default_rng(0)
    x, u = rng.uniform(-2, 2, (400, 2)), rng.uniform(-2, 2, (400, 1))
    return x, u, np.stack([x[:, 1], x[:, 0] - x[:, 0] ** 3 - 0.3 * x[:, 1] + u[:, 0]], 1)


@pytest.fixture(scope="module")
def driven(duffing):
    x, u, dx = duffing
    model = SINDy(optimizer=STLSQ(threshold=0.05), feature_library=PolynomialLibrary(degree=3))
    return model.fit(x, t=0.1, x_dot=dx, u=u, feature_names=["x", "v", "u"])


@pytest.fixture(scope="module")
def balanced(cart):
    """What pysindy makes of the cart-pole's random behaviour."""
    z, new = cart
    model = DiscreteSINDy(STLSQ(threshold=7e-3, alpha=5e-5, unbias=False), PolynomialLibrary(degree=2))
    return model.fit(z[:, :5], t=1, x_next=new, u=z[:, 5:], feature_names=CART)


def same_predictions(fitted, model, z, atol=3e-6):
    """pysindy's float64 against the model in float64 and as compiled code has it."""
    states = model.coef.shape[0]
    theirs = np.asarray(fitted.predict(z[:, :states], u=z[:, states:] if z.shape[1] > states else None))
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(model.library(z) @ np.asarray(model.coef, np.float64).T, theirs, atol=atol * scale)
    np.testing.assert_allclose(jax.jit(lambda model, z: model(z))(model, jnp.asarray(z)), theirs, atol=10 * atol * scale)


def by_name(coef, terms):
    return [{name: round(float(c), 5) for name, c in zip(terms, row, strict=True) if c} for row in np.asarray(coef)]


# ----------------------------------------------------------------------------------------------------------- from pysindy


def test_a_discrete_model_with_inputs(balanced, cart):
    model = from_pysindy(balanced)
    assert not model.continuous and model.members.shape == (1, 5, 28)
    same_predictions(balanced, model, cart[0])
    assert by_name(model.coef, model.library.names(CART)) == by_name(balanced.coefficients(), balanced.get_feature_names())
    assert equations(model, balanced.feature_names).startswith("p' = ")


def test_a_continuous_model(attractor):
    fitted = SINDy().fit(attractor[1], t=attractor[0], feature_names=["x", "y", "z"])
    model = from_pysindy(fitted)
    assert model.continuous
    same_predictions(fitted, model, attractor[1])
    assert equations(model, ["x", "y", "z"], digits=2) == ("dx/dt = -10 x + 10 y\ndy/dt = 28 x - y - x z\ndz/dt = -2.7 z + x y")


@pytest.mark.parametrize(
    ("library", "terms"),
    [
        (PolynomialLibrary(3, include_interaction=False, include_bias=False),
         ["a", "b", "u", "a^2", "b^2", "u^2", "a^3", "b^3", "u^3"]),
        (PolynomialLibrary(2, interaction_only=True), ["1", "a", "b", "u", "a b", "a u", "b u"]),
        (pysindy.IdentityLibrary(), ["a", "b", "u"]),
        (ConcatLibrary([PolynomialLibrary(1), PolynomialLibrary(2, include_bias=False, include_interaction=False)]),
         ["1", "a", "b", "u", "a^2", "b^2", "u^2"]),
        (TensoredLibrary([pysindy.IdentityLibrary(), PolynomialLibrary(1)]),
         ["a", "a^2", "a b", "a u", "b", "b^2", "b u", "u", "u^2"]),
        (GeneralizedLibrary([PolynomialLibrary(2, include_bias=False), PolynomialLibrary(1)], [[1, 1]], [[0, 1], [2]]),
         ["a", "b", "a^2", "a b", "b^2", "1", "u", "a u", "b u", "a^2 u", "a b u", "b^2 u"]),
        (ParameterizedLibrary(PolynomialLibrary(1), PolynomialLibrary(1), num_parameters=1, num_features=2),
         ["1", "a", "b", "u", "a u", "b u"]),
        (CustomLibrary([lambda x: x, lambda x: x**5, lambda x, y: x * y**2], include_bias=True),
         ["1", "a", "b", "u", "a^5", "b^5", "u^5", "a b^2", "a u^2", "b u^2"]),
    ],
)  # fmt: skip
def test_libraries(library, terms):
    rng = np.random.default_rng(1)
    x, u = rng.uniform(-1, 1, (300, 2)), rng.uniform(-1, 1, (300, 1))
    new = np.stack([0.5 * x[:, 1] + u[:, 0], x[:, 0] * x[:, 1] - 0.3 * x[:, 0] ** 2], 1)
    fitted = DiscreteSINDy(STLSQ(threshold=1e-3), library).fit(x, t=1, x_next=new, u=u)
    model = from_pysindy(fitted)
    assert model.library.names(["a", "b", "u"]) == terms
    same_predictions(fitted, model, np.concatenate([x, u], 1))


def test_terms_that_nobody_uses_may_be_anything(driven, duffing):
    x, u, dx = duffing
    fitted = SINDy(STLSQ(threshold=0.05, alpha=1e-9), PolynomialLibrary(3) + FourierLibrary()).fit(x, t=0.1, x_dot=dx, u=u)
    model = from_pysindy(fitted)
    assert model.library == from_pysindy(driven).library
    same_predictions(fitted, model, np.concatenate([x, u], 1))


@pytest.mark.parametrize(
    "optimizer", [STLSQ(normalize_columns=True, threshold=1.0), SR3(reg_weight_lam=0.01), STLSQ(alpha=0.0)]
)
def test_optimisers(optimizer, duffing):
    x, u, dx = duffing
    fitted = SINDy(optimizer, PolynomialLibrary(3)).fit(x, t=0.1, x_dot=dx, u=u)
    assert fitted.coefficients().any(1).all()
    same_predictions(fitted, from_pysindy(fitted), np.concatenate([x, u], 1))


def test_an_ensemble_brings_its_members(cart):
    np.random.seed(0)
    z, new = cart
    optimizer = EnsembleOptimizer(STLSQ(threshold=7e-3, alpha=5e-5), bagging=True, library_ensemble=True, n_models=7)
    fitted = DiscreteSINDy(optimizer, PolynomialLibrary(2)).fit(z[:, :5], t=1, x_next=new, u=z[:, 5:])
    model = from_pysindy(fitted)
    np.testing.assert_allclose(model.members, np.float32(optimizer.coef_list))
    np.testing.assert_allclose(model.coef, np.median(model.members, 0), atol=1e-7)
    assert (np.asarray(model.variance(z[:9])) > 0).any()
    same_predictions(fitted, model, z)


def ridge(**how):
    return WrappedOptimizer(Ridge(alpha=1e-3, **how))


@pytest.mark.parametrize(
    ("optimizer", "library", "words"),
    [
        (STLSQ(threshold=0.0), FourierLibrary(), r"of FourierLibrary the model uses \['sin\(1 x\)', .*PolynomialLibrary"),
        (STLSQ(threshold=0.0), PolynomialLibrary(1) + CustomLibrary([np.vectorize(lambda x: abs(x)).pyfunc]),
         r"of PolynomialLibrary, CustomLibrary the model uses \['f0\(x\)', 'f0\(v\)', 'f0\(u\)'\]"),
        (STLSQ(threshold=0.0), CustomLibrary([lambda x, y: x + y], [lambda x, y: f"({x}+{y})"]), r"\['\(x\+v\)', "),
        (STLSQ(threshold=0.0), TensoredLibrary([PolynomialLibrary(1), FourierLibrary(include_cos=False)]), r"'x sin\(1 v\)'"),
        (STLSQ(threshold=0.0), CustomLibrary([lambda x: 1 / x]), "f0"),
        (ridge(fit_intercept=True), PolynomialLibrary(3), "WrappedOptimizer are not its coefficients.*fit_intercept=False"),
        (WrappedOptimizer(Ridge(alpha=1e-3, fit_intercept=False), normalize_columns=True), PolynomialLibrary(3),
         "normalize_columns=False"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken(optimizer, library, words, duffing):
    x, u, dx = duffing
    fitted = SINDy(optimizer, library).fit(x, t=0.1, x_dot=dx + 0.5, u=u, feature_names=["x", "v", "u"])
    with pytest.raises(ValueError, match=words):
        from_pysindy(fitted)


def test_what_is_no_model_of_a_state(duffing):
    x, u, dx = duffing
    for wrong, words in ((3.0, "got a float"), (SINDy(), "call fit of this SINDy"), (STLSQ(), "got a STLSQ")):
        with pytest.raises(ValueError, match=words):
            from_pysindy(wrong)
    grid = PDELibrary(PolynomialLibrary(1), derivative_order=1, spatial_grid=np.arange(8.0))
    field = SINDy(STLSQ(threshold=0.0), grid).fit(np.random.default_rng(0).normal(size=(8, 30, 1)), t=0.1)
    with pytest.raises(ValueError, match="cannot take PDELibrary.*PolynomialLibrary"):
        from_pysindy(field)
    t = np.linspace(0, 4, 200)
    weak = WeakPDELibrary(PolynomialLibrary(1), spatiotemporal_grid=t, K=20)
    with pytest.raises(ValueError, match="cannot take WeakPDELibrary"):
        from_pysindy(SINDy(STLSQ(threshold=0.0), weak).fit(np.stack([np.sin(t), np.cos(t)], 1), t=t))
    rewards = DiscreteSINDy(STLSQ(threshold=0.0)).fit(x, t=1, x_next=dx[:, :1], u=u)
    with pytest.raises(ValueError, match=r"one equation for each state: \[2, 10\] coefficients.*are \[1, 10\]"):
        from_pysindy(rewards)


# ----------------------------------------------------------------------------------------------------------- environments


def test_a_fitted_model_is_an_environment(balanced, cart):
    """Rolled out as any environment, against pysindy's own simulation."""
    starts, steps = cart[0][::200, :5], 15
    env = as_env(SparseDynamics(), from_pysindy(balanced), starts, actions=1, horizon=30)
    check(env)
    vec = batch(env, 6, starts="exact")
    uniform = lambda carry, step, key: (jax.random.uniform(key, (6, 1), minval=-1.0, maxval=1.0), carry, {})
    begun = begin(vec, env.params, (), jax.random.key(0))
    rows = jax.jit(lambda begun, key: rollout(vec, env.params, uniform, begun, key, steps)[1])(begun, jax.random.key(1))
    assert not np.asarray(rows.terminated | rows.truncated).any()
    for stream in range(6):
        seen, actions = np.asarray(rows.obs[:, stream], np.float64), np.asarray(rows.action[:, stream], np.float64)
        np.testing.assert_allclose(balanced.simulate(seen[0], steps, u=actions), seen, atol=2e-4)


def test_a_continuous_model_is_integrated(driven, duffing):
    """A decision of 0.1 s with the input held, forces of 2 N at most."""
    env = as_env(
        SparseDynamics(lambda xp, obs, action: -(obs[0] ** 2) - action[0], dt=0.1, substeps=4, low=-2.0, high=2.0),
        from_pysindy(driven),
        duffing[0][:5],
        actions=1,
        horizon=30,
    )
    state, step = env.reset(env.params, jax.random.key(3))
    move = jax.jit(env.step)
    for action in (0.7, -1.0, 0.0):
        rhs = lambda t, x, u=2 * action: np.asarray(driven.predict(x[None], u=np.array([[u]])))[0]
        exact = solve_ivp(rhs, (0, 0.1), np.asarray(step.obs, np.float64), rtol=1e-10, atol=1e-10).y[:, -1]
        state, step = move(env.params, state, jnp.full(1, action), jax.random.key(0))
        np.testing.assert_allclose(step.obs, exact, atol=1e-5)
        np.testing.assert_allclose(step.reward, -(exact[0] ** 2) - action, atol=1e-4)


def test_a_model_without_inputs_is_rolled_out(attractor):
    fitted = SINDy().fit(attractor[1], t=attractor[0])
    dt, steps = 0.01, 40
    env = as_env(SparseDynamics(dt=dt, substeps=5), from_pysindy(fitted), attractor[1][:1], actions=1, horizon=100)
    vec = batch(env, 2, starts="exact")
    still = lambda carry, step, key: (jnp.zeros((2, 1)), carry, {})
    begun = begin(vec, env.params, (), jax.random.key(0))
    rows = jax.jit(lambda begun, key: rollout(vec, env.params, still, begun, key, steps)[1])(begun, jax.random.key(1))
    exact = fitted.simulate(attractor[1][0], np.arange(steps) * dt)
    np.testing.assert_allclose(rows.obs[:, 0], exact, atol=2e-3)


def test_disagreement_is_of_one_decision():
    library = poly(2, 1)
    members = jnp.array([[[1.0, 0.0]], [[3.0, 0.0]]])
    model = SparseModel(members, members.mean(0), library)
    obs, action = jnp.array([2.0]), jnp.array([0.5])
    np.testing.assert_allclose(SparseDynamics().disagreement(model, obs, action), 2.0)  # predictions 2 and 6
    rate = SparseModel(members, members.mean(0), library, continuous=True)
    np.testing.assert_allclose(SparseDynamics(dt=0.1).disagreement(rate, obs, action), 0.2, rtol=1e-6)
    one = SparseModel(members[:1], members[0], library)
    assert jnp.isfinite(jax.grad(lambda obs: SparseDynamics().disagreement(one, obs, action))(obs)).all()


def test_dynamics_that_do_not_fit():
    model = SparseModel(jnp.ones((1, 2, 3)), jnp.ones((2, 3)), poly(3, 1))
    rate = SparseModel(model.members, model.coef, model.library, continuous=True)
    predict = lambda how, model, n=2, m=1: SparseDynamics(**how).predict(
        model, (), jnp.zeros(n), jnp.zeros(m), jax.random.key(0)
    )
    for wrong, words in (
        (lambda: predict({}, rate), "continuous: give dt"),
        (lambda: predict({"dt": 0.1}, model), "leave dt away"),
        (lambda: predict({}, model, m=2), r"needs 4 variables \(or 2, without inputs\)"),
        (lambda: SparseDynamics(dt=0.0), "above 0"),
        (lambda: SparseDynamics(dt=0.1, substeps=0), "at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()


# ------------------------------------------------------------------------------------------------------------- to pysindy


@pytest.fixture(scope="module")
def ours(cart):
    """Five members fitted here, affine in the input."""
    return fit(affine(5, 1, 2), *cart, alpha=5e-5, threshold=7e-3, rng=np.random.default_rng(1), ensemble_size=5)


def test_a_model_of_pysindy_predicts_simulates_and_prints_the_same(ours, cart):
    z, new = cart
    made = to_pysindy(ours, CART, threshold=7e-3, alpha=5e-5)
    assert isinstance(made, DiscreteSINDy) and made.feature_names == CART and made.n_control_features_ == 1
    coef = np.asarray(ours.coef, np.float64)
    np.testing.assert_allclose(made.predict(z[:, :5], u=z[:, 5:]), ours.library(z) @ coef.T, atol=1e-12)
    assert made.score(z[:, :5], 1, u=z[:, 5:], x_next=new) > 0.99
    x, path = z[0, :5], []
    for u in z[:20, 5:]:
        path.append(x)
        x = ours.library(np.concatenate([x, u])) @ coef.T
    np.testing.assert_allclose(made.simulate(z[0, :5], 20, u=z[:20, 5:]), path, atol=1e-10)
    assert by_name(made.coefficients(), made.get_feature_names()) == by_name(coef, ours.library.names(CART))
    written = equations(SparseModel(ours.members, ours.coef, ours.library), [f"{name}[k]" for name in CART], digits=3)
    for line, row in zip(made.equations(6), written.splitlines(), strict=True):
        terms = {term.strip() for term in row.split(" = ")[1].replace(" - ", " + ").split(" + ")}
        assert line.count("[k]") == sum(term.count("[k]") for term in terms)
    assert made.optimizer.opt.threshold == 7e-3 and made.optimizer.opt.alpha == 5e-5


def test_members_travel_both_ways(ours, cart):
    made = to_pysindy(ours)
    assert isinstance(made.optimizer, EnsembleOptimizer) and len(made.optimizer.coef_list) == 5
    again = from_pysindy(made)
    np.testing.assert_allclose(again.each(cart[0][:50]), ours.each(cart[0][:50]), atol=1e-6)
    np.testing.assert_allclose(again(cart[0][:50]), ours(cart[0][:50]), atol=1e-6)


@pytest.mark.parametrize("library", [poly(3, 3, bias=True), poly(3, 2), poly(3, 3, interact=False), poly(3, 1, bias=True)])
@pytest.mark.parametrize("continuous", [False, True])
def test_polynomials_come_back_as_they_were(library, continuous):
    coef = jnp.asarray(np.random.default_rng(0).normal(size=(2, len(library))), jnp.float32)
    model = SparseModel(coef[None], coef, library, continuous)
    made = to_pysindy(model)
    assert type(made) is (SINDy if continuous else DiscreteSINDy) and made.feature_names == ["x0", "x1", "u0"]
    again = from_pysindy(made)
    assert again.library == library and again.continuous is continuous
    np.testing.assert_array_equal(again.coef, coef)


def test_a_continuous_model_simulates_in_pysindy(driven):
    model = from_pysindy(driven)
    made = to_pysindy(model, ["x", "v", "u"])
    t = np.arange(0, 1, 0.05)
    held = lambda t: np.array([0.5])
    np.testing.assert_allclose(
        made.simulate(np.array([0.3, -0.2]), t, u=held), driven.simulate(np.array([0.3, -0.2]), t, u=held), atol=1e-5
    )
    assert made.equations() == driven.equations()


def test_it_can_be_fitted_anew(driven, duffing):
    x, u, dx = duffing
    made = to_pysindy(from_pysindy(driven), threshold=0.05)
    made.fit(x, t=0.1, x_dot=2 * dx, u=u)
    np.testing.assert_allclose(made.coefficients(), 2 * driven.coefficients(), atol=1e-3)


def test_what_pysindy_cannot_take():
    model = SparseModel(jnp.ones((1, 2, 3)), jnp.ones((2, 3)), poly(3, 1))
    for names in (["a", "b"], ["a", "a", "u"], ["a", "b c", "u"], ["a", "", "u"]):
        with pytest.raises(ValueError, match="3 different names without spaces"):
            to_pysindy(model, names)
    with pytest.raises(ValueError, match="threshold cannot be negative"):
        to_pysindy(model, threshold=-1.0)
    with pytest.raises(ValueError, match="2 outputs cannot be the next of 1 variables"):
        to_pysindy(SparseModel(jnp.ones((1, 2, 1)), jnp.ones((2, 1)), Dictionary(1, ((0,),))))


def test_a_continuous_model_is_saved_and_written_as_one(tmp_path, driven):
    model = from_pysindy(driven)
    again = load(save(model, tmp_path / "model.npz"))
    assert again.continuous and again.library == model.library
    assert not load(save(SparseModel(model.members, model.coef, model.library), tmp_path / "map.npz")).continuous
    assert "\\dot{x} &= " in equations(model, ["x", "v", "u"], fmt="latex")
    assert "return dx_dt, dv_dt" in equations(model, ["x", "v", "u"], fmt="python")
