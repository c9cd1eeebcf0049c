"""The losses of the latent model against numbers worked out by hand, and where their gradients go."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.dynamics import told_learning as learning
from rlx.dynamics.told import Told
from rlx.dynamics.told_learning import Coefs, Errors, Windows

pytestmark = pytest.mark.usefixtures("all_bits")
close = np.testing.assert_allclose
KEY = jax.random.key(0)
NET = Told.of(2, latent=5, hidden=8, encoder_hidden=8, count=3, extra=1)
H, B, N = 2, 4, 3
MODEL = ("encoder", "dynamics", "reward", "critics")


def windows(seed: int = 0) -> Windows:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    going = jnp.ones((H, B)).at[1, 0].set(0.0)
    return Windows(draw(H + 1, B, N), jnp.tanh(draw(H, B, 2)), draw(H, B), going, jnp.float32([1, 0.5, 0.25, 1]))


def some(seed: int) -> dict:
    """Parameters of which none is 0."""
    shapes = jax.eval_shape(NET.init, KEY, jnp.zeros(N))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), jnp.float32), shapes)


PARAMS, TARGET = some(1), {k: v for k, v in some(2).items() if k in ("encoder", "critics")}
FROZEN = {"encoder": some(3)["encoder"], "policy": jax.tree.map(lambda x: x[0], some(3)["policies"])}
COEFS = Coefs(discount=0.95)


def loss_of(params=PARAMS, frozen=FROZEN, target=TARGET, coefs=COEFS, net=NET, batch=None):
    own = {k: params[k] for k in MODEL}
    return learning.model_loss(own, net, params["policies"], frozen, target, batch or windows(), coefs, KEY)


def targets_of(params=PARAMS, frozen=FROZEN, target=TARGET, **more):
    batch = windows()._replace(**more)
    after = batch.obs[1:]
    following = {"own": NET.encode(params["encoder"], after), "frozen": NET.encode(frozen["encoder"], after)}
    return learning.td_targets(NET, params, frozen, target, batch, following, COEFS, KEY)


def test_the_loss_is_added_up_as_published():
    """H = 2 and six pairs of critics: every latent error 1, then 2; reward errors 0.5; critics' errors 1."""
    both = lambda a, b: jnp.float32([[a] * B, [b] * B])
    latent = jnp.stack([jnp.full((B, 50), 1.0), jnp.full((B, 50), 2.0)])
    errors = Errors((latent**2).mean(-1), both(0.25, 0.25), both(12, 12), both(12, 12))
    loss, priority, metrics = learning.total(errors, jnp.ones(B), Coefs())
    close(loss, 7.9875, rtol=1e-6)
    close(priority, np.full(B, 18 + 1e-6), rtol=1e-6)
    close([metrics[k] for k in ("model/consistency", "model/reward", "critic/loss")], [3, 0.375, 18], rtol=1e-6)
    huge = learning.total(errors._replace(value=both(1e9, 0), absolute=both(1e9, 0)), jnp.ones(B), Coefs())
    close(huge[0], 6 + 0.1875 + 0.1 * 1e4, rtol=1e-6)
    close(huge[1], np.full(B, 1e4 + 1e-6))


def test_windows_lay_rewards_beside_their_actions():
    class Rows:
        obs, action, reward = jnp.arange(5.0)[:, None, None], jnp.arange(5.0)[:, None, None], jnp.arange(5.0)[:, None]
        terminated, weight = jnp.arange(5)[:, None] == 2, jnp.ones(1)

    w = Windows.of(Rows, 2)
    close(w.obs[:, 0, 0], [0, 1, 2])
    close(w.action[:, 0, 0], [0, 1])
    close(w.reward[:, 0], [1, 2])
    close(w.going[:, 0], [1, 0])


def test_a_target_is_the_reward_and_the_lesser_value_ahead():
    critics = jax.tree.map(jnp.zeros_like, TARGET["critics"])
    bias = critics["params"]["MLP_0"]["Dense_1"]["bias"]
    critics["params"]["MLP_0"]["Dense_1"]["bias"] = bias.at[:, 0].set(3.0).at[:, 1].set(2.0)
    y = targets_of(target={**TARGET, "critics": critics}, reward=jnp.ones((H, B)))
    going = np.ones((4, H, B))
    going[:, 1, 0] = 0
    close(y, 1 + 0.95 * 2.0 * going, rtol=1e-6)  # 2.9


def test_the_cloned_critics_look_through_the_cloned_encoder_alone():
    y = targets_of()
    other = targets_of(params={**PARAMS, "encoder": some(7)["encoder"]})
    np.testing.assert_array_equal(y[0], other[0])
    assert (np.asarray(y[1:]) != np.asarray(other[1:])).any((1, 2)).all()
    other = targets_of(frozen={**FROZEN, "encoder": some(7)["encoder"]})
    np.testing.assert_array_equal(y[1:], other[1:])
    assert (np.asarray(y[0]) != np.asarray(other[0])).any()


def test_the_model_loss_by_hand():
    """Against loops over steps and critics, in float64."""
    batch, double = windows(), lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
    y, p = np.asarray(targets_of(), np.float64), double(PARAMS)
    run = lambda fn, *args: np.asarray(fn(*args), np.float64)
    z, zb = run(NET.encode, p["encoder"], batch.obs[0]), run(NET.encode, FROZEN["encoder"], batch.obs)
    of = lambda i: jax.tree.map(lambda x: x[i], PARAMS["critics"])
    total, priority = np.zeros(B), np.zeros(B)
    for t in range(H):
        q = np.stack([run(NET.values, of(i), zb[t] if i == 0 else z, batch.action[t]) for i in range(4)])
        reward = run(NET.rewards, PARAMS["reward"], z, batch.action[t])
        z = run(NET.move, PARAMS["dynamics"], z, batch.action[t])
        off = q - y[:, t][:, None]
        c = ((z - run(NET.encode, TARGET["encoder"], batch.obs[t + 1])) ** 2).mean(-1)
        total += 0.5**t * (2 * c + 0.5 * (reward - batch.reward[t]) ** 2 + 0.1 * (off**2).sum((0, 1)))
        priority += 0.5**t * abs(off).sum((0, 1))
    loss, said = loss_of()
    close(loss, (np.asarray(batch.weight) * total).mean(), rtol=1e-4)
    close(said.priority, priority + 1e-6, rtol=1e-4)
    close(said.latents[-1], z, rtol=1e-3, atol=1e-4)


