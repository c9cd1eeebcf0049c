"""What the experiment's tables are computed by."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "experiments" / "reproduce"


def test_violations_are_counted_per_decision_not_per_line(monkeypatch):
    """Seeding is one line of 1 600 decisions, an episode of all streams one of 800; the second row ends before the third line
    of the first."""
    monkeypatch.syspath_prepend(SCRIPTS)
    ordered = runpy.run_path(str(SCRIPTS / "modem_v2.py"))["ordered"]
    curve = lambda *lines: {"curves": {"violations while training": list(lines)}}
    calm = curve((1_600, [0.0, 0.3]), (2_400, [0.3, 0.0]), (3_200, [1.0, 1.0]))
    found = ordered({"calm": calm, "wild": curve((1_600, [0.6]), (2_400, [0.0])), "nothing": {"curves": {}}})
    assert found["until"] == 2_400 and list(found["rows"]) == ["wild", "calm"]
    assert found["rows"]["wild"]["mean"] == pytest.approx(0.4)
    assert found["rows"]["calm"]["mean"] == pytest.approx((0.1 + 0.2) / 2)
