"""Success and safety: what training lines, evaluations and reports say of them."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx
from rlx import replay
from rlx.cli import report
from rlx.envs import batch
from rlx.envs.outcomes import LEAVES, leaves
from rlx.train import outcomes
from rlx.train.curves import Curve
from rlx.types import Agent, AgentState, Collect, Eval, Leaf, Members, Problem, Spec, Stage
from tests.train.test_report import folder

STEPS, STREAMS = 30, 4


def reckless(env, cycles=2):
    """Actions from N(0, 2^2), stored."""

    def act(state, clock, carry, step, key, mode):
        return 2 * jax.random.normal(key, (*step.reward.shape, *env.spec.action.shape)), carry, {}

    stage = Stage("push", cycles, (Collect("train", STEPS, "replay"),))
    return Agent(
        "reckless", None, {}, lambda key, hyper: AgentState(hyper, {"none": jnp.zeros(1)}), act, (stage,),
        envs={"train": batch(env, STREAMS)}, buffers={"replay": replay.ring(100, STREAMS)},
        evals=(Eval("main", "train", episodes=3),),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["rlx:push-toy", "rlx:push-lite"])
def test_lines_say_what_rows_say(name):
    """Per decision and as peaks, of what was collected since the line before; episodes as their leaves are reduced."""
    env, lines = rlx.envs.make(name), []
    options = rlx.train.Options(log_every=1, progress=False)
    run = rlx.train.run(reckless(env), Problem({"train": env}), 3, options=options, callback=lambda x, s: lines.append(x))
    state = run.sources["replay"]
    trained, evaluated = ([x for x in lines if x["kind"] == kind] for kind in ("train", "eval"))
    info = {k: np.asarray(v) for k, v in state.data.info.items()}
    first = np.asarray(replay.buffer.stored(state).first)
    for i, line in enumerate(trained):
        rows = slice(i * STEPS, (i + 1) * STEPS)
        arrived = ~first[rows]
        assert line["decisions/violation"] == pytest.approx(info["violation"][rows][arrived].mean(), rel=1e-5)
        assert line["decisions/contact_force_mean"] == pytest.approx(info["contact_force"][rows][arrived].mean(), rel=1e-5)
        assert line["decisions/contact_force_max"] == pytest.approx(info["contact_force"][rows][arrived].max(), rel=1e-6)
        assert ("decisions/jerk_max" in line) == (name == "rlx:push-lite")
    assert len(trained) == 2 and max(x["decisions/violation"] for x in trained) > 0
    last = evaluated[-1]
    assert last["info/contact_force_max_mean"] > last["info/contact_force_mean_mean"] > 0
    assert 0 <= last["info/violation_mean"] < 0.3 and last["info/solved_mean"] == 0


def test_members_are_told_apart():
    env, lines = rlx.envs.make("rlx:push-toy"), []
    key = Members(jnp.stack([jax.random.key(3), jax.random.key(4)]))
    options = rlx.train.Options(log_every=1, progress=False)
    rlx.train.run(reckless(env), Problem({"train": env}), key, options=options, callback=lambda x, s: lines.append(x))
    first = next(x for x in lines if x["kind"] == "train")
    assert first["decisions/contact_force_max"].shape == (2,) and np.ptp(first["decisions/contact_force_max"]) > 0
    assert np.isfinite(first["decisions/violation"]).all()


def test_of_several_ways_each_is_told_by_its_name():
    both = Leaf((), reduce=("max", "mean"))
    assert both.reduces == {"_max": "max", "_mean": "mean"} and Leaf((), reduce="sum").reduces == {"": "sum"}
    spec = Spec(Leaf((1,)), Leaf((1,)), {"force": both, "fuel": Leaf((), reduce="sum"), "done": Leaf((), bool, reduce="any")})
    told = rlx.train.phases.info_reductions(spec)
    assert told == [
        ("force_max", "force", "max"),
        ("force_mean", "force", "mean"),
        ("fuel", "fuel", "sum"),
        ("done", "done", "any"),
    ]
    averaged, greatest = rlx.train.phases.decision_infos(spec)
    assert averaged == {"decisions/force_mean": "force", "decisions/done": "done"} and greatest == {
        "decisions/force_max": "force"
    }
    assert leaves("jerk") == {"jerk": LEAVES["jerk"]}


def curve(seed, violations, peaks):
    steps = np.array([100.0, 300.0])
    trained = {"violation": (steps, np.array(violations)), "contact_force_max": (steps, np.array(peaks))}
    evaluated = {"solved": (steps, np.array([0.0, 0.1 * seed]))}
    return Curve("g", seed, "env_steps", steps, np.zeros(2), None, evaluated, trained)


def test_tables_weigh_training_by_its_decisions_and_keep_the_peak():
    """100 decisions at 0.1 and 200 at 0.4 are 0.3 each."""
    curves = [curve(seed, [0.1, 0.4], [50.0, 20.0 + seed]) for seed in (1, 2)]
    rows = {row["what"]: row for row in outcomes.dicts(outcomes.table({"mine": curves}))}
    assert list(rows) == ["solved", "violation", "contact_force_max"]
    assert rows["violation"]["while training"] == pytest.approx(0.3) and rows["violation"]["last evaluation"] is None
    assert rows["contact_force_max"]["while training"] == 50
    assert rows["solved"]["last evaluation"] == pytest.approx(0.15) and rows["solved"]["while training"] is None
    low, high = rows["solved"]["95% interval"]
    assert 0.1 <= low < high <= 0.2 and rows["solved"]["interval over"] == "2 seeds"
    assert outcomes.picture({"mine": curves}, "rlx:push-toy").startswith(b"\x89PNG")
    assert outcomes.picture({"mine": [Curve("g", 0, "env_steps", *[np.ones(2)] * 2, None)]}, "rlx:pendulum") is None


def test_a_report_shows_them(tmp_path, capsys):
    """Of a population of two: the second told nothing finite in training."""
    run = folder(tmp_path / "run", [[1.0, 2.0], [3.0, 4.0]], seeds=2)
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    for line, at in zip(lines, (0.5, 0.25), strict=True):
        line |= {"info/violation_mean": [at, 2 * at], "info/other_mean": [1.0, 1.0]}
    lines.append({"kind": "train", "wall_s": 1.0, "env_steps": [50, 50], "decisions/violation": [0.125, "nan"]})
    (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    assert report.main([str(run), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    (row,) = json.loads(said.rsplit("RESULT ", 1)[1])["outcomes"]
    assert (row["what"], row["last evaluation"], row["while training"]) == ("violation", 0.375, 0.125)
    assert row["95% interval"] == [0.25, 0.5] and row["95% interval while training"] is None
    assert "violation  last evaluation 0.375  [0.25, 0.5]; while training 0.125  over 2 seeds" in said
    assert (tmp_path / "out" / "outcomes-rlx-pendulum.png").exists()
    assert "Success and safety" in (tmp_path / "out" / "report.html").read_text()


def test_each_kind_of_evaluation_tells_of_its_safety(tmp_path, capsys):
    """Of four seeds the interquartile mean is that of the middle two; and one kind tells what the other does not."""
    run = folder(tmp_path / "run", [[1.0, 2.0, 3.0, 4.0]], seeds=4)
    (line,) = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    at = lambda kind, **info: line | {"eval": kind} | {f"info/{k}_mean": v for k, v in info.items()}
    main = at("main", contact_force_max=[10.0, 20.0, 40.0, 90.0], contact_force_mean=[1.0, 2.0, 3.0, 9.0], jerk_max=[5.0] * 4)
    clone = at("bc", contact_force_max=[4.0] * 4, contact_force_mean=[0.5] * 4, saturation=[0.0, 0.25, 0.5, "nan"])
    (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in (clone, main)))
    assert report.main([str(run), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    rows = json.loads(said.rsplit("RESULT ", 1)[1])["evaluations"]
    found = {(r["evaluation"], r["what"]): r for r in rows if r["what"] != "return"}
    assert {k: r["IQM"] for k, r in found.items()} == {
        ("bc", "contact_force_max"): 4.0, ("bc", "contact_force_mean"): 0.5, ("bc", "saturation"): 0.25,
        ("main", "contact_force_max"): 30.0, ("main", "contact_force_mean"): 2.5, ("main", "jerk_max"): 5.0,
    }  # fmt: skip
    low, high = found["main", "contact_force_max"]["95% interval"]
    assert 10 <= low < 30 < high <= 90 and found["main", "contact_force_max"]["interval over"] == "4 seeds"
    assert found["bc", "saturation"]["interval over"] == "3 seeds"
    assert re.search(r"main: contact_force_max +30  \[", said)
    assert "<td>main</td><td>contact_force_mean</td><td>2.5</td>" in (tmp_path / "out" / "report.html").read_text()


def test_each_kind_of_evaluation_has_its_end(tmp_path, capsys):
    """What acts, and a clone that was looked at once before."""
    run = folder(tmp_path / "run", [[1.0, 2.0], [3.0, 4.0]], seeds=2)
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    clone = lines[0] | {
        "eval": "bc",
        "return_mean": [0.5, 0.75],
        "info/solved_mean": [0.0, "nan"],
        "info/other_mean": [1.0, 1.0],
    }
    (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in (clone, *lines)))
    assert report.main([str(run), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    rows = json.loads(said.rsplit("RESULT ", 1)[1])["evaluations"]
    ends = {(r["evaluation"], r["what"]): (r["IQM"], r["95% interval"]) for r in rows}
    last = lines[-1]["return_mean"]
    assert ends == {
        ("bc", "return"): (0.625, [0.5, 0.75]),
        ("bc", "solved"): (0.0, None),
        ("eval", "return"): (np.mean(last), sorted(last)),
    }
    assert "bc: return" in said
    assert "<td>bc</td>" in (tmp_path / "out" / "report.html").read_text()
