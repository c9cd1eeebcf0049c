"""The agent whole: it starts as its controller on every plant, learns, keeps the best, resumes, and refuses what cannot be."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import agents
from rlx.agents import yann
from rlx.planning.laws import QuadraticLaw
from rlx.train import Options, population, run
from rlx.types import AgentState, Clock, Members, Problem
from tests.train.toys import evaluations

from .plants import PLANTS, SMALL, at, begun, learner, make, observations, problem

QUIET = Options(progress=False)
SHORT: dict[str, Any] = {"episodes": 3, "warmup": 20, "eval_every": 1, "eval_episodes": 4, "actor_lr": 1e-3}


@functools.cache
def short(name: str, time_limit: int = 20, **settings: Any):
    """Once for all tests: its programs stay with it, for one precision, and serve other values of ``agent.hyper`` too."""
    plant = problem(name, time_limit=time_limit)
    return agents.make("yann", None, plant, **{**SMALL, **SHORT, **settings}), plant


def reports_of(agent: Any, plant: Problem, key: Any = None, **more: Any) -> tuple[Any, list[dict]]:
    reports: list[dict] = []
    state = run(
        agent, plant, jax.random.key(0) if key is None else key, options=QUIET, callback=evaluations(reports.append), **more
    )
    return state, reports


def same(a: Any, b: Any) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


# ------------------------------------------------------------------------------------------------- it starts as its controller


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTS)
def test_before_learning_it_is_its_controller(name):
    """Bitwise, on whatever observations; actions are within bounds; the law is the one asked for. Each way to act is a program
    of its own on the pendulum; elsewhere all are one, which takes a third of the time to compile."""
    agent = make(name, init="zero_last", residual="shared", explore_sigma=0.0, **PLANTS[name])
    state, modes = begun(agent), ("base", "eval", "explore")
    act = lambda mode: lambda step: agent.act(state, None, (), step, jax.random.key(0), mode)[0]
    apart = {mode: jax.jit(act(mode)) for mode in modes}
    together = jax.jit(lambda step: [act(mode)(step) for mode in modes])
    for wide in (0.3, 2.0):
        step = at(observations(name, 200, wide=wide))
        base, *others = [apart[mode](step) for mode in modes] if name == "upright-pendulum" else together(step)
        for other in others:
            np.testing.assert_array_equal(other, base)
        assert float(jnp.abs(base).max()) <= 1 and base.shape == (200, agent.envs["train"].spec.action.shape[0])
        assert np.isfinite(base).all() and len(np.unique(base.round(3))) > 2
    if PLANTS[name].get("law") == "qp":
        assert isinstance(agent.report.learner.known.law, QuadraticLaw)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["mpqp", "qp", "lqr"])
def test_laws_agree_where_nothing_limits_them(law):
    agent = make("upright-pendulum", law=law)
    step = at(np.random.default_rng(0).uniform(-0.03, 0.03, (100, 2)))
    action = jax.jit(agent.act, static_argnames="mode")(begun(agent), None, (), step, jax.random.key(0), mode="eval")[0]
    wanted = -np.asarray(step.obs) @ [19.647, 5.721] / 2
    np.testing.assert_allclose(action[:, 0], wanted, atol=5e-3)


def test_what_is_not_a_number_is_not_hidden():
    for outside in ("nearest", "zero"):
        agent = make("upright-pendulum", outside=outside, residual="none")
        obs = np.array([[np.nan, 0.0], [0.01, 0.0]])
        action = jax.jit(agent.act, static_argnames="mode")(begun(agent), None, (), at(obs), jax.random.key(0), mode="eval")[0]
        assert np.isnan(action[0]) and np.isfinite(action[1])


# -------------------------------------------------------------------------------------------------------------- it learns


@pytest.mark.slow
def test_learning_lowers_the_cost_of_the_cubic_plant():
    """At least 5% in 20 short episodes as it is by default, both seeds; the first evaluation is the controller."""
    agent, plant = short(
        "cubic", 100, episodes=20, warmup=256, eval_every=2, eval_episodes=16, batch=64, width=16,
        critic_hidden=(64, 64), init="zero_last", actor_lr=1e-4,
    )  # fmt: skip
    state, reports = reports_of(agent, plant, Members(jax.random.split(jax.random.key(0), 2)))
    violations, costs = state.agent.learned["best"]["score"].T
    assert reports[0]["stage"] == "warmup" and not violations.any()
    start = -np.asarray(reports[0]["return_mean"])
    assert (costs < 0.95 * start).all(), (costs, start)
    assert not np.allclose(*costs)


@pytest.mark.slow
@pytest.mark.usefixtures("all_bits")
def test_a_run_counts_visits_keeps_the_best_and_ends_with_what_it_says(tmp_path):
    agent, plant = short("upright-pendulum", patience=1)
    state, reports = reports_of(agent, plant, run_dir=tmp_path)
    learned = state.agent.learned
    acted = int(learned["visits"].sum())
    assert 0 < acted <= state.counts["env_steps"] and learned["visits"].shape == (7,) and learned["visits"][0] > 0
    costs = [-float(r["return_mean"]) for r in reports]
    assert len(costs) >= 3 and float(learned["best"]["score"][1]) == pytest.approx(min(costs), rel=1e-5)
    again = run(agent, plant, jax.random.key(0), tmp_path, options=QUIET)
    same(again.agent, state.agent)


@pytest.mark.slow
def test_ddpg_and_cloning_go_through_the_same_loop():
    agent, plant = short("upright-pendulum", **yann.PRESETS["ddpg"])
    state, _ = reports_of(agent, plant)
    kernel = lambda state: state.learned["actor"]["params"]["Dense_0"]["kernel"]
    assert state.counts["updates"] > 0 and kernel(state.agent).shape == (2, 8)
    assert np.isfinite(kernel(state.agent)).all() and not np.allclose(kernel(begun(agent)), kernel(state.agent))
    agent = make("upright-pendulum", **{**yann.PRESETS["ddpg_cloned"], "clone": 300, "hidden": (32, 32)})
    assert [s.name for s in agent.stages] == ["clone", "warmup", "learn"]
    phase = agent.stages[0].phases[0]
    clock = Clock(jnp.int32(0), jnp.int32(0), jnp.int32(0))

    @jax.jit
    def once(state, key):
        a, b = jax.random.split(key)
        state, out = phase.update(state, clock, phase.sample({}, state.hyper, clock, a), b)
        return state, out.metrics["clone/error"]

    state, errors = jax.jit(lambda s, k: jax.lax.scan(once, s, jax.random.split(k, 300)))(begun(agent), jax.random.key(1))
    assert float(errors[-20:].mean()) < 0.3 * float(errors[:5].mean())
    same(state.learned["actor"], state.learned["target"]["actor"])


@pytest.mark.slow
def test_the_frozen_controller_only_acts():
    agent, plant = short("upright-pendulum", **yann.PRESETS["frozen"])
    state, reports = reports_of(agent, plant)
    assert state.counts["updates"] == 0 and state.agent.learned["actor"] == {}
    costs = [r["return_mean"] for r in reports]
    assert len(set(map(float, costs))) == 1


@pytest.mark.slow
def test_presets_train():
    """What the paper says, kept safe, on streams side by side, which share the budget."""
    agent, plant = short("double-integrator", n_envs=4, **yann.PRESETS["paper"], **yann.PRESETS["safe"])
    assert agent.envs["train"].n == agent.stages[1].phases[1].n == 4
    state = run(agent, plant, jax.random.key(0), options=QUIET)
    assert state.counts["updates"] == 40 and 50 <= state.counts["env_steps"] <= 60  # none at the ends of episodes
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.agent.learned["actor"]))


@pytest.mark.slow
@pytest.mark.usefixtures("all_bits")
def test_restoring_halves_the_step_within_a_run(monkeypatch):
    """An actor that can only get worse: the steps are far too large, so the best is restored and what is left is it."""
    agent, plant = short("upright-pendulum", patience=1)
    for name, value in {"actor_lr": 1.0, "critic_lr": 1.0, "tolerance": 0.0}.items():
        monkeypatch.setitem(agent.hyper, name, value)
    state, reports = reports_of(agent, plant)
    learned = state.agent.learned
    assert float(learned["lr_scale"]) <= 0.5
    costs = [-float(r["return_mean"]) for r in reports]
    assert float(learned["best"]["score"][1]) == pytest.approx(min(costs), rel=1e-5)


# ------------------------------------------------------------------------------------------------------- runs and populations


@pytest.mark.slow
@pytest.mark.usefixtures("all_bits")
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    agent, plant = short("upright-pendulum", patience=1)
    whole = run(agent, plant, jax.random.key(5), options=QUIET)

    class Stop(Exception):
        pass

    def stop(report):
        if report.get("env_steps", 0) >= 40:
            raise Stop

    often = Options(progress=False, checkpoint_cycles=7, checkpoint_seconds=0)
    with pytest.raises(Stop):
        run(agent, plant, jax.random.key(5), tmp_path, options=often, callback=evaluations(stop))
    again = run(agent, plant, jax.random.key(5), tmp_path, options=often)
    same(again.agent, whole.agent)
    same(again.sources["replay"].index, whole.sources["replay"].index)
    assert {k: int(v) for k, v in again.counts.items()} == {k: int(v) for k, v in whole.counts.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("all_bits")
def test_64_bit_mode_changes_nothing():
    """Nor the types, which would else differ between what a step is given and what it gives."""
    agent, plant = short("upright-pendulum", patience=1)
    state = run(agent, plant, jax.random.key(5), options=QUIET)
    with jax.enable_x64(True):
        agent, plant = short.__wrapped__("upright-pendulum", patience=1)  # made anew
        other = run(agent, plant, jax.random.key(5), options=QUIET)
    same(other.agent, state.agent)
    assert {x.dtype.itemsize for x in jax.tree.leaves(other.agent) if x.dtype != jax.random.key(0).dtype} <= {1, 4}


@pytest.mark.slow
@pytest.mark.usefixtures("all_bits")
def test_a_member_is_its_solo_run(monkeypatch):
    agent, plant = short("upright-pendulum", patience=1)
    found = population(agent, plant, [3, 5], {"actor_lr": [1e-3, 1e-4]}, options=QUIET)
    i = 2
    monkeypatch.setitem(agent.hyper, "actor_lr", float(found.settings["actor_lr"][i]))
    state = run(agent, plant, jax.random.key(int(found.seeds[i])), options=QUIET)
    mine: AgentState = found.member(i, best=False)
    for a, b in zip(jax.tree.leaves(mine.learned), jax.tree.leaves(state.agent.learned), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"n_envs": 0}, "n_envs must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"eval_every": 0}, "eval_every must be at least 1"),
        ({"policy_delay": 0}, "policy_delay must be at least 1"),
        ({"n_critics": 3}, "n_critics must be at least 1 and at most 2, got 3"),
        ({"width": 0}, "width must be at least 1"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"clone": -1}, "clone must be at least 0"),
        ({"clone": 10}, "clone is for actor='mlp'"),
        ({"warmup": 10**6}, "leaves nothing of"),
        ({"discount": 0.0}, "discount must be above 0"),
        ({"discount": 1.01}, "discount must be .*at most 1"),
        ({"trust": 0.0}, "trust must be above 0"),
        ({"mode": "bigm"}, "give law='mpqp' and outside='zero'"),
        ({"mode": "bigm", "outside": "zero", "law": "lqr"}, "give law='mpqp' and outside='zero'"),
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"soft": -1.0}, "soft must be above 0"),
        ({"residual": "blocks"}, "residual"),
        ({"actor_lrr": 1.0}, "actor_lr"),
        ({"law": 3}, "law"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        agents.make("yann", None, problem("upright-pendulum"), **settings)


def test_presets_are_settings():
    for name, preset in agents.presets("yann").items():
        plant = "upright-pendulum"
        agent = agents.make("yann", None, problem(plant), **preset)
        assert agent.name == "yann" and agent.modes == ("explore", "eval", "base"), name
    assert learner().config.safeguard == "keep_best"
