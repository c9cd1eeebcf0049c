"""What SINDy-RL fits, on what rows, when it keeps the old model, and how it puts a policy into words."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx.agents.sindy_rl import Config
from rlx.agents.sindy_rl.distil import regressed
from rlx.agents.sindy_rl.method import principal, tell
from rlx.agents.sindy_rl.world import World, around, box_of, names_of, refitted, sound, transitions
from rlx.config import replace
from rlx.dynamics import filtered, stlsq
from rlx.dynamics.filtered import by_truth
from rlx.dynamics.sparse import SparseModel, affine, poly
from rlx.envs.tasks import cartpole
from rlx.replay import from_episodes
from rlx.replay.buffer import export
from rlx.types import Leaf, Spec

CART = World(Config(), 5, 1, cartpole.project, cartpole.score)


@pytest.mark.parametrize(
    ("obs", "u", "reward"),
    [
        ((0, 1, 0, 0, 0), 0.0, 1.0),
        ((0, 1, 0, 0, 0), 1.0, 0.8),
        ((0, 1, 0, 0, 0), 0.5, 0.95),
        ((2, 1, 0, 0, 0), 0.0, 0.55),
        ((0, 1, 0, 0, 5), 0.0, 0.55),
        ((0, -1, 0, 0, 0), 0.0, 0.0),
        ((0.5, 0.6, 0.8, 1, 2), 0.3, 0.6200144201),
    ],
)
def test_the_reward_of_an_observation(obs, u, reward):
    assert cartpole.score(np, np.array(obs, float), np.array([u])) == pytest.approx(reward, abs=1e-10)


@pytest.fixture(scope="module", params=["rlx:cartpole-swingup", "dmc:cartpole-swingup"])
def behaviour(request):
    """Random behaviour on cart-pole: episodes as rows."""
    env = rlx.envs.make(request.param)
    vec = rlx.envs.batch(env, 4)
    rng = np.random.default_rng(0)
    if env.host:
        policy = lambda carry, step, key: (rng.uniform(-1, 1, (4, 1)).astype(np.float32), carry, {})
        start = rlx.envs.begin(vec, vec.params, (), jax.random.key(0))
        _, rows, _ = rlx.envs.rollout(vec, vec.params, policy, start, jax.random.key(1), 1_000)
    else:
        policy = lambda carry, step, key: (jax.random.uniform(key, (4, 1), minval=-1.0, maxval=1.0), carry, {})
        run = lambda k: rlx.envs.rollout(vec, vec.params, policy, rlx.envs.begin(vec, vec.params, (), k), k, 1_000)[1]
        rows = jax.tree.map(np.asarray, jax.jit(run)(jax.random.key(0)))
    return [jax.tree.map(lambda x, w=w: x[:, w], rows) for w in range(4)]


def test_the_reward_belongs_to_the_observation_arrived_at(behaviour):
    rows = transitions(behaviour)
    np.testing.assert_allclose(cartpole.score(np, rows.new, rows.action), rows.reward, atol=2e-6)
    assert np.abs(cartpole.score(np, rows.obs, rows.action) - rows.reward).max() > 1e-3


def test_the_dynamics_look_like_eulers_steps(behaviour):
    """The first three equations are the kinematics at a step of 0.01 s; the whole is far better than standing still."""
    rows = transitions(behaviour)
    names = ("x", "cos", "sin", "v", "w")
    model = CART.fitted(rows, np.random.default_rng(0), names)["dynamics"]
    said = dict(zip(model.library.names((*names, "u")), np.asarray(model.coef).T, strict=True))
    wanted = {("x", 0): 1, ("v", 0): 0.01, ("cos", 1): 1, ("sin w", 1): -0.01, ("cos w", 2): 0.01}
    for (term, row), value in wanted.items():
        assert said[term][row] == pytest.approx(value, abs=1e-3), (term, row)
    assert 10 <= model.terms <= 45
    off = np.asarray(model(jnp.asarray(np.concatenate([rows.obs, rows.action], 1), jnp.float32))) - rows.new
    assert (np.sqrt((off**2).mean(0)) < 0.6 * np.sqrt(((rows.obs - rows.new) ** 2).mean(0))).all()


def episode(length, start=0.0, obs=None):
    x = np.linspace(start, start + 1, length)[:, None] if obs is None else np.asarray(obs, float)[:, None]
    over = np.arange(len(x)) == len(x) - 1
    action = np.full((len(x), 1), 0.5, np.float32)
    return {"obs": x.astype(np.float32), "action": action, "reward": np.arange(len(x)), "terminated": over}


def rows_of(*episodes):
    return export(from_episodes(list(episodes)))


def test_no_transition_crosses_a_border_and_none_begins_outside_the_box():
    rows = transitions(rows_of(episode(4), episode(3, 5.0)))
    assert len(rows.obs) == 3 + 2 and rows.first.tolist() == [True, False, False, True, False]
    assert (rows.new - rows.obs < 1).all() and rows.reward.tolist() == [1, 2, 3, 1, 2]
    assert rows.follows(2).tolist() == [True, True, False, True]
    boxed = transitions(rows_of(episode(0, obs=[0, 1, 9, 2, 3])), np.array([-5.0]), np.array([5.0]))
    assert boxed.obs[:, 0].tolist() == [0, 1, 2] and boxed.new[:, 0].tolist() == [1, 9, 3]
    assert boxed.first.tolist() == [True, False, True]  # 9 is left out, so 2 does not follow 1
    with pytest.raises(ValueError, match="inside the box"):
        transitions(rows_of(episode(4)), np.array([8.0]), np.array([9.0]))


def line(n, slope=0.9):
    """Rows of x' = slope x + 0.1 u."""
    rng = np.random.default_rng(n)
    x, u = [1.0], rng.uniform(-1, 1, n)
    for k in range(n):
        x.append(slope * x[-1] + 0.1 * u[k])
    return episode(0, obs=x) | {"action": np.r_[u, 0][:, None].astype(np.float32)}


