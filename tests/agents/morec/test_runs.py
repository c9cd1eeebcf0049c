"""MOPO, MOBILE and MOREC on small budgets: stages, counts, what is imagined under each setting, resuming, wrong settings."""

from __future__ import annotations

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents, replay
from rlx.agents import mobile, mopo, morec
from rlx.agents.model_based import rows_in
from rlx.config import replace
from rlx.train import Options, run
from rlx.types import Collect, Members, Problem
from tests.train.toys import evaluations

QUIET = Options(progress=False)


@functools.cache
def problem():
    """Noisy proportional control of the box, ten episodes of 30 decisions from hot."""
    env, rng = rlx.envs.make("rlx:thermobox", time_limit=30), np.random.default_rng(0)
    episodes = []
    for _ in range(10):
        t, action = [10 + rng.normal()], []
        for _ in range(30):
            power = np.clip(0.5 * (t[-1] + 2) + 0.347 + 0.3 * rng.normal(), 0, 1)
            action.append(2 * power - 1)
            t.append(0.98 * (t[-1] - power) + 0.3 + 0.02 * rng.normal())
        reward = -np.abs(np.array(t) + 2)
        own = {"obs": np.array(t)[:, None], "action": np.array([*action, 0])[:, None], "reward": reward}
        episodes.append({**own, "terminated": np.zeros(31, bool)})
    return Problem({"train": env}, {"data": replay.from_episodes(episodes)})


@functools.cache
def made(name="morec", **more):
    """Once for all tests, as the programs stay with the agent."""
    return agents.make(name, replace(agents.config(name), agents.presets(name)["debug"]), problem(), **more)


@pytest.fixture(scope="module")
def trained():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return run(made(stop="truncate"), problem(), jax.random.key(0), options=QUIET)


@pytest.mark.slow
def test_a_run_fits_scores_and_learns(trained):
    agent, learned = made(stop="truncate"), trained.agent.learned
    assert [s.name for s in agent.stages] == ["model", "scorer", "learn"]
    assert trained.counts["updates"] == 40 and trained.counts["env_steps"] == 0
    assert 4 * 8 <= trained.counts["model_steps"] <= 4 * 8 * 5
    told = {k: float(v) for k, v in learned["told"].items()}
    assert told["scorer/gap"] > 0.1 and told["scorer/share"] == 1 and 0 < told["model/error"] < 20
    assert 1 <= told["rollout/length"] <= 5 and 0 <= told["rollout/stopped"] <= 1
    assert 0.3132 < told["rollout/score"] < 1.3133
    assert learned["scorer"].there.all() and learned["model"].elites.shape == (2,)
    states = rows_in(problem().data["data"]).obs
    assert np.isin(np.asarray(learned["starts"]), states).all() and learned["starts"].shape == (310, 1)
    kept = trained.sources["model"]
    assert kept.index.flags.shape == (6 * 2 + 1, 8)  # rows and the last one of two rollouts, and a tail
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(learned) if np.asarray(x).dtype == np.float32)


@pytest.mark.slow
def test_it_resumes_to_the_same_bits(trained, tmp_path):
    class Stop(Exception):
        pass

    def stop(line):
        raise Stop

    often = Options(progress=False, checkpoint_cycles=1)
    with pytest.raises(Stop):
        run(made(stop="truncate"), problem(), jax.random.key(0), tmp_path, options=often, callback=evaluations(stop))
    again = run(made(stop="truncate"), problem(), jax.random.key(0), tmp_path, options=often)
    jax.tree.map(np.testing.assert_array_equal, again.agent.learned, trained.agent.learned)


@pytest.mark.slow
def test_members_learn_from_the_same_data_each_for_itself(trained):
    keys = jnp.stack([jax.random.key(0), jax.random.key(1)])
    both = run(made(stop="truncate"), problem(), Members(keys), options=QUIET)
    mine, other = (jax.tree.map(lambda x, i=i: np.asarray(x[i]), both.agent.learned["model"].params) for i in (0, 1))
    alone = trained.agent.learned["model"].params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), mine, jax.tree.map(np.asarray, alone))
    assert any(np.abs(a - b).max() > 1e-2 for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(other), strict=True))


