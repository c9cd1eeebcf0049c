"""OPPO: its losses against numpy, what the policy may see, what it remembers, and that it does what is preferred."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents, replay
from rlx.agents.oppo import method
from rlx.agents.oppo.networks import Encoder, Policy
from rlx.preferences import pairs
from rlx.train import Options, run
from rlx.types import Clock, Problem, Step
from tests.agents.settings import dataset

pytestmark = pytest.mark.usefixtures("all_bits")
close = functools.partial(np.testing.assert_allclose, rtol=0)
CLOCK = Clock(*map(jnp.int32, (0, 0, 0)))
KEY = jax.random.key(0)


def test_losses_by_hand():
    wanted = jnp.float32([0, 0])
    z = jnp.float32([[[3, 4], [1, 0], [0, 2]], [[0, 1], [0, 3], [2, 0]]])  # distances 5, 1, 2 and 1, 3, 2
    label, weight = jnp.float32([1, 1, 0]), jnp.float32([1, 1, 2])
    # the second is preferred at 1 - 5 + 1 < 0 and at 3 - 1 + 1 = 3, the first at 2 - 2 + 1 = 1 (twice)
    loss, right = method.triplet(wanted, z, label, weight, 1.0)
    close(loss, (0 + 3 + 2 * 1) / 4, atol=1e-5)
    close(right, 1 / 4, atol=1e-5)
    soft, _ = method.triplet(wanted, z, jnp.float32([0.5, 0.75, 0.5]), weight, 1.0)  # ties have no part
    close(soft, 3, atol=1e-5)
    assert np.isfinite(jax.grad(lambda w: method.triplet(w, z * 0, label, weight, 1.0)[0])(wanted)).all()
    done, action = jnp.ones((1, 3, 2)), jnp.float32([[[1, 0], [0, 0], [9, 9]]])
    close(method.reconstruction(done, action, jnp.float32([[1, 1, 0]])), (0.5 + 1) / 2, atol=1e-6)


def test_the_policy_sees_the_past_and_the_encoder_all():
    obs, action, z = (jax.random.normal(jax.random.fold_in(KEY, i), s) for i, s in enumerate([(1, 5, 3), (1, 5, 2), (1, 4)]))
    mask = jnp.ones((1, 5))
    policy, encoder = Policy(2, 8, 1, 1, 5), Encoder(4, 8, 1, 2, 5)
    params, other = policy.init(KEY, z, obs, action, mask), encoder.init(KEY, obs, action, mask)
    does, says = jax.jit(policy.apply), jax.jit(encoder.apply)
    base = does(params, z, obs, action, mask)
    assert base.shape == (1, 5, 2) and abs(base).max() < 1
    later = does(params, z, obs.at[:, 3:].add(1.0), action.at[:, 2:].add(-1.0), mask)
    close(base[:, :3], later[:, :3], atol=1e-6)  # nor on the action of the same step
    assert abs(base[:, 3:] - later[:, 3:]).max() > 1e-4
    assert abs(base - does(params, z + 1, obs, action, mask)).max() > 1e-4
    short = jnp.float32([[1, 1, 1, 0, 0]])
    close(says(other, obs, action, short), says(other, obs.at[:, 3:].set(7), action.at[:, 3:].set(7), short), atol=1e-5)
    assert abs(says(other, obs, action, mask) - says(other, obs, action.at[:, 4].add(1.0), mask)).max() > 1e-4


def test_scripted_labels_look_ahead():
    """Two steps from the start on, though the window has one."""
    rewards = [[0, 1, 0, 9, 0], [0, 3, 1, 0, 0]]
    one = lambda r: {"obs": np.zeros((5, 1)), "action": np.zeros((5, 1)), "reward": r, "terminated": np.zeros(5, bool)}
    found = pairs.episodes(replay.from_episodes([one(r) for r in rewards]))
    got = method.scripted("oracle", found, 300, 1, 2, np.random.default_rng(0))
    value = np.array([[1, 9, 9, 0], [4, 1, 0, 0]])
    a, b = (value[got.episode[i], got.start[i]] for i in (0, 1))
    np.testing.assert_array_equal(got.label, 0.5 + 0.5 * np.sign(b - a))
    assert len(set(zip(got.episode[0], got.start[0], strict=True))) == 8
    coin = method.scripted("random", found, 300, 1, 2, np.random.default_rng(0))
    assert abs(coin.label.mean() - 0.5) < 0.1 and set(coin.label) == {0, 1}


def made(**settings):
    env = rlx.envs.make("rlx:point-mass", time_limit=5)
    problem = Problem({"train": env}, {"data": dataset(env)})
    small = {"segment": 3, "width": 8, "layers": 1, "pairs": 5, "context": 4}
    return agents.make("oppo", None, problem, **{**small, **settings})


def test_it_remembers_the_last_steps_of_an_episode():
    """What it does is what the policy says of the window of the last three steps; a first row begins anew."""
    agent = made()
    state = agent.init(KEY, {k: jnp.float32(v) for k, v in agent.hyper.items()})
    policy = Policy(2, 8, 1, 1, 3)
    z = state.learned["context"][None]
    see = state.learned["scales"].obs
    obs = jax.random.normal(KEY, (8, 2, 4))
    first = np.zeros((8, 2), bool)
    first[0], first[5, 1] = True, True
    act, says = jax.jit(lambda memory, step: agent.act(state, CLOCK, memory, step, KEY, "eval")), jax.jit(policy.apply)
    memory, done = agent.carry(state, 2), []
    for t in range(8):
        no = jnp.zeros(2, bool)
        action, memory, _ = act(memory, Step(obs[t], jnp.zeros(2), no, no, jnp.asarray(first[t]), {}))
        done.append(action)
        for w in range(2):
            begin = max(t - 2, 5 if w == 1 and t >= 5 else 0)
            many = t - begin + 1
            pad = lambda x, many=many: jnp.pad(x, ((0, 3 - many), (0, 0)))[None]
            before = jnp.stack([*(d[w] for d in done[begin:t]), jnp.zeros(2)])
            there = (jnp.arange(3) < many).astype(jnp.float32)[None]
            wanted = says(state.learned["nets"]["policy"], z, pad(see(obs[begin : t + 1, w])), pad(before), there)
            close(action[w], wanted[0, many - 1], atol=1e-5)


@pytest.mark.slow
def test_what_is_preferred_is_done():
    """An episode's actions lie around one value of its own; the larger is preferred."""
    env = rlx.envs.make("rlx:point-mass", time_limit=5)
    rng = np.random.default_rng(0)
    out = []
    for _ in range(60):
        action = np.clip(rng.uniform(-0.8, 0.8) + 0.05 * rng.normal(size=(9, 2)), -1, 1).astype(np.float32)
        obs = rng.normal(size=(9, 4)).astype(np.float32)
        out.append({"obs": obs, "action": action, "reward": np.r_[0, action[:-1, 0]], "terminated": np.zeros(9, bool)})
    data = replay.from_episodes(out)
    found = pairs.episodes(data)
    episode = np.stack(pairs.choose(60, 400, "random", rng))
    label = found.returns[episode[1]] > found.returns[episode[0]]
    problem = Problem({"train": env}, {"data": data, "pairs": pairs.preferences(episode, label, 8)})
    small = {
        "updates": 600,
        "block": 600,
        "batch": 32,
        "eval_episodes": 1,
        "segment": 4,
        "width": 16,
        "layers": 1,
        "context": 4,
    }
    rates = {"actor_lr": 3e-3, "warmup": 20.0, "context_lr": 1e-2, "dropout": 0.0}
    agent = agents.make("oppo", None, problem, **small, **rates)
    learned = run(agent, problem, 0, options=Options(progress=False)).agent.learned
    obs, action = (jnp.asarray(x[found.begin[:, None] + np.arange(4)]) for x in (found.obs, found.action))
    mask, see = jnp.ones((60, 4)), learned["scales"].obs(obs)
    z = Encoder(4, 16, 1, 2, 4).apply(learned["nets"]["encoder"], see, action, mask)
    does = lambda z: np.asarray(Policy(2, 16, 1, 1, 4).apply(learned["nets"]["policy"], z, see, jnp.zeros_like(action), mask))[
        :, 0, 0
    ]
    assert does(jnp.broadcast_to(learned["context"], z.shape)).mean() > 0.3  # what is wanted
    near = np.linalg.norm(np.asarray(z - learned["context"]), axis=-1)
    assert np.corrcoef(near, found.returns)[0, 1] < -0.8  # the better, the nearer
    assert np.corrcoef(does(z), found.returns)[0, 1] > 0.8  # told to, it does the worse ones too


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"labels": "best"}, "oppo: labels='best' is unknown"),
        ({"width": 9}, "width=9 is no multiple of encoder_heads=2"),
        ({"margin": -1.0}, "margin must be at least 0"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        made(**settings)