SETTINGS = replace(Config(), {"dynamics.threshold": 0.01, "ensemble_size": 5, "drop": 0, "reward": "task"})
SMALL = World(SETTINGS, 1, 1, None, lambda xp, x, u: -x[..., 0])


def test_a_filter_chooses_among_the_members_of_a_sparse_model():
    """x' = c x + u, c from 0.5 to 0.9: the member nearest to the truth is taken, and what it earns is of where it arrives."""
    members = jnp.float32([[[c, 1.0, 0.0]] for c in (0.5, 0.6, 0.7, 0.8, 0.9)])
    params = {"dynamics": SparseModel(members, members[2], affine(1, 1, 1))}
    best = filtered(SMALL, by_truth(lambda xp, x, u: 0.79 * x + u), "argmax")
    own = {"model": params, "scorer": (), "r_min": jnp.float32(-0.005), "filter_temperature": jnp.float32(1)}
    found = best.predict(own, (), jnp.float32([2.0]), jnp.float32([0.1]), jax.random.key(0))
    assert float(found.obs[0]) == pytest.approx(1.7) and float(found.reward) == pytest.approx(-1.7)
    assert float(found.score) == pytest.approx(-0.02, abs=1e-5) and bool(found.stopped)


def test_a_model_that_is_far_worse_is_not_taken():
    rows = transitions(rows_of(line(200)))
    good, error, refused = refitted(SMALL, SMALL.blank(), rows, np.random.default_rng(0), ("x",), first=True)
    assert not refused and error < 0.01
    again = refitted(SMALL, good, rows, np.random.default_rng(1), ("x",), first=False)
    assert not again[2] and again[1] < 0.01
    strict = SMALL._replace(config=replace(SMALL.config, {"dynamics.threshold": 0.5}))  # loses the input
    kept, error, refused = refitted(strict, good, rows, np.random.default_rng(0), ("x",), first=False)
    assert "over 20 decisions" in refused["dynamics"] and kept["dynamics"] is good["dynamics"] and error < 0.01
    unguarded = strict._replace(config=replace(strict.config, guard=0.0))
    assert not refitted(unguarded, good, rows, np.random.default_rng(0), ("x",), first=False)[2]
    empty = SMALL._replace(config=replace(SMALL.config, {"dynamics.threshold": 5.0}))
    kept, _, refused = refitted(empty, good, rows, np.random.default_rng(0), ("x",), first=False)
    assert kept["dynamics"] is good["dynamics"] and "leaves no term for x" in refused["dynamics"]
    with pytest.raises(ValueError, match="leaves no term for x"):
        refitted(empty, good, rows, np.random.default_rng(0), ("x",), first=True)


