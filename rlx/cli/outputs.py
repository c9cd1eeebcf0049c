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
from rlx.train import run_config as run_configs
from rlx.train import stats, sweeps, video
from rlx.train.logging import read as read_metrics
from rlx.train.pictures import literal
from rlx.train.policy import Policy
from rlx.types import Env, HostEnv

SCREEN = 60  # rows


def interval(returns: np.ndarray, resamples: int = 2_000) -> tuple[float, float]:
    """95% bootstrap interval of the mean over episodes."""
    return stats.interval(np.reshape(returns, (-1, 1)), np.mean, resamples=resamples)  # type: ignore[arg-type]


def curve(run_dir: Path) -> Path | None:
    """The run's evaluation return over its steps as ``curve.png``: mean, and the 95% interval over its episodes. None where
    nothing was evaluated."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [line for line in read_metrics(run_dir) if line["kind"] == "eval"]
    if not lines:
        return None
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name in dict.fromkeys(line["eval"] for line in lines):
        mine = [line for line in lines if line["eval"] == name]
        unit = "env_steps" if any(np.any(line["env_steps"]) for line in mine) else "updates"
        x = [float(np.mean(line[unit])) for line in mine]
        returns = [np.asarray(line["returns"], float).ravel() for line in mine]
        returns = [r[np.isfinite(r)] for r in returns]
        bounds = np.array([interval(r, 500) for r in returns])
        (drawn,) = axes.plot(x, [r.mean() for r in returns], marker=".", label=literal(name))
        axes.fill_between(x, *bounds.T, alpha=0.2, color=drawn.get_color(), linewidth=0)
        axes.set(xlabel={"env_steps": "environment steps", "updates": "updates"}[unit], ylabel="return of an evaluation")
    run_config = run_configs.read(run_dir)
    title = literal(f"{run_config.agent} on {run_config.env}")
    axes.set_title(f"{title}: mean and 95% interval over episodes", fontsize="medium")
    axes.legend() if len(axes.lines) > 1 else None
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    files.write_bytes(run_dir / "curve.png", picture.getvalue())
    return run_dir / "curve.png"


def write_result(run_dir: Path, values: dict[str, Any], each: list[dict[str, Any]]) -> None:
    """``result.json``: the result line, and seed, setting and mean return of each member (null where it diverged)."""
    plain = {k: console.plain(v) for k, v in values.items()} | {"each": each}
    files.write_text(run_dir / "result.json", json.dumps(plain, indent=2) + "\n")


def together(parts: list[dict[str, Any]], run_dir: Path) -> dict[str, Any]:
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
    values |= {"return_mean": float(returns.mean()), "return_ci": interval(returns), "memory_bytes": memory_bytes}
    values["return_best"] = max((p["return_best"] for p in parts if p["return_best"] is not None), default=None)
    write_result(run_dir, values, each)
    return values


def ranked(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """A ranking of settings as rows of a table."""
    bounds = [console.bounds(r["iqm"], (r["low"], r["high"])) for r in rows]
    lost = [f", {r['diverged']} diverged" if r["diverged"] else "" for r in rows]
    return [(r["setting"], f"{b}  {r['seeds']} seeds{d}") for r, b, d in zip(rows, bounds, lost, strict=True)]


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
