"""The agent as a whole: what feels which loss, what windows say, updates that compile once, acting, runs that resume."""

from __future__ import annotations

import dataclasses
import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import rlx.envs
from rlx import agents, replay
from rlx.agents.repo import behaviour, report, world
from rlx.agents.repo.method import Method, Plan
from rlx.agents.repo.networks import BEHAVIOUR, Net
from rlx.envs.camera.stored import BACKGROUND
from rlx.replay import Sequences
from rlx.train import Options, logging, memory, run
from rlx.types import Clock, Problem, Row

from .worlds import DOT, SHORT

pytestmark = pytest.mark.usefixtures("all_bits")
CLOCK = Clock(*map(jnp.int32, (0, 0, 0)))
QUIET = Options(progress=False, log_every=1)


@functools.cache
def problem() -> Problem:
    return Problem({"train": rlx.envs.make(DOT)})


@functools.cache
def made(**settings):
    return agents.make("repo", None, problem(), **{**SHORT, **settings})


def method_of(**settings) -> Method:
    config = made(**settings).config
    return Method(config, Net.of(config, problem().envs["train"].spec))


def started(agent, **hyper):
    return agent.init(jax.random.key(0), {k: jnp.float32(v) for k, v in {**agent.hyper, **hyper}.items()})


def rows(t: int = 5, b: int = 3, seed: int = 0) -> Sequences:
    """A batch of windows; in one of them an episode ends."""
    rng = np.random.default_rng(seed)
    first = np.zeros((t, b), bool)
    first[2, 1] = True
    obs = {"pixels": rng.integers(0, 256, (t, b, 16, 16, 1)).astype(np.uint8), "state": np.zeros((t, b, 2), np.float32)}
    action = np.tanh(rng.normal(size=(t, b, 2))).astype(np.float32)
    action[1, 1] = 0
    reward = np.where(first, 0, rng.normal(size=(t, b))).astype(np.float32)
    ends = np.zeros((t, b), bool), np.roll(first, -1, 0)
    index = replay.Index(jnp.zeros(b, jnp.int32), jnp.arange(b))
    return Sequences(obs, reward, *ends, first, {}, action, {}, np.ones((t, b), bool), jnp.ones(b), index)


def felt(grads) -> set[str]:
    return {k for k, g in grads.items() if any(np.any(x) for x in jax.tree.leaves(g))}


# ---------------------------------------------------------------------------------------------------- who feels what


def slopes(method, part=None, beta=0.3, given=None):
    """Gradients of the model's loss, or of a part of it, at its start."""
    state = started(made(**{k: getattr(method.config, k) for k in ("objective", "bottleneck", "continues")}))
    model = {k: state.learned["params"][k] for k in method.net.world}
    w = world.window(method.net, rows() if given is None else given)
    noise = jax.random.normal(jax.random.key(1), (*w.reward.shape, method.net.noises))

    def loss(p):
        total, found = world.loss(p, method.net, w, noise, jnp.float32(beta), state.hyper)
        return found.metrics[part] if part else total

    return jax.jit(jax.grad(loss))(model)


def test_nothing_but_the_probe_feels_the_probe():
    method = method_of()
    assert felt(slopes(method, "probe/loss")) == {"decoder"}
    assert felt(slopes(method, "model/reward_loss")) == {"encoder", "rssm", "reward"}
    weak, strong = (slopes(method, beta=b) for b in (1e-3, 10.0))
    for a, b in zip(jax.tree.leaves(weak["decoder"]), jax.tree.leaves(strong["decoder"]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (weak["rssm"], strong["rssm"])), strict=True))


def test_the_multiplier_may_answer_to_the_violation_at_once():
    method, given = method_of(), rows()
    state, w = started(made()), world.window(method.net, given)
    noise = jax.random.normal(jax.random.key(1), (*w.reward.shape, method.net.noises))

    @jax.jit
    def total(gain, most):
        own = {"target_kl": 0.2, "beta_gain": gain, "most_beta": most}
        h = {**state.hyper, **{k: jnp.float32(v) for k, v in own.items()}}
        p = {k: state.learned["params"][k] for k in method.net.world}
        value, found = world.loss(p, method.net, w, noise, jnp.float32(0.3), h)
        return value, found.kl - 0.2, world.price(method.net, jnp.float32(0.3), found.kl - 0.2, h)

    (plain, violation, beta), (more, _, risen), (capped, _, held) = total(0.0, np.inf), total(2.0, np.inf), total(2.0, 0.31)
    np.testing.assert_allclose([beta, risen, held], [0.3, 0.3 * np.exp(2 * violation), 0.31], rtol=1e-5)
    assert violation > 0.05
    np.testing.assert_allclose(more - plain, 0.3 * (np.exp(2 * violation) - 1) * violation, rtol=1e-3)
    np.testing.assert_allclose(capped - plain, 0.01 * violation, rtol=2e-2)