def test_gradients_go_to_what_learns_and_nowhere_else():
    grads = jax.grad(lambda frozen, target, policies: loss_of({**PARAMS, "policies": policies}, frozen, target)[0], (0, 1, 2))
    assert not any(np.any(g) for g in jax.tree.leaves(grads(FROZEN, TARGET, PARAMS["policies"])))
    alone = jax.grad(lambda e: loss_of({**PARAMS, "encoder": e})[0])(PARAMS["encoder"])
    shared = jax.grad(lambda e: loss_of({**PARAMS, "encoder": e}, target={**TARGET, "encoder": e})[0])(PARAMS["encoder"])
    held = jax.grad(lambda e: loss_of({**PARAMS, "encoder": e}, target={**TARGET, "encoder": PARAMS["encoder"]})[0])
    for a, b in zip(jax.tree.leaves(shared), jax.tree.leaves(held(PARAMS["encoder"])), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(g) for g in jax.tree.leaves(alone))


def test_gradients_are_divided_by_the_horizon_and_cut_together():
    opts = learning.model_optimizers(PARAMS, MODEL)
    learn = lambda most: learning.learn_model(
        NET, PARAMS, opts, FROZEN, TARGET, windows(), COEFS, jnp.float32(1e-3), jnp.float32(most), KEY
    )
    grads = jax.grad(lambda own: loss_of({**PARAMS, **own})[0])({k: PARAMS[k] for k in MODEL})
    norm = np.sqrt(sum((np.asarray(g, np.float64) ** 2).sum() for g in jax.tree.leaves(grads))) / H
    _, free, said = learn(1e9)
    close(said.metrics["model/grad_norm"], norm, rtol=1e-4)
    moment = lambda opt: jax.tree.map(lambda x: x / 0.1, {k: opt[k][0].mu for k in MODEL})  # after one step of Adam
    for m, g in zip(jax.tree.leaves(moment(free)), jax.tree.leaves(grads), strict=True):
        close(m, g / H, rtol=1e-4, atol=1e-6)
    _, cut, _ = learn(norm / 4)
    for m, g in zip(jax.tree.leaves(moment(cut)), jax.tree.leaves(grads), strict=True):
        close(m, g / H / 4, rtol=1e-3, atol=1e-6)


def test_policies_have_losses_of_their_own():
    z, critics = jax.random.normal(KEY, (6, B, 5)), jax.tree.map(lambda x: x[1:], PARAMS["critics"])
    flat = jax.tree.map(jnp.zeros_like, critics)
    flat["params"]["MLP_0"]["Dense_1"]["bias"] += 2.0
    fn = lambda policies, critics: learning.policy_loss(policies, NET, critics, z, COEFS, KEY)
    (_, each), grads = jax.value_and_grad(fn, has_aux=True)(PARAMS["policies"], flat)
    close(each, np.full(3, -1.96875 * 2), rtol=1e-6)  # 1 + 1/2 + ... + 1/32
    assert not any(np.any(g) for g in jax.tree.leaves(grads))
    _, before = fn(PARAMS["policies"], critics)
    _, after = fn(jax.tree.map(lambda x: x.at[1].add(0.1), PARAMS["policies"]), critics)
    np.testing.assert_array_equal(np.asarray(before) != np.asarray(after), [False, True, False])


def test_policies_are_clipped_one_by_one_and_critics_stay():
    z, opt = jax.random.normal(KEY, (H + 1, B, 5)), learning.policy_optimizers(PARAMS["policies"])
    step = lambda params: learning.learn_policies(NET, params, opt, z, COEFS, jnp.float32(1e-2), jnp.float32(1e-3), KEY)
    policies, moved, _ = step(PARAMS)
    norms = [np.sqrt(sum(float((x[i] ** 2).sum()) for x in jax.tree.leaves(moved[1].mu))) / 0.1 for i in range(3)]
    close(norms, np.full(3, 1e-3), rtol=1e-3)
    louder = {**PARAMS, "critics": jax.tree.map(lambda x: x.at[3].multiply(2.0), PARAMS["critics"])}
    for a, b in zip(jax.tree.leaves(policies), jax.tree.leaves(step(louder)[0]), strict=True):
        np.testing.assert_array_equal(a[:2], b[:2])


def test_targets_move_every_second_time():
    target, params = {"encoder": jnp.zeros(2)}, {"encoder": jnp.ones(2), "dynamics": jnp.ones(1)}
    for j in range(4):
        target = learning.move_target(target, params, j % 2 == 0, jnp.float32(0.01))
    close(target["encoder"], np.full(2, 0.0199), rtol=1e-5)


def test_without_a_clone_there_are_the_learners_critics_alone():
    net = dataclasses.replace(NET, extra=0)
    params = {**PARAMS, "critics": jax.tree.map(lambda x: x[1:], PARAMS["critics"])}
    target = {**TARGET, "critics": jax.tree.map(lambda x: x[1:], TARGET["critics"])}
    loss, said = loss_of(params, None, target, net=net)
    assert np.isfinite(loss) and said.priority.shape == (B,)
