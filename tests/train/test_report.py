"""Reports of several run folders: what counts as one run, and what intervals are over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from rlx import agents
from rlx.cli import main, outputs
from rlx.config import replace
from rlx.train import sweeps
from rlx.train.curves import Curve, read_run, steps_of
from rlx.train.population import Population
from rlx.train.report import report
from rlx.train.run_config import RunConfig

PENDULUM = ("ppo", "rlx:pendulum")


def folder(path: Path, returns: list, steps: int = 100, config: dict | None = None, **more) -> Path:
    """A run folder with evaluations ``returns`` [K] of one run, or [K, M]."""
    run_config = RunConfig(*PENDULUM, replace(agents.config("ppo"), config or {}), **more)
    path.mkdir()
    (path / "config.json").write_text(run_config.to_json())
    lines = []
    for k, found in enumerate(returns, 1):
        at = [k * steps] * len(found) if np.ndim(found) else k * steps
        each = np.reshape(found, (*np.shape(found), 1)).tolist()
        values = {"env_steps": at, "updates": at, "return_mean": found, "returns": each}
        lines.append({"kind": "eval", "eval": "eval", "wall_s": 1.0, **values})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    last = np.ravel(returns[-1])
    each = [{"seed": s, "setting": p, "return_mean": r} for (s, p), r in zip(run_config.who(), last, strict=True)]
    cost = {"members": len(each), "wall_s": 1.0, "compile_s": 1.0, "memory_bytes": 2**20}
    (path / "result.json").write_text(json.dumps({"each": each, **cost}))
    return path


def test_a_run_and_its_copy_are_one_run_and_one_run_has_no_interval(tmp_path, capsys):
    a = folder(tmp_path / "a", [1.0, 2.0])
    b = shutil.copytree(a, tmp_path / "b")
    for given in ([a], [a, b], [a, a]):
        made = report(given, tmp_path / "out")
        (row,) = made["table"]
        assert (made["runs"], row["runs"], row["final IQM"]) == (1, 1, 2.0)
        assert row["95% interval"] is None and row["interval over"] == "none: one seed"
    assert main(["report", str(a), str(b), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert f"{b}  seed 0, a copy of that in {a}" in out and "none: one seed" in out
    result = json.loads(out.splitlines()[-1].removeprefix("RESULT "))
    assert result["runs"] == 1 == result["repeats"] and result["table"][0]["95% interval"] is None
    page = (tmp_path / "out" / "report.html").read_text()
    assert str(b) in page and "one seed has none" in page and "None" not in page


def test_of_copies_the_one_that_went_furthest_counts(tmp_path):
    a, longer = folder(tmp_path / "a", [1.0]), folder(tmp_path / "b", [1.0, 5.0])
    made = report([a, longer], tmp_path / "out")
    assert made["table"][0]["final IQM"] == 5.0 and made["repeats"] == [(str(a), 0, str(longer))]


def test_a_member_is_its_configuration_and_its_seed_wherever_it_ran(tmp_path):
    """Seeds 0 to 3 as a population, seed 1 alone, seeds 0 and 1 as a wave, and with the rate as a setting, not as a field."""
    whole = folder(tmp_path / "whole", [[1.0, 2.0, 3.0, 4.0]], seeds=4)
    alone = folder(tmp_path / "alone", [2.0], seed=1)
    wave = folder(tmp_path / "wave", [[1.0, 2.0]], seeds=4, part=(0, 2))
    rate = agents.config("ppo").lr
    setting = folder(tmp_path / "setting", [[1.0, 2.0]], config={"lr": 0.5}, settings=({"lr": rate},), seeds=2)
    imported = folder(tmp_path / "imported", [3.0], seed=2, imports=("json",))
    given = [whole, alone, wave, setting, imported]
    made = report(given, tmp_path / "out")
    (row,) = made["table"]
    assert (row["runs"], row["final IQM"], row["interval over"], len(made["repeats"])) == (4, 2.5, "4 seeds", 6)
    assert {k: v.tolist() for k, v in sweeps.scores(sweeps.members(given)).items()} == {"all": [1.0, 2.0, 3.0, 4.0]}
    other = [folder(tmp_path / "e", [9.0], time_limit=7), folder(tmp_path / "f", [9.0], seed=4)]
    made = report([*given, *other], tmp_path / "out")
    assert sorted(row["runs"] for row in made["table"]) == [1, 5], "another time limit is another group, another seed is not"


def test_intervals_of_a_report_are_over_seeds(tmp_path):
    final = np.random.default_rng(0).normal(10, 3, 9).round(3)
    folders = [
        folder(tmp_path / str(i), [[0.0, 0.0, 0.0], final[3 * i : 3 * i + 3].tolist()], seed=3 * i, seeds=3) for i in range(3)
    ]
    (row,) = report(folders, tmp_path / "out")["table"]
    middle = lambda x, axis: scipy_stats.trim_mean(x, 0.25, axis=axis)
    theirs = scipy_stats.bootstrap((final,), middle, n_resamples=5_000, method="percentile", rng=np.random.default_rng(1))
    np.testing.assert_allclose(row["95% interval"], theirs.confidence_interval, atol=0.35)
    assert row["interval over"] == "9 seeds" and row["final IQM"] == pytest.approx(middle(final, 0), abs=0.01)


def test_a_seed_that_diverged_is_left_out_from_there_on(tmp_path):
    one = folder(tmp_path / "one", [[1.0, 2.0, 9.0], [3.0, 4.0, np.nan]], seeds=3)
    two = folder(tmp_path / "two", [[1.0], [3.5]], config={"lr": 0.5})
    made = report([one, two], tmp_path / "out")
    row = made["table"][0]
    assert (row["runs"], row["final IQM"], row["interval over"], row["best IQM"]) == (3, 3.5, "2 seeds", 5.33)
    assert made["table"][1]["final IQM"] == 3.5
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<td>0.5</td></tr>") == 1, "3 and 4 are as often above 3.5 as below"


def test_a_curve_is_of_what_acts_in_the_last_stage(tmp_path):
    """A clone is evaluated before the agent that begins as it, and a planner beside it."""
    run = folder(tmp_path / "run", [9.0, 2.0, 8.0, 3.0, 8.0])
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    names = ("clone", "main", "planner", "main", "planner")
    told = [{**line, "eval": n, "stage": "bc" if n == "clone" else "learn"} for line, n in zip(lines, names, strict=True)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in told))
    (curve,) = read_run(run)
    assert curve.returns.tolist() == [2.0, 3.0] and report([run], tmp_path / "out")["table"][0]["final IQM"] == 3.0


def test_evaluations_before_the_first_step_share_an_axis_with_those_after(tmp_path, monkeypatch):
    run = folder(tmp_path / "run", [1.0, 2.0])
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    lines[0] |= {"eval": "clone", "env_steps": 0}
    (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    drawn, band = [], outputs.band
    monkeypatch.setattr(outputs, "band", lambda mine, unit, *more: (drawn.append(unit), band(mine, unit, *more))[1])
    outputs.curve(run)
    assert drawn == ["updates", "updates"]


def test_steps_of_both_kinds_are_said(tmp_path):
    online, offline = ([Curve("g", 0, unit, np.ones(1), np.ones(1), tmp_path)] for unit in ("env_steps", "updates"))
    assert steps_of({"a": online}) == "environment steps" and steps_of({"a": offline}) == "updates"
    assert steps_of({"a": offline, "b": online}) == "environment steps (of runs without any: updates)"


def test_the_band_of_a_curve_is_over_seeds(tmp_path):
    lines = [{"env_steps": [10, 10, 10], "returns": [[0.0, 2.0], [4.0, 6.0], ["nan", "nan"]]}]
    x, (found,) = outputs.band(lines, "env_steps", [0, 1, 2], 3)
    assert x == [10.0] and found == (3.0, (1.0, 5.0), "2 seeds"), "of two seeds the interval is from one mean to the other"
    _, (one,) = outputs.band([{"env_steps": 10, "returns": [0.0, 2.0]}], "env_steps", [0], 1)
    assert one == (1.0, (0.0, 2.0), "2 episodes of one seed; not an interval of the method")


def test_a_ranking_says_what_its_intervals_are_over():
    rows = sweeps.ranking({"a": np.array([1.0, 3.0]), "b": np.array([2.0, np.nan])})
    assert outputs.ranked(rows) == [
        ("a", "2  [1, 3]  95% interval over 2 seeds"),
        ("b", "2  no interval: one seed, 1 diverged"),
    ]


def test_settings_that_print_alike_are_not_one(tmp_path):
    a = folder(tmp_path / "a", [1.0], config={"lr": 0.12345678})
    b = folder(tmp_path / "b", [2.0], config={"lr": 0.12345679})
    found = {k: v.tolist() for k, v in sweeps.scores(sweeps.members([a, b])).items()}
    assert found == {"lr=0.12345678": [1.0], "lr=0.12345679": [2.0]}
    c = folder(tmp_path / "c", [[3.0, 4.0]], settings=({"lr": 0.5}, {"lr": 0.25}))
    assert list(sweeps.scores(sweeps.members([c]))) == ["lr=0.5", "lr=0.25"]


def test_a_table_of_a_population_with_one_seed_has_no_interval():
    ended = SimpleNamespace(alive=np.array([True, True, False]), reports={"scores": np.array([1.0, 3.0, 2.0])})
    one, two = Population(ended, np.arange(3), {"lr": np.array([0.1, 0.2, 0.2])}), Population(ended, np.arange(3), {})
    assert [(r["iqm"], r["interval"], r["over"]) for r in one.table()] == [(3.0, None, "one seed"), (1.0, None, "one seed")]
    assert one.table()[0]["diverged"] == 1 and two.table()[0]["interval"] == (1.0, 3.0)
