"""Schedules, stages, and words for what cannot be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents, replay
from rlx.agents.modem_v2 import times
from rlx.agents.modem_v2.config import Config
from rlx.agents.modem_v2.demonstrations import demonstrations as demonstrations_of
from rlx.agents.modem_v2.method import Method
from rlx.agents.modem_v2.times import Times
from rlx.agents.tdmpc import horizon_at
from rlx.config import apply, hyper, replace
from rlx.dynamics.told import entries
from rlx.envs import experts
from rlx.replay.buffer import prioritise
from rlx.replay.datasets.mapped import Mapped
from rlx.train.demonstrations import demonstrate
from rlx.types import Clock, Collect, Leaf, Problem, Spec, Update
from tests.agents.modem_v2.worlds import SIZES, VECTOR, clock, config, demonstrations, method, problem, windows

close = np.testing.assert_allclose
H = {k: jnp.float32(v) for k, v in hyper(Config()).items()}
PAPER = Times.of(Config(), VECTOR, 1_000)


@pytest.mark.parametrize(("k", "h"), [(6249, 1), (6250, 2), (12500, 3), (18750, 4), (24999, 4), (25000, 5)])
def test_the_horizon_grows(k, h):
    assert int(horizon_at(jnp.float32(k), H, 5)) == h


@pytest.mark.parametrize(("k", "n"), [(5000, 179), (25000, 128), (50000, 64), (10**6, 64)])
def test_the_share_of_demonstrations_falls(k, n):
    share = times.share_at(jnp.float32(k), H, 256)
    assert round(float(share) * 256) == n


@pytest.mark.parametrize(("k", "alpha"), [(0, 0), (5000, 0), (25000, 0.2), (55000, 0.5), (105000, 1), (10**6, 1)])
def test_control_is_handed_over(k, alpha):
    close(times.handed_over(jnp.float32(k), H, PAPER, None), alpha, atol=1e-6)
    close(times.handed_over(jnp.float32(k), H, PAPER, jnp.float32(0.1)), min(alpha, 0.1), atol=1e-6)


@pytest.mark.parametrize(("k", "v1"), [(0, 0.1), (6250, 0.075), (12500, 0.05), (10**6, 0.05)])
def test_the_least_deviation_is_one_number_and_falls_in_modem(k, v1):
    """And what is no number counts as if no decision of an episode succeeded, each of them a -1."""
    for names, least in (([], 0.1), (["v1"], v1)):
        own = Method.of(apply(Config(), agents.presets("modem_v2"), names), VECTOR, 1_000)
        h = {k: jnp.float32(v) for k, v in hyper(own.config).items()}
        found = own.settings(jnp.float32(k), h)
        close(found.std_min, least, rtol=1e-6)
        assert found.worst == -50 and found.std_max == 2


@pytest.mark.parametrize(
    ("name", "drawn", "proposed", "rounds", "pick"),
    [
        ("modem_v2", 0, 510, 1, "elite"),
        ("ensemble", 0, 510, 1, "elite"),
        ("v1", 512, 25, 6, "mean"),
        ("v1_as_in_v2", 484, 26, 1, "elite"),
        ("no_centering", 484, 25, 1, "elite"),  # 26 are no equal shares of five
    ],
)
def test_candidates_are_as_many_as_published(name, drawn, proposed, rounds, pick):
    plans = Method.of(replace(Config(), agents.presets("modem_v2")[name]), VECTOR, 1_000).plans
    assert (plans.samples, plans.proposals, plans.iterations, plans.pick, plans.elites) == (drawn, proposed, rounds, pick, 64)


def test_decisions_are_counted_by_whole_episodes():
    """L = 50: 100 episodes of seeding, then one that is planned, then updates from K0 on."""
    assert (PAPER.first, PAPER.episode, PAPER.cycles, PAPER.updates) == (5_100, 51, 3_899, (5_000, 50))
    assert [int(PAPER.acting(clock(env_steps=r))) for r in (0, 5_100, 5_151)] == [0, 5_000, 5_050]
    assert int(PAPER.acting(clock(env_steps=51 * 125))) == 6_250 and PAPER.cloning == (10, 100)
    at = lambda u, stage: float(PAPER.learning(clock(updates=u), stage))
    assert [at(1_000, "warm"), at(5_999, "warm")] == [5_000, 9_999]
    assert [at(6_000, "learn"), at(6_049, "learn"), at(6_050, "learn")] == [5_050, 5_099, 5_100]
    wide = Times.of(config(), VECTOR, 200)
    assert (wide.first, wide.rows, wide.updates, wide.cloning) == (51, 51 * 10, (10, 10), (2, 100))
    assert int(wide.acting(clock(env_steps=2 * 51 * 3))) == 300
    close([float(wide.learning(clock(updates=200 + u), "learn")) for u in (10, 15, 20)], [200, 250, 300])


@pytest.mark.parametrize("n", [1, 7, 20, 101, 250, 980, 1_000, 4_000])
def test_the_clone_learns_as_often_as_is_asked_for(n):
    given = Times.of(config(), VECTOR, n)
    cycles, each = given.cloning
    assert cycles * each == n and each <= 100
    assert float(given.learning(clock(updates=n), "warm")) == given.seed


def test_stages_are_the_method_s():
    agent = agents.make("modem_v2", None, problem(), **SIZES)
    bc, seed, warm, learn = agent.stages
    assert [s.name for s in agent.stages] == ["bc", "seed", "warm", "learn"] and learn.cycles == 8
    assert (bc.cycles, bc.phases[0].n) == (3, 98)  # two updates for each of the 3 x 49 decisions
    assert seed.phases == (Collect("train", 51, "replay", mode="bc_noisy"),)
    for stage in (warm, learn):
        collect, update = stage.phases
        assert collect == Collect("train", 51, "replay")
        assert isinstance(update, Update) and (update.n, update.priorities_of) == (10, ("replay", "data"))
    assert agent.reads == ("data",) and agent.buffers["replay"].capacity == 511
    assert [(e.name, e.mode, e.stages) for e in agent.evals] == [
        ("main", "eval", ("learn",)),
        ("planner", "planner", ("learn",)),
        ("bc", "bc", ("bc",)),
        ("bc_noisy", "bc_noisy", ("bc",)),
    ]
    untaught = agents.make("modem_v2", None, problem(), **{**SIZES, "bc_updates": 0})
    assert [s.name for s in untaught.stages] == ["seed", "warm", "learn"]
    assert [e.name for e in untaught.evals] == ["main", "planner"]
    alone = agents.make("modem_v2", None, problem(), **{**SIZES, "env_steps": 0})
    assert [s.name for s in alone.stages] == ["bc"] and [e.name for e in alone.evals] == ["bc", "bc_noisy"]
    off = agents.make("modem_v2", None, problem(), **{**SIZES, "handover.kind": "off"})
    assert [e.name for e in off.evals] == ["main", "bc", "bc_noisy"]


def test_windows_keep_off_the_last_decisions_unless_told():
    """Episodes of 49 decisions: windows of two begin at 0 to 46, or 47; the clone learns from 0 to 46, or 48. What begins no
    window does not say what priority new rows get."""
    given, h, key = problem(), {k: jnp.float32(v) for k, v in hyper(Config()).items()}, jax.random.key(0)
    state = prioritise(given.data["data"])
    sources = {"data": state, "replay": state}
    begun = lambda sampler: jax.jit(lambda k: sampler(h, clock(updates=210), sources, k).index)(key)
    for flag, cloned, window in ((False, 46, 46), (True, 48, 47)):
        tails = {"bc_use_tail": flag, "fix_tail_mask": flag}
        agent = agents.make("modem_v2", None, given, **{**SIZES, "batch": 3_000, **tails})
        bc, *_, learn = agent.stages
        assert set(np.unique(begun(bc.phases[0].sample).t) % 50) == set(range(cloned + 1))
        for found in begun(learn.phases[1].sample).values():
            assert set(np.unique(found.t[found.t >= 0]) % 50) == set(range(window + 1))
        assert agent.buffers["replay"].ends == 49 - window


@pytest.mark.parametrize(
    ("settings", "data", "words"),
    [
        ({"seed_steps": 120}, {}, "seed_steps=120 are no whole episodes of 50 decisions in 2 streams; give 200"),
        ({"env_steps": 150}, {}, "env_steps=150 leave nothing after seed_steps=100: give 300"),
        ({"env_steps": 0, "bc_updates": 0}, {}, "env_steps=0 and bc_updates=0 nothing learns"),
        ({"capacity": 100}, {}, "capacity=100 does not hold what one Collect gives; give at least 102"),
        ({"capacity": 150, "seed_steps": 200}, {}, "capacity=150 does not hold what one Collect gives; give at least 204"),
        ({"samples": 13}, {}, "samples=13 candidates are no equal shares for ensemble_size=3"),
        ({"elites": 40}, {}, "12 candidates has no 40 elites"),
        ({"clone": False}, {}, "'schedule' is from a clone"),
        ({}, {"length": 3}, "a demonstration has 2 decisions; windows of horizon=2 need 3"),
        ({}, {"length": 80}, "a demonstration has 79 decisions, episodes of rlx:push-toy have 50"),
        ({}, {"paid": 0.0}, "none of the 3 demonstrations does the task: no reward is above 0"),
        ({"penalty": "power"}, {}, "penalty='power' is no info of the environment, which has success, solved"),
        ({"reward": "success"}, {}, "reward='success' is no info of the data, which has none"),
        ({"handover.kind": "gated", "success": "nonsense"}, {}, "success='nonsense' is no info of the environment"),
        (
            {"handover.kind": "gated", "success": "contact_force"},
            {},
            "has success, solved, solved_sticky, contact_force_max",
        ),
        (
            {},
            {"told": {"success": (3,)}},
            r"info 'success' of the data is \[3\], that of the environment \[\]: demon",
        ),
        ({}, {"obs": 4}, r"obs of the data 'data' is float32\[4\]; that of rlx:push-toy is float32\[6\]"),
    ],
)
def test_what_cannot_be_is_named_before_anything_is_compiled(settings, data, words):
    with pytest.raises(ValueError, match=words):
        agents.make("modem_v2", None, problem(**data), **{**SIZES, **settings})


def test_rewards_that_are_costs_say_who_does_the_task_where_no_info_does():
    """0 and -1, or what a dense reward takes away."""
    agents.make("modem_v2", None, problem(paid=-1.0), **SIZES)
    for paid, told in ((0.0, {}), (-1.0, {}), (-1.0, {"success": ()})):
        given = problem(paid=paid, told=told)
        rows = given.data["data"].data
        rows = rows._replace(reward=rows.reward * 0 + paid, info={k: v * 0 for k, v in rows.info.items()})
        given.data["data"] = given.data["data"]._replace(data=rows)
        with pytest.raises(ValueError, match="none of the 3 demonstrations does the task"):
            agents.make("modem_v2", None, given, **SIZES)


def test_demonstrations_may_be_picked_and_lie_in_several_files():
    """Episodes that were left out stay in memory, and arrays that are mapped from files take no operators."""
    data = demonstrations()
    some = replay.best_episodes(data, 0.3)
    assert demonstrations_of(Problem({"train": rlx.envs.make("rlx:push-toy")}, {"data": some}), 2)[1] == 49
    parts = lambda x: Mapped(np.split(np.asarray(x)[:, 0], [30]), stream=True)
    mapped = data._replace(data=jax.tree.map(parts, data.data))
    assert demonstrations_of(Problem({"train": rlx.envs.make("rlx:push-toy")}, {"data": mapped}), 2)[1] == 3 * 49


def test_the_reward_is_one_number():
    env = rlx.envs.make("rlx:push-toy", physics=True)
    given = Problem({"train": env}, {"data": demonstrations(told={"physics": env.spec.info["physics"].shape})})
    with pytest.raises(ValueError, match=r"reward='physics' is \[8\] numbers a decision"):
        agents.make("modem_v2", None, given, **{**SIZES, "reward": "physics"})


def test_problems_that_cannot_be():
    env = rlx.envs.make("rlx:push-toy")
    with pytest.raises(ValueError, match="modem_v2 learns from data, and there are none"):
        agents.make("modem_v2", None, Problem({"train": env}))
    with pytest.raises(ValueError, match="these have no end: give a time limit"):
        Times.of(Config(), Spec(Leaf((3,)), Leaf((1,))), 10)
    small = rlx.envs.make("rlx:push-toy", discs=16, observe="proprio")
    data = demonstrations()
    images = np.zeros((*data.data.obs.shape[:2], 16, 16, 3), np.uint8)
    rows = data.data._replace(obs={"pixels": images, "state": np.zeros((*images.shape[:2], 4), np.float32)})
    with pytest.raises(ValueError, match="images of 16 pixels are too small"):
        agents.make("modem_v2", None, Problem({"train": small}, {"data": data._replace(data=rows)}))


def test_rows_of_the_table_are_presets():
    rows = {
        "bc_only": (0, True, True, "schedule", 5),
        "v1": (200_000, False, False, "off", 1),
        "v1_as_in_v2": (200_000, True, False, "off", 1),
        "centering": (200_000, True, True, "off", 1),
        "transition": (200_000, True, True, "schedule", 1),
        "ensemble": (200_000, True, True, "off", 5),
        "modem_v2": (200_000, True, True, "schedule", 5),
    }
    for name, expected in rows.items():
        c = replace(Config(), agents.presets("modem_v2")[name])
        assert (c.env_steps, c.clone, c.centering, c.handover.kind, c.ensemble_size) == expected
        weights = (1, 0, 0) if c.ensemble_size == 1 else (0, 1, -10)
        assert (c.value_min, c.value_mean, c.value_std) == weights
    assert isinstance(clock(), Clock)


def test_torques_cost_where_the_table_of_mujoco_tells_them():
    """With demonstrations of its script; the row is MoDem's but for the price."""
    env, told = (rlx.envs.make("rlx:push-lite", physics=physics) for physics in (False, True))
    found, _ = demonstrate(experts.of(told, {}), told, 1, streams=1)
    given = Problem({"train": env}, {"data": replay.from_episodes(found)})
    v1, row = (apply(Config(), agents.presets("modem_v2"), ["tiny_v1", *more]) for more in ((), ("torque_penalty",)))
    assert row == replace(v1, {"penalty": "torque", "penalty_coef": 1e-3})
    agent, rows = agents.make("modem_v2", row, given), given.data["data"].data
    drawn = windows(method())._replace(reward=rows.reward, info=rows.info)
    weight = 1.5 * 9.81  # of the finger, which controllers hold at least
    assert (np.asarray(rows.info["torque"][1:]) > weight).all()
    paid = Method.of(row, env.spec, 1).rewards(drawn, agent.hyper)
    close(paid, rows.reward[1:4] - 1 - 1e-3 * rows.info["torque"][1:4], rtol=1e-6)
    with pytest.raises(ValueError, match="penalty='torque' is no info of the environment, which has success, solved"):
        agents.make("modem_v2", row, problem())


