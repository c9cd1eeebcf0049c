"""The agent as a whole: what trains what, runs that resume, populations, tasks and their evaluation, images, and questions."""

from __future__ import annotations

import functools
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents, replay
from rlx.agents.td_jepa import ZeroShot, actor, adapt, relabelled
from rlx.agents.td_jepa.config import Config
from rlx.agents.td_jepa.features import METHODS, Batch
from rlx.agents.td_jepa.features.base import predicted_next
from rlx.agents.td_jepa.method import Method, plan
from rlx.agents.td_jepa.method import shifted as images_shifted
from rlx.agents.td_jepa.report import watched
from rlx.agents.td_jepa.tasks import Tasks
from rlx.envs.control import pointmass_maze as maze
from rlx.envs.rewards import reward_of
from rlx.train import Options, run
from rlx.train.collect import collect, random
from rlx.types import Clock, Leaf, Members, Problem, Spec
from tests.test_precision import HIGHEST, at, traced

from .worlds import PICTURES, SHORT, SMALL, maze_rows

pytestmark = pytest.mark.usefixtures("all_bits")
CLOCK = Clock(*map(jnp.int32, (0, 0, 0)))
QUIET = Options(progress=False, log_every=1)


def problem(**data) -> Problem:
    return Problem({"train": rlx.envs.make("rlx:pointmass-maze", time_limit=6, task="loop")}, {"data": maze_rows(), **data})


@functools.cache
def made(features: str = "td_jepa", **settings):
    given = problem()
    return agents.make("td_jepa", None, given, **{**SHORT, "features": features, **settings}), given


def started(agent, seed=0):
    """Operation by operation: those of one shape are compiled once for all agents."""
    return agent.init(jax.random.key(seed), {k: jnp.float32(v) for k, v in agent.hyper.items()})


def sampled(agent, given, hyper):
    sampler = agent.report.method.features.sampler()
    return sampler(hyper, CLOCK, given.data, jax.random.key(5))


@functools.cache
def updated(features: str, **settings):
    """(agent, state before, state after one update, what it said)."""
    agent, given = made(features, **settings)
    state = started(agent)
    update = jax.jit(lambda s, k: agent.report.method.update(s, CLOCK, sampled(agent, given, s.hyper), k))
    return agent, state, *update(state, jax.random.key(3))


def moved(before, after) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))


# ------------------------------------------------------------------------------------------------------------ what trains what


@pytest.mark.slow
@pytest.mark.parametrize("features", METHODS)
def test_the_loss_of_each_method_trains_its_networks_and_no_others(features):
    agent, data = made(features)
    method, state = agent.report.method, started(agent)

    def slopes(state):
        batch = method.features.view(sampled(agent, data, state.hyper), state.hyper)
        given, _ = method.given(state.learned, batch, state.hyper, jax.random.key(1), jax.random.key(2))
        loss = lambda params, target: method.features.loss(method.net, params, given._replace(target=target))
        return jax.value_and_grad(loss, (0, 1), has_aux=True)(state.learned["params"], given.target)

    (total, said), (own, of_targets) = slopes(state)
    assert np.isfinite(total) and all(np.isfinite(x) for x in said.values())
    felt = {k for k, g in own.items() if any(np.any(x) for x in jax.tree.leaves(g))}
    assert felt == set(own) - {"actor"} - ({"psi"} if features == "random" else set())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(own))
    assert not any(np.any(x) for x in jax.tree.leaves(of_targets))
    assert set(state.learned["target"]) == {k for k in method.features.targets if k in own}


@pytest.mark.slow
def test_icvf_pays_one_on_arrival_and_looks_no_further():
    agent, data = made("icvf", same_goals=1.0, expectile=0.9)
    method, state = agent.report.method, started(agent)
    batch = method.features.view(sampled(agent, data, state.hyper), state.hyper)
    size = len(batch.more["reached"])
    batch = batch._replace(more={**batch.more, "reached": jnp.ones(size, bool)})
    given, _ = method.given(state.learned, batch, state.hyper, jax.random.key(1), jax.random.key(2))
    net, p = method.net, state.learned["params"]
    _, told = method.features.loss(net, p, given)

    def value(params):
        outcome = net.psi(params, net.see(p, "psi", batch.more["goal"]))
        seen = net.modules["state"].apply(params["state"], net.see(p, "psi", batch.obs))
        return np.asarray(net.modules["value"].apply(params["value"], seen, outcome, outcome), np.float64)

    better = 1 - value(given.target).mean(0) >= 0
    fit = 2 * (np.where(better, 0.9, 0.1) * (1 - value(p)) ** 2).mean()
    np.testing.assert_allclose(told["features/loss"], fit, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("features", "actor"), [("td_jepa", "gaussian"), ("hilp", "flow")])
def test_an_update(features, actor):
    agent, old, new, out = updated(features) if actor == "gaussian" else updated(features, actor=actor, bc=1.0)
    assert all(np.isfinite(v) for v in out.metrics.values())
    before, after = old.learned["params"], new.learned["params"]
    assert {k for k in before if moved(before[k], after[k])} == set(before)
    targets = old.learned["target"]
    for name in targets:  # a step of tau towards the new ones
        want = jax.tree.map(lambda t, p: t + 0.001 * (p - t), targets[name], after[name])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), new.learned["target"][name], want)
    assert not moved(old.learned["tasks"], new.learned["tasks"])
    assert moved(old.learned["mean"], new.learned["mean"]) == (features == "hilp")


