"""Losses, z and inference against numbers worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents.td_jepa import actor, adapt, losses
from rlx.agents.td_jepa import z as zs
from rlx.agents.td_jepa.config import Config
from rlx.agents.td_jepa.features.base import Batch, Given
from rlx.agents.td_jepa.features.td_jepa import TdJepa
from rlx.agents.td_jepa.networks import Net, on_sphere
from rlx.agents.td_jepa.report import spread, watched
from rlx.nn.optim import polyak

pytestmark = pytest.mark.usefixtures("all_bits")
RNG = np.random.default_rng(0)
close = np.testing.assert_allclose


# -------------------------------------------------------------------------------------------------------------- regulariser


@pytest.mark.parametrize(
    ("x", "diagonal", "off", "total"),
    [
        ([[1, 0], [0, 1], [1, 1]], -4 / 3, 1 / 3, -1),
        (2**0.5 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]), -2, 2 / 3, -4 / 3),
        ([[2**0.5, 0]] * 4, -2, 2, 0),
    ],
)
def test_orthonormality(x, diagonal, off, total):
    with jax.enable_x64(True):
        found = losses.orthonormality(jnp.asarray(np.float64(x)))
    close(found, (total, off, diagonal), atol=1e-12)


def test_orthonormality_by_gram_matrix_equals_that_over_pairs():
    x = RNG.normal(size=(1024, 50))
    x *= 50**0.5 / np.linalg.norm(x, axis=1, keepdims=True)
    inner = x @ x.T
    pairs = ((inner**2).sum() - (np.diag(inner) ** 2).sum()) / (2 * 1024 * 1023)
    found = losses.orthonormality(jnp.float32(x))
    close(found.off_diagonal, pairs, rtol=1e-4)
    close(found.diagonal, -50, rtol=1e-6)
    assert 24 < float(found.off_diagonal) < 26


def test_participation_counts_directions():
    close(losses.participation(jnp.eye(6)[:3]), 3)
    close(losses.participation(jnp.tile(jnp.eye(6)[:1], (4, 1))), 1)
    wide, ratio, half = spread(np.diag([2.0, 1.0, 1.0]))  # second moment (4, 1, 1) / 3
    close((wide, ratio, half), (36 / 18, 4, 18 / 9 / 2))


def test_collapsed_features_are_called_so():
    free, narrow = RNG.normal(size=(500, 20)), RNG.normal(size=(500, 1)) * np.ones((1, 20))
    assert watched(free, free)[1] == []
    watch, words = watched(narrow, free)
    assert len(words) == 1 and "1.0 of 20 directions" in words[0] and "lambda_psi" in words[0]
    assert all(np.isfinite(x) and x.dtype == np.float32 for x in watch)
    assert "lambda_psi" not in watched(narrow, free, ())[1][0]  # of a loss that has none
    [said] = watched(free, narrow)[1]
    assert said.startswith("state features lie in 1.0 of 20 directions") and "lambda_phi" in said
    assert watched(free, narrow, ("psi",))[1] == watched(free, narrow, linear=("phi",))[1] == []  # a few numbers, many features


@pytest.mark.parametrize(("first", "off", "words"), [(7, 4.16, 1), (6.5, 3.7067, 0)])
def test_features_have_collapsed_where_the_off_diagonal_is_more_than_half_of_its_most(first, off, words):
    """Of ten features of norm 2 so many are alike, the others go evenly in three directions more: the second moment is
    4 diag(first, rest, rest, rest) / 10, and the most is d^2 / 2 = 8."""
    share = np.array([first, *[(10 - first) / 3] * 3]) / 10
    x = np.repeat(2 * np.eye(4), np.round(60 * share).astype(int), 0)
    assert spread(x).off_diagonal == pytest.approx(off, abs=1e-3) and spread(x).participation > 1.5
    said = watched(x, x, ("psi",))[1]
    assert len(said) == words and all(f"off_diagonal is {off:.3g} of at most 8" in line for line in said)


def test_features_have_collapsed_where_eigenvalues_differ_too_much():
    x = np.repeat(np.diag([1.0, 1, 1, 2e-4]), 5, 0)  # eigenvalues 1 / 4 and 1e-8
    free = np.repeat(np.eye(4), 5, 0)
    [said] = watched(x, free)[1]
    assert said.startswith("task features lie in 3.0 of 4 directions; eigenvalues of their second moment differ by 2e+07: some")
    assert watched(free, x)[1][0].startswith("state features lie in 3.0 of 4 directions; eigenvalues")
    assert watched(x, free, linear=("psi",))[1] == watched(free, free)[1] == []
    assert watched(x[::5], free)[1] == []  # four features, which may leave a direction out by chance


# ------------------------------------------------------------------------------------------------------- targets and losses


def test_pessimism():
    two, three = jnp.array([1.0, 3.0]), jnp.array([1.0, 2.0, 4.0])
    close((losses.disagreement(two), losses.reduced(two, 0.5), losses.reduced(two, 0.0)), (2, 1, 2))
    close(losses.disagreement(three), 2)
    one = jnp.array([[5.0, 6.0]])
    close(losses.disagreement(one), 0)
    close(losses.reduced(one, 3.0), [5, 6])


def test_targets_and_squared_errors():
    feature, heads = jnp.array([[1.0, 2.0]]), jnp.array([[[3.0, -1.0]], [[5.0, 1.0]]])
    target = lambda kappa, m: feature + 0.9 * m * losses.reduced(heads, kappa)
    y = target(0.0, 1.0)
    close(y, [[4.6, 2.0]], rtol=1e-6)
    close(target(0.5, 1.0), [[3.7, 1.1]], rtol=1e-6)
    close(target(0.0, 0.0), [[1, 2]])
    prediction = jnp.array([[[4.0, 2.0]], [[5.0, 3.0]]])
    close(losses.squared_error(prediction, y), 0.76, rtol=1e-6)
    close(losses.successor_loss(prediction, y), 0.5 * 2 * 0.76 / 2, rtol=1e-6)
    assert not np.any(jax.grad(losses.squared_error, 1)(prediction, y))


@pytest.mark.parametrize(
    ("kappa", "bootstrap", "ahead", "back"), [(0.0, 0.9, 0.76, 3.56), (0.5, 0.9, 3.1, 9.5), (0.0, 0.0, 13.0, 23.0)]
)
def test_the_loss_of_td_jepa_has_these_targets(kappa, bootstrap, ahead, back):
    """y is (4.6, 2), (3.7, 1.1), (1, 2) forwards, and backwards from phi-(s') = (0, 1) on (3.6, 1), (2.7, 0.1), (0, 1)."""
    wide = lambda *rows: jnp.tile(jnp.array(rows)[:, None], (1, 3, 1))
    heads, predictions = wide([3.0, -1.0], [5.0, 1.0]), wide([4.0, 2.0], [5.0, 3.0])
    net = SimpleNamespace(
        see=lambda p, which, obs: obs,
        phi=lambda p, h: p["phi"],
        psi=lambda p, h: p["psi"],
        predict=lambda p, *of: p["predictor"],
        modules={"back": SimpleNamespace(apply=lambda params, *of: params)},
    )
    own = {"phi": jnp.ones((3, 2)), "psi": jnp.ones((3, 2)), "predictor": predictions, "back": predictions}
    target = {"phi": wide([0.0, 1.0])[0], "psi": wide([1.0, 2.0])[0], "predictor": heads, "back": heads}
    none, h = jnp.zeros((3, 2)), {"pessimism": kappa, "lambda_phi": 0.0, "lambda_psi": 0.0}
    x = Given(Batch(none, none, none, jnp.full(3, bootstrap)), none, none, none, none, target, none[0], h)
    total, told = TdJepa(Config()).loss(net, own, x)
    close((told["predictor/loss"], told["back/loss"], total), (ahead, back, ahead + back), rtol=1e-5)


def test_measure_loss_equals_numpy():
    measure, target = RNG.normal(size=(2, 5, 5)), RNG.normal(size=(5, 5))
    off, diagonal = [], []
    for h in range(2):
        for i in range(5):
            for j in range(5):
                difference = measure[h, i, j] - target[i, j]
                (diagonal if i == j else off).append(difference)
    wanted = 0.5 * np.mean(np.square(off)) - np.mean(diagonal)
    close(losses.measure_loss(jnp.float32(measure), jnp.float32(target)), wanted, rtol=1e-5)


def test_expectile():
    weight, error = jnp.array([1.0, -1.0]), jnp.array([[2.0, 3.0], [1.0, 1.0]])
    close(losses.expectile(weight, error, 0.9), (0.9 * 4 + 0.1 * 9 + 0.9 + 0.1) / 4, rtol=1e-6)


def test_moving_averages():
    target = jnp.float32(0)
    for wanted in (0.1, 0.19, 0.271):
        target = polyak(target, jnp.float32(1), 0.1)
        close(target, wanted, rtol=1e-6)
    close(zs.moved(jnp.eye(3), jnp.zeros((7, 3))), 0.995 * np.eye(3), rtol=1e-6)
    x = jnp.float32(RNG.normal(size=(7, 3)))
    close(zs.moved(jnp.eye(3), x), 0.995 * np.eye(3) + 0.005 * np.asarray(x).T @ np.asarray(x) / 7, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------------------ z


def test_sphere_and_its_zero():
    x = jnp.float32(RNG.normal(size=(5, 7)))
    close(jnp.linalg.norm(on_sphere(x), axis=-1), 7**0.5, rtol=1e-5)
    close(on_sphere(jnp.zeros(4)), np.zeros(4))
    assert np.isfinite(jax.grad(lambda x: on_sphere(x).sum())(jnp.zeros(4))).all()


def test_drawn_tasks():
    goals = jnp.float32(RNG.normal(size=(4096, 6)))
    draw = lambda share, moment=None: np.asarray(zs.sample(jax.random.key(1), goals, share, moment))
    on = np.asarray(on_sphere(goals))

    def of_goals(z):
        known = {tuple(np.round(row, 3)) for row in on}
        return np.array([tuple(np.round(row, 3)) in known for row in z])

    every, none, half = draw(1.0), draw(0.0), draw(0.5)
    for z in (every, none, half):
        close(np.linalg.norm(z, axis=-1), 6**0.5, atol=1e-5)
    assert of_goals(every).all() and not of_goals(none).any()
    assert sorted(every[:, 0]) == pytest.approx(sorted(on[:, 0]), abs=1e-6)  # each once: a permutation
    assert abs(of_goals(half).mean() - 0.5) < 4 * 0.5 / 64
    close(draw(1.0, jnp.eye(6)), every, atol=1e-5)
    stretched = draw(1.0, jnp.diag(jnp.array([4.0, 1, 1, 1, 1, 1])))
    raw = np.asarray(goals) / [4, 1, 1, 1, 1, 1]
    close(sorted(stretched[:, 0]), sorted(raw[:, 0] * 6**0.5 / np.linalg.norm(raw, axis=1)), atol=1e-4)


@pytest.mark.parametrize("rank", [1, 4])
def test_goals_are_scaled_to_finite_z_where_features_have_collapsed(rank):
    """The second moment of such features is not positive in float32, so that a Cholesky factor of it is NaN."""
    base, x = RNG.normal(size=(rank, 50)), RNG.normal(size=(64, rank))
    x = x @ base
    psi = jnp.float32(x * 50**0.5 / np.linalg.norm(x, axis=1, keepdims=True))
    moment = jax.jit(lambda m: jax.lax.fori_loop(0, 4500, lambda i, m: zs.moved(m, psi), m))(jnp.eye(50))
    assert not np.isfinite(jnp.linalg.cholesky(moment + 1e-6 * jnp.eye(50))).all()
    z = np.asarray(jax.jit(zs.sample)(jax.random.key(0), psi, 1.0, moment))
    close(np.linalg.norm(z, axis=1), 50**0.5, rtol=1e-4)
    left = np.linalg.svd(base)[2][rank:]  # directions that no feature has
    assert np.abs(z @ left.T).max() < 0.1


PSI, REWARDS = np.array([[1.0, 0], [0, 1], [1, 1]]), np.array([1.0, 2, 3])


def test_inference_from_rewards_and_goals():
    close(zs.regressed(PSI, REWARDS), [0.632456, 1.264911], atol=1e-6)
    close(zs.regressed(PSI, 7.3 * REWARDS), zs.regressed(PSI, REWARDS))
    both = zs.regressed(PSI, np.stack([REWARDS, -REWARDS]))
    close(both, [zs.regressed(PSI, REWARDS), -zs.regressed(PSI, REWARDS)])
    close(zs.of_goal([1.0, 0.0], PSI.T @ PSI), [1.264911, -0.632456], atol=1e-6)
    close(zs.of_goal([3.0, 4.0]), 2**0.5 * np.array([0.6, 0.8]))
    close(zs.correlated(PSI, REWARDS), 2**0.5 * np.array([4, 5]) / 41**0.5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 3.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_inference_with_ridge_bias_and_weights_solves_the_normal_equations(ridge, bias, weighted):
    rng = np.random.default_rng(4)
    psi, rewards, weights = rng.normal(size=(40, 5)) + 0.5, rng.normal(size=(2, 40)) + 2, rng.uniform(size=40)
    weights[:10] = 0
    w = np.diag(weights) if weighted else np.eye(40)
    x = np.c_[psi, np.ones(40)] if bias else psi
    penalty = np.diag([ridge] * 5 + [0.0] * bias)
    wanted = np.linalg.solve(x.T @ w @ x + penalty, x.T @ w @ rewards.T)[:5].T
    wanted *= 5**0.5 / np.linalg.norm(wanted, axis=1, keepdims=True)
    how = {"ridge": ridge, "bias": bias, "weights": weights if weighted else None}
    close(zs.regressed(psi, rewards, **how), wanted, rtol=1e-9)
    close(zs.regressed(psi, rewards[0], **how), wanted[0], rtol=1e-9)
    if bias:  # any constant may be added
        close(zs.regressed(psi, rewards + 7, **how), wanted, rtol=1e-9)


def test_inference_by_hand_with_ridge_bias_and_weights():
    """Normal equations of PSI: with a ridge of 1 [[3, 1], [1, 3]] v = (4, 5); with a weight of 0 for the last row v = (1, 2),
    for the first (4, 4); with a bias v = (1, 2) again, of rewards that are 10 more."""
    norm = lambda *v: 2**0.5 * np.array(v) / np.linalg.norm(v)
    close(zs.regressed(PSI, REWARDS, ridge=1.0), norm(7, 11))
    close(zs.regressed(PSI, [1.0, 2, 8], weights=[1, 1, 0]), norm(1, 2))
    close(zs.regressed(PSI, [7.0, 4, 8], weights=[0, 2, 5]), norm(4, 4))
    close(zs.regressed(PSI, REWARDS + 10, bias=True), norm(1, 2))
    close(zs.correlated(PSI, REWARDS, weights=[1, 1, 0]), norm(1, 2))


def test_inference_is_finite_whatever_the_features_are():
    close(zs.regressed(PSI, 0 * REWARDS), [0, 0])
    collapsed = np.tile([[1.0, 1.0]], (3, 1)) + np.float32(1e-8)
    assert np.isfinite(zs.regressed(collapsed, REWARDS)).all()
    close(zs.regressed(collapsed, REWARDS), [1, 1], rtol=1e-5)
    assert np.isfinite(zs.of_goal([1.0, 0.0], np.zeros((2, 2)))).all()
    assert np.isfinite(zs.preferred(np.zeros((2, 3)), np.zeros((2, 3)), [1, 0.5])).all()


def test_preferences_find_the_direction_that_made_them():
    first, second = RNG.normal(size=(2, 400, 5))
    true = np.array([1.0, -2, 0, 0.5, 0])
    score = lambda e: zs.brought_to_sphere(e) @ true
    labels = (score(second) > score(first)).astype(float)
    found = zs.preferred(first, second, labels)
    close(np.linalg.norm(found), 5**0.5)
    assert found @ true / np.linalg.norm(found) / np.linalg.norm(true) > 0.98
    swapped = zs.preferred(second, first, 1 - labels)
    close(swapped, found, atol=1e-6)
    with_ties = zs.preferred(np.r_[first, first[:50]], np.r_[second, second[:50]], np.r_[labels, np.full(50, 0.5)])
    assert with_ties @ true / np.linalg.norm(with_ties) / np.linalg.norm(true) > 0.95


# ------------------------------------------------------------------------------------------------------------------- actor


class Field:
    """A velocity that is a function of the place."""

    def __init__(self, velocity):
        self.velocity = velocity

    def apply(self, params, x, place, time):
        return self.velocity(place)


@pytest.mark.parametrize("steps", [1, 10])
def test_flow_of_a_constant(steps):
    net = Net(Config(flow_steps=steps), {"flow": Field(lambda place: 0.7 * jnp.ones_like(place))}, 2)
    noise = jnp.float32(RNG.normal(size=(6, 2)))
    close(actor.integrated(net, {"flow": None}, jnp.zeros((6, 3)), noise), np.clip(noise + 0.7, -1, 1), atol=1e-6)


def test_flow_towards_the_middle():
    net = Net(Config(flow_steps=10), {"flow": Field(lambda place: -place)}, 2)
    noise = jnp.array([[0.5, -0.9]])
    close(actor.integrated(net, {"flow": None}, jnp.zeros((1, 3)), noise), 0.34867844 * noise, atol=1e-6)


def test_gaussian_actions_are_bounded_with_the_gradient_of_the_identity():
    mean = jnp.array([[0.0, 0.95, -2.0]] * 5000)
    noisy = np.asarray(actor.drawn(mean, jax.random.key(0), 0.2, 0.3))
    assert np.abs(noisy).max() <= actor.EDGE + 1e-7 and np.abs(noisy[:, 0]).max() == pytest.approx(0.3)
    assert noisy[:, 0].std() == pytest.approx(0.2 * 0.877, rel=0.03)  # of a normal cut at 1.5
    close(jax.grad(lambda m: actor.drawn(m, jax.random.key(0), 0.2, 0.3).sum())(mean), np.ones_like(mean))


def bundle(noise: int) -> Net:
    """Networks that are formulas: the actor adds its noise, heads are two sums, the flow goes nowhere."""
    modules = {
        "actor": SimpleNamespace(apply=lambda p, x, z, e: p * jnp.tanh(x[:, :2]) + (e if noise else 0.0)),
        "predictor": SimpleNamespace(apply=lambda p, x, z, a: jnp.stack([a + x[:, :2], 3 * a - z])),
        "flow": SimpleNamespace(apply=lambda p, h, place, time: 0.0 * place),
    }
    return Net(Config(actor_input="obs", flow_steps=2), modules, 2, noise=noise)


@pytest.mark.parametrize(("noise", "bc"), [(2, 0.0), (2, 3.0), (0, 0.0), (0, 3.0)])
def test_values_are_scaled_in_the_actors_loss(noise, bc):
    """Always for the flow actor; for the Gaussian one where it is held to the data."""
    net, x, z, key = bundle(noise), RNG.normal(size=(5, 3)), RNG.normal(size=(5, 2)), jax.random.key(3)
    p = {"actor": 0.5, "predictor": None, "flow": None}
    h = {"bc": jnp.float32(bc), "actor_pessimism": 0.0, "actor_std": 0.0, "actor_clip": 0.3}
    batch = Batch(*(jnp.zeros((5, 2)) for _ in range(4)))
    _, told = actor.loss(p, net, p, jnp.asarray(x), batch, jnp.asarray(z), h, key)
    own = np.asarray(jax.random.normal(jax.random.split(key, 3)[0], (5, 2))) if noise else 0.0
    a = 0.5 * np.tanh(x[:, :2]) + own
    q = np.stack([((a + x[:, :2]) * z).sum(-1), ((3 * a - z) * z).sum(-1)])
    close(told["actor/loss"], -q.mean() / (np.abs(q).mean() if noise or bc else 1.0), rtol=1e-5)


@pytest.mark.parametrize("noise", [0, 2])
def test_targets_of_an_adaptation_draw_the_flow_actors_noise(noise):
    net, x, z, key = bundle(noise), RNG.normal(size=(6, 3)), RNG.normal(size=(6, 2)), jax.random.key(4)
    reward, discount, p = RNG.normal(size=6), RNG.uniform(size=6), {"actor": 0.5, "predictor": None}
    y = adapt.targets(net, p, p, jnp.asarray(x), jnp.asarray(z), jnp.asarray(reward), jnp.asarray(discount), key)
    own = np.asarray(jax.random.normal(jax.random.fold_in(key, 1), (6, 2))) if noise else 0.0
    smooth = np.clip(0.2 * np.asarray(jax.random.normal(key, (6, 2))), -0.5, 0.5)
    a = np.clip(0.5 * np.tanh(x[:, :2]) + own + smooth, -1, 1)
    q = np.stack([((a + x[:, :2]) * z).sum(-1), ((3 * a - z) * z).sum(-1)])
    close(y, reward + discount * q.min(0), rtol=1e-4)
