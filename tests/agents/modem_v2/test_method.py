"""Acting, and what learns when."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents.modem_v2 import planning
from rlx.agents.modem_v2.method import Method, cloning, imitation
from rlx.dynamics.told import Told
from tests.agents.modem_v2.worlds import SPECS, at, begun, clock, config, method, windows

pytestmark = pytest.mark.usefixtures("all_bits")
close = np.testing.assert_allclose
KEY = jax.random.key(0)
OBS = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)


def leaves(tree) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


# ------------------------------------------------------------------------------------------------------------- planning


class Stub:
    """Actors say their own number; critic i says 10 of actor i's proposals and i of all others."""

    count, extra = 3, 1

    def act_each(self, policies, z):
        return jnp.broadcast_to(policies[:, None, None], (*z.shape[:2], 1)) / 10

    def values_each(self, critics, z, action):
        own = jnp.abs(action[..., 0] * 10 - critics[:, None, None]) < 0.1
        return jnp.broadcast_to(jnp.where(own, 10.0, critics[:, None, None])[:, None], (3, 2, *action.shape[1:3]))


def test_no_critic_values_its_own_actor():
    numbers = jnp.float32([1, 2, 3])
    params = {"policies": numbers, "critics": jnp.float32([0, 1, 2, 3]), "dynamics": (), "reward": ()}
    value = planning.latent_plans(Stub(), params, jnp.float32(0)).value(jnp.zeros((4, 2)), KEY)
    close(value, np.repeat([1, 2, 3], 2)[:, None] * np.ones(4))
    alone = Stub()
    alone.count = 1
    params = {**params, "policies": numbers[:1], "critics": jnp.float32([0, 1])}
    one = planning.latent_plans(alone, params, jnp.float32(0))
    alone.values_each = lambda critics, z, action: Stub.values_each(alone, critics, z, action)[:1]
    close(one.value(jnp.zeros((4, 2)), KEY), np.full((2, 4), 10.0))


