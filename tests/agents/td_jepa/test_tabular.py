"""The theory of the paper on tables, in float64, through the losses and targets that agents use."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents.td_jepa import losses
from rlx.agents.td_jepa.config import Config
from rlx.agents.td_jepa.features import Batch, Given
from rlx.agents.td_jepa.features.base import predicted_next
from rlx.agents.td_jepa.features.td_jepa import TdJepa
from rlx.agents.td_jepa.networks import Net

GAMMA, S = 0.9, 8
close = np.testing.assert_allclose


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def ring(right: float = 0.5) -> np.ndarray:
    one = np.eye(S)
    return right * np.roll(one, 1, 1) + (1 - right) * np.roll(one, -1, 1)


def measure(p: np.ndarray) -> np.ndarray:
    return np.linalg.solve(np.eye(S) - GAMMA * p, p)


def orthonormal(seed: int, d: int = 3) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(S, d)))[0]


def fixed_point(p: np.ndarray, phi: np.ndarray, psi: np.ndarray, xp: Any = np) -> np.ndarray:
    return xp.linalg.solve(phi.T @ (phi - GAMMA * p @ phi), phi.T @ p @ psi)


def fit(phi, t, p, psi, phi_, t_):
    """J_phi over all states, the next ones in expectation, with what is held fixed at the end."""
    return losses.squared_error((phi @ t)[None], p @ psi + GAMMA * p @ phi_ @ t_)


@pytest.mark.parametrize(
    ("d", "diagonal", "error"),
    [
        (1, [10], 4.10715044),
        (3, [10, 1.94471728, 1.94471728], 0.32522514),
        (5, [10, 1.94471728, 1.94471728, 0, 0], 0.32522514),
    ],
)
def test_eigenvectors_predict_the_successor_measure(d, diagonal, error):
    p = ring()
    m = measure(p)
    close(m.sum(1), 10)
    close((m[0, 0], m[0, 1]), (1.56236179, 1.73595754), atol=1e-8)
    values, vectors = np.linalg.eigh(p)
    phi = vectors[:, np.argsort(-values)[:d]]
    t = fixed_point(p, phi, phi)
    close(t, np.diag(diagonal), atol=1e-7)
    close(0.5 * ((phi @ t @ phi.T - m) ** 2).sum(), error, atol=1e-8)
    close(jax.grad(fit, 1)(phi, t, p, phi, phi, t), 0, atol=1e-12)  # J is least there


@pytest.mark.parametrize("symmetric", [True, False])
def test_covariance_is_preserved_at_the_fixed_point(symmetric):
    rng = np.random.default_rng(1)
    p = ring() if symmetric else rng.dirichlet(np.ones(S), S)
    phi, psi = rng.normal(size=(2, S, 3))
    t = fixed_point(p, phi, psi)
    slope = jax.grad(fit)(phi, t, p, psi, phi, t)
    assert np.abs(slope).max() > 1e-3
    close(phi.T @ slope, 0, atol=1e-12)


def test_drift_of_the_covariance_is_of_first_order_in_the_step():
    p, start, psi0 = ring(), orthonormal(2), orthonormal(3)
    slope = jax.jit(jax.grad(fit))

    def step(lr, phi, psi):
        t, back = fixed_point(p, phi, psi, jnp), fixed_point(p.T, psi, phi, jnp)
        new = phi - lr * S / 2 * slope(phi, t, p, psi, phi, t)
        return new, psi - lr * S / 2 * slope(psi, back, p.T, phi, psi, back)

    @jax.jit
    def drift(lr):  # after a time of 2
        phi, _ = jax.lax.fori_loop(0, jnp.int32(jnp.round(2 / lr)), lambda i, both: step(lr, *both), (start, psi0))
        return jnp.abs(phi.T @ phi - jnp.eye(3)).max()

    errors = [float(drift(lr)) for lr in (1e-3, 5e-4, 2.5e-4)]
    assert errors[0] < 6e-3
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert fine / coarse == pytest.approx(0.5, abs=0.05)


def density(phi, t, psi, p, phi_, t_):
    """1/2 ||phi T psi' - P - gamma P phi T psi'||^2, the last as targets."""
    return 0.5 * ((phi @ t @ psi.T - p - GAMMA * p @ phi_ @ t_ @ psi.T) ** 2).sum()


def test_gradients_are_those_of_the_successor_measures_density():
    rng = np.random.default_rng(4)
    phi, psi, (t, t_) = orthonormal(5), orthonormal(6), rng.normal(size=(2, 3, 3))
    latent = lambda phi, p, t, psi, other, t_: S / 2 * fit(phi, t, p, psi, other, t_)
    for right, same in ((0.5, True), (0.7, False)):
        p = ring(right)
        one = jax.grad(latent)(phi, p, t, psi, phi, t_)
        close(one, jax.grad(density)(phi, t, psi, p, phi, t_), atol=1e-12)
        # the task encoder's side matches the backward loss only where P is symmetric
        one = jax.grad(latent)(psi, p, t, phi, psi, t_)
        backward = jax.grad(lambda psi, p=p: density(psi, t, phi, p.T, orthonormal(6), t_))(psi)
        assert (np.abs(one - backward).max() < 1e-12) == same
        assert same or np.abs(one - backward).max() > 0.1


def test_the_spectral_error_is_bounded_by_the_loss():
    m = measure(ring())
    for seed in range(5):
        phi, psi = orthonormal(seed), orthonormal(seed + 50)
        t = fixed_point(ring(), phi, psi)
        gap = m - phi @ t @ psi.T
        assert np.linalg.norm(gap, 2) ** 2 <= 2 * 0.5 * (gap**2).sum() + 1e-12


# ------------------------------------------------------------------------------------------------------- tables as networks


class Table:
    """`Net` over states that are numbers: features are rows of tables, a predictor is a table or a matrix."""

    config, noise, shared, blind = Config(), 0, False, False

    values = Net.values

    def __init__(self, predict, back=None):
        self.predict = predict
        self.modules = {"back": SimpleNamespace(apply=back)}

    def see(self, p, which, obs):
        return obs

    def phi(self, p, h):
        return p["phi"][h]

    def psi(self, p, h, mean=0.0):
        return p["psi"][h]


def test_zero_shot_on_a_grid_is_the_shortest_way():
    """Features that tell all states apart: the greedy policy of a goal's z goes there by the shortest way."""
    side, moves = 5, np.array([[0, 1], [0, -1], [1, 0], [-1, 0], [0, 0]])
    places = np.stack(np.meshgrid(range(side), range(side), indexing="ij"), -1).reshape(-1, 2)
    next_place = np.clip(places[:, None] + moves, 0, side - 1)
    following = next_place[..., 0] * side + next_place[..., 1]  # [25, 5]
    rows, choices = (x.ravel() for x in np.meshgrid(range(25), range(5), indexing="ij"))
    net = Table(lambda p, x, z, action: p["predictor"][:, x.argmax(-1), action])
    one = jnp.eye(25)
    params = {"phi": one, "psi": one}
    h = {"pessimism": jnp.float64(0)}
    all_pairs = one[rows], choices

    @jax.jit
    def sweep(table, z):
        p = {**params, "predictor": table}
        q = net.values(p, all_pairs[0], z[None], all_pairs[1]).mean(0).reshape(25, 5)
        there = following.ravel()
        batch = Batch(rows, choices, there, jnp.full(125, GAMMA))
        x = Given(batch, jnp.broadcast_to(z, (125, 25)), q.argmax(-1)[there], there, there, p, jnp.zeros(25), h)
        new = net.psi(p, there) + x.discount * predicted_next(net, x)
        return jnp.broadcast_to(new.reshape(1, 25, 5, 25), table.shape), q

    for goal in (0, 7, 12):
        table = jnp.zeros((2, 25, 5, 25))
        for _ in range(200):
            table, q = sweep(table, one[goal])
        away = np.abs(places - places[goal]).sum(1)
        close(q.max(-1), 10 * GAMMA ** np.maximum(away - 1, 0), atol=1e-6)