def given_of(agent, state, data, z_key=1, **hyper):
    method = agent.report.method
    h = {**state.hyper, **{k: jnp.float32(v) for k, v in hyper.items()}}
    batch = method.features.view(sampled(agent, data, h), h)
    return method, method.given(state.learned, batch, h, jax.random.key(z_key), jax.random.key(2))[0]


@pytest.mark.slow
def test_gradients_go_where_they_should():
    agent, data = made()
    state = started(agent)
    method, given = given_of(agent, state, data)
    params = state.learned["params"]
    part = lambda p, name: method.features.loss(method.net, p, given)[1][name]
    slope = jax.jit(lambda p: {name: jax.grad(part)(p, name) for name in ("predictor/loss", "back/loss")})
    felt = {
        n: {k for k, g in parts.items() if any(np.any(x) for x in jax.tree.leaves(g))} for n, parts in slope(params).items()
    }
    assert felt == {"predictor/loss": {"phi", "predictor"}, "back/loss": {"psi", "back"}}


@pytest.mark.slow
def test_the_actor_alone_learns_by_its_loss():
    agent, data = made()
    state = started(agent)
    method, given = given_of(agent, state, data)
    learner, own = method.split(state.learned["params"])
    loss = lambda own, learner: actor.loss(
        own, method.net, learner, given.batch.obs, given.batch, given.z, given.hyper, jax.random.key(0)
    )[0]
    mine, others = jax.grad(loss, (0, 1))(own, learner)
    assert any(np.any(g) for g in jax.tree.leaves(mine)) and not any(np.any(g) for g in jax.tree.leaves(others))


@pytest.mark.slow
def test_z_are_goals_out_of_the_batch_as_often_as_asked():
    agent, data = made()
    state = started(agent)
    near = lambda z, on: np.abs(z[:, None] - on[None]).max(-1).min(1) < 1e-5
    for share in (1.0, 0.0):
        method, given = given_of(agent, state, data, goal_share=share)
        np.testing.assert_allclose(np.linalg.norm(given.z, axis=-1), 2, rtol=1e-5)
        psi = np.asarray(method.net.psi(state.learned["params"], given.batch.next_obs))
        assert near(np.asarray(given.z), psi).all() if share else not near(np.asarray(given.z), psi).any()


def test_without_a_future_targets_know_neither_z_nor_their_predictor():
    agent, data = made()
    state = started(agent)
    state = state._replace(learned={**state.learned, "moment": jnp.eye(4)})
    (method, one), (_, two) = (given_of(agent, state, data, z_key=k, discount=0.0) for k in (1, 2))
    assert moved(one.z, two.z)
    y = lambda x, target: (
        method.net.psi(target, x.next_psi) + x.discount * predicted_next(method.net, x._replace(target=target))
    )
    base = y(one, one.target)
    np.testing.assert_array_equal(base, y(two, one.target))
    other = {**one.target, "predictor": jax.tree.map(lambda p: p + 1, one.target["predictor"])}
    np.testing.assert_array_equal(base, y(one, other))


@pytest.mark.slow
def test_the_update_is_in_the_order_of_the_outline():
    """z and the moment by the old networks, the actor by the new ones."""
    data = made()[1]
    agent, old, new, out = updated("td_jepa")
    method, state = agent.report.method, old
    drawn = sampled(agent, data, state.hyper)
    psi = method.net.psi(old.learned["params"], drawn.obs)
    moment = 0.995 * np.eye(4) + 0.005 * np.asarray(psi).T @ np.asarray(psi) / 16
    np.testing.assert_allclose(new.learned["moment"], moment, rtol=1e-4, atol=1e-6)

    k_shift, k_z, k_next, k_act = jax.random.split(jax.random.key(3), 4)
    batch = method.features.view(drawn, state.hyper)
    given, _ = method.given(old.learned, batch, state.hyper, k_z, k_next)
    own = method.split(old.learned["params"])[1]
    learner = method.split(new.learned["params"])[0]
    _, told = actor.loss(own, method.net, learner, drawn.obs, batch, given.z, state.hyper, k_act)
    np.testing.assert_allclose(out.metrics["actor/q_mean"], told["actor/q_mean"], rtol=1e-4)
    stale = method.split(old.learned["params"])[0]
    _, before = actor.loss(own, method.net, stale, drawn.obs, batch, given.z, state.hyper, k_act)
    assert abs(before["actor/q_mean"] - told["actor/q_mean"]) > 1e-3 * abs(told["actor/q_mean"])


@pytest.mark.slow
def test_a_scan_of_updates_is_as_many_calls_and_each_is_deterministic():
    agent, data = made()
    state, method = started(agent), agent.report.method
    one = lambda s, k: method.update(s, CLOCK, sampled(agent, data, s.hyper), k)[0]
    keys = jax.random.split(jax.random.key(0), 10)
    step, scan = jax.jit(one), jax.jit(lambda s: jax.lax.scan(lambda s, k: (one(s, k), None), s, keys)[0])
    singly = state
    for k in keys:
        singly = step(singly, k)
    whole = scan(state)
    jax.tree.map(np.testing.assert_array_equal, whole, scan(state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), whole.learned, singly.learned)


# --------------------------------------------------------------------------------------------------------------------- runs


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def solo():
    """One run with all it wrote: (state, lines)."""
    lines = []
    return run(*made(), 7, options=QUIET, callback=lambda line, state: lines.append(dict(line))), lines


