"""Agents that learn from data alone: formulas against float64 numpy, what they learn in seconds, and what a run must keep."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rlx.envs
from rlx import agents, replay
from rlx.agents import bc, iql, offline, offpolicy, rebrac, td3, td3_bc
from rlx.replay import datasets
from rlx.train import Options, population, run
from rlx.train.evaluate import evaluate_members
from rlx.types import Clock, Members, Problem, Step
from tests.train.toys import evaluations

from .numpy_nets import double, forward, heads, slopes
from .settings import AGENTS, dataset, neighbours, problem
from .test_sac import transitions

pytestmark = pytest.mark.usefixtures("all_bits")  # formulas are compared with float64, and programs with each other

NAMES = ("bc", "td3_bc", "iql", "rebrac")
M, N = 2, 4
QUIET = Options(progress=False, log_every=1, keep_best=True)
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)


def clock(updates):
    return Clock(*map(jnp.int32, (0, 0, updates)))


def small(name, given=None, **more):
    return agents.make(name, None, given or problem(name), **{"hidden": (5,), **more})


def started(agent, seed=1):
    """A state whose networks are far from where they begin."""
    state = agent.init(jax.random.key(seed), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    moved = lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size)).reshape(x.shape)
    nets = {k: jax.tree.map(moved, v) for k, v in state.learned.items() if k not in ("opt", "scales")}
    return state._replace(learned={**state.learned, **nets})


def q64(critics, obs, action):
    return [forward(c, np.concatenate([obs, action], -1))[:, 0] for c in heads(critics)]


# ----------------------------------------------------------------------------------------------------------------- the data


def episodes(*rewards, ends=True):
    """Episodes of one number, which counts on from 0, with these rewards of the arrivals."""
    out, t = [], 0
    for given in rewards:
        n = len(given) + 1
        obs = np.arange(t, t + n, dtype=np.float32)[:, None] * [1, 0]
        out.append(
            {"obs": obs, "action": np.zeros((n, 1)), "reward": np.r_[9, given], "terminated": (np.arange(n) == n - 1) & ends}
        )
        t += n
    return out


def test_returns_are_of_whole_episodes_and_the_best_are_kept():
    state = replay.from_episodes(episodes([1, 2], [5], [0, 0, -1]))
    np.testing.assert_array_equal(replay.episode_returns(state), [3, 5, -1])
    assert [int(e.obs[0, 0]) for e in replay.export(replay.best_episodes(state, 0.01))] == [3]  # one at least
    assert [len(e.reward) for e in replay.export(replay.best_episodes(state, 0.3))] == [3, 2]  # 2 of 9 rows are too few
    assert len(replay.export(replay.best_episodes(state, 1.0))) == 3
    doubled = replay.relabel(state, lambda rows: {"reward": 2 * rows.reward})
    np.testing.assert_array_equal(replay.episode_returns(doubled), [6, 10, -2])


def test_returns_follow_the_streams_of_a_ring_that_went_round():
    buffer = replay.ring(6, 2)
    row = jax.tree.map(lambda x: x[0, 0], replay.from_episodes(episodes([1])).data)
    row = row._replace(terminated=np.bool_(False), truncated=np.bool_(False), first=np.bool_(False), valid=np.bool_(True))
    state = buffer.init(row)
    for t in range(7):  # each stream ends after its 4th row; the second pays ten times as much
        flags = {k: jnp.full((1, 2), v) for k, v in (("first", t % 4 == 0), ("terminated", t % 4 == 3))}
        rows = jax.tree.map(lambda x: jnp.broadcast_to(x, (1, 2, *np.shape(x))), row)
        rows = rows._replace(reward=jnp.float32([[t, 10 * t]]), **flags)
        state = buffer.add(state, rows)
    # rows 2 to 6 are left: 2 and 3 of the first episode (what led to 2 is not of what is stored), 4 (a start), 5, 6
    np.testing.assert_array_equal(replay.episode_returns(state), [3, 11, 30, 110])


def test_units_of_the_data_by_hand(monkeypatch):
    monkeypatch.setattr(offline, "CHUNK", 4)
    state = replay.from_episodes(episodes([1, 2], [5], [0, 0, -1]))
    found = offline.scales(state, iql.Config(normalize_obs=True, normalize_returns=True))
    np.testing.assert_allclose(found.mean, [4, 0])
    np.testing.assert_allclose(found.std, [np.std(np.arange(9)) + 1e-3, 1e-3], rtol=1e-6)
    assert float(found.reward) == pytest.approx(1000 / 6)
    plain = offline.scales(state, iql.Config())
    assert (plain.mean == 0).all() and (plain.std == 1).all() and plain.reward == 1
    assert offline.scales(state, bc.Config()).mean[0] == 4  # a default of this agent
    batch = transitions()
    h = {"reward_scale": jnp.float32(2), "reward_shift": jnp.float32(-1)}
    seen = offline.scaled(batch, offline.Scales(jnp.float32([1, 2, 3, 4]), jnp.float32([2] * 4), jnp.float32(3)), h)
    close(seen.reward, 6 * double(batch.reward) - 1)
    close(seen.next_obs, (double(batch.next_obs) - [1, 2, 3, 4]) / 2)
    far = offline.scales(replay.from_episodes([{**e, "obs": e["obs"] + 1e6} for e in episodes([0] * 99)]), bc.Config())
    close(far.std[0], np.std(np.arange(100)) + 1e-3)  # no digits are lost


def test_units_of_mapped_data_without_reading_them_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "CHUNK", 4)
    given = episodes([1, 2], [5], [0, 0, -1])
    with datasets.Writer(tmp_path / "shards") as out:
        for episode in given:
            out.append([episode])
    state = datasets.mapped(tmp_path / "shards").replay(device=False)
    whole = replay.from_episodes(given)
    monkeypatch.setattr(type(state.data.obs), "__array__", lambda *_, **__: pytest.fail("all of it was read"))
    found = offline.scales(state, bc.Config())
    jax.tree.map(np.testing.assert_array_equal, found, offline.scales(whole, bc.Config()))
    assert found.mean[0] == 4


@pytest.mark.parametrize("name", NAMES)
def test_wrong_data_are_named(name):
    env = rlx.envs.make("rlx:point-mass")
    with pytest.raises(ValueError, match=f"{name} learns from data, and there are none: .*from_episodes.*--data FILE"):
        agents.make(name, None, Problem({"train": env}))
    with pytest.raises(ValueError, match="what is given is a dict"):
        agents.make(name, None, Problem({"train": env}, {"data": {}}))
    pendulum = dataset(rlx.envs.make("rlx:pendulum"))
    with pytest.raises(ValueError, match=r"obs of the data 'data' is float32\[3\]; that of rlx:point-mass is float32\[4\]"):
        agents.make(name, None, Problem({"train": env}, {"data": pendulum}))


def test_rewards_without_a_range_are_named():
    env = rlx.envs.make("rlx:point-mass")
    data = dataset(env)
    zero = data._replace(data=data.data._replace(reward=0 * data.data.reward))
    with pytest.raises(ValueError, match="all 5 episodes of the data have the return 0, so there is no range"):
        agents.make("iql", None, Problem({"train": env}, {"data": zero}), normalize_returns=True)


# ----------------------------------------------------------------------------------------------------------------- formulas


def test_expectiles_and_weights_by_hand():
    assert float(iql.expectile_loss(jnp.float32(2), 0.7)) == pytest.approx(2.8)
    assert float(iql.expectile_loss(jnp.float32(-2), 0.7)) == pytest.approx(1.2)
    v = jnp.linspace(0, 1, 1001)  # of targets 0 and 1
    loss = iql.expectile_loss(jnp.array([0.0, 1.0]) - v[:, None], 0.7).mean(1)
    assert float(v[jnp.argmin(loss)]) == pytest.approx(0.7)
    np.testing.assert_allclose(iql.imitation_weight(jnp.array([0.5, 2.0, 1e4]), 3.0), [4.4817, 100, 100], rtol=1e-5)
    steps = [float(iql.step_size({"actor_lr": 2.0, "lr_decay": d}, s)) for d in (1.0, 0.5) for s in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(steps, [2, 1, 0, 2, 1.5, 1], atol=1e-6)


def test_one_update_of_iql_equals_float64():
    """V, then the policy by the new V, then Q by the new V, then the targets; Adam's first step is that of the sign."""
    agent = small("iql", updates=1000, block=100, normalize_obs=True, expectile=0.8, actor_lr=0.04, critic_lr=0.02,
                  value_lr=0.03, tau=0.25, temperature=2.0, reward_shift=-1.0)  # fmt: skip
    state, batch = started(agent), transitions(3)
    old, scales = double(state.learned), double(state.learned["scales"])
    new, out = jax.jit(agent.stages[0].phases[0].update)(state, clock(250), batch, jax.random.key(0))
    obs, after = ((double(x) - scales.mean) / scales.std for x in (batch.obs, batch.next_obs))
    action = np.clip(double(batch.action), -1 + 1e-5, 1 - 1e-5)
    adam = lambda p, grads, lr: jax.tree.map(lambda p, g: p - lr * g / (np.abs(g) + 1e-8), p, double(grads))

    q = np.minimum(*q64(old["target"], obs, action))
    below = lambda params: q - forward(params, obs)[:, 0]
    v_loss = lambda params: (np.abs(0.8 - (below(params) < 0)) * below(params) ** 2).mean()
    grads = 10 * new.learned["opt"]["value"][0].mu["params"]["Dense_0"]["kernel"]  # Adam's first moment is a tenth
    assert np.abs(grads).max() > 1e-3
    moment = lambda name: jax.tree.map(lambda x: 10 * x, optax.tree.get(new.learned["opt"][name], "mu"))
    slopes(v_loss, old["value"], moment("value"))
    close(out.metrics["value/loss"], v_loss(old["value"]))
    value = adam(old["value"], moment("value"), 0.03)
    jax.tree.map(functools.partial(close, rtol=1e-3, atol=1e-5), new.learned["value"], value)

    weight = np.minimum(np.exp(2.0 * (q - forward(value, obs)[:, 0])), 100)

    def pi_loss(params):
        log_std = np.clip(params["log_std"], -5, 2)
        z = (action - np.tanh(forward(params["mean"], obs))) / np.exp(log_std)
        return -(weight * (-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)).mean()

    close(out.metrics["actor/loss"], pi_loss(old["actor"]), rtol=1e-3)
    close(out.metrics["actor/weight"], weight.mean(), rtol=1e-3)
    slopes(pi_loss, old["actor"], moment("actor"))
    lr = 0.04 * 0.5 * (1 + np.cos(np.pi * 0.25))  # 250 of 1000 updates are done
    jax.tree.map(functools.partial(close, rtol=1e-3, atol=1e-5), new.learned["actor"], adam(old["actor"], moment("actor"), lr))

    y = double(batch.reward) - 1 + double(batch.discount) * forward(value, after)[:, 0]
    q_loss = lambda critics: sum(((x - y) ** 2).mean() for x in q64(critics, obs, action))
    close(out.metrics["critic/loss"], q_loss(old["critics"]), rtol=1e-3)
    slopes(q_loss, old["critics"], moment("critics"))
    critics = adam(old["critics"], moment("critics"), 0.02)
    jax.tree.map(functools.partial(close, rtol=1e-3, atol=1e-5), new.learned["critics"], critics)
    target = jax.tree.map(lambda t, c: 0.75 * t + 0.25 * c, old["target"], critics)
    jax.tree.map(functools.partial(close, rtol=1e-3, atol=1e-5), new.learned["target"], target)