def test_proposals_are_shared_out_among_policies():
    net = Told.of(1, latent=2, hidden=4, encoder_hidden=4, count=3)
    params = net.init(KEY, jnp.zeros(2))
    z = jax.random.normal(KEY, (6, 2))
    found = planning.latent_plans(net, params, jnp.float32(0)).propose(z, KEY)
    for i in range(6):
        policy = jax.tree.map(lambda x, i=i: x[i // 2], params["policies"])
        close(found[i], net.act(policy, z[i]), rtol=1e-5, atol=1e-6)


def test_a_step_of_the_clone_is_valued_by_its_critics():
    own = method()
    learned = begun(own, values=True).learned
    imagine = planning.cloned_actions(own.net, learned["clone"], learned["params"]["critics"], jnp.float32(0.1))
    z = jnp.tile(jnp.arange(5.0), (7, 1))
    action = imagine.propose((z, jnp.zeros((7, 2))), KEY)
    state, reward = imagine.step((z, jnp.zeros((7, 2))), action, KEY)
    first = jax.tree.map(lambda x: x[0], learned["params"]["critics"])
    close(imagine.value(state, KEY)[0], own.net.values(first, z, action).min(0), rtol=1e-6)
    assert (
        not np.any(reward) and np.abs(np.asarray(action) - np.asarray(own.net.act(learned["clone"]["policy"], z))).max() <= 0.3
    )


# --------------------------------------------------------------------------------------------------------------- acting


def acting(own, state, k=0, mode="eval", obs=OBS, key=KEY):
    act = jax.jit(own.act, static_argnums=5)
    return act(state, clock(rows_of(own, k)), own.carry(state, obs.shape[0]), at(obs), key, mode)[0]


def test_at_first_a_policy_s_own_actions_are_done():
    """All values are 0 then: whichever candidate is drawn lies within the policies' noise, and training adds its own."""
    own = method(**{"handover.kind": "off"})
    state = own.copied(begun(own), {}, KEY)
    z = own.net.encode(state.learned["params"]["encoder"], OBS)
    means = own.net.act_each(state.learned["params"]["policies"], jnp.broadcast_to(z, (3, *z.shape)))
    still = acting(own, state)
    assert (np.abs(np.asarray(still) - np.asarray(means)).max(-1).min(0) <= 0.3 + 1e-6).all()
    imagine = planning.latent_plans(own.net, state.learned["params"], jnp.float32(0.1))
    close(imagine.value(z, KEY), np.zeros((6, 3)))
    moved = acting(own, state, mode="explore")
    assert (np.asarray(moved) != np.asarray(still)).any() and np.abs(np.asarray(moved)).max() <= 1


@pytest.mark.parametrize(
    ("decision", "std", "start", "least", "most"),
    [
        (0, 0.1, 0.2, 0.2, 0.2),
        (2_000, 0.1, 0.2, 0.15, 0.2),  # halfway through the schedule
        (10_000, 0.1, 0.2, 0.1, 0.2),
        (0, 0.0, 0.0, 0.0, 0.0),
        (0, 5.0, 0.05, 0.05, 0.3),  # noise that the clip leaves nothing of but its bounds
    ],
)
def test_exploring_is_bounded_by_the_clip_of_the_noise_and_the_schedule(decision, std, start, least, most):
    """What training adds to one of the candidates is a normal number times the elites' spread: at least what is scheduled, and
    else no more than the clip leaves between candidates, 0.3 on each side of their policy. The box alone would allow 1."""
    own = method(**{"handover.kind": "off", "env_steps": 20_000})
    state = begun(own)
    state.hyper.update(std=jnp.float32(std), std_start=jnp.float32(start), std_steps=jnp.float32(4_000))
    state = own.copied(state, {}, KEY)  # all policies are the clone
    obs = jnp.tile(OBS, (10, 1))
    still, moved = (np.asarray(acting(own, state, decision, mode, obs)) for mode in ("eval", "explore"))
    z = own.net.encode(state.learned["params"]["encoder"], obs)
    means = np.asarray(own.net.act(state.learned["clone"]["policy"], z))
    assert np.abs(still - means).max() <= 0.3 + 1e-6
    per_stream = jax.random.split(jax.random.split(KEY, 3)[1], len(obs))
    noise = np.stack([jax.random.normal(jax.random.split(k, 4)[3], (2,)) for k in per_stream])
    inside = (np.abs(moved) < 1) & (np.abs(noise) > 0.05)
    spread = ((moved - still) / noise)[inside]
    assert inside.sum() > len(obs) and spread.min() >= least - 1e-4 and spread.max() <= most + 1e-4
    assert spread.max() > 0.2 or std < 1  # the clip is met
    assert (np.abs(moved - means) <= 0.3 + most * np.abs(noise) + 1e-4).all()


def test_before_control_is_handed_over_the_clone_acts_and_then_the_planner_does():
    own = method()
    state = begun(own, values=True)
    other = begun(own, 9, values=True)
    planner = state._replace(
        learned={**state.learned, "params": {**other.learned["params"], "critics": state.learned["params"]["critics"]}}
    )
    np.testing.assert_array_equal(acting(own, state, 100), acting(own, planner, 100))  # k = seed_steps
    cautious = own.net.act(state.learned["clone"]["policy"], own.net.encode(state.learned["clone"]["encoder"], OBS))
    assert np.abs(np.asarray(acting(own, state, 100)) - np.asarray(cautious)).max() <= 0.3 + 1e-6
    far = 100 + 100_000
    assert (np.asarray(acting(own, state, far)) != np.asarray(acting(own, planner, far))).any()
    np.testing.assert_allclose(acting(own, state, far), acting(own, state, far, "planner"), atol=1e-6)  # two programs
    np.testing.assert_allclose(acting(own, state, 100, "bc"), cautious, atol=1e-6)
    noisy = np.asarray(acting(own, state, 100, "bc_noisy"))
    assert 0 < np.abs(noisy - np.asarray(cautious)).max() <= 0.3 + 1e-6


def test_where_only_the_clone_was_trained_it_acts():
    own = method(env_steps=0)
    state = begun(own, values=True)
    cautious = own.net.act(state.learned["clone"]["policy"], own.net.encode(state.learned["clone"]["encoder"], OBS))
    np.testing.assert_allclose(acting(own, state, 0, "eval"), cautious, atol=1e-6)
    alone = method(env_steps=0, clone=False, centering=False, ensemble_size=1, **{"handover.kind": "off"})
    np.testing.assert_allclose(acting(alone, state, 0, "eval"), cautious, atol=1e-6)


def test_a_search_of_modem_begins_with_the_last_plan_and_one_of_v2_anew():
    """A search whose momentum is 1 leaves its mean where it was, and the mean is done."""
    for warm_start, wanted in ((True, [0, 0.25, 0.25]), (False, [0, 0, 0])):
        plain = {"clone": False, "centering": False, "ensemble_size": 1, "pick": "mean", "handover.kind": "off"}
        own = method(**plain, warm_start=warm_start)
        state = begun(own)
        state.hyper["momentum"] = jnp.float32(1)
        carry = own.carry(state, 3)._replace(mean=jnp.full((3, 2, 2), 0.25))
        step = at(OBS)._replace(first=jnp.array([True, False, False]))
        action, after, _ = jax.jit(own.act, static_argnums=5)(state, clock(), carry, step, KEY, "eval")
        close(action, np.stack([wanted] * 2, 1), atol=1e-6)
        close(after.mean[:, 0], np.stack([wanted] * 2, 1), atol=1e-6)
        assert not np.any(after.mean[:, 1])  # behind the last step there is no plan


def test_the_planner_has_its_share_of_decisions():
    """At alpha = 0.2 the clone's actions are those of a planner that is far away but in a fifth of the cases."""
    own = method(**{"n_envs": 1, "hidden": 4, "encoder_hidden": 4, "ensemble_size": 1, "samples": 4, "elites": 1})
    state = begun(own, values=True)
    params = dict(state.learned["params"])
    params["policies"] = jax.tree.map(jnp.zeros_like, params["policies"])
    params["policies"]["params"]["Dense_2"]["bias"] += 9.0  # the planner's actions are near 1
    clone = {**state.learned["clone"], "policy": jax.tree.map(jnp.zeros_like, state.learned["clone"]["policy"])}
    state = state._replace(learned={**state.learned, "params": params, "clone": clone})
    actions = acting(own, state, 100 + 20_000, obs=jnp.zeros((10_000, 4)))
    assert abs(float((np.asarray(actions)[:, 0] > 0.5).mean()) - 0.2) < 0.012


def test_a_gated_handover_waits_for_success():
    own = method(**{"handover.kind": "gated"})
    state = begun(own)
    state = state._replace(learned={**state.learned, "alpha": jnp.float32(1)})
    caps = []
    for success in (0.1, 0.2, 0.1, 0.3):
        report = {"main": {"info/solved": jnp.full(4, success), "returns": jnp.zeros(4)}}
        state = own.on_eval(state, report, KEY)
        caps.append(float(state.learned["cap"]))
    close(caps, [0.05, 0.10, 0.10, 0.15], rtol=1e-6)
    held = own.on_eval(state._replace(learned={**state.learned, "alpha": jnp.float32(0.1)}), report, KEY)
    close(held.learned["cap"], 0.15, rtol=1e-6)
    assert own.on_eval(state, {"bc": {}}, KEY) is state
    by_returns = method(success="", **{"handover.kind": "gated"})
    state, caps = state._replace(learned={**begun(own).learned, "alpha": jnp.float32(1), "best": jnp.float32(-jnp.inf)}), []
    for value in (-50.0, -20.0, -30.0, -1.0):
        state = by_returns.on_eval(state, {"main": {"returns": jnp.full(4, value)}}, KEY)
        caps.append(float(state.learned["cap"]))
    close(caps, [0.05, 0.10, 0.10, 0.15], rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------- learning


def rows_of(own, k):
    """Of a run whose streams have done ``k`` decisions in all."""
    return k // own.times.length * own.times.episode


def steps(own, state, n, updates=200, seed=1, k=0):
    update, rows = jax.jit(own.update), rows_of(own, k)
    for i in range(n):
        state, out = update(state, clock(rows, updates=updates + i), windows(own, seed + i), jax.random.fold_in(KEY, i))
    return state, out


def test_stages_train_what_is_theirs():
    own = method()
    drawn = windows(own)
    imitate = jax.jit(own.imitate)
    state = begun(own)
    before = imitation(state.learned["clone"], own.net, drawn.obs[0], drawn.action[0])
    for i in range(50):
        state, out = imitate(state, clock(), drawn, jax.random.fold_in(KEY, i))
    assert float(out.metrics["bc/loss"]) < float(before)
    critics = state.learned["params"]["critics"]
    state = own.copied(state, {}, KEY)
    clone, params = state.learned["clone"], state.learned["params"]
    assert same(params["encoder"], clone["encoder"]) and same(state.learned["target"]["encoder"], clone["encoder"])
    assert all(same(jax.tree.map(lambda x, i=i: x[i], params["policies"]), clone["policy"]) for i in range(3))
    assert same(params["critics"], critics)

    state = own.begins("warm")(state, {}, KEY)
    warm, out = steps(own, state, 2)
    new = warm.learned["params"]
    assert same(new["encoder"], params["encoder"]) and same(new["policies"], params["policies"])
    assert not any(same(new[k], params[k]) for k in ("dynamics", "reward", "critics"))
    assert same(warm.learned["clone"], clone) and out.priority.shape == (6,)

    state = own.begins("learn")(warm, {}, KEY)
    after, out = steps(own, state, 1, updates=210, seed=5, k=own.times.seed + 50_000)
    learned = after.learned["params"]
    assert float(after.learned["alpha"]) == 0.5 and float(warm.learned["alpha"]) == 0  # what a gated handover is held up to
    assert same(after.learned["clone"], clone) and "actor/loss" in out.metrics
    assert all(not same(learned[k], new[k]) for k in ("encoder", "dynamics", "reward", "critics", "policies"))
    # its optimiser has counted no frozen step: wherever there is a gradient the first step is one of lr
    lr = float(state.hyper["lr"])
    gradient = jax.tree.map(lambda m: np.asarray(m) / 0.1, after.learned["opt"]["encoder"][0].mu)
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)), learned["encoder"], new["encoder"])
    for g, m in zip(leaves(gradient), leaves(moved), strict=True):
        close(m[np.abs(g) > 1e-6], lr, rtol=0.01)
    assert int(after.learned["opt"]["encoder"][0].count) == 1 and int(after.learned["opt"]["dynamics"][0].count) == 3


