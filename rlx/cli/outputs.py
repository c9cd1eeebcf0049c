"""What commands leave in a run folder besides checkpoints: the result, the learning curve, the method's own report, a video."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rlx import files, keys
from rlx.cli import console
from rlx.envs import scores
from rlx.train import run_config as run_configs
from rlx.train import stats, sweeps, video
from rlx.train.curves import UNITS
from rlx.train.logging import read as read_metrics
from rlx.train.pictures import literal
from rlx.train.policy import Policy
from rlx.train.sweeps import label
from rlx.types import Env, HostEnv

SCREEN = 60  # rows
MOST_LINES = 10  # with a legend


def return_of(each: list[dict[str, Any]], returns: np.ndarray) -> dict[str, Any]:
    """The mean of ``returns`` [N] or [N, E], its interval, and what that is over, as results have it. ``each``: what
    they have of members."""
    found = stats.estimate(returns, settings=len({json.dumps(m["setting"], sort_keys=True) for m in each}))
    return {"return_mean": found.value, "return_ci": found.interval, "return_ci_over": found.over}


def score_of(values: dict[str, Any], reference: scores.Reference | None) -> dict[str, Any]:
    """``score``, ``score_ci`` and ``score_reference`` (whose returns are 0 and 100) of what `return_of` says; null without."""
    if reference is None:
        return {"score": None, "score_ci": None, "score_reference": None}
    on_scale = lambda x: None if x is None else scores.normalised(reference, x).tolist()
    return {
        "score": on_scale(values["return_mean"]),
        "score_ci": on_scale(values["return_ci"]),
        "score_reference": reference.source,
    }


def score_rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    """What `score_of` says, for people; no row without references."""
    if values["score"] is None:
        return []
    found = stats.Estimate(values["score"], values["score_ci"], values["return_ci_over"])
    return [(f"score ({values['score_reference']})", console.estimate(found))]


def return_text(values: dict[str, Any]) -> str:
    """What `return_of` says, for people."""
    return console.estimate(stats.Estimate(*(values[k] for k in ("return_mean", "return_ci", "return_ci_over"))))


def curve(run_dir: Path) -> Path | None:
    """The run's evaluation return over its steps (updates, where some evaluation came before the first step) as ``curve.png``:
    of each setting the mean, with its 95% interval over seeds, or of one seed over its episodes. None where nothing was
    evaluated."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [line for line in read_metrics(run_dir) if line["kind"] == "eval"]
    if not lines:
        return None
    run_config = run_configs.read(run_dir)
    settings: dict[str, list[int]] = {}
    for member, (_, point) in enumerate(run_config.who()):
        settings.setdefault(label(point), []).append(member)
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = dict.fromkeys(line["eval"] for line in lines)
    acted = {line["eval"] for line in lines if np.any(line["env_steps"])}
    unit = "env_steps" if len(acted) == len(names) else "updates"  # one axis for all: some came before the first step
    for name in names:
        mine = [line for line in lines if line["eval"] == name]
        for setting, members in settings.items():
            x, found = band(mine, unit, members, run_config.members)
            (drawn,) = axes.plot(x, [e.value for e in found], marker=".", label=literal(f"{name} {setting}".strip()))
            bounds = np.array([e.interval or (np.nan, np.nan) for e in found])
            axes.fill_between(x, *bounds.T, alpha=0.2, color=drawn.get_color(), linewidth=0)
        axes.set(xlabel=UNITS[unit], ylabel="return of an evaluation")
    over = "seeds" if max(map(len, settings.values())) > 1 else "episodes of one seed"
    title = literal(f"{run_config.agent} on {run_config.env}")
    axes.set_title(f"{title}\nmean and 95% interval over {over}", fontsize="medium")
    axes.legend() if 1 < len(axes.lines) <= MOST_LINES else None
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    files.write_bytes(run_dir / "curve.png", picture.getvalue())
    return run_dir / "curve.png"


def band(lines: list[dict[str, Any]], unit: str, members: list[int], count: int) -> tuple[list[float], list[stats.Estimate]]:
    """Steps and mean return of ``members`` (of ``count``) at each evaluation; one where all of them had diverged is NaN."""
    every = lambda values: np.asarray(values, float).reshape(count, -1)[members]
    x = [float(np.mean(every(line[unit]))) for line in lines]
    return x, [stats.estimate(every(line["returns"]), resamples=500) for line in lines]