def test_pictures_of_a_window_are_shifted_alike():
    w = world.window(method_of().net, rows(5, 6))
    assert world.shifted(w, jax.random.key(0), 0) is w
    moved = np.asarray(world.shifted(w, jax.random.key(0), 2).obs)
    around, found = np.pad(w.obs, ((0, 0), (0, 0), (2, 2), (2, 2), (0, 0)), mode="edge"), set()
    for b in range(6):
        fits = [(y, x) for y in range(5) for x in range(5) if (moved[:, b] == around[:, b, y : y + 16, x : x + 16]).all()]
        assert len(fits) == 1
        found |= set(fits)
    assert len(found) > 1


@pytest.mark.parametrize("objective", ["recon", "barlow"])
def test_what_other_objectives_teach_the_encoder(objective):
    method = method_of(objective=objective)
    name = {"recon": "decoder", "barlow": "projection"}[objective]
    assert felt(slopes(method, f"model/{objective}_loss")) == {"encoder", "rssm", name}


@pytest.mark.slow
def test_of_distractors_a_second_model_learns_whatever_rewards_do_not_say():
    method = method_of(objective="tia", bottleneck="free_nats")
    assert world.groups(method.net)["adversary"] == ("other_reward",)
    assert felt(slopes(method, "other/recon_loss")) == {"encoder", "other_rssm", "other_alone"}
    assert felt(slopes(method, "other/reward_loss")) == {"other_reward"}
    assert felt(slopes(method, "model/reward_loss")) == {"encoder", "rssm", "reward"}
    both = {"encoder", "rssm", "other_rssm", "decoder", "other_decoder", "mask"}
    assert felt(slopes(method, "model/recon_loss")) == both
    whole, alone = slopes(method), slopes(method, "other/reward_loss")
    assert felt(whole) == both | {"reward", "other_reward", "other_alone"}
    for a, b in zip(*(jax.tree.leaves(g["other_reward"]) for g in (whole, alone)), strict=True):  # it goes down alone
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_actor_and_value_learn_by_their_own_losses_and_the_model_by_neither():
    method = method_of(continues=True)
    net, state = method.net, started(made(continues=True))
    params = state.learned["params"]
    own, model = {k: params[k] for k in BEHAVIOUR}, {k: params[k] for k in net.world}
    start = jax.tree.map(lambda x: x + 0.3, net.rssm.blank(6))
    noise = behaviour.noise(net, jax.random.key(2), 6)

    def part(own, model, name):
        total, said = behaviour.loss(own, net, model, {"value": params["value"]}, start, jnp.ones(6, bool), noise, state.hyper)
        return said["critic/loss"] if name == "value" else total - said["critic/loss"]

    for name in BEHAVIOUR:
        mine, of_model = jax.jit(jax.grad(part, (0, 1)), static_argnums=2)(own, model, name)
        assert felt(mine) == {name}
        assert name == "actor" or not felt(of_model)  # the actor's goes through the model, which does not move by it (below)