def imagined(agent):
    """Rows of one rollout of the model before it has learned anything, and the params of its environment."""
    [phase] = [p for p in agent.stages[-1].phases if isinstance(p, Collect)]
    state = agent.init(jax.random.key(0), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    vec = agent.envs["model"]

    @jax.jit
    def roll(state):
        params = phase.params(state, {})
        at, step = vec.reset(params, jax.random.key(1))
        return step, vec.step(params, at, jnp.full((vec.n, 1), 0.3), jax.random.key(2))[1]

    return roll(state)


@pytest.mark.parametrize(
    ("name", "settings", "scored"),
    [
        ("mopo", {}, False),
        ("mobile", {}, False),
        ("morec", {"filter": "none"}, False),
        ("morec", {"selection": "argmax", "stop": "drop"}, True),
        ("morec", {"base": "mobile", "selection": "random"}, True),
        ("morec", {"filter": "likelihood", "r_min": -np.inf}, True),
        ("morec", {"filter": "oracle", "r_min": -np.inf, "selection": "argmax"}, True),
    ],
)
def test_what_is_imagined_under_each_setting(name, settings, scored):
    agent = made(name, **settings)
    assert ("scorer" in [s.name for s in agent.stages]) == (scored and settings.get("filter", "reward") == "reward")
    start, step = imagined(agent)
    assert start.first.all() and (start.obs == 0).all() and jnp.isfinite(step.obs).all() and jnp.isfinite(step.reward).all()
    assert ("score" in step.info) == scored
    if "r_min" in settings:
        assert not step.info["stopped"].any()
    if settings.get("filter") == "oracle":  # from 0, with an action of 0.3
        away = np.abs(np.asarray(step.obs[:, 0]) - (0.98 * -0.65 + 0.3))
        np.testing.assert_allclose(away, -np.asarray(step.info["score"]), rtol=1e-4)


@pytest.mark.slow
def test_a_run_filters_by_one_network_in_the_place_of_all():
    own = {"distilled": True, "distilled_hidden": (16,), "distilled_steps": 300, "distilled_agreement": 0.0}
    agent = made(**{f"scorer.{k}": v for k, v in own.items()}, stop="truncate", updates=10)
    found = run(agent, problem(), jax.random.key(0), options=QUIET)
    learned = found.agent.learned
    assert 0.5 < learned["told"]["scorer/agreement"] <= 1 and learned["told"]["rollout/score"] > 0
    assert agent.report.method.imagine(found.agent, {})["model"]["model"]["scorer"] is learned["distilled"]


# Penalties of MOREC's two bases: random, medium, medium-replay, medium-expert of D4RL, then low, medium, high of NeoRL.
PENALTIES = {
    "halfcheetah": ((0.5, 0.5, 0.5, 0.5, 2, 2, 2), (0.25, 0.25, 0.25, 1, 1, 0.5, 0.75)),
    "hopper": ((10, 15, 15, 15, 2, 20, 20), (7.5, 1.5, 0.5, 1.5, 0.5, 2, 2.5)),
    "walker2d": ((1, 0.5, 0.25, 1, 2, 2, 2), (1, 0.75, 0.1, 0.25, 0.75, 0.25, 0.1)),
}
ARGMAX = {"halfcheetah-medium", "halfcheetah-medium-expert", "hopper-random", "walker2d-medium-replay", "neorl-halfcheetah-low"}
ARGMAX |= {"neorl-halfcheetah-medium", "neorl-hopper-low", "neorl-hopper-medium", "neorl-hopper-high", "neorl-walker2d-high"}


def test_the_tasks_of_the_paper_have_their_settings():
    made = {}
    for robot, columns in PENALTIES.items():
        kinds = [f"{robot}-{x}" for x in ("random", "medium", "medium-replay", "medium-expert")]
        kinds += [f"neorl-{robot}-{x}" for x in ("low", "medium", "high")]
        for task, mopo_, mobile_ in zip(kinds, *columns, strict=True):
            for base, penalty in (("mopo", mopo_), ("mobile", mobile_)):
                made[base, task] = own = replace(morec.Config(), morec.PRESETS[f"{base}-{task}"])
                assert (own.base, own.uncertainty_penalty, own.actor_by_target) == (base, penalty, base == "mobile")
                assert (own.scorer.snapshots, own.draws, own.r_min) == (40 if base == "mopo" else 10, 2, 0.6)
                assert own.dynamics.clip == (1e6 if task.startswith("neorl") else 25)
                assert (own.starts, own.horizon, own.retained, own.block, own.updates) == (2_000, 100, 5, 1_000, 3_000_000)
    assert len(made) == 42 and set(morec.MOPO) == set(morec.MOBILE) == {task for _, task in made}
    which = lambda odd: {key for key, own in made.items() if odd(own)}
    assert which(lambda c: c.selection == "argmax") == {("mopo", task) for task in ARGMAX}
    half = {("mopo", "neorl-hopper-medium"), ("mopo", "neorl-hopper-high")}
    half |= {("mobile", "halfcheetah-medium-expert"), ("mobile", "neorl-walker2d-high")}
    assert which(lambda c: c.real_ratio == 0.5) == half and which(lambda c: c.real_ratio not in (0.05, 0.5)) == set()
    fixed = {key: own.init_temperature for key, own in made.items() if own.temperature_lr == 0}
    hopper = {("mopo", "neorl-hopper-low"): 0.1, ("mopo", "neorl-hopper-high"): 0.2, ("mobile", "neorl-hopper-high"): 0.1}
    assert fixed == hopper
    assert which(lambda c: c.deterministic_backup) == {("mobile", "hopper-random")}
    assert which(lambda c: c.dynamics.epochs == 30) == {("mobile", "walker2d-medium")}
    assert mopo.PRESETS["walker2d-medium-expert"] == {"uncertainty_penalty": 2.5, "horizon": 1}
    assert mobile.PRESETS["hopper-random"]["uncertainty_penalty"] == 5


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("morec", {"dynamics.elites": 4}, "dynamics.elites=4 of dynamics.ensemble_size=3"),
        ("mobile", {"dynamics.elites": 1}, "elites' values, so it needs dynamics.elites of at least 2"),
        ("morec", {"termination": "cheetah"}, "termination='cheetah' is unknown; there are never, halfcheetah"),
        ("morec", {"stop_after": 5}, "stop_after=5 of horizon=5 decisions: nothing ever stops"),
        ("morec", {"filter": "reword"}, "filter"),
        ("morec", {"filter": "oracle"}, "has scores of 0 at most, so r_min=0.6 stops every episode at its first decision"),
        ("morec", {"r_min": 1.32}, "filter='reward' has scores of 1.313 at most, so r_min=1.32 stops every episode"),
        ("morec", {"scorer.most": 0.4}, "has scores of 0.5108 at most, so r_min=0.6 stops every episode"),
        ("morec", {"filter_temperature": 0.0}, "filter_temperature must be above 0"),
    ],
)
def test_wrong_settings_are_named(name, settings, words):
    with pytest.raises(ValueError, match=words):
        agents.make(name, replace(agents.config(name), agents.presets(name)["debug"]), problem(), **settings)


