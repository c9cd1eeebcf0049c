"""What is due when: the plan's arithmetic, without a run."""

from __future__ import annotations

from dataclasses import replace

from rlx import replay
from rlx.envs import batch, make
from rlx.train import Options
from rlx.train.schedule import Due, Schedule, on_host
from rlx.types import Collect, Eval, Host, Members, Problem, Stage, Update
from tests.train.toys import toy

NOTHING = Problem()

FIT = Host(lambda state, sources, key: (state, sources), every=4)
OFTEN, SELDOM = Eval("often", "train", every=3), Eval("seldom", "train", every=5)


def schedule(cycles=20, log=6, save=None, exchange=None, evals=(OFTEN, SELDOM)):
    stage = Stage("learn", cycles, (*toy()[0].stages[0].phases, FIT))
    return Schedule(stage, evals, (False, False, True), log, save, exchange)


def test_what_is_due_after_a_cycle():
    plan = schedule(save=4, exchange=10)
    assert plan.after(3, over=False) == Due((OFTEN,), log=False, save=False, exchange=False)
    assert plan.after(4, over=False) == Due((), log=False, save=True, exchange=False)
    assert plan.after(10, over=False) == Due((SELDOM,), log=False, save=False, exchange=True)
    assert plan.after(12, over=False) == Due((OFTEN,), log=True, save=True, exchange=False)
    assert plan.after(14, over=True) == Due((OFTEN, SELDOM), log=True, save=False, exchange=False)  # a stage that ends early


def test_a_chunk_ends_where_the_host_is_needed():
    """The fit runs in cycles 3, 7, 11, ...: a chunk ends before them. Lines after 6 cycles, evaluations after 3 and 5."""
    plan = schedule(save=10)
    assert [plan.distance(c) for c in (0, 1, 2, 4, 5, 6, 8, 9)] == [3, 2, 1, 1, 1, 1, 1, 1]
    plan = schedule(evals=())
    assert [plan.distance(c) for c in (0, 4, 6, 8, 12, 13, 16)] == [3, 2, 1, 3, 3, 2, 2]
    assert [c for c in range(20) if plan.host_due(c)] == [3, 7, 11, 15, 19]
    assert schedule(cycles=7, log=100, evals=()).distance(4) == 3  # the stage's end


def test_where_a_phase_runs():
    agent, problem = toy()
    collect, update = agent.stages[0].phases
    assert [on_host(agent, NOTHING, p) for p in (collect, update, FIT)] == [False, False, True]
    elsewhere = replace(agent, buffers={"replay": replay.ring(64, 2, device=False)})
    assert on_host(elsewhere, NOTHING, collect) and on_host(elsewhere, NOTHING, update)
    assert not on_host(elsewhere, NOTHING, Collect("train", 1))  # keeps no rows
    native = replace(agent, envs={"train": batch(make("gym:Pendulum-v1"), 2)})
    assert on_host(native, NOTHING, collect) and not on_host(native, NOTHING, update)
    assert not on_host(agent, NOTHING, Update(1, replay.items(2, "table"), lambda *a: a))


def test_a_schedule_is_made_of_plan_and_options():
    agent, _ = toy(cycles=250)
    plan = Schedule.of(agent, NOTHING, 0, Options())
    assert (plan.log_every, plan.save_every, plan.exchange_every) == (2, None, None) and plan.evals == agent.evals
    exchange = Members(None, exchange=lambda *a: a, every=7)
    plan = Schedule.of(agent, NOTHING, 0, Options(log_every=9, checkpoint_cycles=11), exchange)
    assert (plan.log_every, plan.save_every, plan.exchange_every) == (9, 11, 7)
    assert Schedule.of(agent, NOTHING, 0, Options(), Members(None)).exchange_every is None
    elsewhere = replace(agent, evals=(Eval("other", "train", stages=("fit",)),))
    assert Schedule.of(elsewhere, NOTHING, 0, Options()).evals == ()
