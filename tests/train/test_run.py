"""The runner: divergence, the best agent, members that diverge, exchange, plans and bad input."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import agents, replay
from rlx.envs import make
from rlx.train import Diverged, Options, Stop, run
from rlx.train import state as states
from rlx.train.logging import read
from rlx.train.memory import needs
from rlx.train.plan import plan, validate
from rlx.train.schedule import budget, clock_at
from rlx.types import Collect, Eval, Host, Members, Out, Problem, Stage, Update
from tests.dummies import AGENTS
from tests.train.toys import QUIET, evaluations, toy


def test_counts_and_clock_come_out_right():
    agent, problem = toy()
    state = run(agent, problem, jax.random.key(0), options=QUIET)
    assert state.counts["updates"] == 12 and float(state.agent.learned["x"]) == 12
    # 24 steps per stream: episodes of 5 decisions and 6 rows, so 4 rows were last and not acted on
    assert state.counts["env_steps"] == 2 * 20 and state.counts["eval_steps"] == 3 * 2 * 5
    assert state.counts["model_steps"] == 0 and state.cycle == 6


def test_the_clock_counts_each_phase_by_its_own_turns():
    agent = AGENTS["sindy_rl"](Problem({"train": make("rlx:pendulum")}))
    seed, dyna = agent.stages[:2]
    assert budget(agent, seed) == (20 * 2, 0)
    assert budget(agent, dyna) == (6 * 2 * 2, 2 * 4)  # real steps in every second of 4 cycles, two updates in each
    clock = clock_at(agent, 2, 0, 0)
    assert (clock.env_steps, clock.updates) == (40 + 24, 8)


def test_nan_stops_the_run_and_names_metric_update_and_checkpoint(tmp_path):
    agent, problem = toy(blow_up_at=7)
    options = Options(progress=False, checkpoint_cycles=1, chunk_cycles=1)
    with pytest.raises(Diverged, match=r"toy/loss stopped being finite at update 7.*last good checkpoint is .*checkpoints.3"):
        run(agent, problem, jax.random.key(0), tmp_path, options=options)


def sometimes(state, clock, rows, key):
    """Adds 1 (or ``rate``); "toy/late" is there in every fourth update only, and NaN elsewhere."""
    x = state.learned["x"] + state.hyper["rate"]
    here = clock.updates % 4 == 3
    out = Out({"toy/x": x, "toy/late": jnp.where(here, x, jnp.nan)}, valid={"toy/late": here})
    return state._replace(learned={**state.learned, "x": x}), out


@pytest.mark.parametrize("device", [True, False], ids=["device", "host memory"])
def test_a_metric_counts_in_the_updates_that_have_it(tmp_path, device):
    stages = (Stage("learn", 4, (Collect("train", 4, "replay"), Update(2, replay.transitions(4), sometimes))),)
    agent, problem = toy(stages=stages)
    agent = replace(agent, buffers={"replay": replay.ring(64, 2, device=device)})
    run(agent, problem, jax.random.key(0), tmp_path / "one", options=QUIET)
    lines = [line for line in read(tmp_path / "one") if line["kind"] == "train"]
    assert [line["toy/x"] for line in lines] == [1.5, 3.5, 5.5, 7.5]
    assert [line.get("toy/late") for line in lines] == [None, 4, None, 8]  # absent, not 0, where no update has it
    members = Members(jax.random.split(jax.random.key(0), 2), {"rate": jnp.array([1.0, 2.0])})
    state = run(agent, problem, members, tmp_path / "two", options=replace(QUIET, log_every=4))
    (line,) = [line for line in read(tmp_path / "two") if line["kind"] == "train"]
    assert line["toy/late"] == [6, 12] and line["toy/x"] == [4.5, 9] and state.alive.all()


def test_nan_in_a_metric_that_counts_stops_the_run():
    def update(state, clock, rows, key):
        return state, Out({"toy/late": jnp.float32(jnp.nan)}, valid={"toy/late": clock.updates == 5})

    agent, problem = toy(stages=(Stage("learn", 6, (Collect("train", 4, "replay"), Update(2, replay.transitions(4), update))),))
    with pytest.raises(Diverged, match="toy/late stopped being finite at update 5"):
        run(agent, problem, jax.random.key(0), options=QUIET)


@pytest.mark.parametrize("valid", [{"toy/lat": jnp.bool_(True)}, {"toy/late": jnp.float32(1)}, {"toy/late": jnp.ones(2, bool)}])
def test_valid_names_metrics(valid):
    update = lambda state, clock, rows, key: (state, Out({"toy/late": jnp.float32(1)}, valid=valid))
    agent, problem = toy(stages=(Stage("learn", 1, (Collect("train", 4, "replay"), Update(2, replay.transitions(4), update))),))
    with pytest.raises(ValueError, match=r"Out.valid names metrics, a bool each.*toy/la.* its metrics are toy/late"):
        run(agent, problem, jax.random.key(0), options=QUIET)


def test_a_diverged_member_is_frozen_and_the_others_go_on():
    agent, problem = toy(blow_up_at=7)
    members = Members(jax.random.split(jax.random.key(0), 2), {"rate": jnp.array([0.5, 1.0])})
    lines = []
    state = run(agent, problem, members, options=QUIET, callback=lambda line, state: lines.append(line))
    assert state.alive.tolist() == [True, False]
    np.testing.assert_allclose(state.agent.learned["x"], [6.0, 6.0])  # the second stays where it was before update 7
    said = {line["cycle"]: np.isfinite(line["returns"]).all(1).tolist() for line in lines if line["kind"] == "eval"}
    assert said == {2: [True, True], 4: [True, False], 6: [True, False]}, "a policy that is frozen says nothing of the method"


def test_exchange_copies_the_better_member():
    agent, problem = toy()
    pick = lambda hyper, scores, key: (np.array([1, 1]), {k: v[[1, 1]] for k, v in hyper.items()})
    members = Members(jax.random.split(jax.random.key(0), 2), {"rate": jnp.array([0.0, 1.0])}, exchange=pick, every=3)
    state = run(agent, problem, members, options=QUIET)
    np.testing.assert_allclose(state.agent.learned["x"], [12.0, 12.0])


def test_the_best_by_return_is_kept():
    returns = []
    note = evaluations(lambda line: returns.append(float(line["return_mean"])))
    agent, problem = toy()
    state = run(agent, problem, jax.random.key(0), options=QUIET, callback=note)
    assert len(returns) == 3 and float(state.best["score"]) == pytest.approx(max(returns), rel=1e-6)
    assert float(state.best["learned"]["x"]) == 2 * int(state.best["cycle"])


def test_a_return_that_is_no_number_is_never_the_best():
    begun = states.start(*toy(), jax.random.key(0))
    for score, kept in ((np.nan, np.nan), (-5.0, -5.0), (np.nan, -5.0), (-6.0, -5.0)):
        begun.best = states.better(begun, np.float32(score))
        assert begun.best["score"] == pytest.approx(kept, nan_ok=True)


def test_stop_ends_a_stage_and_the_next_one_keeps_its_clock():
    seen = []

    def note(state, sources, key):
        seen.append(int(state.learned["x"]))
        return state, sources

    one, problem = toy()
    first, second = one.stages[0].phases
    stages = (
        Stage("short", 50, (first, second), stop=lambda state: state.learned["x"] >= 6),
        Stage("after", 2, (Host(note),)),
    )
    agent, problem = toy(stages=stages)
    state = run(agent, problem, jax.random.key(0), options=QUIET)
    assert float(state.agent.learned["x"]) == 6 and seen == [6, 6]


def test_host_phases_must_keep_shapes():
    def grow(state, sources, key):
        return state._replace(learned={**state.learned, "x": np.zeros(3, np.float32)}), sources

    agent, problem = toy(stages=(Stage("fit", 1, (Host(grow),)),))
    with pytest.raises(ValueError, match=r"leaf .*'x'.* must be float32\(\), got float32\(3,\)"):
        run(agent, problem, jax.random.key(0), options=QUIET)


def test_what_does_not_fit_is_refused_before_compiling():
    agent, problem = toy()
    phases = agent.stages[0].phases
    bad = {
        "names the environment 'trian'.*Did you mean 'train'": (Stage("s", 1, (Collect("trian", 1),)),),
        "names the mode": (Stage("s", 1, (Collect("train", 1, mode="sleep"),)),),
        "names the buffer": (Stage("s", 1, (Collect("train", 1, into="reply"),)),),
        "every must be": (Stage("s", 1, (Collect("train", 1, every=0),)),),
        "the clock counts to": (Stage("s", 2**30, phases),),
    }
    for message, stages in bad.items():
        with pytest.raises(ValueError, match=message):
            run(toy(stages=stages)[0], problem, jax.random.key(0), options=QUIET)
    for key, says in (
        (jax.random.PRNGKey(0), r"uint32\[2\]"),
        (jax.random.split(jax.random.key(0), 3), r"\[3\]"),
        (None, "None"),
    ):
        with pytest.raises(ValueError, match=f"one typed key, .*or the seed as an int.*given .*{says}"):
            run(agent, problem, key, options=QUIET)
    with pytest.raises(ValueError, match="no traced value rat"):
        run(agent, problem, Members(jax.random.split(jax.random.key(0), 2), {"rat": jnp.ones(2)}), options=QUIET)
    with pytest.raises(ValueError, match="unknown stages"):
        run(agent, problem, jax.random.key(0), stages=["lern"], options=QUIET)


def test_data_that_nobody_reads_or_that_does_not_fit_is_refused():
    rows = lambda obs, action: replay.from_episodes(
        [{"obs": np.zeros((4, obs)), "action": np.zeros((4, action)), "reward": np.zeros(4), "terminated": np.zeros(4)}]
    )
    agent, problem = toy()
    given = lambda data: replace(problem, data={"data": data})
    with pytest.raises(ValueError, match="toy does not learn from the data 'data': leave it out"):
        validate(agent, given(rows(3, 1)), jax.random.key(0))
    reader = replace(agent, reads=("data", "demos"))
    validate(reader, given(rows(3, 1)), jax.random.key(0))
    with pytest.raises(ValueError, match=r"obs of the data 'data' is float32\[5\]; that of rlx:pendulum is float32\[3\]"):
        validate(reader, given(rows(5, 1)), jax.random.key(0))
    with pytest.raises(ValueError, match=r"action of the data 'data' is float32\[2\]; .*float32\[1\]"):
        validate(reader, given(rows(3, 2)), jax.random.key(0))
    with pytest.raises(ValueError, match=r"'model' \(it reads data, demos\)"):
        validate(reader, replace(problem, data={"model": {}}), jax.random.key(0))


def test_plan_and_memory_say_what_will_be():
    problem = Problem({"train": make("rlx:pendulum")})
    agent = agents.make("sac", None, problem, env_steps=2_000, prefill=1_000, hidden=(16,))
    rows = dict(plan(agent, problem, jax.random.key(0)))
    assert "1,000 env steps" in rows["stage prefill"] and "1,000 updates" in rows["stage learn"]
    found = needs(agent, problem)["replay"]
    row = 4 * (3 + 1 + 1) + 1  # obs, reward, action; the byte of flags
    assert found == agent.buffers["replay"].capacity * row


def test_a_callback_sees_each_line_and_adds_to_it(tmp_path):
    seen = []

    def callback(line, state):
        seen.append((line["kind"], line["cycle"], float(state.learned["x"])))
        return {"twice": 2 * state.learned["x"]} if line["kind"] == "train" else None

    agent, problem = toy(cycles=2)
    run(agent, problem, jax.random.key(0), tmp_path, options=QUIET, callback=callback)
    assert seen == [("train", 1, 2), ("eval", 2, 4), ("train", 2, 4)]
    lines = read(tmp_path)
    assert [line["kind"] for line in lines] == [kind for kind, _, _ in seen]
    assert [line.get("twice") for line in lines] == [4, None, 8]


def test_a_callback_sees_all_members():
    seen = []
    agent, problem = toy(blow_up_at=7)
    members = Members(jax.random.split(jax.random.key(0), 3), {"rate": jnp.array([1.0, 0.5, 1.0])})
    note = lambda line, state: seen.append((line["kind"], np.asarray(state.learned["x"]).tolist()))
    state = run(agent, problem, members, options=QUIET, callback=note)
    assert seen[0] == ("train", [2, 1, 2]) and seen[-1] == ("train", [6, 6, 6])  # the dead as they were
    assert ("event", [6, 4, 6]) in seen and state.member_ids.tolist() == [1]


def test_a_callback_stops_the_run_with_everything_saved(tmp_path):
    agent, problem = toy()

    def callback(line, state):
        if line["kind"] == "eval" and line["cycle"] == 4:
            raise Stop("good enough", {"reached": True})

    quiet = replace(QUIET, log_every=3)
    whole = run(agent, problem, jax.random.key(0), tmp_path / "whole", options=quiet)
    state = run(agent, problem, jax.random.key(0), tmp_path / "run", options=quiet, callback=callback)
    assert state.cycle == 4 and float(state.agent.learned["x"]) == 8 == int(state.counts["updates"])
    assert [line["cycle"] for line in read(tmp_path / "run") if line.get("reached")] == [4]
    again = run(agent, problem, jax.random.key(0), tmp_path / "run", options=quiet)  # the same command goes on
    jax.tree.map(np.testing.assert_array_equal, again.agent.learned, whole.agent.learned)
    kinds = lambda folder: [(line["kind"], line["cycle"]) for line in read(folder)]
    assert again.cycle == 6 and kinds(tmp_path / "run") == kinds(tmp_path / "whole")


@pytest.mark.parametrize(("given", "says"), [({"cycle": 3}, "it gave ..cycle"), (3, "it gave int")])
def test_what_a_callback_may_return(given, says):
    agent, problem = toy()
    with pytest.raises(ValueError, match=f"a callback returns None, or a dict of values.*{says}"):
        run(agent, problem, jax.random.key(0), options=QUIET, callback=lambda line, state: given)


def test_another_run_of_the_same_agent_traces_nothing_anew():
    """And is the run that a new agent gives; another problem, or a copy of the agent, has programs of its own."""
    traces = []
    agent, problem = toy()
    noted = lambda *args: traces.append(args[-1]) or agent.act(*args)
    one = replace(agent, act=noted)
    first = run(one, problem, jax.random.key(0), options=QUIET)
    before = len(traces)
    second, third = (run(one, problem, jax.random.key(k), options=QUIET) for k in (0, 1))
    assert len(traces) == before + 2  # shapes of a new buffer's rows, once a run
    fresh = run(agent, problem, jax.random.key(1), options=QUIET)
    same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a.agent.learned, b.agent.learned)
    same(first, second)
    same(third, fresh)
    run(one, Problem(dict(problem.envs)), jax.random.key(0), options=QUIET)
    again = len(traces)
    assert again > before + 3
    run(replace(one), problem, jax.random.key(0), options=QUIET)
    assert len(traces) > again + 1


def test_a_seed_is_a_key():
    agent, problem = toy(cycles=1)
    states = [run(agent, problem, key, options=QUIET) for key in (3, np.int64(3), jax.random.key(3), 4)]
    noise = [float(s.agent.learned["noise"]) for s in states]
    assert noise[0] == noise[1] == noise[2] != noise[3]


def test_evaluations_that_cannot_be_are_refused_before_compiling(tmp_path):
    endless = make("rlx:pendulum", time_limit=5)
    endless = replace(endless, spec=replace(endless.spec, horizon=None))
    bad = {
        "evaluation 'main' asks for environment 'trian'; given were": (Eval("main", "trian"),),
        "evaluation 'main' asks for mode 'sleep'": (Eval("main", "train", mode="sleep"),),
        "evaluation 'main': every and episodes must be at least 1, got 0 and 10": (Eval("main", "train", every=0),),
        "every and episodes must be at least 1, got 1 and 0": (Eval("main", "train", episodes=0),),
        "need a name each; they are called ..main., .main": (Eval("main", "train"), Eval("main", "train")),
        "has no time limit, so its episodes may never end. Make it with time_limit=N": (Eval("main", "endless"),),
    }

    def compiling(*args):
        raise AssertionError("something was traced")

    agent, problem = toy()
    problem = Problem({**problem.envs, "endless": endless})
    for message, evals in bad.items():
        with pytest.raises(ValueError, match=message):
            run(replace(agent, init=compiling, act=compiling, evals=evals), problem, 0, tmp_path, options=QUIET)
    assert not list(tmp_path.iterdir())