def test_scores_without_bounds_and_a_least_are_told():
    for settings in ({"filter": "likelihood"}, {"scorer.calibrated": False}):
        with pytest.warns(UserWarning, match="has scores without fixed bounds, so r_min=0.6 may stop nothing or all"):
            made.__wrapped__(**settings)


def test_rewards_not_above_0_and_what_counts_as_0_are_told():
    fresh = made.__wrapped__  # agents of the cache have warned already
    for name, words in (("mobile", "values are cut at 0, so all are"), ("morec", "episodes that stop are worth 0 from")):
        with pytest.warns(UserWarning, match=rf"rewards of the data are -\d.* at most, and {words}"):
            fresh(name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fresh(name, reward_shift=3.0)  # some are above 0 then
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh("mopo")
        fresh(stop="truncate")


def test_wrong_data_are_named():
    pendulum = Problem({"train": rlx.envs.make("rlx:pendulum")}, problem().data)
    with pytest.raises(ValueError, match=r"obs of the data 'data' is float32\[1\]; that of rlx:pendulum is float32\[3\]"):
        agents.make("morec", None, pendulum)
    with pytest.raises(ValueError, match="morec learns from data, and there are none"):
        agents.make("morec", None, Problem(problem().envs))
    episode = {"obs": np.zeros((3, 3)), "action": np.zeros((3, 1)), "reward": np.zeros(3), "terminated": np.arange(3) == 2}
    ending = Problem(pendulum.envs, {"data": replay.from_episodes([episode])})
    with pytest.warns(UserWarning, match="episodes of the data end before their time, and when is not known of rlx:pendulum"):
        agents.make("mopo", None, ending)
    with pytest.raises(ValueError, match=r"does not fit the data: 0 of 2 .* and go on, 1 of the 1 that end do not by it"):
        agents.make("mopo", None, ending, termination="halfcheetah")
    with pytest.raises(ValueError, match="termination='hopper' is of other observations, these have 1 numbers. Give"):
        agents.make("mopo", None, problem(), termination="hopper")
    with pytest.raises(ValueError, match="needs an environment that can say what follows .*rlx:pendulum cannot"):
        agents.make("morec", None, ending, filter="oracle", termination="never")