def test_td_jepa_by_gradient_descent_approaches_the_successor_measure():
    """Predictors at 4000 times the encoders' rate: the error of the measure falls from about 53 to below 5 (the best of three
    features leaves 0.3), and the covariances of features stay."""
    m = measure(ring())
    states = np.repeat(np.arange(S), 2)
    there = np.stack([(np.arange(S) + 1) % S, (np.arange(S) - 1) % S], 1).ravel()
    net = Table(lambda p, x, z, action: (x @ p["predictor"])[None], lambda back, x, z, action: (x @ back)[None])
    h = {k: jnp.float64(0) for k in ("pessimism", "lambda_phi", "lambda_psi")}
    features = TdJepa(Config())
    rates = {"phi": 5e-5, "psi": 5e-5, "predictor": 0.2, "back": 0.2}

    def step(params):
        z = jnp.zeros((2 * S, 3))
        x = Given(Batch(states, z, there, jnp.full(2 * S, GAMMA)), z, z, there, there, params, jnp.zeros(3), h)
        grads = jax.grad(lambda q: features.loss(net, q, x)[0])(params)
        return {k: v - rates[k] * S / 2 * grads[k] for k, v in params.items()}

    params = {"phi": jnp.asarray(orthonormal(8)), "psi": jnp.asarray(orthonormal(9))}
    params |= {"predictor": jnp.zeros((3, 3)), "back": jnp.zeros((3, 3))}
    error = lambda q: 0.5 * ((q["phi"] @ q["predictor"] @ q["psi"].T - m) ** 2).sum()
    assert 50 < error(params) < 56
    params = jax.jit(lambda q: jax.lax.fori_loop(0, 60_000, lambda i, q: step(q), q))(params)
    assert error(params) < 5
    assert np.abs(params["phi"].T @ params["phi"] - np.eye(3)).max() < 0.05
