"""Batches, ends of episodes, rollouts, wrappers and the registry."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx.envs import batch, begin, rollout, wrappers
from rlx.envs.base import to_row
from rlx.keys import HostKey
from rlx.nn import normalize
from rlx.types import Leaf, Step
from tests.envs.counter import LIMIT, counter


def play(vec, steps, key, policy=None):
    policy = policy or (lambda carry, step, k: (jnp.ones((vec.n, 1)), carry, {"mark": step.obs[:, 1]}))
    return rollout(vec, vec.params, policy, begin(vec, vec.params, (), key), key, steps)


@pytest.mark.slow
@pytest.mark.parametrize("starts", ["exact", "pool", "lockstep"])
def test_rows_of_episodes_that_follow_each_other(starts):
    vec = batch(counter(), 3, starts=starts)
    _, rows, tail = jax.jit(lambda k: play(vec, 40, k))(jax.random.key(0))
    obs, last, first = np.asarray(rows.obs), np.asarray(rows.last), np.asarray(rows.first)
    assert first[0].all() and np.array_equal(first[1:], last[:-1])
    assert not np.asarray(rows.reward)[first].any() and not np.asarray(rows.action)[last].any()
    assert np.asarray(rows.action)[~last].all() and rows.valid.all()
    assert np.array_equal(obs[..., 1][~first], np.asarray(rows.reward)[~first])
    assert np.array_equal(rows.terminated, (obs.sum(-1) >= 6) & ~first)
    assert np.array_equal(rows.truncated, (obs[..., 1] >= LIMIT) & (obs.sum(-1) < 6))
    assert len(np.unique(obs[..., 0][first])) > 2, "episodes start anew"
    assert not tail.action.any()


def test_stopped_streams_repeat_and_are_not_valid():
    vec = batch(counter(), 8, ends="stop")
    _, rows, tail = jax.jit(lambda k: play(vec, 10, k))(jax.random.key(0))
    valid, last = np.asarray(rows.valid), np.asarray(rows.last)
    for w in range(8):
        end = int(np.argmax(last[:, w]))
        assert valid[: end + 1, w].all() and not valid[end + 1 :, w].any()
        assert (rows.obs[end:, w] == rows.obs[end, w]).all()
    assert not tail.valid.any()


def test_two_rollouts_join_at_the_tail():
    vec, key = batch(counter(limit=100), 2), jax.random.key(0)
    policy = lambda carry, step, k: (jnp.ones((2, 1)), carry + 1, {"age": carry})
    rollout_state, a, tail = rollout(vec, vec.params, policy, begin(vec, vec.params, jnp.zeros(2), key), key, 5)
    _, b, _ = rollout(vec, vec.params, policy, rollout_state, jax.random.fold_in(key, 1), 5)
    np.testing.assert_array_equal(b.obs[0], tail.obs)
    np.testing.assert_array_equal(np.r_[a.extras["age"], b.extras["age"]][:, 0], np.arange(10))


def test_parameters_are_traced():
    vec, traces = batch(counter(), 2), []

    @jax.jit
    def total(params):
        traces.append(1)
        policy = lambda carry, step, k: (jnp.ones((2, 1)), carry, {})
        return rollout(vec, params, policy, begin(vec, params, (), jax.random.key(0)), jax.random.key(0), 6)[1].reward.sum()

    one, three = total({"scale": jnp.float32(1)}), total({"scale": jnp.float32(3)})
    assert float(three) == pytest.approx(3 * float(one)) and len(traces) == 1


def test_members_of_a_host_batch_equal_their_solo_runs():
    env = rlx.envs.make("rlx:pendulum", host=True, time_limit=6)
    keys = jax.random.split(jax.random.key(0), 3)

    def policy(carry, step, data):  # depends on the step's key alone, so that members can be told apart
        noise = np.asarray(data, np.float64)[..., :1] / 2**32
        return np.broadcast_to(noise[..., None], (*step.reward.shape, 1)).astype(np.float32), carry, {}

    vec = replace(batch(env, 2), members=3)
    together = rollout(vec, vec.params, policy, begin(vec, vec.params, (), keys, 3), keys, 15, 3)[1]
    for m in range(3):
        alone_vec = batch(env, 2)
        alone = rollout(alone_vec, env.params, policy, begin(alone_vec, env.params, (), keys[m]), keys[m], 15)[1]
        jax.tree.map(lambda a, b, m=m: np.testing.assert_array_equal(a[m], b), together, alone)


def test_streams_of_several_domains_start_by_their_own():
    def reset(params, key):
        state, step = inner.reset(params, key)
        return state, step._replace(obs=step.obs.at[1].set(params["scale"]))

    inner = counter()
    env, params = replace(inner, reset=reset, starts="pool"), {"scale": jnp.arange(20.0)}
    vec = batch(env, 20, params_axes={"scale": 0})
    state, step = vec.reset(params, jax.random.key(0))
    move = jax.jit(vec.step)
    for t in range(6):
        first = np.asarray(step.first)
        np.testing.assert_array_equal(np.asarray(step.obs)[first, 1], np.arange(20.0)[first])
        state, step = move(params, state, jnp.zeros((20, 1)), jax.random.key(t))
    assert batch(env, 20).starts == "pool"
    with pytest.raises(ValueError, match="one pool for all streams"):
        batch(env, 20, starts="pool", params_axes={"scale": 0})


def test_bad_batches():
    for bad in ({"n": 0}, {"n": 1, "ends": "never"}, {"n": 1, "starts": "here"}):
        with pytest.raises(ValueError, match="unknown|at least 1"):
            batch(counter(), **bad)


# ---------------------------------------------------------------------------------------------------------------- wrappers


def test_action_repeat_stops_at_the_end():
    env = wrappers.action_repeat(counter(), 3)
    state, _ = env.reset(env.params, jax.random.key(0))
    state = (jnp.int32(0), jnp.int32(0))
    state, step = env.step(env.params, state, jnp.ones(1), jax.random.key(0))
    assert step.reward == 1 + 2 + 3 and step.obs[1] == 3 and not step.last
    state, step = env.step(env.params, state, jnp.ones(1), jax.random.key(0))
    assert step.reward == 4 and step.obs[1] == 4 and step.truncated
    assert env.spec.horizon == 2 and env.spec.repeat == 3


def test_action_repeat_tells_of_all_its_steps():
    ways = {"any": Leaf((), bool, reduce="any"), "sum": Leaf(reduce="sum"), "max": Leaf(reduce=("max", "mean"))}
    ways |= {"mean": Leaf(reduce="mean"), "last": Leaf(), "none": Leaf(reduce=())}
    inner = counter(limit=5)
    told = lambda t: {name: jnp.asarray(t == 2 if name == "any" else t * (5 - t), leaf.dtype) for name, leaf in ways.items()}
    tell = lambda out: (out[0], out[1]._replace(info=told(out[1].obs[1])))
    step = lambda *a: tell(inner.step(*a))
    env = wrappers.action_repeat(replace(inner, spec=replace(inner.spec, info=ways), step=step), 3)
    state, step = env.step(env.params, (jnp.int32(0), jnp.int32(0)), jnp.ones(1), jax.random.key(0))
    wanted = {"any": 1, "sum": 16, "max": 6, "mean": 16 / 3, "last": 6, "none": 6}
    assert {k: float(x) for k, x in step.info.items()} == pytest.approx(wanted)
    _, step = env.step(env.params, state, jnp.ones(1), jax.random.key(0))  # two steps, then it is over
    assert {k: float(x) for k, x in step.info.items()} == {"any": 0, "sum": 4, "max": 4, "mean": 2, "last": 0, "none": 0}


def test_time_limit_scale_and_flatten():
    env = wrappers.scale_reward(wrappers.time_limit(counter(limit=50), 2), 10.0)
    state, _ = env.reset(env.params, jax.random.key(3))
    for expected in (10.0, 20.0):
        state, step = env.step(env.params, state, jnp.ones(1), jax.random.key(0))
        assert step.reward == expected
    assert step.last and env.spec.horizon == 2
    inner = counter()
    spec = replace(inner.spec, obs={"b": Leaf((2,), low=0, high=1), "a": Leaf((), low=-1, high=5)})
    nest = lambda out: (out[0], out[1]._replace(obs={"b": out[1].obs, "a": jnp.float32(7)}))
    nested = replace(inner, spec=spec, reset=lambda p, k: nest(inner.reset(p, k)), step=lambda *a: nest(inner.step(*a)))
    flat = wrappers.flatten_observation(nested)
    _, step = flat.reset(flat.params, jax.random.key(0))
    assert flat.spec.obs.shape == (3,) and step.obs[0] == 7
    np.testing.assert_array_equal(flat.spec.obs.high, [5, 1, 1])


@pytest.mark.slow
@pytest.mark.parametrize("host", [False, True])
def test_normalised_observations_and_scaled_rewards(host):
    plain = rlx.envs.make("rlx:pendulum", host=host)
    seen = normalize.Normalizer(jnp.float32(4), jnp.array([1.0, 2.0, 3.0]), jnp.array([4.0, 16.0, 36.0]))  # std 1, 2, 3
    env = wrappers.scale_reward(wrappers.normalize_observation(plain, seen), 0.5)
    other = {"env": plain.params, "obs_stats": seen._replace(mean=jnp.zeros(3))}
    action = np.full((2, 1), 0.3, np.float32)
    out = []
    for e, params in ((plain, plain.params), (env, env.params), (env, other)):
        vec = batch(e, 2)
        key = HostKey(np.array([[0, 5]], np.uint32), 2, 0) if host else jax.random.key(5)
        state, first = vec.reset(params, key)
        out.append((first, vec.step(params, state, action, key.at(1) if host else key)[1]))
    std = np.sqrt(np.array([1.0, 4.0, 9.0]) + 1e-8)
    for a, b, c in zip(*out, strict=True):
        assert b.obs.dtype == np.float32
        np.testing.assert_allclose(b.obs, (np.asarray(a.obs, np.float64) - [1, 2, 3]) / std, atol=1e-6)
        np.testing.assert_allclose(c.obs, np.asarray(a.obs, np.float64) / std, atol=1e-6)
        np.testing.assert_allclose(b.reward, 0.5 * np.asarray(a.reward), rtol=1e-6)
    assert rlx.envs.check(env, steps=30).exact_resume
    with pytest.raises(ValueError, match="of one size"):
        wrappers.normalize_observation(plain, normalize.init((4,)))
    if host:
        with pytest.raises(ValueError, match="repeat=3"):
            wrappers.action_repeat(plain, 3)


# ---------------------------------------------------------------------------------------------------------------- registry


def test_names_and_own_environments():
    assert {"rlx:pendulum", "dmc:walker-walk", "mjx:walker-walk", "brax:ant"} <= set(rlx.envs.list())
    assert rlx.envs.list("rlx") == [n for n in rlx.envs.list() if n.startswith("rlx:")]
    rlx.envs.register("mine:counter", lambda limit=3: counter(limit))
    assert rlx.envs.make("mine:counter", limit=9).spec.horizon == 9
    for bad, words in (("pendulum", "prefix:task"), ("rlx:pendulun", "rlx:pendulum"), ("abc:x", "unknown")):
        with pytest.raises(ValueError, match=words):
            rlx.envs.make(bad)
    with pytest.raises(ValueError, match="prefix"):
        rlx.envs.register("rlx:mine", counter)
    with pytest.raises(ValueError, match="foo"):
        rlx.envs.make("rlx:pendulum", foo=1)


def test_to_row_zeroes_actions_of_the_dead():
    flag = np.array([True, False])
    step = Step(np.zeros((2, 1)), np.zeros(2), flag, ~flag & False, flag & False, {})
    row = to_row(step, np.ones((2, 3), np.float32), {}, np.ones(2, bool))
    np.testing.assert_array_equal(row.action, [[0, 0, 0], [1, 1, 1]])