@pytest.mark.slow
def test_a_run_says_what_it_should_and_keeps_the_z_of_each_task(solo):
    state, lines = solo
    evals = [line for line in lines if line["kind"] == "eval"]
    assert [int(line["updates"]) for line in evals] == [4, 8]
    each = [float(evals[-1][f"return/{name}"]) for name in maze.TASKS]
    np.testing.assert_allclose(np.mean(each), evals[-1]["return_mean"], rtol=1e-5)
    assert len(set(each)) == 8 and evals[-1]["returns"].shape == (16,)
    train = [line for line in lines if line["kind"] == "train"][-1]
    assert train["psi/off_diagonal"] > 0 and 1 <= train["psi/participation"] <= 4 and train["psi/eigenvalue_ratio"] >= 1
    z = np.asarray(state.agent.learned["tasks"])
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 2, rtol=1e-5)


@pytest.mark.slow
def test_the_batch_of_all_tasks_is_each_task_by_itself(solo):
    """One task's episodes, on an environment of its own with the same keys, return the same."""
    state, lines = solo
    agent, given = made()
    returns = lines[-1]["returns"] if lines[-1]["kind"] == "eval" else [x for x in lines if x["kind"] == "eval"][-1]["returns"]
    [ev] = agent.evals
    assert list(ev.context) == sorted(ev.context) and ev.parts == tuple(maze.TASKS)
    env = rlx.envs.make("rlx:pointmass-maze", time_limit=6, task="fast_slow")
    vec = rlx.envs.batch(env, 16, ends="stop")
    key = rlx.keys.fold(rlx.keys.root(7), "eval", ev.name)
    z = state.agent.learned["tasks"][list(maze.TASKS).index("fast_slow")]
    begun = rlx.envs.begin(vec, env.params, agent.carry(state.agent, 16, z), rlx.keys.fold(key, "reset"))
    policy = lambda carry, step, k: agent.act(state.agent, CLOCK, carry, step, k, "eval")
    rows = rlx.envs.rollout(vec, env.params, policy, begun, key, 7)[1]
    np.testing.assert_allclose(rows.reward.sum(0)[-2:], returns[-2:], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_bits(solo, tmp_path):
    def kill(line, state):
        if line["kind"] == "eval":
            raise Killed

    options = Options(progress=False, checkpoint_cycles=1)
    with pytest.raises(Killed):
        run(*made(), 7, tmp_path, options=options, callback=kill)
    again = run(*made(), 7, tmp_path, options=options)
    jax.tree.map(np.testing.assert_array_equal, solo[0].agent, again.agent)
    agent, _ = made()
    [page] = agent.report(again.agent, tmp_path)
    told = json.loads(page.read_text())
    np.testing.assert_allclose(told["tasks"]["loop"], again.agent.learned["tasks"][list(maze.TASKS).index("loop")], rtol=1e-6)


@pytest.mark.slow
def test_a_population_of_seeds_and_settings_is_one_program_with_the_results_of_each(solo):
    keys = jnp.stack([rlx.keys.root(7), rlx.keys.root(8)])
    both = run(*made(), Members(keys, {"lambda_psi": jnp.array([0.1, 1.0])}), options=QUIET)
    mine = jax.tree.map(lambda x: x[0], both.agent)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        mine.learned["params"],
        solo[0].agent.learned["params"],
    )
    assert moved(*(jax.tree.map(lambda x, m=m: x[m], both.agent.learned["tasks"]) for m in (0, 1)))


def test_budgets_are_whole_intervals():
    assert plan(Config(eval_every=250_000, per_cycle=250), 1_000) == (250, 4, 4)
    assert plan(Config(eval_every=300, per_cycle=100), 1_000) == (100, 3, 12)
    assert plan(Config(eval_every=4, per_cycle=250), 10) == (4, 1, 3)
    agent, _ = made(adapt=6)
    assert [(s.name, s.cycles, s.phases[0].n) for s in agent.stages] == [("pretrain", 4, 2), ("adapt", 4, 2)]
    assert [(e.name, e.stages, e.every) for e in agent.evals] == [("tasks", ("pretrain",), 2), ("adapt", ("adapt",), 2)]
    assert [s.name for s in made(adapt=6, updates=0)[0].stages] == ["adapt"]


# ---------------------------------------------------------------------------------------------------------------- adaptation


