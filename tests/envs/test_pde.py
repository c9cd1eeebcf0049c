"""Plants that are partial differential equations: against exact solutions, SciPy, and what is known of their chaos.

The motion in numpy is float64; that on the device is the same text, and is compared with it.
"""

from __future__ import annotations

import io
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import integrate, linalg

import rlx.envs
from rlx.envs.control import burgers, ks22
from rlx.envs.control.spectral import Pod, field_picture, march, pod, scheme, weights

STILL = np.zeros(4)
X = ks22.LENGTH / 64 * np.arange(64)


@cache
def made(name, **options):
    return rlx.envs.make(f"rlx:{name}", **options)


@cache
def played():
    """Two episodes of 64 streams, left alone and under random actions that are held for four decisions, float32."""
    env = made("ks22")
    vec = rlx.envs.batch(env, 64)

    def roll(key, size):
        def act(carry, step, key):
            t, held = carry
            held = jnp.where(t % 4 == 0, size * jax.random.uniform(key, held.shape, minval=-1.0), held)
            return held, (t + 1, held), {}

        rollout_state = rlx.envs.begin(vec, env.params, (jnp.int32(0), jnp.zeros((64, 4))), key)
        return rlx.envs.rollout(vec, env.params, act, rollout_state, key, 802)[1]

    roll = jax.jit(roll)
    return [jax.tree.map(np.asarray, roll(jax.random.key(0), size)) for size in (0.0, 1.0)]


def by_fft(length, symbol, force):
    """du/dt of the equation written again, with fast Fourier transforms: (t, u [64], action) -> [64]."""
    k, kept = 2 * np.pi / length * np.arange(33), np.arange(33) < 64 / 3

    def slope(t, u, action):
        bent = -0.5j * k * np.fft.rfft(u**2) + np.fft.rfft(force @ action)
        return np.fft.irfft(symbol(k) * np.fft.rfft(u) + kept * bent, 64)

    return slope


# ---------------------------------------------------------------------------------------------------------------- the method