def test_layers_of_iql_begin_orthogonal():
    params = iql.networks((8, 8), 2).value.init(jax.random.key(0), jnp.zeros(8))["params"]
    for layer in params.values():
        w = double(layer["kernel"])
        np.testing.assert_allclose(w.T @ w, 2 * np.eye(w.shape[1]), atol=1e-5)
    learned = started(small("iql")).learned
    assert learned["actor"]["log_std"].shape == (M,)
    policy = offline.gaussian(iql.networks((5,), M).actor, {**learned["actor"], "log_std": jnp.float32([-9, 9])}, jnp.zeros(N))
    np.testing.assert_array_equal(policy.log_std, [-5, 2])


def test_losses_of_td3_bc_equal_float64():
    nets, batch, alpha = offpolicy.networks((5,), M), transitions(2), 2.5
    learned = started(small("td3_bc")).learned
    wide, obs, action = double(learned), double(batch.obs), double(batch.action)
    chosen = lambda actor: np.tanh(forward(actor, obs))
    q = lambda actor: q64(wide["critics"], obs, chosen(actor))[0]
    weight = alpha / np.abs(q(wide["actor"])).mean()  # a constant: the slope must not see it
    loss = lambda actor: -weight * q(actor).mean() + ((chosen(actor) - action) ** 2).mean()
    value, grads = jax.value_and_grad(td3_bc.actor_loss)(learned["actor"], nets, learned["critics"], batch, alpha)
    close(value, loss(wide["actor"]))
    slopes(loss, wide["actor"], grads)