@pytest.mark.slow
def test_an_update_moves_the_model_by_its_own_loss_alone():
    """Behaviour changes nothing of the model, the probe's clip nothing but the probe's own step."""
    data, key = rows(), jax.random.key(3)
    learned = {}
    for name, settings in {"plain": {}, "no probe": {"probe.enabled": False}, "joint": {"probe.joint_clip": True}}.items():
        agent = made(**settings)
        state, update = started(agent, max_grad_norm=1e-2), jax.jit(agent.stages[-1].phases[1].update)
        new, out = update(state, CLOCK, data, key)
        learned[name] = new.learned
        others = {"no behaviour": {"actor_lr": 0.0, "value_lr": 0.0}, "other behaviour": {"discount": 0.5, "entropy_coef": 1.0}}
        for other, changed in others.items() if name == "plain" else ():
            hyper = {**state.hyper, **{k: jnp.float32(v) for k, v in changed.items()}}
            learned[other] = update(state._replace(hyper=hyper), CLOCK, data, key)[0].learned
        assert all(np.isfinite(v) for v in out.metrics.values())
        assert ("probe/grad_norm" in out.metrics) == (name == "plain")
    for slow, new in zip(
        *(jax.tree.leaves(x) for x in (learned["plain"]["slow_value"], learned["plain"]["params"]["value"])), strict=True
    ):
        np.testing.assert_allclose(slow, new, atol=1e-7)  # follows all the way, unless told otherwise
    same = lambda a, b: all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    plain, alone, other = (learned[k]["params"] for k in ("plain", "no behaviour", "other behaviour"))
    for changed in (alone, other):
        assert {k for k in plain if not same(plain[k], changed[k])} == set(BEHAVIOUR)
    assert same(alone["actor"], started(made()).learned["params"]["actor"])
    assert set(learned["plain"]["opt"]) == {"model", "probe", "actor", "value", "dual"}
    assert "decoder" not in learned["no probe"]["params"] and "decoder" in learned["joint"]["opt"]["model"][1].mu
    moments = {k: v["opt"]["model"][1].mu["rssm"] for k, v in learned.items()}
    assert not same(moments["plain"], moments["joint"])


# --------------------------------------------------------------------------------------------------- what windows say


def coded(t: int, w: int = 1) -> Row:
    """Rows whose picture, action and reward say their number; episodes of four rows."""
    number = np.arange(t)[:, None] * np.ones((1, w))
    first, last = number % 4 == 0, number % 4 == 3
    obs = {"pixels": (number[..., None, None, None] * np.ones((16, 16, 1))).astype(np.uint8), "state": np.zeros((t, w, 2))}
    obs["state"] = obs["state"].astype(np.float32)
    action = np.where(last[..., None], 0, number[..., None] / 100 * np.ones(2)).astype(np.float32)
    reward = np.where(first, 0, number).astype(np.float32)
    return Row(obs, reward, np.zeros_like(last), last, first, {}, action, {}, np.ones((t, w), bool))


@pytest.fixture(scope="module")
def stored():
    """More rows than there is room for."""
    ring = replay.ring(21, 1)
    blank = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), coded(1))
    state, data = ring.init(blank), coded(30)
    for i in range(0, 30, 10):
        state = ring.add(state, jax.tree.map(lambda x, i=i: jnp.asarray(x[i : i + 10]), data))
    return state


def test_windows_are_of_rows_that_followed_each_other(stored):
    sampler = replay.sequences(400, 5, cross=True)
    batch = sampler({}, CLOCK, {"replay": stored}, jax.random.key(0))
    number = np.asarray(batch.obs["pixels"][..., 0, 0, 0], int)
    assert (np.diff(number, axis=0) == 1).all()
    assert set(number[0]) == set(range(10, 26))  # 20 of 30 rows are kept; 16 windows fit
    w = world.window(method_of().net, batch)
    np.testing.assert_array_equal(w.obs[..., 0, 0, 0], number[1:])
    np.testing.assert_array_equal(w.joined, number[1:] % 4 != 0)
    on = np.asarray(w.joined)
    np.testing.assert_allclose(np.asarray(w.action)[on, 0] * 100, number[:-1][on], rtol=1e-5)  # led to what is seen
    np.testing.assert_array_equal(np.asarray(w.reward)[on], number[1:][on])
    assert not np.asarray(w.action)[~on].any() and not np.asarray(w.reward)[~on].any()


def test_windows_longer_than_what_is_stored_are_refused(stored):
    with pytest.raises(ValueError, match="windows of 30 rows were asked of 'replay', which has room for 21"):
        replay.sequences(2, 30, cross=True)({}, CLOCK, {"replay": stored}, jax.random.key(0))


def test_the_first_picture_of_a_window_is_not_looked_at():
    data, method = rows(), method_of()
    other = data._replace(obs={**data.obs, "pixels": data.obs["pixels"].copy()})
    other.obs["pixels"][0] = 255 - other.obs["pixels"][0]
    for a, b in zip(*(jax.tree.leaves(slopes(method, given=x)) for x in (data, other)), strict=True):
        np.testing.assert_array_equal(a, b)
    again = data._replace(reward=data.reward + np.where(data.first, 7.0, 0.0).astype(np.float32))
    for a, b in zip(*(jax.tree.leaves(slopes(method, given=x)) for x in (data, again)), strict=True):
        np.testing.assert_array_equal(a, b)  # no reward belongs to the arrival at a first row


