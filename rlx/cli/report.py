"""``rlx report RUN_DIRS...``: curves and tables of runs, or of a sweep, as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlx import config
from rlx.cli import console, outputs
from rlx.train import report
from rlx.train.stats import Estimate


@dataclass(frozen=True)
class Flags:
    out: str = "report"  # the folder where the page and its pictures go


SHOWN = 10  # copies in the terminal

PRESETS: dict[str, dict] = {"debug": {}}


def main(argv: Sequence[str] | None = None) -> int:
    return console.command(body, argv)


def body(argv: list[str]) -> None:
    first = next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))
    folders = [Path(word) for word in argv[:first]]
    usage = "rlx report RUN_DIRS..."
    flags: Flags = config.parse(Flags(), argv[first:], PRESETS, prog=usage, description=(__doc__ or "").strip())
    if not folders:
        config.stop("which runs? Give at least one run folder, as in: rlx report runs/walker-*")
    made = report.report(folders, Path(flags.out))
    for row in made["table"]:
        console.table(row["group"], [(k, v) for k, v in row.items() if k != "group" and v is not None])
    for group in dict.fromkeys(r["group"] for r in made["table"]):
        safety = [(r["what"], outputs.outcome(r)) for r in made["outcomes"] if r["group"] == group]
        each = [(f"{r['evaluation']}: {r['what']}", interval(r)) for r in made["evaluations"] if r["group"] == group]
        for title, rows in ((report.OUTCOMES, safety), (report.EACH, each)):
            if rows:
                console.table(f"{title}: {group}", rows)
    if made["ranking"]:
        console.table("Ranking", outputs.ranked(made["ranking"]))
    if made["repeats"]:
        lines = [(folder, f"seed {seed}, a copy of that in {of}") for folder, seed, of in made["repeats"]]
        more = [("...", f"and {len(lines) - SHOWN} more, in the page")] if len(lines) > SHOWN else []
        console.table(report.COPIES, [*lines[:SHOWN], *more])
    console.table("Report", [("page", made["page"]), *(("picture", path) for path in made["pictures"])])
    found = {k: made[k] for k in ("page", "pictures", "runs", "groups", "table", "outcomes", "evaluations")}
    console.result({"out": flags.out, **found, "repeats": len(made["repeats"])})


def interval(row: dict[str, Any]) -> str:
    """A row of `report.EACH_HEAD` for people."""
    return console.estimate(Estimate(row["IQM"], row["95% interval"], row["interval over"]))
