"""Runs on environments that others wrote: how many are open, that all are closed, and what happens where they do not repeat."""

from __future__ import annotations

import json
from dataclasses import replace

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx.envs import batch
from rlx.train import Options, run
from rlx.train.evaluate import Evaluator, evaluate
from rlx.train.program import Program
from rlx.types import Eval, Members, Problem
from tests.envs import foreign
from tests.train.toys import evaluations, toy

HERE = "gym:tests.envs.foreign:"
QUIET = Options(progress=False, log_every=1)


class Counted(foreign.Plain):
    """Counts how many are open. Its number, drawn at reset, tells episodes apart."""

    open = most = 0

    def __init__(self, render_mode=None):
        super().__init__()
        Counted.open += 1
        Counted.most = max(Counted.most, Counted.open)

    def reset(self, *, seed=None, options=None):
        out = super().reset(seed=seed)
        self.number = self.np_random.uniform()
        return out

    def pay(self):
        return self.number

    def close(self):
        Counted.open -= 1


gymnasium.register("RlxCounted-v0", Counted, max_episode_steps=20, disable_env_checker=True)


def toy_on(name, streams=1, episodes=2, **more):
    agent, _ = toy(**more)
    problem = Problem({"train": rlx.envs.make(name)})
    act = lambda state, clock, carry, step, key, mode: (jnp.full((step.reward.shape[0], 2), 0.1), carry, {})
    envs, evals = {"train": batch(problem.envs["train"], streams)}, (Eval("main", "train", episodes, every=2),)
    return replace(agent, act=act, envs=envs, evals=evals, buffers={"replay": rlx.replay.ring(64, streams)}), problem


@pytest.mark.parametrize(("streams", "stages"), [(1, 2), (3, 1)])
def test_an_evaluation_opens_no_more_than_training_and_all_are_closed(streams, stages):
    Counted.open = Counted.most = 0
    agent, problem = toy_on("gym:RlxCounted-v0", streams, episodes=5)
    agent = replace(agent, stages=tuple(replace(agent.stages[0], name=f"learn{i}") for i in range(stages)))
    state = run(agent, problem, jax.random.key(0), options=QUIET)
    assert (Counted.open, Counted.most) == (0, 2 * streams)
    episodes = evaluate(agent, problem, state.agent, jax.random.key(1), 0, 6, 5)
    assert Counted.open == 0 and len(set(episodes["returns"].tolist())) == 5
    assert episodes["lengths"].tolist() == [foreign.LENGTH] * 5


def test_rounds_begin_the_episodes_that_streams_side_by_side_would():
    found = []
    for streams in (1, 2, 5):
        agent, problem = toy_on("gym:RlxCounted-v0", streams)
        state = agent.init(jax.random.key(0), {"rate": 1.0, "discount": 0.9})
        found.append(evaluate(agent, problem, state, jax.random.key(1), 0, 0, 5)["returns"])
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[2])


def test_members_are_evaluated_on_the_episodes_of_their_solo_runs():
    Counted.open = Counted.most = 0
    found = {}
    key = jax.random.split(jax.random.key(0), 2)
    for name, who in (("both", Members(key)), ("one", key[1])):
        agent, problem = toy_on("gym:RlxCounted-v0", 1, episodes=3, cycles=2)
        note = evaluations(lambda line, name=name: found.setdefault(name, line["returns"]))
        run(agent, problem, who, options=QUIET, callback=note)
    assert np.shape(found["both"]) == (2, 3) and len(np.unique(found["both"])) == 6 and (Counted.open, Counted.most) == (0, 4)
    np.testing.assert_array_equal(found["both"][1], found["one"])


def test_what_is_light_is_known_by_its_package_or_told():
    assert rlx.envs.make("gym:Pendulum-v1").light and not rlx.envs.make("gym:RlxCounted-v0").light
    assert rlx.envs.make("gym:RlxCounted-v0", light=True).light and rlx.envs.make("dmc:cartpole-swingup").light
    agent, problem = toy_on("gym:Pendulum-v1", 1)
    assert Evaluator(Program(agent, problem, 0, {}, None), Eval("many", "train", 7)).width == 7


@pytest.mark.parametrize(("name", "cuts"), [("Plain", 0), ("Restless", 1)])
def test_an_episode_that_does_not_repeat_is_cut_on_resume_and_told(name, cuts, tmp_path):
    agent, problem = toy_on(f"{HERE}{name}-v0", cycles=2)
    run(agent, problem, jax.random.key(0), tmp_path, options=QUIET)
    longer, _ = toy_on(f"{HERE}{name}-v0", cycles=4)
    state = run(longer, problem, jax.random.key(0), tmp_path, options=QUIET)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    told = [line["event"] for line in lines if line["kind"] == "event" and "does not repeat" in line["event"]]
    assert told == ["resumed with a new episode of train, which does not repeat an episode from its seed and its actions: "
                    "not bit-exact"] * cuts  # fmt: skip
    rows = rlx.replay.ring(64, 1).export(state.sources["replay"])
    broken = [e for e in rows if e.truncated[-1] and len(e.reward) <= foreign.LENGTH]
    assert len(broken) >= cuts and all(np.ptp(e.obs[:, 2] // 100) == 0 for e in rows)  # no row joins two episodes
