"""`docs/first_steps.md` as a newcomer follows it: its files are written, its commands and lines run, in its order."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "first_steps.md"


def blocks() -> list[tuple[str, str]]:
    """Language and text of each block of code; the installation has no language."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


DRIVER = """
import sys, json
from rlx.cli import main
for argv, code in json.load(sys.stdin):
    print(argv or code, flush=True)
    exec(code, {}) if code else None
    assert not argv or main(argv) == 0
"""


@pytest.mark.slow
def test_every_step_runs_in_order(tmp_path):
    """In one process, which saves the imports of a dozen; `tests/test_plugins.py` starts fresh ones."""
    steps: list[tuple[list[str], str]] = []
    for language, text in blocks():
        name = re.match(r"# (\w+\.py)\n", text)
        if name:
            (tmp_path / name[1]).write_text(text)
        elif language == "python":
            steps.append(([], text))
        else:
            for line in text.replace("\\\n", " ").splitlines():
                program, *argv = shlex.split(line)
                assert program == "rlx" or argv[0] == "-c"
                quick = ["--no-video"] if argv[0] == "train" and "--help" not in argv else []  # films take longer than runs
                steps.append(([*argv, *quick], "") if program == "rlx" else ([], argv[1]))
    assert len(steps) >= 9
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DRIVER]
    done = subprocess.run(command, input=json.dumps(steps), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs/scaled/export/policy.c").is_file() and (tmp_path / "runs/report").is_dir()
