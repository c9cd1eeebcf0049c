"""`rlx export`: each format from a run folder, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import rlx
from rlx.cli import main
from tests.export import laws


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    argv = [
        "train",
        "sac",
        "--env",
        "rlx:pendulum",
        "--preset",
        "debug",
        "--run-dir",
        str(folder),
        "--no-progress",
        "--no-video",
    ]
    assert main(argv) == 0
    return folder


def result(capsys, *argv: str) -> dict:
    capsys.readouterr()
    assert main(["export", *argv]) == 0
    last = capsys.readouterr().out.rstrip("\n").splitlines()[-1]
    assert last.startswith("RESULT {")
    return json.loads(last.removeprefix("RESULT "))


def test_each_format(run_dir, tmp_path, capsys):
    found = result(capsys, "--run-dir", str(run_dir))
    assert found["files"] == [str(run_dir / "export" / "policy.py")] and found["difference"] < 1e-6
    x = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    assert laws.off(laws.run_numpy(Path(found["files"][0]))(x), rlx.load(run_dir).act(x, units="env")[0]) < 1e-6

    more = ["--run-dir", str(run_dir), "--out", str(tmp_path / "there"), "--name", "swing"]
    found = result(capsys, *more, "--format", "c", "--dtype", "float64", "--measure")
    assert [Path(file).name for file in found["files"]] == ["swing.h", "swing.c"]
    assert "double" in Path(found["files"][0]).read_text()
    assert found["flops"] > 1000 and 0 < found["median_ns"] <= found["worst_ns"]

    found = result(capsys, *more, "--format", "stablehlo")
    assert (
        found["files"] == [str(tmp_path / "there" / f"swing.{end}") for end in ("stablehlo", "json")]
        and found["difference"] < 1e-6
    )


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "--run-dir"),
        (["--run-dir", "RUN", "--name", "../up"], "--name"),
        (["--run-dir", "RUN", "--name", "a-b", "--format", "c"], "'a-b'"),
        (["--run-dir", "RUN", "--measure"], "--format c"),
        (["--run-dir", "RUN", "--format", "stablehlo", "--dtype", "float64"], "--dtype"),
        (["--run-dir", "RUN", "--format", "onnx"], "onnx"),
        (["--run-dir", "RUN", "--member", "3"], "member 3"),
        (["--run-dir", "nowhere"], "nowhere"),
    ],
)
def test_bad_input(run_dir, argv, says, capsys):
    capsys.readouterr()
    assert main(["export", *(str(run_dir) if word == "RUN" else word for word in argv)]) == 2
    said = capsys.readouterr()
    assert says in said.err and "Traceback" not in said.err and "RESULT" not in said.out