def test_weights_are_those_of_the_phi_functions():
    """By another way: phi_1 to phi_3 as the first row of a matrix exponential."""
    h, rate = 0.05, np.array([0.0, 1e-3, 0.24, -1.0, -40.0])
    for z, *found in zip(h * rate, *weights(rate, h), strict=True):
        phi = lambda z: linalg.expm(np.diag([z, 0, 0, 0]) + np.eye(4, k=1))[0, 1:]
        one, two, three = phi(z)
        stages = [phi(z / 2)[0] / 2, one - 3 * two + 4 * three, two - 2 * three, -two + 4 * three]
        np.testing.assert_allclose(found, [np.exp(z), np.exp(z / 2), *(h * np.array(stages))], rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(weights(np.zeros(1), h)[2:, 0], [h / 2, h / 6, h / 6, h / 6], rtol=1e-12)  # Runge-Kutta's


def test_products_of_the_highest_modes_do_not_alias():
    """The square of cos(21 x) is (1 + cos(42 x)) / 2, which 64 points show as cos(22 x): not among the modes kept."""
    p = scheme(64, 2 * np.pi, lambda k: 0 * k, 0.1)
    assert p["to_points"].shape == (43, 64) and p["rate"].shape == (43,)
    x = 2 * np.pi / 64 * np.arange(64)
    np.testing.assert_allclose(np.cos(21 * x) ** 2 @ p["flux"], 0, atol=1e-13)
    u = np.cos(3 * x) + 0.5 * np.sin(x)
    expected = -u * (-3 * np.sin(3 * x) + 0.5 * np.cos(x))
    np.testing.assert_allclose(u**2 @ p["flux"] @ p["to_points"], expected, atol=1e-13)
    np.testing.assert_allclose(p["to_points"] @ p["to_modes"], np.eye(43), atol=1e-13)


@pytest.mark.parametrize(("module", "actions"), [(ks22, 4), (burgers, 8)])
def test_motion_follows_scipys(module, actions):
    env, rng = made(module.__name__.rpartition(".")[2]), np.random.default_rng(0)
    symbol = ks22.symbol if module is ks22 else lambda k: -(k**2)
    slope = by_fft(module.LENGTH, symbol, module.actuators())
    u = ks22.attractor()[0] if module is ks22 else 0.4 + 0.5 * np.cos(2 * np.pi * X / 22) + 0.2 * np.sin(4 * np.pi * X / 22)
    exact = u
    for _ in range(2):
        a = rng.uniform(-1, 1, actions)
        given = module.drift(np, env.params, u, a)  # what is kept of the modes does not differ by the others' decay
        np.testing.assert_allclose(given, slope(0, u, a), atol=1e-9)
        u = module.move(np, env.params, u, a)
        exact = integrate.solve_ivp(slope, (0, module.DT), exact, "DOP853", args=(a,), rtol=1e-9, atol=1e-11).y[:, -1]
        np.testing.assert_allclose(u, exact, atol=2e-6, rtol=0)
    lead = module.move(np, env.params, np.stack([[u, exact]] * 3), np.stack([[a, 0 * a]] * 3))
    assert lead.shape == (3, 2, 64)
    np.testing.assert_allclose(lead[2, 0], module.move(np, env.params, u, a), atol=1e-12)


def test_the_device_moves_as_numpy_does():
    env, rng = made("ks22"), np.random.default_rng(1)
    u, actions = ks22.attractor()[:3], rng.uniform(-1, 1, (20, 3, 4))
    exact = u
    for a in actions:
        exact = ks22.move(np, env.params, exact, a)

    def roll(p, u, actions):
        return jax.lax.scan(lambda u, a: (ks22.move(jnp, p, u, a), None), u, actions)[0]

    np.testing.assert_allclose(jax.jit(roll)(env.params, u, actions), exact, atol=1e-4)
    with jax.enable_x64(True):
        wide = jax.jit(roll)(env.params, u, actions)
        assert wide.dtype == jnp.float64
        np.testing.assert_allclose(wide, exact, atol=1e-11)


# -------------------------------------------------------------------------------------------------------------------- ks22


@pytest.mark.parametrize(("q", "growth"), [(1, 1.0777912), (3, 1.2155490), (5, 0.1201447)])
def test_small_waves_grow_as_the_linear_equation_says(q, growth):
    wave = np.cos(2 * np.pi * q * X / ks22.LENGTH)
    u = 1e-8 * wave
    for _ in range(4):
        u = ks22.move(np, made("ks22").params, u, STILL)
    np.testing.assert_allclose(u, 1e-8 * growth * wave, atol=1e-6 * 1e-8 * growth)
    assert np.exp(ks22.symbol(2 * np.pi * q / ks22.LENGTH)) == pytest.approx(growth, rel=1e-6)


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_the_integral_is_conserved_and_rest_stays_rest(size):
    p, rng = made("ks22").params, np.random.default_rng(0)
    u = np.stack([ks22.attractor()[7] + 0.3, np.zeros(64)])
    before = u.mean(-1)
    for _ in range(100):
        u = ks22.move(np, p, u, size * rng.uniform(-1, 1, (2, 4)))
    assert np.abs(ks22.LENGTH * (u.mean(-1) - before)).max() < 1e-10
    assert size or (u[1] == 0).all()
    assert np.isfinite(u).all() and np.abs(u).max() < 5


def test_actuators():
    b, step = ks22.actuators(), ks22.LENGTH / 64
    np.testing.assert_allclose(b.sum(0), 0, atol=1e-12)
    peak = 1 / (0.4 * np.sqrt(2 * np.pi)) - 1 / ks22.LENGTH  # of a unit integral, less its mean
    np.testing.assert_allclose(b[[0, 16, 32, 48], range(4)], peak, rtol=1e-12)
    np.testing.assert_allclose(b[1, 0] - b[32, 0], np.exp(-((step / 0.4) ** 2) / 2) / (0.4 * np.sqrt(2 * np.pi)), rtol=1e-9)
    np.testing.assert_allclose(b[63, 0], b[1, 0], rtol=1e-12)


def test_start_states_are_of_the_attractor_and_are_parameters():
    bank, env = ks22.attractor(), made("ks22")
    assert bank.shape == (256, 64) and bank is ks22.attractor() and not bank.flags.writeable
    assert np.abs(bank.mean(1)).max() < 1e-12 and 1.2 < (bank**2).mean() < 1.6
    assert (bank**2).mean(1).min() > 0.5 and np.abs(bank).max() < 3.5
    distance = np.abs(bank[:, None] - bank).max(-1) + 9 * np.eye(256)
    assert distance.min() > 0.05
    reset = jax.jit(jax.vmap(lambda p, key: env.reset(p, key)[1].obs, (None, 0)))
    keys = jax.random.split(jax.random.key(0), 500)
    seen = np.asarray(reset(env.params, keys))
    which = np.abs(seen[:, None] - bank.astype(np.float32)).max(-1)
    assert which.min(1).max() < 1e-6 and len(np.unique(which.argmin(1))) > 190  # of 256, 500 draws reach about 220
    other = reset({**env.params, "bank": 0 * bank}, keys)
    assert not other.any() and reset._cache_size() == 1


def test_statistics_are_those_of_the_known_chaos():
    alone, pushed = played()
    assert 1.33 < (alone.obs**2).mean() < 1.45  # 1.39 over a long time
    assert 1.54 < (pushed.obs**2).mean() < 1.70  # 1.62
    assert 2.8 < np.abs(alone.obs).max() < 3.3 and 3.3 < np.abs(pushed.obs).max() < 4.1
    assert np.abs(pushed.obs.mean(-1)).max() < 1e-5
    found = pod(pushed.obs, 12)
    np.testing.assert_allclose(found.energy[[3, 5, 7, 9, 11]], [0.751, 0.872, 0.962, 0.993, 0.9985], atol=0.01)


def test_rewards_and_episodes_by_hand():
    alone, pushed = played()
    for rows in (alone, pushed):
        expected = -(rows.obs[1:] ** 2).mean(-1) - 0.05 * (rows.action[:-1] ** 2).mean(-1)
        np.testing.assert_allclose(rows.reward[1:], np.where(rows.first[1:], 0, expected), rtol=1e-5)
        assert np.array_equal(np.flatnonzero(rows.truncated[:, 5]), [400, 801]) and not rows.terminated.any()
    u = np.where(np.arange(64) < 32, 2.0, -1.0)  # mean square 2.5
    total = ks22.reward(np, {"effort": 0.05}, None, np.array([1.0, -1.0, 0.5, 0.0]), u)
    assert float(total) == pytest.approx(-2.5 - 0.05 * 2.25 / 4, rel=1e-12)


# ----------------------------------------------------------------------------------------------------------------- burgers


def cole_hopf(diffusivity, r, dt=0.01):
    """The greatest error of 20 decisions against u = -2 d phi_x / phi with phi = 1 + r exp(-d k^2 t) cos(k x), carried along by
    a mean of 0.3."""
    x, k, c = np.arange(64) / 64, 2 * np.pi, 0.3

    def exact(t):
        y, size = x - c * t, r * np.exp(-diffusivity * k**2 * t)
        return c + 2 * diffusivity * k * size * np.sin(k * y) / (1 + size * np.cos(k * y))

    p, u, error = scheme(64, 1.0, lambda k: -diffusivity * k**2, dt), exact(0.0), 0.0
    for t in range(1, 21):
        u = march(np, p, u, np.zeros(1), round(0.05 / dt))
        error = max(error, np.abs(u - exact(0.05 * t)).max())
    return error


@pytest.mark.parametrize(("diffusivity", "r", "tolerance"), [(1.0, 0.3, 3e-5), (0.1, 0.5, 1e-6), (0.02, 0.9, 1e-5)])
def test_burgers_follows_the_solution_of_cole_and_hopf(diffusivity, r, tolerance):
    assert cole_hopf(diffusivity, r) < tolerance
    own = made("burgers", diffusivity=diffusivity).params["weights"]
    np.testing.assert_array_equal(own, scheme(64, 1.0, lambda k: -diffusivity * k**2, 0.01)["weights"])


def test_the_method_is_of_fourth_order():
    assert cole_hopf(0.1, 0.5, 0.01) / cole_hopf(0.1, 0.5, 0.005) == pytest.approx(16, rel=0.2)


def test_burgers_has_a_level_that_only_actuators_move():
    env, a = made("burgers"), np.array([1.0, -0.5, 0.25, 0, 0, 1, 1, 0.0])
    p = env.params
    u = 0.3 + np.sin(2 * np.pi * np.arange(64) / 64)
    assert burgers.move(np, p, u, 0 * a).mean() == pytest.approx(0.3, abs=1e-12)
    assert burgers.move(np, p, u, a).mean() == pytest.approx(0.3 + 0.05 * a.mean(), abs=1e-12)
    np.testing.assert_array_equal(burgers.actuators()[8:16], np.eye(8)[[1] * 8])


def test_burgers_rewards_starts_and_ends():
    env = made("burgers")
    reset, step = jax.jit(jax.vmap(env.reset, (None, 0))), jax.jit(env.step)
    states, told = reset(env.params, jax.random.split(jax.random.key(0), 300))
    seen = np.asarray(told.obs)
    level, waves = seen.mean(1), np.fft.rfft(seen)[:, 1:] / 32
    assert np.abs(level).max() < 0.5 and level.std() == pytest.approx(0.5 / np.sqrt(3), rel=0.1)
    for n in (1, 2, 3):
        assert np.abs(waves[:, n - 1].real).max() < 0.5 / n + 1e-5 and waves[:, n - 1].imag.std() > 0.25 / n
    assert np.abs(waves[:, 3:]).max() < 1e-6
    state, a = jax.tree.map(lambda x: x[0], states), np.linspace(-1.4, 1.4, 8)
    for t in range(1, 21):
        state, told = step(env.params, state, a, jax.random.key(0))
        expected = -100 * np.mean(np.square(told.obs)) - 0.01 * np.square(np.clip(a, -1, 1)).sum()
        assert float(told.reward) == pytest.approx(expected, rel=1e-5) and bool(told.truncated) == (t == 20)


# ------------------------------------------------------------------------------------------------- observations and pictures


def test_contract_with_options():
    env = rlx.envs.make("rlx:ks22", time_limit=6, basis=np.eye(64)[:, :5], repeat=2)
    assert rlx.envs.check(env, steps=20).exact_resume and env.spec.repeat == 2


def test_what_is_observed():
    u = ks22.attractor()[:6]
    look = lambda env: env.spec.task.observe(np, env.params, u)
    np.testing.assert_array_equal(look(made("ks22")), u)
    np.testing.assert_array_equal(look(made("ks22", observe="sparse")), u[:, [0, 8, 16, 24, 32, 40, 48, 56]])
    assert made("burgers", observe="sparse").spec.obs.shape == (8,)
    found = pod(ks22.attractor(), 3)
    plain, scaled = (rlx.envs.make("rlx:ks22", basis=b) for b in (found.basis, found))
    np.testing.assert_allclose(look(plain), u @ found.basis, atol=1e-12)
    np.testing.assert_allclose(look(scaled), (u - found.mean) @ found.basis / found.scale, atol=1e-12)
    assert scaled.spec.obs.shape == (3,) and set(scaled.params["pod"]) == {"mean", "basis", "scale"}


def test_pod_by_hand():
    """Four fields that vary by +-10 along (3, 4) / 5, and by +-1 along (-4, 3) / 5."""
    one, two = np.array([10.0, -10.0, 10.0, -10.0]), np.array([1.0, 1.0, -1.0, -1.0])
    fields = np.array([5.0, 6.0]) + np.outer(one, [0.6, 0.8]) + np.outer(two, [-0.8, 0.6])
    found = pod(fields.reshape(2, 2, 2), 2)
    np.testing.assert_allclose(found.mean, [5, 6])
    np.testing.assert_allclose(found.basis, [[0.6, 0.8], [0.8, -0.6]], atol=1e-12)  # the largest entry is positive
    np.testing.assert_allclose(found.scale, [10, 1])
    np.testing.assert_allclose(found.energy, [100 / 101, 1])
    for r, data, why in [
        (0, fields, "r=0"),
        (3, fields, "r=3"),
        (2, fields[:2], "2 fields"),
        (1, fields * np.nan, "finite"),
        (2, np.outer(one, [0.6, 0.8]), "fewer than r=2"),
    ]:
        with pytest.raises(ValueError, match=why):
            pod(data, r)


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("ks22", {"observe": "all"}, "observe='all'"),
        ("burgers", {"observe": None}, "observe=None"),
        ("ks22", {"basis": np.zeros((32, 4))}, r"\(32, 4\)"),
        ("ks22", {"basis": np.zeros(64)}, "basis"),
        ("ks22", {"basis": Pod(np.zeros(64), np.zeros((64, 4)), np.ones(3), np.ones(4))}, r"\(3,\)"),
        ("ks22", {"basis": np.zeros((64, 4)), "observe": "sparse"}, "leave one"),
        ("burgers", {"diffusivity": 0.001}, "diffusivity=0.001"),
        ("ks22", {"length": 30}, "length"),
    ],
)
def test_bad_options_are_told(name, options, why):
    with pytest.raises(ValueError, match=why):
        rlx.envs.make(f"rlx:{name}", **options)


def test_field_pictures():
    fields = ks22.attractor()[:40]
    plain = field_picture(fields, 0.25, 22.0)
    marked = field_picture(fields, 0.25, 22.0, np.arange(40) >= 20, "some field")
    sizes = [Image.open(io.BytesIO(picture)).size for picture in (plain, marked)]
    assert sizes[0] == sizes[1] and sizes[0][0] > 500
    image = np.asarray(Image.open(io.BytesIO(plain)).convert("RGB")).astype(int)
    assert (image[..., 0] - image[..., 2] > 100).any() and (image[..., 2] - image[..., 0] > 100).any()  # red and blue
    assert marked != plain
    for given, why in (((fields[0], 0.25, 22.0), "fields is"), ((fields, 0.25, 22.0, np.ones(3)), "controlled is")):
        with pytest.raises(ValueError, match=why):
            field_picture(*given)
