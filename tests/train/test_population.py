"""Populations: a member is its solo run, on any number of devices; frozen, compacted, exchanged, in waves, refused."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import agents, config, keys
from rlx.envs import make
from rlx.train import Diverged, Options, memory, pmap, population, run, tournament
from rlx.train import state as states
from rlx.train.placement import EMPTY, Placement
from rlx.train.population import members, settings_of, traced_grid, turns
from rlx.train.run_config import RunConfig
from rlx.types import Collect, Members, Problem
from tests.train.devices import small
from tests.train.toys import QUIET, evaluations, toy

pytestmark = pytest.mark.usefixtures("all_bits")  # in all tests, so that they share programs
LLVM_LEVEL = 1  # it compares programs
ROOT = Path(__file__).resolve().parents[2]
SHORT = {"sac": {"env_steps": 220}, "td3": {"env_steps": 220}, "ppo": {"env_steps": 256}}  # long runs part by rounding


RATE = {"sac": "actor_lr", "td3": "actor_lr", "ppo": "lr"}


@functools.cache
def short(name: str):
    """An agent and its problem, once: its programs stay with it."""
    return small(name, **SHORT[name])


@functools.cache
def trained(name: str):
    """Two seeds of three settings."""
    return population(*short(name), [3, 5], {RATE[name]: [1e-3, 1e-4, 1e-5]}, options=QUIET)


# --------------------------------------------------------------------------------------------------------- members and seeds


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_a_member_is_its_solo_run(name, monkeypatch):
    (agent, problem), found = short(name), trained(name)
    assert found.seeds.tolist() == [3, 5] * 3
    for i, (seed, value) in enumerate(zip(found.seeds, found.settings[RATE[name]], strict=True)):
        monkeypatch.setitem(agent.hyper, RATE[name], float(value))
        state = run(agent, problem, jax.random.key(int(seed)), options=QUIET)
        ours, theirs = jax.tree.leaves(found.member(i, best=False).learned), jax.tree.leaves(state.agent.learned)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        for name_, source in state.sources.items():  # what was collected: exactly as many rows, at the same places
            np.testing.assert_array_equal(found.state.sources[name_].index.flags[i], source.index.flags)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_initial_parameters_and_drawn_indices_are_bit_equal(name):
    """PPO's parameters but for rounding: they come from a QR decomposition, which on a GPU has another kernel for batches."""
    rounding = 1e-6 if name == "ppo" else 0.0
    agent, problem = short(name)
    everyone = members([(seed, {}) for seed in (3, 5)])
    many = states.start(agent, problem, everyone).agent.learned
    update = next(p for s in agent.stages for p in s.phases if hasattr(p, "sample"))
    source = update.sample.sources[0]
    for i, seed in enumerate((3, 5)):
        alone = states.start(agent, problem, jax.random.key(seed)).agent.learned
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=0, atol=rounding), many, alone)
    filled = run(agent, problem, jax.random.key(0), options=QUIET).sources[source]
    draw = lambda key: update.sample.draw({source: filled}, agent.hyper, (), key)
    two = jax.jit(jax.vmap(draw))(everyone.keys)
    one = [jax.jit(draw)(everyone.keys[i]) for i in range(2)]
    for i in range(2):
        assert jax.tree.all(jax.tree.map(lambda a, b, i=i: np.array_equal(a[i], b), two, one[i]))


@pytest.mark.slow
def test_two_seeds_differ_in_everything():
    state = trained("sac").state  # the first two members are two seeds of one setting
    rows = state.sources["replay"].data
    assert not np.allclose(rows.action[0], rows.action[1]) and not np.allclose(rows.obs[0], rows.obs[1])
    first = state.agent.learned["actor"]["params"]["Dense_0"]["kernel"]
    assert not np.allclose(first[0], first[1])


