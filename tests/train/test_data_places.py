"""Where the rows of a dataset lie does not change what is learned, nor for how many members."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import keys, replay
from rlx.envs import make
from rlx.replay import datasets
from rlx.train import logging, memory, run
from rlx.train.checkpoint import Checkpoints
from rlx.types import Agent, AgentState, Eval, Members, Out, Problem, Stage, Update
from tests.train.toys import QUIET


def episodes(count=5, length=7, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        ends = np.arange(length) == length - 1
        obs, action = rng.normal(size=(length, 3)), np.tanh(rng.normal(size=(length, 1)))
        yield {"obs": obs, "action": action, "reward": rng.normal(size=length), "terminated": ends, "truncated": ~ends & False}


def averaging(data) -> tuple[Agent, Problem]:
    """Learns running means of what it is given: any other row, order or time shows."""
    problem = Problem({"train": make("rlx:pendulum", time_limit=5)}, {"data": data})

    def init(key, hyper):
        return AgentState(hyper, {"obs": jnp.zeros(3), "next": jnp.zeros(3), "reward": jnp.float32(0)})

    def act(state, clock, carry, step, key, mode):
        return jnp.zeros((step.reward.shape[0], 1)), carry, {}

    def update(state, clock, batch, key):
        new = {"obs": batch.obs.mean(0), "next": batch.next_obs.mean(0), "reward": batch.reward.mean()}
        learned = jax.tree.map(lambda old, x: 0.9 * old + state.hyper["rate"] * x, state.learned, new)
        return state._replace(learned=learned), Out({"reward": learned["reward"]})

    sample = replay.transitions(8, source="data", stack=1)
    stages = (Stage("learn", 3, (Update(40, sample, update),)),)
    evals = (Eval("main", "train", 2, every=3),)
    return Agent("toy", None, {"rate": 0.1, "discount": 0.9}, init, act, stages, reads=("data",), evals=evals), problem


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "shards"
    all_of_them = list(episodes())
    with datasets.Writer(path) as out:
        for part in (all_of_them[:2], all_of_them[2:3], all_of_them[3:]):
            out.append(part)
    return path


@pytest.fixture(scope="module")
def places(shards):
    return {where: datasets.replay_of(shards, where) for where in ("device", "host", "disk")}


@pytest.mark.parametrize("members", [None, 2])
def test_rows_on_the_device_on_the_host_and_on_disk_teach_the_same(places, members):
    key = 3 if members is None else Members(keys.roots(range(members)))
    found = {where: run(*averaging(data), key, options=QUIET).agent.learned for where, data in places.items()}
    for where in ("host", "disk"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found[where], found["device"])
    jax.tree.map(np.testing.assert_array_equal, found["host"], found["disk"])
    assert np.all(np.asarray(found["device"]["reward"]) != 0)


@pytest.mark.parametrize("where", ["device", "host"])
@pytest.mark.parametrize("stops", [False, True])
def test_a_member_that_stopped_or_diverged_keeps_what_it_had_learned(places, where, stops):
    """Two updates in each of six cycles add the rate to a number, and beyond 7 it is not finite."""
    agent, problem = averaging(places[where])

    def update(state, clock, batch, key):
        x = state.learned["x"] + state.hyper["rate"]
        x = jnp.where(x > 7, jnp.nan, x)
        return state._replace(learned={"x": x}), Out({"x": x})

    stop = (lambda state: state.learned["x"] >= 4) if stops else None
    stages = (Stage("learn", 6, (Update(2, agent.stages[0].phases[0].sample, update),), stop=stop),)
    agent = replace(agent, stages=stages, init=lambda key, hyper: AgentState(hyper, {"x": jnp.float32(0)}))
    state = run(agent, problem, Members(keys.roots(range(2)), {"rate": jnp.array([0.5, 1.0])}), options=QUIET)
    assert state.agent.learned["x"].tolist() == ([4.0, 4.0] if stops else [6.0, 6.0]), "the second had 7 in a cycle's midst"
    assert state.alive.tolist() == [True, stops]


def test_data_that_lie_on_the_device_are_not_asked_room_for_twice(places, monkeypatch):
    agent, problem = averaging(places["device"])
    one, size, devices = sum(memory.needs(agent, problem).values()), memory.shared(problem), jax.devices()[:1]
    monkeypatch.setattr(memory, "available", lambda devices: 3 * one)
    assert memory.most(agent, problem, devices) == 3 and size > 0
    assert memory.most(agent, problem, devices, 3 * one) == (3 * one - size) // one < 3, "a limit is for all that is there"
    assert memory.most(agent, problem, devices, 3 * one + size) == 3


def test_rows_on_disk_are_not_taken_into_memory(places, monkeypatch):
    """What is asked of the mapped columns is the batches, not the whole."""
    data = places["disk"]
    whole = type(data.data.obs).__array__
    monkeypatch.setattr(type(data.data.obs), "__array__", lambda *a, **k: pytest.fail("all of it was read") or whole)
    run(*averaging(data), 0, options=QUIET)


def test_a_run_on_disk_resumes(places, tmp_path):
    agent, problem = averaging(places["disk"])
    once = run(agent, problem, 0, options=QUIET).agent.learned
    shorter = replace(agent, stages=(replace(agent.stages[0], cycles=3),))
    stops = {"left": 2}

    def stop(line, state):
        stops["left"] -= 1
        if not stops["left"]:
            from rlx.train import Stop

            raise Stop("enough")

    run(shorter, problem, 0, tmp_path, options=QUIET, callback=stop)
    jax.tree.map(np.testing.assert_array_equal, run(agent, problem, 0, tmp_path, options=QUIET).agent.learned, once)


KILLED = """
import os, signal, sys
from rlx.replay import datasets
from rlx.train import Options, checkpoint, run
from tests.train.test_data_places import averaging

