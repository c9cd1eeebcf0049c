"""What stands in a run folder is read by one loader each: other types, encodings and endless nesting are refused by file."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from rlx import agents, config
from rlx.cli import main
from rlx.replay import datasets
from rlx.train import layout, origin, report, run, sweeps
from rlx.train import run_config as run_configs
from rlx.train.checkpoint import Checkpoints
from rlx.train.run_config import RunConfig
from tests.train.toys import QUIET, toy

EVAL = {"kind": "eval", "eval": "main", "env_steps": 10, "updates": 1, "wall_s": 1.0, "return_mean": -1.0, "returns": [-1.0]}
RESULT = {
    "members": 1,
    "wall_s": 1.0,
    "compile_s": 1.0,
    "memory_bytes": 1,
    "each": [{"seed": 0, "setting": {}, "return_mean": 2}],
}


def plain(**more) -> RunConfig:
    return RunConfig("sac", "rlx:pendulum", agents.config("sac"), **more)


def folder(path: Path, run_config: RunConfig | None = None) -> Path:
    """A run folder as `rlx train` leaves it, without checkpoints."""
    path.mkdir(parents=True)
    (path / "config.json").write_text((run_config or plain()).to_json())
    (path / "metrics.jsonl").write_text(json.dumps(EVAL) + "\n")
    (path / "result.json").write_text(json.dumps(RESULT))
    return path


def changed(**more) -> bytes:
    return json.dumps({**json.loads(plain().to_json()), **more}).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[]", "config.json is to hold a JSON object"),
        (b"[" * 100_000, "nested"),
        (b"\xff\xfe", "cannot be read"),
        (changed(seed="7"), "seed is '7'"),
        (changed(seed=True), "seed is True"),
        (changed(seeds=0), "seeds must be at least 1"),
        (changed(seeds=10**12), "seeds must be .*at most"),
        (changed(settings=[5]), "settings"),
        (changed(part=[1, 1]), "part is"),
        (changed(part=[0, 9]), "part is"),
        (changed(imports=[5]), "imports is"),
        (changed(imports="os"), "imports is"),
        (changed(agent=5), "does not name an agent"),
        (changed(config=5), "does not name an agent"),
        (changed(env=""), "does not name an agent"),
        (changed(config={"tau": 5}), "tau must be"),
        (changed(config={"hidden": "wide"}), "hidden is 'wide'"),
        (changed(no_such=1), "no_such"),
        (changed(versions=5), "written by an rlx before"),
        (changed(versions={"rlx": ["x"]}), "written by rlx"),
    ],
)
def test_a_config_that_is_none_is_refused(tmp_path, data, message):
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(ValueError, match=message) as refused:
        run_configs.read(tmp_path)
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_config_in_the_encodings_of_editors(tmp_path, encoding):
    given = plain(seed=2**63, seeds=3, settings=({"tau": 0.1},), part=(1, 3), data="\u00fc.npz")
    (tmp_path / "config.json").write_bytes(given.to_json().encode(encoding))
    assert run_configs.read(tmp_path) == given


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", "[" * 100_000, json.dumps({**RESULT, "each": [5]}), json.dumps({**RESULT, "memory_bytes": "1"})]
)
def test_a_result_that_is_none_is_refused_by_the_report(tmp_path, text, capsys):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "sweep.json").write_text("{}")
    trial = folder(tmp_path / "s" / "trials" / "a")
    assert sweeps.scores(sweeps.members([trial]))["all"].tolist() == [2]
    (trial / "result.json").write_text(text)
    assert main(["report", str(tmp_path / "s"), "--out", str(tmp_path / "page")]) == 2
    assert "result.json" in capsys.readouterr().err


def test_names_with_dollars_are_drawn(tmp_path):
    """A pair of them, and what is no formula between: matplotlib would refuse to draw it."""
    made = report.report([folder(tmp_path / "a", plain(data="$HOME/x^{$.npz"))], tmp_path / "page")
    folder(tmp_path / "b", RunConfig("sac", "gym:$x^{$", agents.config("sac")))
    again = report.report([tmp_path / "a", tmp_path / "b"], tmp_path / "page")
    assert made["groups"] == 1 and again["groups"] == 2 and all(Path(p).stat().st_size > 5_000 for p in again["pictures"])


# --------------------------------------------------------------------------------------------------- what a run was made of


def write_data(path: Path, seed: int) -> None:
    r = np.random.default_rng(seed)
    one = {"obs": r.normal(size=(9, 3)), "action": r.uniform(-1, 1, (9, 1)), "reward": np.zeros(9), "terminated": np.zeros(9)}
    datasets.write(path, [one])


def test_a_run_goes_on_with_what_it_was_made_of_or_where_told_to(tmp_path, monkeypatch):
    data, run_dir = tmp_path / "data.npz", tmp_path / "run"
    write_data(data, 0)
    given = plain(data=str(data))
    assert not run_configs.keep(given, run_dir) and run_configs.keep(given, run_dir)
    write_data(data, 1)
    with pytest.raises(ValueError, match=r"data.npz has another content.*--allow-changes"):
        run_configs.keep(given, run_dir)
    write_data(data, 0)
    assert run_configs.keep(given, run_dir)
    before = run_configs.record(run_dir)
    assert before["machine"]["cores"] >= 1 and before["machine"]["device"] == jax.default_backend()
    monkeypatch.setattr(origin._versions, "installed", lambda name: {"jax": "9.9", "brax": "0.1"}.get(name))
    with pytest.raises(ValueError, match=rf"jax 9\.9, not {before['versions']['jax']}"):
        run_configs.keep(given, run_dir)
    assert run_configs.record(run_dir) == before
    assert run_configs.keep(given, run_dir, allow_changes=True) and run_configs.keep(given, run_dir)
    after = run_configs.record(run_dir)
    assert after["versions"]["jax"] == "9.9" and after["earlier"][0]["versions"] == before["versions"]
    assert run_configs.read(run_dir) == given


def test_another_number_of_cores_is_said(tmp_path, monkeypatch):
    run_configs.keep(plain(), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_configs.keep(plain(), tmp_path)
    monkeypatch.setattr(origin.os, "sched_getaffinity", lambda pid: range(77), raising=False)
    with pytest.warns(UserWarning, match="goes on on 77 cores.*not bit for bit"):
        run_configs.keep(plain(), tmp_path)


def test_a_longer_run_keeps_what_it_was_made_of(tmp_path):
    small = config.replace(agents.config("sac"), {"env_steps": 1_000})
    run_configs.keep(RunConfig("sac", "rlx:pendulum", small), tmp_path)
    before = run_configs.record(tmp_path)
    longer = RunConfig("sac", "rlx:pendulum", config.replace(small, {"env_steps": 2_000}))
    assert run_configs.keep(longer, tmp_path, toy()[0])
    after = run_configs.record(tmp_path)
    assert after["machine"] == before["machine"] and after["config"]["env_steps"] == 2_000 and "earlier" not in after


@pytest.mark.slow
def test_another_question_in_the_same_folder_is_refused(tmp_path):
    agent, problem = toy(cycles=2)
    first = run(agent, problem, jax.random.key(0), tmp_path, options=QUIET)
    for other, key, says in (
        (agent, jax.random.key(1), "another key"),
        (replace(agent, hyper={**agent.hyper, "rate": 2.0}), jax.random.key(0), "rate: 1.0, not 2.0"),
    ):
        with pytest.raises(ValueError, match=f"holds another run .*{says}"):
            run(other, problem, key, tmp_path, options=QUIET)
    again = run(agent, problem, jax.random.key(0), tmp_path, options=QUIET)
    assert float(again.agent.learned["x"]) == float(first.agent.learned["x"])


def test_questions_differ_in_fields_but_not_in_budgets():
    key = jax.random.key(0)
    small = config.replace(agents.config("td3"), {"hidden": (8,), "env_steps": 2_000})
    ask = lambda **more: layout.question(toy_with(config.replace(small, more)), key)
    assert ask() == ask(env_steps=9_000) and ask() != ask(batch=7) and ask() != ask(discount=0.5)


def toy_with(own):
    agent, _ = toy()
    return replace(agent, config=own)


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_written_again(tmp_path):
    agent, problem = toy(cycles=4)
    keep_more = replace(QUIET, checkpoint_cycles=2)
    run(agent, problem, 0, tmp_path, options=keep_more)
    store = Checkpoints(tmp_path / "checkpoints")
    newest = store.steps()[-1]
    (store.directory / str(newest) / "leaves.json").write_text("[]")
    with pytest.warns(UserWarning, match="is damaged"):
        run(agent, problem, 0, tmp_path, options=keep_more)
    assert Checkpoints(tmp_path / "checkpoints").sound(newest) and Checkpoints(tmp_path / "checkpoints").steps()[-1] == newest