def test_another_named_stream_changes_no_other():
    root = jax.random.key(7)
    before = jax.random.key_data(keys.fold(root, "learn", "update", 1))
    keys.fold(root, "something new", "update", 1)
    assert np.array_equal(before, jax.random.key_data(keys.fold(root, "learn", "update", 1)))
    agent, problem = toy()
    more = replace(
        agent,
        envs={**agent.envs, "other": agent.envs["train"]},
        buffers={**agent.buffers, "side": agent.buffers["replay"]},
        stages=(replace(agent.stages[0], phases=(*agent.stages[0].phases, Collect("other", 3, "side"))),),
    )
    a, b = (run(x, problem, root, options=QUIET) for x in (agent, more))
    assert float(a.agent.learned["noise"]) == float(b.agent.learned["noise"])
    same = jax.tree.map(np.array_equal, a.sources["replay"], b.sources["replay"])
    assert jax.tree.all(same) and "side" in b.sources


# ------------------------------------------------------------------------------------------------------------------- devices


@pytest.mark.slow
def test_1_2_and_4_devices_and_checkpoints_between_them(tmp_path):
    flags = {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=4 {os.environ['XLA_FLAGS']}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(ROOT / "tests/train/devices.py"), str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, **flags}, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    out = json.loads(done.stdout.splitlines()[-1])
    assert out["devices"] == 4 and out["shards"] == 3, "six members lie in pairs on three devices"
    assert out["seeds"] == [0, 1, 2, 0, 1, 2] and out["rates"] == [1e-3] * 3 + [1e-4] * 3
    assert len(set(out["steps"])) == 1 and len(out["steps"]) == 6
    assert max(out[k] for k in ("two", "four", "resumed on 1", "resumed on 2")) < 1e-5
    assert out["pmap"] == [2, 2]


def test_where_members_lie():
    five = Placement.of(range(5), 5, devices=("a", "b", "c", "d"))
    assert five.member_ids.tolist() == [0, 1, 2, 3, 4, EMPTY] and five.devices == ("a", "b", "c")
    assert Placement.of(range(2), 2, devices=("a", "b", "c")).devices == ("a", "b")
    some = Placement.of([4, 1], 5, devices=("a",))
    assert some.locate(five.member_ids).tolist() == [4, 1]
    found = some.by_member(np.array([40.0, 10.0]))
    assert found[[4, 1]].tolist() == [40, 10] and np.isnan(found[[0, 2, 3]]).all()
    assert some.by_member(np.array([4, 1]), np.array([7, 0, 8, 9, 0])).tolist() == [7, 1, 8, 9, 4]


@pytest.mark.slow
def test_pmap_lays_members_out_by_device():
    agent, problem = toy()
    state = pmap(agent, problem, jax.random.split(jax.random.key(0), (1, 3)), options=QUIET)
    assert state.agent.learned["x"].shape == (1, 3) == state.alive.shape
    with pytest.raises(ValueError, match=r"\[devices, members\]"):
        pmap(agent, problem, jax.random.split(jax.random.key(0), 3), options=QUIET)
    with pytest.raises(ValueError, match="for 99 devices; there are"):
        pmap(agent, problem, jax.random.split(jax.random.key(0), (99, 1)), options=QUIET)


# --------------------------------------------------------------------------------------------- members that die, and exchange


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [False, True])
def test_the_dead_are_compacted_and_keep_what_they_had(interrupted, tmp_path):
    """Of four members three diverge at update 7: the fourth goes on alone, also after a resume."""
    agent, problem = toy(blow_up_at=7)  # with rate 1.0 only
    rates = jnp.array([1.0, 0.5, 1.0, 1.0])
    everyone = Members(jax.random.split(jax.random.key(0), 4), {"rate": rates})
    stopped = []

    def look(report):
        if interrupted and not stopped and report["cycle"] >= 8:
            stopped.append(1)
            raise KeyboardInterrupt

    options = Options(progress=False, checkpoint_cycles=1)
    try:
        state = run(agent, problem, everyone, tmp_path, options=options, callback=evaluations(look))
    except KeyboardInterrupt:
        state = run(agent, problem, everyone, tmp_path, options=options)
    assert state.alive.tolist() == [False, True, False, False]
    np.testing.assert_allclose(state.agent.learned["x"], [6.0, 6.0, 6.0, 6.0])
    np.testing.assert_allclose(state.agent.hyper["rate"], rates)
    assert state.member_ids.tolist() == [1], "one place is left"
    assert state.counts["updates"].shape == (4,) and (state.counts["updates"] > 0).all()
    events = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum("diverged" in str(e.get("event")) for e in events) == 1