def test_losses_of_rebrac_equal_float64():
    rows, key, nets = neighbours(), jax.random.key(3), rebrac.networks((5,), M)
    h = {k: jnp.float32(v) for k, v in {"critic_penalty": 0.7, "smoothing": 0.4, "smoothing_clip": 0.3}.items()}
    learned = started(small("rebrac")).learned
    batch, following, acted = rebrac.transitions(rows, jnp.float32(0.9))
    over = np.asarray(rows.terminated[1] | rows.truncated[1])
    np.testing.assert_array_equal(acted, ~over)
    close(batch.discount, 0.9 * ~np.asarray(rows.terminated[1]))
    assert rows.truncated[1].any() and not np.array_equal(batch.discount > 0, acted)  # a cut goes on, though nothing was done
    np.testing.assert_array_equal(batch.reward, rows.reward[1])

    apply = lambda net, params, *x: double(net.apply(params, jnp.concatenate(x, -1))[..., 0])  # layer norm is tested elsewhere
    noise = np.clip(0.4 * double(jax.random.normal(key, (6, M))), -0.3, 0.3)
    target = learned["target"]
    a = np.clip(np.tanh(forward(double(target["actor"]), double(batch.next_obs))) + noise, -1, 1)
    q = apply(nets.critics, target["critics"], batch.next_obs, jnp.float32(a)).min(0)
    away = np.where(over, 0, ((a - double(following)) ** 2).sum(-1))
    y = double(batch.reward) + double(batch.discount) * (q - 0.7 * away)
    close(rebrac.targets(nets, target, batch, following, acted, h, key), y)

    chosen = np.tanh(forward(double(learned["actor"]), double(batch.obs)))
    q = apply(nets.critics, learned["critics"], batch.obs, jnp.float32(chosen)).min(0)
    loss = 0.2 * ((chosen - double(batch.action)) ** 2).sum(-1).mean() - q.mean() / np.abs(q).mean()
    close(rebrac.actor_loss(learned["actor"], nets, learned["critics"], batch, jnp.float32(0.2)), loss)
    assert "LayerNorm_0" in learned["critics"]["params"] and "LayerNorm_0" not in learned["actor"]["params"]