def test_z_of_an_adaptation_has_the_largest_reward_as_its_squared_norm():
    z = adapt.scaled(jnp.array([3.0, 4.0]), jnp.float32(0.25))
    np.testing.assert_allclose(z, [0.3, 0.4], rtol=1e-6)
    assert np.isfinite(adapt.scaled(jnp.zeros(2), jnp.float32(-1))).all()


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_an_adaptation_is_td3_of_the_own_task(frozen):
    agent, given = made(adapt=6, updates=0, adapt_frozen=frozen, lr_actor=0.01, lr_predictor=0.01, tau=0.5)
    [stage] = agent.stages
    state, method = started(agent), agent.report.method
    state = state._replace(learned={**state.learned, "tasks": jnp.eye(8, 4) + 0.5})
    state = jax.jit(lambda s: stage.enter(s, given.data, jax.random.key(0)))(state)
    rows = given.data["data"].data
    score = maze.SCORES["loop"]
    most = np.asarray(score(np, np.asarray(rows.obs)[1:, 0], np.asarray(rows.action)[:-1, 0])).max()
    z = np.asarray(state.learned["adapted"])
    np.testing.assert_allclose((z**2).sum(), most, rtol=1e-5)
    np.testing.assert_allclose(agent.carry(state, 2).z, np.stack([z, z]))

    phase = stage.phases[0]
    drawn = phase.sample(state.hyper, CLOCK, given.data, jax.random.key(5))
    update = jax.jit(phase.update)
    waited, out = update(state, CLOCK, drawn, jax.random.key(1))
    turned, _ = update(waited, CLOCK._replace(updates=jnp.int32(1)), drawn, jax.random.key(2))
    change = lambda a, b: {k for k in a.learned["params"] if moved(a.learned["params"][k], b.learned["params"][k])}
    assert change(state, waited) == ({"predictor"} if frozen else {"predictor", "phi"})
    assert change(waited, turned) == change(state, waited) | {"actor"}
    assert not moved(state.learned["target"], waited.learned["target"]) and moved(
        waited.learned["target"], turned.learned["target"]
    )

    net, p, target = method.net, state.learned["params"], {**state.learned["params"], **state.learned["target"]}
    wide = np.broadcast_to(z, (16, 4))
    k_next = jax.random.split(jax.random.key(1), 3)[1]
    mean = np.asarray(net.pi(p, net.phi(target, drawn.next_obs), wide))
    action = np.clip(mean + np.clip(0.2 * np.asarray(jax.random.normal(k_next, mean.shape)), -0.5, 0.5), -1, 1)
    q = lambda p, obs, a: (np.asarray(net.predict(p, net.phi(p, obs), wide, a)) * z).sum(-1)
    reward = score(np, np.asarray(drawn.next_obs), np.asarray(drawn.action))
    y = reward + np.asarray(drawn.discount) * q(target, drawn.next_obs, action).min(0)
    np.testing.assert_allclose(out.metrics["critic/loss"], ((q(p, drawn.obs, drawn.action) - y) ** 2).mean(-1).sum(), rtol=1e-4)


@pytest.mark.slow
def test_an_adaptation_from_nothing_begins_with_a_direction_at_random():
    agent, given = made(adapt=6, updates=0)
    enter = agent.stages[0].enter
    one, two = (np.asarray(enter(started(agent), given.data, jax.random.key(i)).learned["adapted"]) for i in (0, 1))
    np.testing.assert_allclose([(one**2).sum(), (two**2).sum()], enter.__self__.most, rtol=1e-5)
    assert np.abs(one - two).max() > 1e-2


def test_rewards_that_z_cannot_be_scaled_to_are_warned_of():
    data = maze_rows()
    data = data._replace(data=data.data._replace(reward=-jnp.abs(data.data.reward) - 1))
    given = Problem({"train": rlx.envs.make("rlx:point-mass", time_limit=5)}, {"data": data})
    with pytest.warns(UserWarning, match=r"largest reward in the data is -1.*with reward_shift=0.5 -0.* larger reward_shift"):
        agents.make("td_jepa", None, given, **SHORT, adapt=2, reward_shift=0.5)


@pytest.mark.slow
def test_a_run_adapts_after_it_has_learned():
    lines = []
    agent, given = made(adapt=4, updates=4)
    state = run(agent, given, 0, options=QUIET, callback=lambda line, state: lines.append(dict(line)))
    assert [line["eval"] for line in lines if line["kind"] == "eval"] == ["tasks", "adapt"]
    assert np.isfinite(state.agent.learned["adapted"]).all()


def test_adapting_online_acts_for_a_while_and_then_once_an_update():
    agent, _ = made(adapt=6, updates=0, adapt_online=True, adapt_prefill=5, n_envs=2)
    first, later = agent.stages
    assert [(p.env, p.steps, p.into) for p in (first.phases[0], later.phases[0])] == [
        ("train", 3, "replay"),
        ("train", 1, "replay"),
    ]
    assert (later.cycles, later.phases[1].n, agent.buffers["replay"].capacity) == (4, 2, 3 + 4 + 1)
    assert agent.evals[0].stages == ("prefill", "adapt")
    assert made(adapt=6, adapt_online=True, adapt_capacity=6_000)[0].buffers["replay"].capacity == 5_000 + 8 + 1
    with pytest.raises(ValueError, match="adapt_capacity=4_?000 does not hold"):
        made(adapt=6, adapt_online=True, adapt_capacity=4_000)
    with pytest.raises(ValueError, match="adapt=0 does none"):
        made(adapt_online=True)


@pytest.mark.slow
def test_adapting_online_learns_half_of_what_the_policy_does_for_its_own_task():
    still = {"adapt_frozen": True, "lr_actor": 0.0, "actor_std": 0.0}
    agent, given = made(adapt=4, updates=0, adapt_online=True, adapt_prefill=8, n_envs=2, **still)
    lines, begun = [], started(agent)
    begun = begun._replace(learned={**begun.learned, "tasks": jnp.eye(8, 4) + 0.5})
    note = lambda line, state: lines.append(dict(line))
    state = run(agent, given, 0, init_from=begun, options=QUIET, callback=note)
    assert [line["eval"] for line in lines if line["kind"] == "eval"] == [
        "adapt",
        "adapt",
    ]  # before the first update, after all
    assert int(state.counts["env_steps"]) == 8 + 4 and int(state.counts["updates"]) == 4
    learned, net = state.agent.learned, agent.report.method.net
    own = [rows for rows in agent.buffers["replay"].export(state.sources["replay"])]
    obs, action = (np.concatenate([np.asarray(x)[:-1] for x in (getattr(e, k) for e in own)]) for k in ("obs", "action"))
    z = np.broadcast_to(learned["adapted"], (len(obs), 4))
    np.testing.assert_allclose(action, net.pi(learned["params"], net.phi(learned["params"], obs), z), atol=1e-5)

    drawn = agent.stages[-1].phases[1].sample(state.agent.hyper, CLOCK, {**given.data, **state.sources}, jax.random.key(0))
    of_data, mine = (np.asarray(drawn.index[k].t) >= 0 for k in ("data", "replay"))
    np.testing.assert_array_equal(of_data, np.arange(16) < 8)
    np.testing.assert_array_equal(mine, ~of_data)
    assert {tuple(x) for x in np.asarray(drawn.obs)[mine]} <= {tuple(x) for x in obs}