def test_all_dead_is_an_error():
    agent, problem = toy(blow_up_at=3)
    with pytest.raises(Diverged, match="toy/loss stopped being finite"):
        run(agent, problem, Members(jax.random.split(jax.random.key(0), 2)), options=QUIET)


def test_tournament_moves_the_worst_to_the_best():
    exchange = tournament(0.25, factors=(2.0,))
    hypers = {"lr": np.array([1.0, 2.0, 3.0, 4.0], np.float32), "tau": np.full(4, 0.5, np.float32)}
    index, new = exchange(hypers, np.array([10.0, -np.inf, 30.0, 20.0]), jax.random.key(0))
    assert index.tolist() == [0, 2, 2, 3]
    assert new["lr"].tolist() == [1.0, 6.0, 3.0, 4.0] and new["tau"].tolist() == [0.5] * 4, "only what differs moves"
    index, new = exchange(hypers, np.zeros(4), jax.random.key(0))
    assert index.tolist() == [0, 1, 2, 3], "equals stay"
    assert tournament(0.5, (2.0,), only=["tau"])(hypers, np.arange(4.0), jax.random.key(1))[1]["tau"].tolist() == [
        1,
        1,
        0.5,
        0.5,
    ]
    drawn = tournament(0.5, (2.0,), redraw={"lr": [7.0]}, chance=1.0)(hypers, np.arange(4.0), jax.random.key(1))
    assert drawn[1]["lr"].tolist() == [7.0, 7.0, 3.0, 4.0]
    drawn = tournament(0.5, (2.0,), redraw={"lr": [7.0]}, chance=0.0, most={"lr": 5.0})(
        hypers, np.arange(4.0), jax.random.key(1)
    )
    assert drawn[1]["lr"].tolist() == [5.0, 5.0, 3.0, 4.0]
    for wrong in ({"fraction": 0.0}, {"fraction": 0.6}, {"factors": ()}, {"chance": 1.5}):
        with pytest.raises(ValueError, match="tournament"):
            tournament(**wrong)


@pytest.mark.slow
def test_exchange_revives_a_diverged_member_and_a_wrong_one_is_refused():
    agent, problem = toy(blow_up_at=7)  # with rate 1.0, in cycle 4
    hypers = {"rate": jnp.array([0.5, 1.0])}
    everyone = Members(jax.random.split(jax.random.key(0), 2), hypers, exchange=tournament(0.5, (1.0,)), every=5)
    state = run(agent, problem, everyone, options=QUIET)
    assert state.alive.all() and state.agent.hyper["rate"].tolist() == [0.5, 0.5]
    assert np.ptp(state.agent.learned["x"]) == 0
    bad = Members(everyone.keys, hypers, exchange=lambda h, s, k: (np.array([0, 5]), h), every=5)
    with pytest.raises(ValueError, match="must give indices"):
        run(agent, problem, bad, options=QUIET)


@pytest.mark.slow
def test_population_based_training_of_ppo():
    """Learning rates that cannot learn give way to those that can: the spread of members shrinks to the good ones."""
    agent, problem = small("ppo", "rlx:probe-action", env_steps=6_000, eval_every=1_000, lr=1e-3)
    kept = population(agent, problem, 4, {"lr": [3e-3, 1e-9]}, options=QUIET)
    bred = population(agent, problem, 4, {"lr": [3e-3, 1e-9]}, exchange=tournament(0.5, (1.0,)), every=8, options=QUIET)
    assert (kept.state.agent.hyper["lr"] < 1e-6).sum() == 4
    assert (bred.state.agent.hyper["lr"] < 1e-6).sum() < 2
    assert bred.scores.mean() > kept.scores.mean()


# --------------------------------------------------------------------------------------------------- memory, waves, bad input


@pytest.mark.slow
def test_memory_is_counted_and_too_many_members_are_refused():
    agent, problem = small("sac", capacity=1_000)
    one = memory.needs(agent, problem)
    assert one["replay"] == agent.buffers["replay"].capacity * (4 * 5 + 1)
    params = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(agent.init(jax.random.key(0), agent.hyper).learned))
    assert one["learned"] == pytest.approx(4 * params, rel=0.02)
    room = 5 * sum(one.values()) + 10
    assert memory.most(agent, problem, jax.devices()[:1], room) == 5
    with pytest.raises(ValueError, match="8 members do not fit.*At most 5 fit"):
        population(agent, problem, 8, limit=room, options=QUIET)
    assert turns(agent, problem, 8, jax.devices()[:1], "auto", room) == [(0, 4), (4, 8)]
    assert memory.available(jax.devices()) > 2**20