# ------------------------------------------------------------------------------------------------------------ updates


@pytest.mark.slow
@pytest.mark.parametrize("presets", [("paper",), ("dreamer",), ("fixed_beta", "unbalanced"), ("barlow",), ("tia",)])
def test_updates_are_finite_and_compile_once(presets):
    own = {k: v for name in presets for k, v in agents.presets("repo")[name].items()}
    agent = made(**own, continues="dreamer" in presets)
    update, traces = agent.stages[-1].phases[1].update, []

    @jax.jit
    def step(state, data, key):
        traces.append(1)
        return update(state, CLOCK, data, key)

    state = started(agent)
    for i, beta in enumerate([1e-5, 10.0, 10.0]):
        hyper = {**state.hyper, "init_beta": jnp.float32(beta)}
        learned = {**state.learned, "log_beta": jnp.log(jnp.float32(beta))}
        state, out = step(state._replace(hyper=hyper, learned=learned), rows(seed=i), jax.random.key(i))
        assert all(np.isfinite(v) for v in out.metrics.values())
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.learned))
    assert len(traces) == 1
    dual = agent.config.bottleneck == "dual"
    assert dual == (not np.isclose(state.learned["log_beta"], np.log(10.0)))


# -------------------------------------------------------------------------------------------------------------- acting


def test_acting_begins_each_episode_with_nothing_known():
    agent = made()
    state = started(agent)
    env = rlx.envs.batch(problem().envs["train"], 2)
    _, step = env.reset(env.params, jax.random.key(0))
    carry = agent.carry(state, 2)
    old = jax.tree.map(lambda x: x + 1.0, carry)
    act = jax.jit(agent.act, static_argnums=5)
    for mode in ("explore", "eval", "random"):
        fresh, kept = (act(state, CLOCK, c, step, jax.random.key(1), mode) for c in (carry, old))
        np.testing.assert_array_equal(fresh[0], kept[0])
        assert fresh[0].shape == (2, 2) and (np.abs(fresh[0]) <= 1).all()
        np.testing.assert_array_equal(fresh[1].action, fresh[0])
    on = step._replace(first=jnp.zeros(2, bool))
    first, second = (act(state, CLOCK, c, on, jax.random.key(1), "eval")[0] for c in (carry, old))
    assert np.abs(first - second).max() > 1e-6


def test_evaluation_takes_the_likeliest_of_a_hundred():
    policy = rlx.nn.distributions.Normal(jnp.float32([[0.0], [3.0]]), jnp.float32([[-1.0], [-1.0]]))
    x = policy.mean + jnp.exp(policy.log_std) * jax.random.normal(jax.random.key(0), (100, 2, 1))
    action = np.tanh(np.float64(x))
    density = -0.5 * ((x - policy.mean) * np.exp(1.0)) ** 2 - np.log(1 - action**2)
    wanted = np.take_along_axis(action, np.argmax(np.asarray(density), 0)[None], 0)[0]
    np.testing.assert_allclose(behaviour.likeliest(policy, jax.random.key(0)), wanted, rtol=1e-4)


SEARCH = {"planner.use": "act", "planner.horizon": 3, "planner.samples": 32, "planner.proposals": 4, "planner.elites": 8}


def test_plans_in_the_model_are_worth_more_than_none_and_than_their_opposite():
    """Imagined anew: rewards as long as the episode goes on, and the value behind them. What it explores with is noise."""
    wide = {**SEARCH, "planner.samples": 1_000, "planner.elites": 100, "planner.iterations": 8, "continues": True}
    agent, method = made(**wide), method_of(**wide)
    state, net = started(agent), method.net
    p = dict(state.learned["params"])
    p["reward"] = jax.tree.map(lambda x: 3 * x, p["reward"])
    start, blank = jax.tree.map(lambda x: x + 0.3, net.rssm.blank(1)), agent.carry(state, 1).plans
    first, key = jnp.zeros(1, bool), jax.random.key(0)
    plan = jax.jit(lambda x: behaviour.planned(net, p, start, blank, first, x, state.hyper, key))
    action, plans = plan(0.0)
    assert action.shape == (1, 2) and plans.mean.shape == (1, 3, 2) and not plans.mean[0, -1].any()
    assert np.abs(plan(1.0)[0] - action).max() > 1e-3

    @jax.jit
    def worth(actions):
        latent, alive, total = jax.tree.map(lambda x: jnp.tile(x, (512, 1)), start), 1.0, 0.0
        for t, key in enumerate(jax.random.split(jax.random.key(1), 3)):
            noise = jax.random.normal(key, latent.state.shape)
            latent = net.rssm.imagine(p["rssm"], latent, jnp.tile(actions[t], (512, 1)), noise)
            total += 0.99**t * alive * net.head(p, "reward", latent.features)
            alive *= jax.nn.sigmoid(net.head(p, "continue", latent.features))
        return (total + 0.99**3 * alive * net.head(p, "value", latent.features)).mean()

    found = jnp.concatenate([action, plans.mean[0, :2]])
    assert worth(found) > worth(0 * found) + 0.01 and worth(found) > worth(-found) + 0.02