def test_rows_that_are_not_finite_are_cut_out():
    """Of rows 0 to 6 the third and the last are lost; what was on either side does not become a neighbour."""
    first, second = rows_of(episode(0, obs=range(7)), episode(3, 10.0))
    obs, reward = first.obs.copy(), first.reward.copy()
    obs[2], reward[6] = np.nan, np.inf
    kept, lost = sound([first._replace(obs=obs, reward=reward), second])
    assert lost == 2 and [x.obs[:, 0].tolist() for x in kept] == [[0, 1], [3, 4, 5], [10, 10.5, 11]]
    rows = transitions(kept)
    assert rows.obs[:, 0].tolist() == [0, 3, 4, 10, 10.5] and rows.first.tolist() == [True, True, False, True, False]
    assert [bool(x.first[0]) for x in kept] == [True, False, True]  # an imagined episode begins only where a real one did


def test_a_reward_and_dynamics_succeed_or_fail_each_for_itself():
    e = line(300)
    rows = transitions(rows_of(e | {"reward": 2 * e["obs"][:, 0].astype(float) ** 2}))
    config = replace(SMALL.config, {"reward": "sparse", "rewards.threshold": 0.05})
    world = SMALL._replace(score=None, config=config)
    old, _, refused = refitted(world, world.blank(), rows, np.random.default_rng(0), ("x",), first=True)
    assert not refused
    for field, lost, kept in (("rewards", "reward", "dynamics"), ("dynamics", "dynamics", "reward")):
        strict = world._replace(config=replace(config, {f"{field}.threshold": 50.0}))
        new, error, refused = refitted(strict, old, rows, np.random.default_rng(1), ("x",), first=False)
        assert list(refused) == [lost] and "leaves no term" in refused[lost] and error < 0.01
        assert new[lost] is old[lost] and np.any(new[kept].members != old[kept].members)


def test_refusals_and_lost_rows_are_told():
    with pytest.warns(UserWarning, match="3 stored rows are not finite"):
        tell({}, 3)
    with pytest.warns(UserWarning, match="refit of the reward was refused, the one before it stays: no term"):
        tell({"reward": "no term"}, 0)


@pytest.mark.parametrize(("frozen", "size"), [(False, 120), (True, 60)])
def test_a_bag_is_a_share_of_the_rows_or_of_those_of_the_first_fit(frozen, size, monkeypatch):
    drawn, real = [], stlsq.bags
    monkeypatch.setattr(stlsq, "bags", lambda rng, rows, size, members: drawn.append(size) or real(rng, rows, size, members))
    world = SMALL._replace(config=replace(SMALL.config, {"bag_frozen": frozen, "seed_steps": 100}))
    world.fitted(transitions(rows_of(line(200))), np.random.default_rng(0), ("x",))
    assert drawn == [size]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("factor", [1e3, 1e30])  # over 20 steps: beyond float32, and beyond float64
def test_an_error_that_is_not_finite_is_infinite(factor):
    rows = transitions(rows_of(line(60)))
    models = SMALL.fitted(rows, np.random.default_rng(0), ("x",))
    wild = {"dynamics": jax.tree.map(lambda x: x * factor, models["dynamics"])}
    assert SMALL.error(wild, rows, np.random.default_rng(0)) == np.inf