@pytest.mark.slow
def test_waves_give_the_same_members(tmp_path):
    """Five members in waves of three and two."""
    agent, problem = toy()
    whole = population(agent, problem, 5, {"rate": [0.5]}, options=QUIET)
    apart = population(agent, problem, 5, {"rate": [0.5]}, run_dir=tmp_path, waves=2, options=QUIET)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["wave0", "wave1"]
    for a, b in zip(jax.tree.leaves(whole.state.agent), jax.tree.leaves(apart.state.agent), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert len(np.unique(apart.state.agent.learned["noise"])) == 5 and apart.table()[0]["seeds"] == 5


@pytest.mark.slow
def test_the_table_ranks_settings():
    found = trained("sac")
    table = found.table()
    assert len(table) == 3 and [r["iqm"] for r in table] == sorted((r["iqm"] for r in table), reverse=True)
    best = table[0]
    mine = found.scores[found.settings["actor_lr"] == best["actor_lr"]]
    assert best["iqm"] == pytest.approx(mine.mean(), rel=1e-5) and best["interval"][0] <= best["iqm"] <= best["interval"][1]


def test_grids_that_cannot_be():
    own = agents.config("sac")
    fields = config.hyper(own), config.static(own)
    assert traced_grid({"agent.actor-lr": ["1e-3"], "tau": [0.1]}, *fields) == {"actor_lr": [1e-3], "tau": [0.1]}
    assert settings_of({"a": [1, 2], "b": [3]}) == [{"a": 1, "b": 3}, {"a": 2, "b": 3}]
    bad = {
        "'actor_lr'": {"actor_lrr": [1.0]},
        "shapes the program": {"hidden": [[32]]},
        "not numbers": {"tau": ["fast"]},
        "one finite number": {"tau": []},
        "finite": {"tau": [float("nan")]},
        "there twice": {"tau": [0.1, "0.10"]},
        "one in float32": {"tau": [0.1, 0.1000000001]},
        "given twice": {"tau": [0.1], "agent.tau": [0.2]},
    }
    for message, grid in bad.items():
        with pytest.raises(ValueError, match=message):
            traced_grid(grid, *fields)
    agent, problem = toy()
    for seeds in (0, [], [1, 1]):
        with pytest.raises(ValueError, match="seeds"):
            population(agent, problem, seeds)
    with pytest.raises(ValueError, match="seed -1"):
        population(agent, problem, [-1])
    with pytest.raises(ValueError, match="there twice"):
        members([(0, {"rate": 0.1}), (1, {"rate": 0.1}), (0, {"rate": 0.1})])
    with pytest.raises(ValueError, match="there twice"):
        RunConfig("sac", "rlx:pendulum", own, settings=({"tau": 0.1}, {"tau": 0.1}))
    for waves in (0, 3, "some"):
        with pytest.raises(ValueError, match="waves"):
            population(agent, problem, 2, waves=waves)


@pytest.mark.slow
def test_a_population_on_native_mujoco_and_after_a_resume(tmp_path):
    problem = Problem({"train": make("dmc:cartpole-swingup", repeat=8)})
    agent = agents.make("sac", short("sac")[0].config, problem)
    found = population(agent, problem, 2, run_dir=tmp_path / "a", options=QUIET)
    stop = []

    def interrupt(report):
        if not stop:
            stop.append(1)
            raise KeyboardInterrupt

    everyone, options = members([(0, {}), (1, {})]), Options(progress=False, checkpoint_cycles=1)
    with pytest.raises(KeyboardInterrupt):
        run(agent, problem, everyone, tmp_path / "b", options=options, callback=evaluations(interrupt))
    again = run(agent, problem, everyone, tmp_path / "b", options=options)
    same = jax.tree.map(np.array_equal, found.state.agent.learned, again.agent.learned)
    assert jax.tree.all(same) and not np.allclose(*np.asarray(again.sources["replay"].data.obs))