# --------------------------------------------------------------------------------------------------------------------- tasks


def host_phase(agent):
    return agent.stages[0].phases[1].fn


def inferred(agent, data, key=0):
    state = started(agent)
    return host_phase(agent)(jax.tree.map(np.asarray, state), jax.tree.map(np.asarray, data), jax.random.key(key))[0]


def test_z_of_the_environments_tasks_is_the_regression_of_their_scores():
    agent, given = made()
    state = inferred(agent, given.data)
    method = agent.report.method
    obs, rewards = method.tasks.samples(method.config, state.hyper, given.data, jax.random.key(0))
    assert rewards.shape == (8, 64)
    assert {tuple(x) for x in obs} <= {tuple(x) for x in np.asarray(given.data["data"].data.obs)[:, 0]}
    psi = np.float64(method.net.psi(state.learned["params"], obs))
    w = np.linalg.pinv(psi) @ rewards.T
    np.testing.assert_allclose(state.learned["tasks"], 2 * (w / np.linalg.norm(w, axis=0)).T, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_given_rewards_and_those_of_the_data_come_before_nothing():
    data = problem().data["data"]
    rows = np.arange(9)
    own = {"tasks": {"index": (rows, np.zeros(9, int)), "rewards": {"up": rows * 1.0, "down": -rows * 1.0}}}
    given = problem(**own)
    agent = agents.make("td_jepa", None, given, **SHORT)
    assert agent.report.method.tasks.names == ("down", "up") and agent.evals == ()
    z = inferred(agent, given.data).learned["tasks"]
    np.testing.assert_allclose(z[0], -z[1], rtol=1e-4)
    obs, _ = agent.report.method.tasks.samples(agent.config, {}, given.data, jax.random.key(0))
    np.testing.assert_array_equal(obs, np.asarray(data.data.obs)[1:10, 0])

    plain = Problem({"train": rlx.envs.make("rlx:point-mass", time_limit=5)}, {"data": data})
    agent = agents.make("td_jepa", None, plain, **SHORT)
    assert agent.report.method.tasks.names == ("reward",) and [e.name for e in agent.evals] == ["reward"]
    assert np.linalg.norm(inferred(agent, plain.data).learned["tasks"]) == pytest.approx(2, rel=1e-5)


def test_rewards_of_stored_physics_are_tasks():
    env = rlx.envs.make("rlx:pointmass-maze", time_limit=8, physics=True)
    data = replay.from_episodes(collect(random(env.spec), env, 40, 5))
    paid = {name: reward_of("rlx:pointmass-maze", task=name) for name in ("loop", "fast_slow")}
    tasks = relabelled(data, paid, n=30)
    t, w = tasks["index"]
    rows = data.data
    for name, found in tasks["rewards"].items():
        np.testing.assert_allclose(
            found, maze.SCORES[name](np, np.asarray(rows.obs)[t + 1, w], np.asarray(rows.action)[t, w]), atol=1e-5
        )
    agent = agents.make("td_jepa", None, Problem({"train": env, "loop": env}, {"data": data, "tasks": tasks}), **SHORT)
    assert agent.report.method.tasks.names == ("fast_slow", "loop") and [e.name for e in agent.evals] == ["loop"]
    with pytest.raises(ValueError, match="no physics"):
        relabelled(maze_rows(), paid)


@pytest.mark.slow
def test_an_environment_on_the_host_is_evaluated_on_its_own_task():
    env = rlx.envs.make("rlx:pointmass-maze", time_limit=4, task="loop", host=True)
    given, lines = Problem({"train": env}, {"data": maze_rows()}), []
    agent = agents.make("td_jepa", None, given, **{**SHORT, "updates": 2})
    assert len(agent.report.method.tasks.names) == 8 and [e.name for e in agent.evals] == ["loop"]
    run(agent, given, 0, options=QUIET, callback=lambda line, state: lines.append(dict(line)))
    assert [line["returns"].shape for line in lines if line["kind"] == "eval"] == [(2,)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1, 2], "are list of another form: give"),
        ({"index": (np.arange(3), np.zeros(3)), "rewards": np.zeros(3)}, "dict of another form: give"),
        ({"index": (np.arange(3),), "rewards": {"up": np.zeros(3)}}, "dict of another form: give"),
        ({"index": (np.arange(0), np.arange(0)), "rewards": {"up": np.zeros(0)}}, "have shapes .* one length"),
        ({"index": (np.arange(3), np.zeros(3)), "rewards": {"up": ["a"] * 3}}, "tasks up are not all finite"),
        ({"index": (np.arange(3), np.zeros(3)), "rewards": {"up": np.zeros(3)}}, "no transitions of the dataset"),
        ({"index": (np.arange(3) + 70, np.zeros(3, int)), "rewards": {"up": np.zeros(3)}}, "no transitions of the dataset"),
        ({"index": (np.arange(10, 13), np.zeros(3, int)), "rewards": {"up": np.zeros(3)}}, "dataset, rows .72, 1."),
        ({"index": (np.arange(3), np.zeros(3)), "rewards": {"up": np.zeros(4)}}, "have shapes .* one length"),
        ({"index": (np.arange(3), np.zeros(3)), "rewards": {"up": np.array([0, np.nan, 1])}}, "tasks up are not all finite"),
    ],
)
def test_bad_rewards_are_named(given, words):
    with pytest.raises(ValueError, match=words):
        agents.make("td_jepa", None, problem(tasks=given), **SHORT)