def test_a_learned_reward_is_of_where_one_arrives():
    """r = 2 x'^2: found on the next observation, not on the one before."""
    e = line(300)
    e["reward"] = 2 * e["obs"][:, 0].astype(float) ** 2
    rows = transitions(rows_of(e))
    setting = {"rewards.threshold": 0.05, "reward": "sparse"}
    world = SMALL._replace(score=None, config=replace(SMALL.config, setting))
    model = world.fitted(rows, np.random.default_rng(0), ("x",))["reward"]
    assert model.library.names(["x"]) == ["x", "x^2"]
    np.testing.assert_allclose(model.coef, [[0, 2]], atol=1e-3)
    said = world.predict({"dynamics": SMALL.fitted(rows, np.random.default_rng(0), ("x",))["dynamics"], "reward": model}, (),
                         jnp.array([0.5]), jnp.array([1.0]), jax.random.key(0))  # fmt: skip
    np.testing.assert_allclose(said.reward, 2 * 0.55**2, atol=2e-3)
    current = world._replace(config=replace(world.config, reward_pairing="current"))
    off = current.fitted(rows, np.random.default_rng(0), ("x",))["reward"]
    assert np.abs(np.asarray(off.coef) - [[0, 2]]).max() > 0.05


def test_a_polynomial_policy_is_found_again():
    """A cubic of two variables inside the action's range: its coefficients within 1e-3."""
    rng, library = np.random.default_rng(0), poly(2, 3)
    truth = np.array([0.3, -0.2, 0.0, 0.1, 0.0, 0.05, 0.0, -0.04, 0.0])
    states = rng.uniform(-1, 1, (2_000, 2))
    near = np.concatenate([states] * 2) + 0.1 * rng.standard_normal((4_000, 2))
    said = lambda x: (library(x) @ truth)[:, None]
    model = regressed(library, (near, said(near)), (states, said(states)), Config(), rng)
    np.testing.assert_allclose(model.coef[0], truth, atol=1e-3)
    assert ((np.asarray(model(jnp.asarray(states, jnp.float32))) - said(states)) ** 2).mean() < 1e-6


def test_principal_components_are_in_standard_deviations():
    rng = np.random.default_rng(0)
    obs = (rng.normal(size=(500, 3)) * [5, 1, 0.1]) @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + [1, 2, 3]
    still = {"action": np.zeros((500, 1)), "reward": np.zeros(500), "terminated": np.zeros(500, bool)}
    basis = principal(rows_of({"obs": obs, **still}), 2)
    found = (obs - basis["mean"]) @ basis["modes"]
    np.testing.assert_allclose(found.std(0), 1, atol=1e-3)
    np.testing.assert_allclose(np.cov(found.T), np.eye(2), atol=5e-3)


def test_boxes_and_names():
    spec = rlx.envs.make("rlx:cartpole-swingup").spec
    low, high = box_of(Config(), spec, 5)
    assert high.tolist() == [5, 1.1, 1.1, 10, 10] and (low == -high).all()
    assert box_of(replace(Config(), box=(1.0,) * 5), spec, 5)[1].tolist() == [1] * 5
    with pytest.raises(ValueError, match="box has 2 entries"):
        box_of(replace(Config(), box=(1.0, 2.0)), spec, 5)
    assert names_of(Config(), spec, 5, 1) == ("x", "cos", "sin", "v", "w", "u")
    bare = Spec(Leaf((2,)), Leaf((2,)))
    assert names_of(Config(), bare, 2, 2) == ("x1", "x2", "u1", "u2") and box_of(Config(), bare, 2) is None
    with pytest.raises(ValueError, match="names has 1 entries"):
        names_of(replace(Config(), names=("a",)), bare, 2, 2)
    low, high = around(np.array([[0.0, 1.0], [2.0, 1.0]]))
    np.testing.assert_allclose([low, high], [[-1, 0.998], [3, 1.002]])