rename = os.replace

def killed(source, place):
    if os.fspath(place).endswith(os.path.join("checkpoints", "2")):  # all of the second checkpoint is written, but for its name
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, place)

checkpoint.os.replace = killed
data = datasets.replay_of(sys.argv[1], sys.argv[2])
run(*averaging(data), 0, sys.argv[3], options=Options(progress=False, log_every=1, checkpoint_cycles=1))
"""


@pytest.mark.parametrize("where", ["host", "disk"])
def test_a_run_that_reads_ahead_and_was_killed_ends_as_one_that_was_not(places, shards, tmp_path, where):
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(shards), where, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert (tmp_path / "checkpoints" / ".2.part" / "manifest.json").exists()
    assert Checkpoints(tmp_path / "checkpoints").steps() == [1]
    once = run(*averaging(places[where]), 0, options=QUIET).agent.learned
    lines = []
    again = dict(options=QUIET, callback=lambda line, state: lines.append(line))
    found = run(*averaging(places[where]), 0, tmp_path, **again)
    jax.tree.map(np.testing.assert_array_equal, found.agent.learned, once)
    assert not (tmp_path / "checkpoints" / ".2.part").exists()
    cycles = lambda some: [x["cycle"] for x in some if x["kind"] == "train"]
    assert cycles(lines) == [2, 3] and cycles(logging.read(tmp_path)) == [1, 2, 3]


def test_only_shards_are_read_from_disk_and_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    datasets.write(tmp_path / "a.npz", episodes())
    with pytest.raises(ValueError, match="no folder of shards.*rlx data convert"):
        datasets.replay_of(tmp_path / "a.npz", "disk")
    monkeypatch.setattr(datasets.placing, "free_memory", lambda: 100)
    with pytest.raises(ValueError, match="GiB in memory, where 0.0 are free.*--data-in disk"):
        datasets.replay_of(tmp_path / "a.npz")


@pytest.mark.parametrize("where", ["device", "host", "disk"])
def test_decisions_of_another_repeat_are_refused(shards, tmp_path, where):
    datasets.write(tmp_path / "held", datasets.load(shards), {"repeat": 2})
    assert datasets.replay_of(tmp_path / "held", where, 2).index.size > 0
    assert datasets.replay_of(shards, where, 2).index.size > 0, "data that do not say"
    with pytest.raises(
        ValueError, match="was made with --repeat 2, and here it is 4: give --repeat 2, or data made with --repeat 4"
    ):
        datasets.replay_of(tmp_path / "held", where, 4)