def test_missing_data_are_named():
    small = rlx.envs.make("rlx:pointmass-maze", pixels="sdf", image=12, state=False)
    with pytest.raises(ValueError, match=r"at least 15 wide and high; these are \(12, 12\)"):
        Method.of(Config(), small.spec, Tasks((), 0))
    both = Spec({"pixels": small.spec.obs, "state": Leaf((4,))}, small.spec.action)
    with pytest.raises(ValueError, match=r"has pixels uint8\[12, 12, 3\], state .*--env-option state=false"):
        Method.of(Config(), both, Tasks((), 0))
    with pytest.raises(ValueError, match="td_jepa learns from data, and there are none"):
        agents.make("td_jepa", None, Problem({"train": rlx.envs.make("rlx:pointmass-maze")}), **SHORT)
    with pytest.raises(ValueError, match="obs of the data"):
        agents.make("td_jepa", None, Problem({"train": rlx.envs.make("rlx:pendulum")}, {"data": maze_rows()}), **SHORT)


def test_a_task_without_rewards_is_warned_of():
    rows = np.arange(4), np.zeros(4, int)
    given = problem(tasks={"index": rows, "rewards": {"none": np.zeros(4)}})
    with pytest.warns(UserWarning, match="'none': all rewards in the sample are 0"):
        state = inferred(agents.make("td_jepa", None, given, **SHORT), given.data)
    assert not state.learned["tasks"].any()


@pytest.mark.slow
def test_features_are_held_to_what_their_encoders_can(monkeypatch):
    """Where the loss spreads them, and an encoder has layers: by default that of states is linear."""
    seen = []
    monkeypatch.setattr("rlx.agents.td_jepa.method.watched", lambda psi, phi, *of: seen.append(of) or watched(psi, phi, *of))
    agent, given = made()
    inferred(agent, given.data)
    assert seen == [(("psi", "phi"), ("phi",))]
    of = lambda features, **settings: made(features, **settings)[0].report.method
    assert of("td_jepa", phi_layers=1, psi_layers=0).linear == ("psi",)
    assert [of(name).features.orthonormal for name in ("symmetric", "fb", "hilp")] == [("psi",), ("psi",), ()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["psi", "phi"])
def test_nothing_is_inferred_where_networks_have_diverged(name):
    agent, given = made()
    state = jax.tree.map(np.asarray, started(agent))
    params = {**state.learned["params"], name: jax.tree.map(lambda x: x * np.nan, state.learned["params"][name])}
    state = state._replace(learned={**state.learned, "params": params})
    assert host_phase(agent)(state, jax.tree.map(np.asarray, given.data), jax.random.key(0))[0] is state


# ------------------------------------------------------------------------------------------------------------------- images


def test_the_two_images_of_a_transition_are_shifted_each_by_its_own_draw():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 9, 9, 3)).astype(np.uint8)
    batch = Batch(image, np.zeros((40, 2)), image, np.ones(40))
    found = images_shifted(batch, jax.random.key(0), 2)
    padded = np.pad(image, ((0, 0), (2, 2), (2, 2), (0, 0)), "edge")
    every = np.stack([padded[:, i : i + 9, j : j + 9] for i in range(5) for j in range(5)])
    which = [(every == np.asarray(x)).all((2, 3, 4)).argmax(0) for x in (found.obs, found.next_obs)]
    assert all((every == np.asarray(x)).all((2, 3, 4)).any(0).all() for x in (found.obs, found.next_obs))
    assert (which[0] == which[1]).mean() < 0.2 and len(set(which[0].tolist())) > 10  # alike in one of 25


def dots(length: int, rng) -> dict[str, np.ndarray]:
    """An episode of pictures [T, 16, 16, 3]: a dot that walks at random on black."""
    place = np.clip(np.cumsum(rng.normal(scale=1.5, size=(length, 2)), 0) + rng.uniform(3, 13, 2), 1, 14)
    near = np.abs(np.arange(16) - place[..., None]) < 2
    image = 255 * (near[:, 0, :, None] & near[:, 1, None]).astype(np.uint8)
    action = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
    end = {"reward": np.ones(length, np.float32), "terminated": np.zeros(length, bool)}
    return {"obs": np.repeat(image[..., None], 3, -1), "action": action, **end}


