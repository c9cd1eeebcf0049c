"""The blocks of docs/python.md run, one after the other, as a reader would paste them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.doc_blocks import python_blocks

PAGE = Path(__file__).parent.parent / "docs" / "python.md"


@pytest.mark.slow
def test_the_python_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(blocks) >= 6
    names: dict = {"__name__": "page"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    assert names["first"].counts["env_steps"] < names["whole"].counts["env_steps"]
    assert len(names["curve"]) >= 2 and np.isfinite(names["reward"]).all()
    assert (tmp_path / "runs" / "measured" / "curve.png").stat().st_size > 1000
    lines = [json.loads(line) for line in (tmp_path / "runs" / "watched" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["actor_norm"] > 0 for line in lines if line["kind"] == "train")
    assert names["action"].shape == (1,) and capsys.readouterr().out


def test_the_page_on_data_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "page"}
    for block in python_blocks("docs/data.md"):
        exec(compile(block, "data.md", "exec"), names)
    assert len(names["data"]) == 10 and names["data"].lengths.tolist() == [100] * 10
    said = capsys.readouterr().out
    assert "float32[3]" in said and "D4RL" in said