@pytest.mark.slow
def test_a_run_whose_decisions_are_plans(tmp_path):
    """They are evaluated beside the actor; episodes begin with no plan."""
    agent = made(**SEARCH)
    state = run(agent, problem(), jax.random.key(2), tmp_path / "run", options=QUIET)
    assert {line["eval"] for line in logging.read(tmp_path / "run") if line["kind"] == "eval"} == {"main", "planner"}
    env = rlx.envs.batch(problem().envs["train"], 2)
    _, step = env.reset(env.params, jax.random.key(0))
    act, carry = jax.jit(agent.act, static_argnums=5), agent.carry(state.agent, 2)
    old = jax.tree.map(lambda x: x + 1, carry)
    for mode in ("explore", "planner"):
        fresh, kept = (act(state.agent, CLOCK, c, step, jax.random.key(1), mode) for c in (carry, old))
        np.testing.assert_array_equal(fresh[0], kept[0])
    noisy, still = (act(state.agent, CLOCK, carry, step, jax.random.key(1), mode)[0] for mode in ("explore", "planner"))
    assert np.abs(noisy - still).max() > 1e-3


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, what it came to) of a whole run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run(made(), problem(), jax.random.key(2), folder, options=QUIET)


@pytest.mark.slow
def test_a_run_that_is_interrupted_goes_on_bit_for_bit(finished, tmp_path):
    agent, whole = made(), finished[1]

    class Stop(Exception):
        pass

    def stop(line, state):
        if line["kind"] == "eval" and line["cycle"] == 1:
            raise Stop

    options = Options(progress=False, log_every=1, checkpoint_cycles=1)
    with pytest.raises(Stop):
        run(agent, problem(), jax.random.key(2), tmp_path / "cut", options=options, callback=stop)
    resumed = run(agent, problem(), jax.random.key(2), tmp_path / "cut", options=options)
    assert int(whole.agent.learned["told"]["updates"]) == int(whole.counts["updates"]) > 0
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(whole.agent.learned), jax.tree.leaves(resumed.agent.learned), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


# ---------------------------------------------------------------------------------------------------------- the report


@pytest.mark.slow
def test_a_run_says_what_its_latent_keeps(finished):
    folder, state = finished
    written = made().report(state.agent, folder)
    assert [path.name for path in written] == ["repo.json", "probe.png", "constraint.png"]
    page = json.loads((folder / "repo.json").read_text())
    assert page["updates"] == int(state.counts["updates"]) and 0 <= page["active_share"] <= 1
    assert set(page["r2"]) == {"state"} and set(page["r2"]["state"]) == {"posterior", "features"}
    with Image.open(folder / "probe.png") as picture:  # four streams, three lines each, eight pictures with their borders
        assert picture.size == (2 * 8 * 18, 2 * 4 * 3 * 18)


def test_what_is_shown_and_what_is_imagined():
    """The same while the model is shown something; from there on the prior's way with the same actions."""
    method, state = method_of(), started(made())
    data = rows(11, 2)
    found = report.look(method, state, Row(*[getattr(data, k) for k in Row._fields]))
    np.testing.assert_array_equal(found.decoded[: report.SEEN], found.imagined[: report.SEEN])
    assert found.decoded.shape == (report.SHOWN, 2, 16, 16, 1)
    assert not np.array_equal(found.decoded[report.SEEN :], found.imagined[report.SEEN :])


