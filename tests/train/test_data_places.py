"""Where the rows of a dataset lie does not change what is learned, nor for how many members."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import keys, replay
from rlx.envs import make
from rlx.replay import datasets
from rlx.train import run
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
def places(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "shards"
    all_of_them = list(episodes())
    with datasets.Writer(path) as out:
        for part in (all_of_them[:2], all_of_them[2:3], all_of_them[3:]):
            out.append(part)
    return {where: datasets.replay_of(path, where) for where in ("device", "host", "disk")}


@pytest.mark.parametrize("members", [None, 2])
def test_rows_on_the_device_on_the_host_and_on_disk_teach_the_same(places, members):
    key = 3 if members is None else Members(keys.roots(range(members)))
    found = {where: run(*averaging(data), key, options=QUIET).agent.learned for where, data in places.items()}
    for where in ("host", "disk"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found[where], found["device"])
    jax.tree.map(np.testing.assert_array_equal, found["host"], found["disk"])
    assert np.all(np.asarray(found["device"]["reward"]) != 0)


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


def test_only_shards_are_read_from_disk_and_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    datasets.write(tmp_path / "a.npz", episodes())
    with pytest.raises(ValueError, match="no folder of shards.*rlx data convert"):
        datasets.replay_of(tmp_path / "a.npz", "disk")
    monkeypatch.setattr(datasets.placing, "free_memory", lambda: 100)
    with pytest.raises(ValueError, match="GiB in memory, where 0.0 are free.*--data-in disk"):
        datasets.replay_of(tmp_path / "a.npz")