def write_result(run_dir: Path, values: dict[str, Any], each: list[dict[str, Any]]) -> None:
    """``result.json``: the result line, and seed, setting and mean return of each member (null where it diverged)."""
    plain = {k: console.plain(v) for k, v in values.items()} | {"each": each}
    files.write_text(run_dir / "result.json", json.dumps(plain, indent=2) + "\n")


def together(parts: list[dict[str, Any]], run_dir: Path, reference: scores.Reference | None) -> dict[str, Any]:
    """The results of waves as one, with the folders of the waves."""
    if not parts[0]:
        return {}
    each = [m for k in range(len(parts)) for m in sweeps.result(run_dir / f"wave{k}")["each"]]
    sums = (
        "members",
        "diverged",
        "episodes",
        "env_steps",
        "sim_steps",
        "model_steps",
        "eval_steps",
        "updates",
        "wall_s",
        "compile_s",
    )
    values = {**parts[0], **{k: sum(p[k] or 0 for p in parts) for k in sums}, "run_dir": run_dir, "waves": len(parts)}
    memory_bytes = max(p["memory_bytes"] for p in parts)
    returns = np.array([m["return_mean"] for m in each if m["return_mean"] is not None])
    values |= {**return_of(each, returns), "memory_bytes": memory_bytes}
    values |= score_of(values, reference)
    values["return_best"] = max((p["return_best"] for p in parts if p["return_best"] is not None), default=None)
    write_result(run_dir, values, each)
    return values


def ranked(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """A ranking of settings as rows of a table."""
    lost = [f", {r['diverged']} diverged" if r["diverged"] else "" for r in rows]
    found = [console.estimate(stats.Estimate(r["iqm"], r["interval"], r["over"])) for r in rows]
    return [(r["setting"], text + more) for r, text, more in zip(rows, found, lost, strict=True)]


def outcome(row: dict[str, Any]) -> str:
    """A row of `rlx.train.outcomes.table` for people: the last evaluation, and all of training."""
    parts = []
    for what, at in (("last evaluation", "95% interval"), ("while training", "95% interval while training")):
        if row[what] is not None:
            bounds = "  [{}, {}]".format(*map(console.number, row[at])) if row[at] else ""
            parts.append(f"{what} {console.number(row[what])}{bounds}")
    return "; ".join(parts) + f"  over {row['interval over']}"


def film(policy: Policy, env: Env | HostEnv, run_dir: Path, seed: int) -> Path | None:
    """One episode as a video in ``run_dir``. Without a renderer there is none, and a message says why."""
    key = keys.fold(keys.root(seed), "video")
    try:
        return video.record(policy, env, run_dir / "video", key, progress=_progress)
    except Exception as error:  # renderers fail in all ways: a video is never worth a run
        message = console.words(error).strip().splitlines() or [type(error).__name__]
        print(f"no video: {message[0]}", file=sys.stderr)
        return None


def reports(policy: Policy, run_dir: Path) -> list[Path]:
    """What the method itself has to say of the policy (`rlx.types.Agent.report`). Where it fails, a message says why."""
    if policy.agent.report is None:
        return []
    try:
        return policy.agent.report(policy.state, run_dir)
    except Exception as error:  # what was learned is kept by then, and worth more
        print(f"no report: {console.words(error) or type(error).__name__}", file=sys.stderr)
        return []


def read_out(pages: list[Path]) -> None:
    """Prints the first sections of a report's pages, as many as fit on a screen, and where the rest is."""
    width = shutil.get_terminal_size().columns
    for page in pages:
        sections = re.split(r"^(?=## )", page.read_text(encoding="utf-8"), flags=re.M) if page.suffix == ".md" else []
        rows = [sum(max(1, -(-len(line) // width)) for line in section.splitlines()) for section in sections]
        shown = int(np.sum(np.cumsum(rows) <= SCREEN))
        if shown:
            more = f"More in {page}\n" if shown < len(sections) else ""
            print("\n" + "".join(sections[:shown]) + more, end="", flush=True)


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty() and (done % 10 == 0 or done >= of):
        print(f"\rfilming {done}/{of}", end="\n" if done >= of else "", file=sys.stderr, flush=True)