@pytest.mark.parametrize("name", ["td3_bc", "rebrac"])
def test_delayed_updates_are_those_of_td3(name):
    """Critics move each time towards targets in the units asked for; actor and targets by turns."""
    agent = small(name, policy_delay=2, normalize_obs=True, reward_scale=3.0, critic_lr=0.02)
    state, key = started(agent), jax.random.key(2)
    batch, scales, h = AGENTS[name].batch(), state.learned["scales"], state.hyper
    update = jax.jit(agent.stages[0].phases[0].update)
    waited, moved = (update(state, clock(i), batch, key)[0].learned for i in (0, 1))
    same = lambda a, b: all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))
    assert same(waited["actor"], state.learned["actor"]) and not same(moved["actor"], state.learned["actor"])
    assert same(waited["target"], state.learned["target"]) and not same(moved["target"], state.learned["target"])
    assert same(waited["scales"], scales) and same(waited["critics"], moved["critics"])
    if name == "td3_bc":
        seen, nets = offline.scaled(batch, scales, h), offpolicy.networks((5,), M)
        y = td3.targets(nets, state.learned["target"], seen, h, key)
    else:
        one, following, acted = rebrac.transitions(batch, h["discount"])
        seen, nets = offline.scaled(one, scales, h), rebrac.networks((5,), M)
        y = rebrac.targets(nets, state.learned["target"], seen, following, acted, h, key)
    grads = jax.grad(offpolicy.critic_loss, has_aux=True)(state.learned["critics"], nets.critics, seen, y)[0]
    jax.tree.map(functools.partial(close, rtol=1e-3), optax.tree.get(waited["opt"]["critics"], "mu"),
                 jax.tree.map(lambda g: 0.1 * g, grads))  # fmt: skip


def test_losses_of_bc_equal_float64():
    agent = small("bc")
    learned, batch = started(agent).learned, transitions()
    wide, obs, action = double(learned["actor"]), double(batch.obs), double(batch.action)
    mean = lambda p: np.tanh(forward(p["mean"], obs))
    square = lambda p: ((mean(p) - action) ** 2).mean()
    z = lambda p: (action - mean(p)) / np.exp(p["log_std"])
    likelihood = lambda p: (0.5 * z(p) ** 2 + p["log_std"] + 0.5 * np.log(2 * np.pi)).sum(-1).mean()
    actor = iql.MLP((5, M))
    for wanted, gaussian in ((square, False), (likelihood, True)):
        (loss, error), grads = jax.value_and_grad(bc.loss, has_aux=True)(
            learned["actor"], actor, batch.obs, batch.action, gaussian
        )
        close([loss, error], [wanted(wide), square(wide)])
        slopes(wanted, wide, grads, every=5)


