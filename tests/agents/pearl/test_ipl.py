"""IPL: its losses against float64 numpy, the windows that it learns from, and that it finds what is preferred."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents, replay
from rlx.agents import ipl, iql
from rlx.preferences import pairs
from rlx.preferences.sampling import Comparisons, comparisons
from rlx.train import Options, run
from rlx.types import Clock, Problem
from tests.agents.numpy_nets import forward, heads
from tests.agents.settings import compared, dataset

pytestmark = pytest.mark.usefixtures("all_bits")
CLOCK = Clock(*map(jnp.int32, (0, 0, 0)))


def test_loss_of_critics_in_numpy():
    about, rest = compared()
    nets = iql.networks((5,), 2)
    params = nets.critics.init(jax.random.key(3), jnp.zeros(6))
    steps, _, count = about.terminated.shape
    flat = lambda x: np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    obs, action = (np.concatenate([flat(x), y]) for x, y in ((about.obs[:-1], rest.obs), (about.action, rest.action)))
    v_next = np.linspace(-9, 9, len(obs))
    discount = np.where(np.arange(len(obs)) % 3 == 0, 0.0, 0.9)
    h = {"reward_coef": 4.0, "discount": 0.9}
    n = steps * 2 * count
    mask = np.asarray(about.mask).reshape(-1)
    share = np.r_[0.5 * mask / mask.sum(), np.full(len(obs) - n, 0.5 / (len(obs) - n))]
    wanted = []
    for critic in heads(params):
        q = forward(critic, np.concatenate([obs, action], -1))[:, 0]
        r = q - discount * np.clip(v_next, -2.5, 2.5)  # 1 / (4 (1 - 0.9))
        worth = (mask * r[:n]).reshape(steps, 2, count).sum(0)
        gap = worth[1] - worth[0]
        ce = np.logaddexp(0, gap) - np.asarray(about.label) * gap
        wanted.append((about.weight * ce).mean() + 4 * 0.5 * ((r[:n][mask > 0] ** 2).mean() + (r[n:] ** 2).mean()))
    got = ipl.critic_loss(params, nets.critics, tuple(map(jnp.float32, (obs, action, v_next, discount))), about, share, h, True)
    np.testing.assert_allclose(got[0], np.mean(wanted), rtol=1e-4)
    free = ipl.implied(jnp.zeros(3), jnp.float32([9, -9, 1]), jnp.float32(0.9), h, False)
    np.testing.assert_allclose(free, [-8.1, 8.1, -0.9], rtol=1e-6)


def test_windows_lie_at_one_place_of_both_pieces():
    rows = [np.arange(t, t + n) * 1.0 for t, n in ((0, 5), (10, 9))]
    ends = lambda r: np.arange(len(r)) == len(r) - 1
    each = [{"obs": r[:, None], "action": np.zeros((len(r), 1)), "reward": r, "terminated": ends(r)} for r in rows]
    state = replay.from_episodes(each)
    given = pairs.preferences([[0], [1]], [1.0], [4], start=[[0], [4]], weight=0.5)
    sampler = comparisons(given, pairs.episodes(state), 200, 3)
    sources = {"data": state}
    batch = sampler({}, CLOCK, sources, jax.random.key(1))
    assert batch.obs.shape == (4, 2, 200, 1) and batch.action.shape == (3, 2, 200, 1)
    first, second = np.asarray(batch.obs[..., 0]).transpose(1, 2, 0)
    assert {tuple(x) for x in first} == {(0, 1, 2, 3), (1, 2, 3, 4)} and (second == first + 14).all()
    ended = np.asarray(batch.terminated)
    assert (
        (ended[-1, 0] == (first[:, -1] == 4)).all() and (ended[-1, 1] == (second[:, -1] == 18)).all() and not ended[:-1].any()
    )
    assert (batch.label == 1).all() and (batch.weight == 0.5).all()
    on_host = state._replace(data=jax.tree.map(np.asarray, state.data))
    again = sampler({}, CLOCK, {"data": on_host}, jax.random.key(0))
    assert isinstance(again, Comparisons) and isinstance(again.obs, np.ndarray)
    short = pairs.preferences([[0, 1], [1, 1]], [1.0, 0.0], [2, 6], start=[[0, 0], [4, 1]])
    batch = comparisons(short, pairs.episodes(state), 50, 99)({}, CLOCK, sources, jax.random.key(0))
    assert batch.obs.shape[0] == 7  # the longest piece
    assert {tuple(m) for m in np.asarray(batch.mask)[:, 0].T} == {(1, 1, 0, 0, 0, 0), (1,) * 6}
    assert ((batch.mask[2] == 0) == (batch.label == 1)).all()


@pytest.mark.slow
def test_what_is_preferred_is_done():
    """An episode is as good as its first action is large on the mean, whatever is observed."""
    env = rlx.envs.make("rlx:point-mass", time_limit=5)
    rng = np.random.default_rng(0)
    out = []
    for _ in range(60):
        action = np.clip(rng.uniform(-0.7, 0.7) + 0.3 * rng.normal(size=(9, 2)), -1, 1).astype(np.float32)
        obs = rng.normal(size=(9, 4)).astype(np.float32)
        out.append({"obs": obs, "action": action, "reward": np.r_[0, action[:-1, 0]], "terminated": np.zeros(9, bool)})
    data = replay.from_episodes(out)
    means = {}
    for kind, flip in (("right", False), ("wrong", True)):
        found = pairs.episodes(data)
        episode = np.stack(pairs.choose(60, 300, "random", rng))
        label = found.returns[episode[1]] > found.returns[episode[0]]
        problem = Problem({"train": env}, {"data": data, "pairs": pairs.preferences(episode, label ^ flip, 8)})
        settings = {"updates": 400, "block": 400, "batch": 32, "hidden": (16,), "eval_episodes": 1, "segment": 8}
        rates = {"actor_lr": 3e-3, "critic_lr": 3e-3, "value_lr": 3e-3, "tau": 0.05, "discount": 0.5}
        agent = agents.make("ipl", None, problem, **settings, **rates)
        state = run(agent, problem, 0, options=Options(progress=False)).agent
        policy = iql.offline.gaussian(iql.networks((16,), 2).actor, state.learned["actor"], found.obs)
        means[kind] = float(policy.mode()[:, 0].mean())
    assert means["right"] > 0.15 and means["wrong"] < -0.15


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"labels": "best"}, "labels='best' is unknown"), ({"reward_coef": 0.0}, "reward_coef must be above 0")],
)
def test_bad_settings_are_named(settings, words):
    env = rlx.envs.make("rlx:point-mass")
    with pytest.raises(ValueError, match=words):
        agents.make("ipl", None, Problem({"train": env}, {"data": dataset(env)}), **settings)


def test_pairs_that_are_none_are_named():
    env = rlx.envs.make("rlx:point-mass")
    with pytest.raises(ValueError, match=r"data\['pairs'\] is a ndarray"):
        agents.make("ipl", None, Problem({"train": env}, {"data": dataset(env), "pairs": np.zeros((2, 3))}))