def test_targets_move_at_the_first_update_of_the_model_and_every_second_then():
    """However many updates of cloning there were before: of an odd number the first of the model is an odd one too."""
    own = Method.of(config(), SPECS["vector"], 3)
    assert own.times.cloning == (1, 3)
    state = own.begins("warm")(own.copied(begun(own, values=True), {}, KEY), {}, KEY)
    update = jax.jit(own.update)
    for i in range(4):
        old = state.learned["target"]
        state, _ = update(state, clock(rows_of(own, 100), updates=3 + i), windows(own, i), jax.random.fold_in(KEY, i))
        new, params = state.learned["target"], state.learned["params"]
        for a, b, x in zip(*(leaves(tree["critics"]) for tree in (new, old, params)), strict=True):
            close(a, b + (0 if i % 2 else 0.01) * (x - b), atol=1e-7)
        assert same(new["critics"], old["critics"]) == (i % 2 == 1)


def test_without_a_clone_all_learn_from_the_first_update_on():
    own = method(clone=False, centering=False, ensemble_size=1, warm_start=True, **{"handover.kind": "off"})
    state = own.begins("warm")(own.copied(begun(own, values=True), {}, KEY), {}, KEY)
    assert set(state.learned["opt"]) == {"encoder", "dynamics", "reward", "critics", "policies"}
    assert set(own.begins("learn")(state, {}, KEY).learned["opt"]) == set(state.learned["opt"])
    after, _ = steps(own, state, 1)
    assert all(not same(after.learned["params"][k], state.learned["params"][k]) for k in after.learned["params"])
    assert jax.tree.leaves(after.learned["params"]["critics"])[0].shape[0] == 1