# ---------------------------------------------------------------------------------------------------------- what is learned


def collected(name, act, count=64):
    """A probe environment, and ``count`` episodes of it with actions ``act(obs, key)``."""
    env = rlx.envs.make(f"rlx:probe-{name}")

    def episode(key):
        def on(carry, key):
            state, step = carry
            action = act(step.obs, key)
            return env.step(env.params, state, action, key), (step, action)

        last, (steps, actions) = jax.lax.scan(on, env.reset(env.params, key), jax.random.split(key, env.spec.horizon))
        whole = lambda x, y: jnp.concatenate([x, y[None]])
        steps = jax.tree.map(whole, steps, last[1])
        return {
            "obs": steps.obs,
            "action": jnp.concatenate([actions, actions[-1:]]),
            "reward": steps.reward,
            "terminated": steps.terminated,
        }

    rows = jax.tree.map(np.asarray, jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(0), count)))
    data = replay.from_episodes([jax.tree.map(lambda x, i=i: x[i], rows) for i in range(count)])
    return Problem({"train": env}, {"data": data})


uniform = functools.partial(collected, act=lambda obs, key: jax.random.uniform(key, (1,), minval=-1.0, maxval=1.0))
QUICK = {
    "updates": 600,
    "block": 100,
    "batch": 64,
    "hidden": (32, 32),
    "actor_lr": 3e-3,
    "eval_every": 10**6,
    "eval_episodes": 20,
}
VALUES = {"critic_lr": 3e-3, "tau": 0.05}
SETTINGS = {
    "td3_bc": {**VALUES, "alpha": 20.0},
    "iql": {**VALUES, "value_lr": 1e-2, "expectile": 0.9, "temperature": 10.0},
    "rebrac": VALUES,
}


def acts(agent, learned, obs):
    no = jnp.zeros(len(obs), bool)
    return np.asarray(
        agent.act(learned, None, (), Step(jnp.float32(obs), 0.0 * no, no, no, ~no, {}), jax.random.key(0), "eval")[0]
    )


@pytest.mark.slow
@pytest.mark.parametrize("gaussian", [False, True])
def test_bc_does_what_the_data_did(gaussian):
    given = collected("match", lambda obs, key: 0.8 * obs[:1] + 0.1 * jax.random.normal(key, (1,)).clip(-1, 1))
    agent = agents.make("bc", None, given, gaussian=gaussian, **QUICK)
    learned = run(agent, given, 0, options=QUIET).agent
    np.testing.assert_allclose(acts(agent, learned, [[-1, 0], [1, 0]]), [[-0.8], [0.8]], atol=0.1)
    if gaussian:
        assert 0.03 < float(jnp.exp(learned.learned["actor"]["log_std"][0])) < 0.2


