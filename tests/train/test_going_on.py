"""Runs that go on: with a larger budget, from what another has learned, and after a signal."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import replace

import jax
import numpy as np
import pytest

from rlx import agents, config, replay
from rlx.train import Interrupted, load, logging, processes, run
from rlx.train import state as states
from rlx.train.logging import Progress
from rlx.train.policy import initial
from rlx.train.recording import Recorder
from rlx.train.run_config import RunConfig, keep
from rlx.types import Members, Stage
from tests.train.toys import QUIET, toy


def leaves(state):
    return [np.asarray(x) for x in jax.tree.leaves((state.agent, state.sources))]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


# -------------------------------------------------------------------------------------------------------- a larger budget


def with_room(cycles: int, capacity: int):
    agent, problem = toy(cycles=cycles)
    return replace(agent, buffers={"replay": replay.ring(capacity, 2)}), problem


@pytest.mark.parametrize("members", [None, 2])
def test_a_longer_run_goes_on_where_the_shorter_one_ended_bit_for_bit(tmp_path, members):
    """4 decisions a cycle: the ring of the shorter run is just full, and that of the longer one has more room."""
    key = 0 if members is None else Members(jax.random.split(jax.random.key(0), members))
    (short, problem), (long, _) = with_room(4, 4 * 4 + 1), with_room(6, 6 * 4 + 1)
    run(short, problem, key, tmp_path, options=QUIET)
    assert same(run(long, problem, key, tmp_path, options=QUIET), run(long, problem, key, options=QUIET))


def test_a_run_that_does_not_resume_takes_the_place_of_the_one_before(tmp_path):
    agent, problem = toy()
    run(agent, problem, 0, tmp_path, options=QUIET)
    before = len(logging.read(tmp_path))
    anew = run(agent, problem, 1, tmp_path, options=replace(QUIET, resume=False))
    assert len(logging.read(tmp_path)) == before
    assert same(run(agent, problem, 1, tmp_path, options=QUIET), anew)


def test_a_run_that_goes_on_counts_its_progress_from_there(tmp_path, monkeypatch):
    found = []
    advance = Progress.advance
    monkeypatch.setattr(Progress, "advance", lambda self, *a, **k: (advance(self, *a, **k), found.append(self.done)))
    for cycles in (4, 6):
        run(*toy(cycles=cycles), 0, tmp_path, options=QUIET)
    assert found == [1, 2, 3, 4, 5, 6]


def test_stages_that_are_over_cannot_get_longer(tmp_path):
    def staged(first, second):
        phases = toy()[0].stages[0].phases
        return toy(stages=(Stage("first", first, phases), Stage("second", second, phases)))

    run(*staged(2, 2), 0, tmp_path, options=QUIET)
    with pytest.raises(ValueError, match="stands in stage 'second' after 2 cycles of a plan of first 2, second 2"):
        run(*staged(3, 2), 0, tmp_path, options=QUIET)
    with pytest.raises(ValueError, match="Only that stage and later ones may get longer"):
        run(*staged(2, 1), 0, tmp_path, options=QUIET)
    assert run(*staged(2, 3), 0, tmp_path, options=QUIET).cycle == 3


def test_a_config_names_other_folders_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = RunConfig("sac", "rlx:pendulum", agents.config("sac"), init_from="runs/a/", data="b.npz")
    assert (found.init_from, found.data) == (str(tmp_path / "runs" / "a"), str(tmp_path / "b.npz"))


def test_only_a_budget_may_grow(tmp_path):
    own = config.replace(agents.config("sac"), env_steps=2_000)
    one = RunConfig("sac", "rlx:pendulum", own)
    longer = replace(one, config=config.replace(own, env_steps=3_000))
    assert one.longer(longer) and not longer.longer(one)
    other = replace(one, config=config.replace(own, env_steps=3_000, batch=8))
    assert not one.longer(replace(longer, seed=1)) and not one.longer(other)
    assert not keep(one, tmp_path)
    (tmp_path / "result.json").write_text("{}")
    agent = longer.make(longer.problem())
    assert keep(longer, tmp_path, agent) and not (tmp_path / "result.json").exists()
    with pytest.raises(ValueError, match=r"env_steps: 3000, not 2000.*only agent.env_steps may grow"):
        keep(one, tmp_path, agent)


# --------------------------------------------------------------------------------------------- what another run has learned


def test_a_run_begins_with_what_another_has_learned():
    agent, problem = toy()
    first = run(agent, problem, 0, options=QUIET).agent
    begun = states.start(agent, problem, jax.random.key(1), first)
    assert float(begun.agent.learned["x"]) == float(first.learned["x"]) == 12.0
    three = Members(jax.random.split(jax.random.key(1), 3))
    np.testing.assert_array_equal(states.start(agent, problem, three, first).agent.learned["x"], [12.0] * 3)
    each = first._replace(learned={"x": np.array([1.0, 2.0, 3.0], np.float32), "noise": np.zeros(3, np.float32)})
    np.testing.assert_array_equal(states.start(agent, problem, three, each).agent.learned["x"], [1, 2, 3])
    for _ in range(2):  # what a run began with is still there for the next one
        run(agent, problem, jax.random.key(1), options=QUIET, init_from=first)
    assert float(first.learned["x"]) == 12.0
    with pytest.raises(ValueError, match=r"init_from does not fit: \['noise'\] has shape \(3,\), that of toy here is \(\)"):
        run(agent, problem, 0, options=QUIET, init_from=each)


@pytest.mark.slow
def test_init_from_takes_the_best_of_a_run_folder(tmp_path):
    from rlx.cli import main

    argv = ["train", "ppo", "--env", "rlx:pendulum", "--preset", "debug", "--no-progress", "--no-video"]
    assert main([*argv, "--seeds", "2", "--run-dir", str(tmp_path / "a")]) == 0
    next_one = RunConfig("ppo", "rlx:pendulum", agents.config("ppo"), seeds=2, init_from=str(tmp_path / "a"))
    found = initial(next_one)
    for member in range(2):
        mine = jax.tree.map(lambda x, member=member: x[member], found.learned)
        jax.tree.map(np.testing.assert_array_equal, mine, load(tmp_path / "a", "best", member).state.learned)
    with pytest.raises(ValueError, match="holds 2 members, this run has 3"):
        initial(replace(next_one, seeds=3))
    argv += ["--init-from", str(tmp_path / "a")]
    assert main([*argv, "--agent.hidden", "8", "--seeds", "2", "--run-dir", str(tmp_path / "b")]) == 2
    assert not (tmp_path / "b" / "config.json").exists()
    assert main([*argv, "--seeds", "2", "--run-dir", str(tmp_path / "c")]) == 0
    (tmp_path / "a").rename(tmp_path / "elsewhere")
    assert main([*argv, "--seeds", "2", "--run-dir", str(tmp_path / "d")]) == 2, "what it begins with is gone"
    assert main([*argv, "--seeds", "2", "--run-dir", str(tmp_path / "c")]) == 0, "it has begun"


# ---------------------------------------------------------------------------------------------------------------- signals


def at_first_evaluation(monkeypatch, fn):
    write, done = Recorder.write, []

    def wrapped(self, kind, *args):
        write(self, kind, *args)
        if kind == "eval" and not done:
            done.append(True)
            fn()

    monkeypatch.setattr(Recorder, "write", wrapped)


def test_a_signal_after_all_agreed_waits_for_the_next_time(tmp_path, monkeypatch):
    """The processes of a job ask one another in turn: a stop that one of them decides alone would mix their answers."""
    agree, calls, asked = processes.agree, [], []

    def listed(**values):
        calls.append("+".join(values))
        return agree(**values)

    def next_calls(hit: bool) -> list[str]:
        calls.clear(), asked.clear()
        with monkeypatch.context() as patch:
            patch.setattr(processes, "agree", listed)
            at_first_evaluation(patch, lambda: (asked.append(len(calls)), hit and os.kill(os.getpid(), signal.SIGTERM)))
            with pytest.raises(Interrupted, match="SIGTERM") if hit else contextlib.nullcontext():
                run(*toy(), 0, tmp_path / str(hit), options=QUIET)
        after = calls[asked[0] :]
        return after[: next(i for i, c in enumerate(after) if "stop" in c) + 1]

    assert next_calls(False) == next_calls(True)


def test_a_signal_in_the_last_cycle_is_heard_and_nothing_is_lost(tmp_path, monkeypatch):
    agent, problem = toy(cycles=2)
    at_first_evaluation(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="after cycle 2 of 2"):
        run(agent, problem, 0, tmp_path, options=QUIET)
    assert run(agent, problem, 0, tmp_path, options=QUIET).cycle == 2


def test_a_signal_that_is_ignored_stays_ignored(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        at_first_evaluation(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert run(*toy(), 0, tmp_path, options=QUIET).cycle == 6
    finally:
        signal.signal(signal.SIGINT, before)