@pytest.mark.slow
def test_images_are_shifted_stacked_and_carried():
    """And features, that hardly tell such pictures apart when they begin, spread while it learns."""
    env = rlx.envs.make(PICTURES, size=16)
    rng = np.random.default_rng(0)
    given = Problem({"train": env}, {"data": replay.from_episodes(dots(9, rng) for _ in range(8))})
    settings = {**SMALL, "inference": 8, "frames": 3, "pad": 2, "target_trunk": True, "lambda_phi": 1.0, "lambda_psi": 1.0}
    rates = dict.fromkeys(("lr_phi", "lr_psi", "lr_predictor", "lr_actor"), 1e-3)
    agent = agents.make("td_jepa", None, given, **settings, **rates)
    state, method = started(agent), agent.report.method
    assert {"trunk_phi", "trunk_psi"} <= set(state.learned["target"])
    drawn = sampled(agent, given, state.hyper)
    assert drawn.obs.shape == (16, 16, 16, 9) and drawn.obs.dtype == jnp.uint8
    update, lines = jax.jit(method.update), []
    new, out = update(state, CLOCK, drawn, jax.random.key(0))
    assert all(moved(state.learned["params"][k], new.learned["params"][k]) for k in state.learned["params"])
    for key in jax.random.split(jax.random.key(1), 30):
        lines.append(out.metrics)
        new, out = update(new, CLOCK, drawn, key)
    assert all(np.isfinite(v) for line in lines for v in line.values())
    for name in ("psi/off_diagonal", "phi/off_diagonal"):
        assert np.mean([line[name] for line in lines[-3:]]) < 0.8 * np.mean([line[name] for line in lines[:3]])
    state = inferred(agent, given.data)
    assert np.isfinite(state.learned["tasks"]).all()

    vec = rlx.envs.batch(env, 2)
    begun = rlx.envs.begin(vec, env.params, agent.carry(state, 2), jax.random.key(0))
    policy = lambda carry, step, k: agent.act(state, CLOCK, carry, step, k, "eval")
    after, rows, _ = rlx.envs.rollout(vec, env.params, policy, begun, jax.random.key(1), 3)
    np.testing.assert_array_equal(after.carry.frames, np.concatenate(list(rows.obs), -1))


# ---------------------------------------------------------------------------------------------------------------- questions


@pytest.fixture(scope="module")
def asked():
    agent, given = made()
    return ZeroShot(agent, inferred(agent, given.data))


@pytest.mark.slow
def test_questions_are_answered_with_z_on_the_sphere(asked):
    rng = np.random.default_rng(0)
    obs = rng.uniform(-0.28, 0.28, (200, 4)).astype(np.float32)
    reward = maze.SCORES["loop"](np, obs, np.zeros((200, 2)))
    psi = asked.features(obs)
    z = asked.infer_reward(obs, reward)
    np.testing.assert_allclose(z, 2 * (w := np.linalg.lstsq(psi, reward, rcond=None)[0]) / np.linalg.norm(w), rtol=1e-3)
    goal = asked.infer_goal(obs[0], scaled=False)
    np.testing.assert_allclose(goal, psi[0], rtol=1e-4)
    assert np.linalg.norm(asked.infer_goal(obs[0])) == pytest.approx(2)
    among = np.linalg.solve(np.float64(psi[:80]).T @ psi[:80], psi[0])
    np.testing.assert_allclose(asked.infer_goal(obs[0], samples=obs[:80]), 2 * among / np.linalg.norm(among), rtol=1e-3)
    counts = rng.integers(0, 3, 200)
    often, moved = np.repeat(np.arange(200), counts), np.c_[psi, np.ones(200)]
    same = np.linalg.lstsq(moved[often], reward[often], rcond=None)[0][:4]
    how = {"weights": counts, "bias": True}
    np.testing.assert_allclose(asked.infer_reward(obs, reward - 9, **how), 2 * same / np.linalg.norm(same), rtol=1e-3)
    pairs = obs[:60].reshape(10, 6, 4), obs[60:120].reshape(10, 6, 4)
    assert np.linalg.norm(asked.infer_preferences(pairs, np.r_[np.ones(5), np.zeros(4), 0.5])) == pytest.approx(2)
    np.testing.assert_allclose(np.linalg.norm(asked.sample_z(jax.random.key(0), 5), axis=-1), 2, rtol=1e-5)
    assert set(asked.tasks) == set(maze.TASKS)
    action = asked.act(obs, z)
    assert action.shape == (200, 2) and np.abs(action).max() <= 1
    np.testing.assert_array_equal(action, asked.act(obs, z, key=1))
    noisy = asked.act(obs, z, key=1, mode="explore")
    assert (noisy != action).any() and np.abs(noisy).max() <= 1
    carry = asked.agent.carry(asked.state, 200, jnp.float32(z))
    no = jnp.zeros(200, bool)
    step = rlx.types.Step(obs, jnp.zeros(200), no, no, no, {})
    np.testing.assert_allclose(asked.agent.act(asked.state, CLOCK, carry, step, None, "eval")[0], action, atol=1e-6)