def test_rewards_are_shifted_and_what_is_penalised_costs():
    own = method(penalty="torque")
    drawn, h = windows(own), {"reward_shift": jnp.float32(-1), "penalty_coef": jnp.float32(2)}
    close(own.rewards(drawn, h), drawn.reward[1:] - 1 - 2 * drawn.info["torque"][1:], rtol=1e-5, atol=1e-6)
    close(method().rewards(drawn, h), drawn.reward[1:] - 1, rtol=1e-6)
    two = drawn._replace(info={"torque": jnp.broadcast_to(jnp.float32([3, -4]), (*drawn.reward.shape, 2))})
    close(own.rewards(two, h), drawn.reward[1:] - 1 - 2 * 5, rtol=1e-6)


def test_success_may_be_the_reward():
    own = method(reward="success")
    drawn, done = windows(own), np.random.default_rng(0).random((3, 6)) < 0.5
    drawn = drawn._replace(info={"success": jnp.asarray(done)})
    close(own.rewards(drawn, {"reward_shift": jnp.float32(-1), "penalty_coef": 0.0}), np.where(done[1:], 0.0, -1.0))


def test_imitation_is_the_mean_square():
    own = method()
    state, drawn = begun(own, values=True), windows(own)
    clone = state.learned["clone"]
    mean = np.tanh(
        np.asarray(own.net.policy.apply(clone["policy"], own.net.encode(clone["encoder"], drawn.obs[0])), np.float64)
    )
    expected = ((mean - np.asarray(drawn.action[0], np.float64)) ** 2).mean()
    close(imitation(clone, own.net, drawn.obs[0], drawn.action[0]), expected, rtol=1e-5)
    assert len(cloning(state.hyper).init(clone)) == 3