def test_which_frame_is_behind_is_found():
    rng = np.random.default_rng(0)
    bank = rng.integers(0, 256, (9, 8, 8, 1)).astype(np.uint8)
    which = rng.integers(0, 9, (5, 2))
    seen = bank[which].copy()
    seen[:, :, 2:5, 2:5] = 255  # a body
    env = dataclasses.replace(problem().envs["train"], params={"env": {}, "bank": bank})
    wanted = bank[which].astype(float).reshape(5, 2, 4, 2, 4, 2).mean((3, 5)).reshape(5, 2, 16)
    np.testing.assert_allclose(report.background(env, seen), wanted, rtol=1e-5)
    assert report.background(problem().envs["train"], seen) is None


@pytest.mark.parametrize("name", ["rlx:pendulum", "dmc:pendulum-swingup"])
def test_the_frame_that_runs_behind_is_found(name):
    """On a device and on the host."""
    distractor = {"kind": "video", "frames": 40}
    env = rlx.envs.make(name, pixels="sdf", image=32, grey=True, distractor=distractor, paired=True, stored="clean")
    still = SimpleNamespace(carry=lambda *_: (), act=lambda s, t, carry, step, key, mode: (jnp.zeros((2, 1)), carry, {}))
    rows = report.played(still, env, (), 2, 5)
    shown = report.behind(env.params["bank"], rows.obs["pixels"])
    np.testing.assert_array_equal(shown, rows.info[BACKGROUND] % 40)
    assert report.background(env, rows.obs["pixels"]).shape == (5, 2, 16)


def test_states_of_several_parts_and_pictures_alone_are_read_off_too():
    rng = np.random.default_rng(0)
    bank = rng.integers(0, 256, (9, 8, 8, 1)).astype(np.uint8)
    env = dataclasses.replace(problem().envs["train"], params={"env": {}, "bank": bank})
    which, parts = rng.integers(0, 9, (61, 6)), {"a": rng.normal(size=(61, 6)), "b": rng.normal(size=(61, 6, 2))}
    row = Row(*[getattr(rows(), k) for k in Row._fields])
    known = np.concatenate([parts["a"][1:, :, None], parts["b"][1:]], -1)

    def read(obs):
        return report.kept(env, report.Look(row._replace(obs=obs), np.zeros((60, 6, 2)), known, np.zeros((60, 6)), None, None))

    both = read({"pixels": bank[which], "state": parts})
    assert set(both) == {"state", "background"} and both["state"]["posterior"] > 0.99 and both["background"]["posterior"] < 0.1
    assert set(read(bank[which])) == {"background"} and not read(parts)


# ---------------------------------------------------------------------------------------------- what can be, and what not


def test_memory_is_planned_before_anything_is_allocated():
    """Of half a million pictures, at the paper's sizes; and what preset tiny takes, which is under 2 GB."""
    given = Problem({"train": rlx.envs.make(DOT, size=64)})
    needs = memory.needs(agents.make("repo", None, given), given)
    row = 64 * 64 + 4 * (2 + 2 + 1) + 1  # the picture, state, action and reward, flags
    assert needs["replay"] == 500_001 * row
    given = Problem({"train": rlx.envs.make(DOT, size=32)})
    needs = memory.needs(agents.make("repo", None, given, **agents.presets("repo")["tiny"]), given)
    assert 30_000 * 1024 < needs["replay"] < sum(needs.values()) < 2 * 10**9


def test_the_plan_is_of_whole_episodes():
    spec = problem().envs["train"].spec  # of six decisions
    assert Plan.of(made().config, spec) == Plan(7, 3)  # 12 / 2 decisions: one episode of seven rows; 50 / 20 cycles
    assert made(prefill=13).stages[0].phases[0].steps == 14
    with pytest.raises(ValueError, match="prefill=40, in whole episodes 56 in 2 streams, leaves nothing of env_steps=50"):
        made(env_steps=50, prefill=40)
    with pytest.raises(ValueError, match="chunk=8 rows are more than the prefill gives each stream, 7"):
        made(chunk=8)
    with pytest.raises(ValueError, match="init_beta=0 stays 0"):
        made(init_beta=0.0)
    with pytest.raises(ValueError, match="least_beta=1 is above most_beta=0.5"):
        made(least_beta=1.0, most_beta=0.5)
    with pytest.raises(ValueError, match="pad=2 shifts pictures, and this environment has none"):
        agents.make("repo", None, Problem({"train": rlx.envs.make("rlx:point-mass")}), **{**SHORT, "pad": 2})
    with pytest.raises(ValueError, match="capacity=10 does not hold"):
        made(capacity=10)