@pytest.mark.slow
def test_the_policy_of_one_z_leaves_as_a_file(asked, tmp_path):
    agent, given = made()
    z = asked.sample_z(jax.random.key(4), 1)[0]
    policy = rlx.train.Policy(asked.agent_for(z), asked.state, given)
    rlx.export.to_numpy(policy, tmp_path / "maze.py")
    spec = importlib.util.spec_from_file_location("maze_policy", tmp_path / "maze.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    obs = np.float32(np.random.default_rng(0).uniform(-0.2, 0.2, (9, 4)))
    np.testing.assert_allclose(module.act(obs), asked.act(obs, z), atol=1e-5)
    assert policy.carry(3) == ()


def test_networks_follow_the_default_precision_and_statistics_are_exact():
    agent, data = made()
    state = jax.eval_shape(agent.init, jax.random.key(0), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    drawn = jax.eval_shape(lambda h: sampled(agent, data, h), state.hyper)
    update = traced(lambda s, b: agent.report.method.update(s, CLOCK, b, jax.random.key(0)), state, drawn, default=None)
    assert set(update) == {None, HIGHEST}
    obs = jax.ShapeDtypeStruct((2, 4), np.float32)
    assert set(
        traced(lambda s, o: agent.act(s, CLOCK, agent.carry(s, 2), at(o), None, "eval")[0], state, obs, default=None)
    ) == {None}


def shifted(asked, shift):
    hyper = {**asked.state.hyper, "reward_shift": jnp.float32(shift)}
    return ZeroShot(asked.agent, asked.state._replace(hyper=hyper))


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda q, o: q.infer_reward(o, np.ones(3)), r"one reward for each of 8 samples; got \[3\]"),
        (lambda q, o: q.infer_reward(o, np.full(8, np.nan)), "8 of 8 rewards are not finite"),
        (lambda q, o: q.infer_reward(o, np.zeros(8)), "all rewards are 0"),
        (lambda q, o: shifted(q, 1.0).infer_reward(o, np.zeros(8)), "all rewards are 0, which"),
        (lambda q, o: shifted(q, 1.0).infer_reward(o, -np.ones(8)), "all rewards are -1, with reward_shift=1 0, which"),
        (lambda q, o: q.infer_reward(o[:, :3], np.ones(8)), r"observations here are \[N, 4\]; got \[8, 3\]"),
        (lambda q, o: q.act(o[0], q.tasks["square"]), r"observations here are \[N, 4\]; got \[4\]"),
        (lambda q, o: q.act(o, np.ones(3)), r"z here is \[\d+\], or one for each of 8 observations; got \[3\]"),
        (lambda q, o: q.infer_goal(o[0, :2]), r"\[N, 4\]; got \[1, 2\]"),
        (lambda q, o: q.infer_goal(o[0] + np.nan), "not all finite: 4 numbers"),
        (lambda q, o: q.infer_reward(np.r_[o[:7], o[:1] + np.inf], np.ones(8)), "not all finite: 4 numbers"),
        (lambda q, o: q.infer_reward(o, np.arange(8), weights=np.ones(7)), r"one weight for each of 8 samples; got \[7\]"),
        (lambda q, o: q.infer_reward(o, np.arange(8), weights=np.arange(8) - 2), "weights are at least 0 .*; 2 of 8 are not"),
        (lambda q, o: q.infer_reward(o, np.arange(8), weights=np.full(8, np.nan)), "weights are .* finite; 8 of 8 are not"),
        (lambda q, o: q.infer_reward(o, np.arange(8), weights=np.zeros(8)), "all weights are 0"),
        (lambda q, o: q.infer_reward(o, np.eye(8)[0], weights=np.arange(8)), "all rewards of a weight above 0 are 0, which"),
        (lambda q, o: q.infer_reward(o, np.arange(8), ridge=-1e-3), "ridge=-0.001 is not a number of at least 0"),
        (lambda q, o: q.infer_reward(o, np.arange(8), ridge=np.inf), "ridge=inf is not a number"),
        (lambda q, o: q.infer_reward(o, np.full(8, 3), bias=True), "all rewards are 3, which the bias alone explains"),
        (lambda q, o: q.infer_goal(o[0], False, o), "samples give the second moment that scaled=True"),
        (lambda q, o: q.act(o, q.tasks["square"], mode="evaluate"), "no mode 'evaluate'"),
        (lambda q, o: q.agent_for(np.ones(7)), r"z here is \[4\]; got \[7\]"),
        (lambda q, o: q.infer_preferences((o[:, None], o[:, None]), np.full(8, 0.5)), "all pairs are ties"),
        (lambda q, o: q.infer_preferences((o, o), np.ones(8)), r"two arrays \[P, T, ...\] and P labels"),
        (lambda q, o: q.infer_preferences((o[:, None], o[:, None]), np.full(8, 1.3)), r"labels lie in \[0, 1\]"),
    ],
)
def test_bad_questions_are_answered_with_words(asked, ask, words):
    with pytest.raises(ValueError, match=words):
        ask(asked, np.zeros((8, 4), np.float32))


@pytest.mark.slow
def test_a_mean_of_rewards_times_features_is_weighted_and_has_no_regression():
    agent, _ = made("fb")
    ask, obs = ZeroShot(agent, started(agent)), np.float32(np.random.default_rng(0).uniform(-0.2, 0.2, (8, 4)))
    mean = (np.arange(8) * np.arange(8)[::-1]) @ np.float64(ask.features(obs))
    found = ask.infer_reward(obs, np.arange(8), weights=np.arange(8)[::-1])
    np.testing.assert_allclose(found, 2 * mean / np.linalg.norm(mean), rtol=1e-6)
    for more in ({"ridge": 1.0}, {"bias": True}):
        with pytest.raises(ValueError, match="'fb' takes the mean of reward times feature and has no regression"):
            ask.infer_reward(obs, np.arange(8), **more)
    with pytest.raises(ValueError, match="samples give the second moment"):
        ask.infer_goal(obs[0], samples=obs)


def test_pictures_that_are_asked_about_are_whole_numbers():
    env = rlx.envs.make(PICTURES, size=16)
    image = np.zeros((3, 16, 16, 3), np.uint8)
    rows = {"obs": image, "action": np.zeros((3, 2), "f4"), "reward": np.zeros(3, "f4"), "terminated": np.zeros(3, bool)}
    agent = agents.make("td_jepa", None, Problem({"train": env}, {"data": replay.from_episodes([rows])}), **SHORT)
    ask = ZeroShot(agent, None)
    assert ask._as_stored(image.astype(float)).dtype == np.uint8
    for wrong in (image + 0.5, image + np.int32(256), image - 1.0):
        with pytest.raises(ValueError, match="observations here are uint8, as stored"):
            ask._as_stored(wrong)


def test_other_agents_are_not_asked():
    agent = agents.make("sac", None, Problem({"train": rlx.envs.make("rlx:point-mass")}))
    with pytest.raises(ValueError, match="this is 'sac'"):
        ZeroShot(agent, None)