@pytest.mark.parametrize(
    ("names", "n", "hidden"),
    [
        (["metaworld"], 39, {*range(4, 18), *range(22, 39)}),
        (["metaworld", "metaworld_goal"], 39, {*range(4, 18), *range(22, 36)}),
        (["adroit_door"], 39, {27, 28, *range(32, 39)}),
        (["adroit_hammer"], 46, set(range(36, 46))),
        (["adroit_pen"], 45, {*range(24, 36), *range(39, 45)}),
    ],
)
def test_presets_of_suites_hide_objects_from_proprioception(names, n, hidden):
    c = apply(Config(), agents.presets("modem_v2"), names)
    assert set(range(n)) - set(entries(c.proprio, n, "x")) == hidden and (c.reward, c.success) == ("success", "solved")


@pytest.mark.parametrize(
    ("names", "rounds", "share"),
    [
        (["v1"], 6, 0.75),
        (["v1_metaworld"], 4, 0.5),
        (["v1_metaworld", "metaworld_goal"], 4, 0.5),
        (["v1_adroit", "adroit_pen"], 8, 0.75),
        (["metaworld"], 1, 0.5),
        (["adroit_pen"], 1, 0.75),
    ],
)
def test_modem_searches_as_often_as_a_suite_needs(names, rounds, share):
    c = apply(Config(), agents.presets("modem_v2"), names)
    assert (c.iterations, c.demo_share, c.clone) == (rounds, share, "v1" not in names[0])
    assert len(names) == 1 or c.proprio