# --------------------------------------------------------------------------------------------------------------- images


def test_images_are_stacked_while_acting_and_shifted_while_learning():
    own = method("pictures")
    state = begun(own)
    rng = np.random.default_rng(0)
    draw = lambda: {"pixels": rng.integers(0, 255, (2, 32, 32, 3)).astype(np.uint8), "state": np.zeros((2, 4), np.float32)}
    a, b = draw(), draw()
    seen, carry = own.stacked(own.carry(state, 2), at(a))
    np.testing.assert_array_equal(seen["pixels"], np.concatenate([a["pixels"]] * 2, -1))
    seen, carry = own.stacked(carry, at(b, first=False))
    np.testing.assert_array_equal(seen["pixels"], np.concatenate([a["pixels"], b["pixels"]], -1))
    drawn = windows(own)
    looked = jax.jit(own.looked)(drawn.obs, KEY)
    np.testing.assert_array_equal(looked["state"], drawn.obs["state"][..., 4:])
    assert looked["pixels"].shape == drawn.obs["pixels"].shape and (looked["pixels"] != drawn.obs["pixels"]).any()
    still = dataclasses.replace(own, config=dataclasses.replace(own.config, pad=0)).looked(drawn.obs, KEY)
    np.testing.assert_array_equal(still["pixels"], drawn.obs["pixels"])


def test_of_the_state_beside_images_networks_see_what_they_may_alike_in_demonstrations_and_while_acting():
    own = method("pictures", proprio="1:3")
    rng = np.random.default_rng(0)
    state = rng.normal(size=(2, 4)).astype(np.float32)
    image = np.zeros((2, 32, 32, 3), np.uint8)
    found, _ = own.stacked(own.carry(None, 2), at({"pixels": image, "state": state}))
    rows = {"pixels": jnp.tile(image, 2)[None], "state": jnp.concatenate([jnp.zeros_like(state), state], -1)[None]}
    for shown in (found, jax.tree.map(lambda x: x[0], own.looked(rows, KEY))):
        np.testing.assert_array_equal(shown["state"], state[:, 1:3])
    encoder = jax.eval_shape(own.init, KEY, begun(method()).hyper).learned["clone"]["encoder"]["params"]
    assert encoder["MLP_0"]["Dense_0"]["kernel"].shape == (2, 8)


def test_each_camera_has_a_trunk_a_shift_and_a_stack_of_its_own():
    own = method("cameras")
    shapes = jax.eval_shape(own.init, KEY, begun(method()).hyper).learned["params"]["encoder"]["params"]
    one = jax.eval_shape(method("pictures").init, KEY, begun(method()).hyper).learned["params"]["encoder"]["params"]
    sizes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
    assert sizes(shapes["view_pixels_0"]) == sizes(shapes["view_pixels_1"]) == sizes(one["view_pixels"])
    rng = np.random.default_rng(0)
    draw = lambda: {"pixels": rng.integers(0, 255, (2, 32, 32, 6)).astype(np.uint8), "state": np.zeros((2, 4), np.float32)}
    a, b = draw(), draw()
    _, carry = own.stacked(own.carry(None, 2), at(a))
    found, carry = own.stacked(carry, at(b, first=False))
    for i, part in enumerate((slice(0, 3), slice(3, 6))):
        np.testing.assert_array_equal(
            found[f"pixels_{i}"], np.concatenate([a["pixels"][..., part], b["pixels"][..., part]], -1)
        )
    # both cameras and both frames show the same: frames go on doing so, cameras do not
    alike = np.tile(rng.integers(0, 255, (3, 6, 32, 32, 3)).astype(np.uint8), 4)
    looked = jax.jit(own.looked)({"pixels": jnp.asarray(alike), "state": jnp.zeros((3, 6, 8))}, KEY)
    left, right = np.asarray(looked["pixels_0"]), np.asarray(looked["pixels_1"])
    for x in (left, right):
        np.testing.assert_array_equal(x[..., :3], x[..., 3:])
    assert 0.5 < (left != right).any((2, 3, 4)).mean() <= 1


@pytest.mark.slow
def test_it_learns_from_images():
    own = method("pictures")
    state = own.begins("learn")(own.begins("warm")(own.copied(begun(own), {}, KEY), {}, KEY), {}, KEY)
    after, out = steps(own, state, 1)
    trunk = lambda s: s.learned["params"]["encoder"]["params"]["view_pixels"]
    assert not same(trunk(after), trunk(state)) and np.isfinite(out.priority).all()