@pytest.mark.slow
def test_the_best_tenth_is_better_than_all():
    """Of uniform actions the best tenth are those near what is right."""
    given = uniform("match", count=300)
    agent = agents.make("bc", None, given, top=0.1, **QUICK)
    learned = run(agent, given, 0, options=QUIET).agent
    np.testing.assert_allclose(acts(agent, learned, [[-1, 0], [1, 0]]), [[-0.5], [0.5]], atol=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_values_find_actions_that_are_better_than_those_of_the_data(name):
    """Actions of the data are uniform; right is half of what is observed. Two step sizes side by side, of which one is 0."""
    given = uniform("match", count=300)
    agent = agents.make(name, None, given, **{**QUICK, **SETTINGS[name]})
    found = population(agent, given, 1, {"actor_lr": [3e-3, 0.0]}, options=QUIET)
    of_data = replay.episode_returns(given.data["data"]).mean()
    assert of_data < -0.5
    roots = jax.random.split(jax.random.key(1), 2)
    one, idle = evaluate_members(agent, given, found.state.agent, roots, 0, 6, 50)["returns"].mean(1)
    assert one > -0.08 and one > idle + 0.1
    np.testing.assert_allclose(acts(agent, found.member(0), [[-1, 0], [1, 0]]), [[-0.5], [0.5]], atol=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("probe", "value"), [("truncated", 5.0), ("delayed", 0.8)])
def test_values_go_on_at_time_limits_and_end_at_ends(name, probe, value):
    given = uniform(probe)
    agent = agents.make(name, None, given, **{**QUICK, **SETTINGS[name], "discount": 0.8})
    learned = run(agent, given, 0, options=QUIET).agent.learned
    obs = jnp.float32([[0.0 if probe == "truncated" else 1.0, 0.0]])
    critics = (rebrac if name == "rebrac" else offpolicy).networks((32, 32), 1).critics
    q = offpolicy.q_values(critics, learned["critics"], learned["scales"].obs(obs), jnp.zeros((1, 1)))
    np.testing.assert_allclose(q[:, 0], value, atol=0.15 * max(1, value))


# ------------------------------------------------------------------------------------------------------------------- runs

TINY = {"updates": 20, "block": 5, "batch": 8, "hidden": (4,), "eval_every": 5, "eval_episodes": 2}


@functools.cache
def tiny(name):
    env = rlx.envs.make("rlx:point-mass", time_limit=4)
    given = Problem({"train": env}, {"data": dataset(env)})
    more = {"bc": {"top": 0.5}, "iql": {"normalize_returns": True, "normalize_obs": True}}.get(name, {})
    return agents.make(name, None, given, **TINY, **more), given


class Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_resumed_cut_and_mapped_runs_agree(name, tmp_path):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), jnp.arange(2))
    go = lambda key, folder=None, **more: run(*tiny(name), key, folder, options=Options(**{**vars(QUIET), **more}))
    parts = lambda state: jax.tree.map(np.asarray, (state.agent, state.sources["data"].index, state.counts, state.best))
    solo = parts(go(keys[1]))
    same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
    same(solo, parts(go(keys[1], chunk_cycles=1, log_every=2)))

    def kill(report):
        raise Killed

    with pytest.raises(Killed):
        run(
            *tiny(name),
            keys[1],
            tmp_path,
            options=Options(**{**vars(QUIET), "checkpoint_cycles": 1}),
            callback=evaluations(kill),
        )
    same(solo, parts(go(keys[1], tmp_path, checkpoint_cycles=1)))
    both = go(Members(keys))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
                 solo[0].learned, jax.tree.map(lambda x: np.asarray(x[1]), both.agent.learned))  # fmt: skip
    assert any(not np.array_equal(x[0], x[1]) for x in jax.tree.leaves(both.agent.learned["actor"]))
    kept = np.sum(np.asarray(solo[1].flags) & 8 > 0)
    assert kept == (24 if name == "bc" else 40)  # 3 of 5 episodes are half of the rows


@pytest.mark.slow
def test_rows_in_host_memory_teach_the_same():
    agent, given = tiny("iql")
    rows = replay.export(given.data["data"])
    there = Problem(given.envs, {"data": replay.from_episodes(rows, device=False)})
    one, other = (run(agents.make("iql", agent.config, p), p, 3, options=QUIET).agent.learned for p in (given, there))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), one, other)


@pytest.mark.slow
def test_a_run_of_a_file_is_loaded_exported_and_goes_on(tmp_path):
    """What was computed over the data is in the checkpoint, and in the policy that leaves."""
    from rlx import export
    from rlx.cli import main
    from tests.export import laws

    env, file, folder = rlx.envs.make("rlx:point-mass"), tmp_path / "data.npz", tmp_path / "run"
    data = dataset(env)
    replay.datasets.write(file, replay.export(data))
    line = ["train", "iql", "--env", "rlx:point-mass", "--time-limit", "5", "--data", str(file), "--run-dir", str(folder),
            "--preset", "debug", "--agent.updates", "40", "--agent.hidden", "8", "--agent.normalize-obs", "--episodes", "2",
            "--no-video", "--no-progress"]  # fmt: skip
    assert main(line) == 0
    policy = rlx.load(folder, which="last")
    wanted = offline.scales(data, policy.agent.config)
    np.testing.assert_allclose(policy.state.learned["scales"].mean, wanted.mean, rtol=1e-6)
    obs = np.random.default_rng(0).normal(2, 3, (100, N)).astype(np.float32)
    actions = policy.act(obs, units="env")[0]
    assert actions.std() > 0.01
    assert laws.off(laws.run_numpy(export.to_numpy(policy, tmp_path / "law.py"))(obs), actions) < 1e-6
    assert main([*line, "--agent.updates", "60"]) == 0
    assert rlx.load(folder, which="last").cycle == 3
