"""Reports over run folders: learning curves with intervals, tables, one HTML page."""

from __future__ import annotations

import base64
import html
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rlx.envs import scores
from rlx.train import outcomes, rankings, sweeps
from rlx.train.curves import Curve, draw, png, read_run, steps_of
from rlx.train.pictures import literal
from rlx.train.stats import estimate, iqm, probability_of_improvement


def labels(groups: list[str]) -> dict[str, str]:
    """A short name for each group: agent, environment, and the settings in which groups differ."""
    trees = {g: json.loads(g) for g in groups}
    flat = {g: {**t.get("config", {}), **{k: v for k, v in t.items() if k != "config"}} for g, t in trees.items()}
    names = {k for t in flat.values() for k in t}
    differing = [
        k for k in sorted(names) if len({json.dumps(t.get(k)) for t in flat.values()}) > 1 and k not in ("agent", "env")
    ]
    return {g: " ".join([t["agent"], t["env"], *(f"{k}={t.get(k)}" for k in differing)]) for g, t in flat.items()}


def report(run_dirs: list[Path], out: Path) -> dict[str, Any]:
    """Curves (IQM and bootstrap 95% intervals over seeds) and tables of ``run_dirs`` as ``out/report.html`` and PNGs; of a
    sweep's folder all its trials, with their ranking, what fields do, and what it cost.

    Runs that differ in nothing but their seed are one group; of copies, which have the seed in common too, the one that has
    gone furthest counts, and the others are named. Returns paths and figures for a result line.

    Raises:
        ValueError: no run folders, or one that cannot be read.
    """
    if not run_dirs:
        raise ValueError("report needs at least one run folder.")
    folders = [folder for d in run_dirs for folder in sweeps.runs(Path(d))]
    if not folders:
        raise ValueError(f"no trial of {', '.join(map(str, run_dirs))} has ended yet.")
    every = [c for folder in folders for c in read_run(folder)]
    kept, copies = sweeps.distinct(sorted(every, key=lambda c: -c.steps[-1]))
    kept_ids = set(map(id, kept))
    curves = [c for c in every if id(c) in kept_ids]
    repeats = [(str(c.folder), c.seed, str(first.folder)) for c, first in copies]
    groups: dict[str, list[Curve]] = {}
    for c in curves:
        groups.setdefault(c.group, []).append(c)
    names = labels(list(groups))
    out.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for env in sorted({json.loads(g)["env"] for g in groups}):
        mine = {names[g]: cs for g, cs in groups.items() if json.loads(g)["env"] == env}
        file = out / f"curves-{env.replace(':', '-').replace('/', '-')}.png"
        file.write_bytes(_draw(mine, env))
        pictures[env] = file
        safety = outcomes.picture(mine, env)
        if safety is not None:
            pictures[f"{env}: success and safety"] = out / file.name.replace("curves-", "outcomes-")
            pictures[f"{env}: success and safety"].write_bytes(safety)
    rows = [_row(names[g], cs) for g, cs in groups.items()]
    versus = _versus({names[g]: cs for g, cs in groups.items()}) if len(groups) <= 8 else []  # the ranking says it shorter
    outcome_rows = outcomes.table({names[g]: cs for g, cs in groups.items()})
    page = out / "report.html"
    swept = rankings.report(folders, out) if any((Path(d) / sweeps.FILE).is_file() for d in run_dirs) else None
    pictures |= swept.pictures if swept else {}
    each = [row for g, cs in groups.items() for row in _each(names[g], cs)]
    tables = [*(swept.tables if swept else []), *([(OUTCOMES, outcomes.HEAD, outcome_rows)] if outcome_rows else [])]
    tables += [(EACH, EACH_HEAD, each)] if each else []
    left_out = (COPIES, ("run", "seed", "is a copy of"), repeats)
    references = {json.loads(g)["env"]: r for g in groups if (r := _reference(g))}
    page.write_text(_page(pictures, rows, versus, [*tables, left_out] if repeats else tables, references))
    return {
        "ranking": swept.ranking if swept else None,
        "page": str(page),
        "pictures": [str(p) for p in pictures.values()],
        "runs": len(curves),
        "groups": len(groups),
        "repeats": repeats,
        "table": [dict(zip(HEAD, r, strict=True)) for r in rows],
        "outcomes": outcomes.dicts(outcome_rows),
        "evaluations": [dict(zip(EACH_HEAD, r, strict=True)) for r in each],
    }


OUTCOMES = "Success and safety"
EACH = "Each kind of evaluation, the last one"
EACH_HEAD = ("group", "evaluation", "what", "IQM", "95% interval", "interval over")
COPIES = "Left out: a run is its configuration and its seed"
HEAD = ("group", "runs", "steps", "final IQM", "95% interval", "interval over", "best IQM", "score")


def _row(name: str, curves: list[Curve]) -> tuple:
    final = estimate(np.array([c.returns[-1] for c in curves]), iqm)
    bounds = final.interval and [round(x, 2) for x in final.interval]
    steps, best = np.mean([c.steps[-1] for c in curves]), iqm(np.array([np.nanmax(c.returns) for c in curves]))
    over = final.over if bounds else f"none: {final.over}"
    reference = _reference(curves[0].group)
    score = None if reference is None else round(float(scores.normalised(reference, final.value)), 1)
    return name, len(curves), int(steps), round(final.value, 2), bounds, over, round(best, 2), score


def _each(name: str, curves: list[Curve]) -> list[tuple]:
    """Rows of `EACH_HEAD` for a group that was evaluated in several ways: returns, and what is told of success and safety."""
    kinds, rows = list(dict.fromkeys(kind for c in curves for kind in c.ends)), []
    for kind, what in itertools.product(kinds if len(kinds) > 1 else (), ("return", *outcomes.NAMES)):
        values = [c.ends[kind][what] for c in curves if what in c.ends.get(kind, {})]
        if values:
            found = estimate(np.array(values), iqm)
            rows.append((name, kind, what, *outcomes.rounded(found), found.over))
    return rows


def _reference(group: str) -> scores.Reference | None:
    """What the returns of a group are measured by."""
    tree = json.loads(group)
    return scores.of_run(tree["env"], tree.get("time_limit"), tree.get("env_options") or {})


def _versus(groups: dict[str, list[Curve]]) -> list[tuple[str, str, float]]:
    """Probability that a run of the first group ends higher than one of the second, for groups on the same environment.
    Runs that diverged are left out, as they are of all estimates."""
    last = {n: np.array([[c.returns[-1]] for c in cs]) for n, cs in groups.items()}
    final = {n: x[np.isfinite(x[:, 0])] for n, x in last.items() if np.isfinite(x).any()}
    env = {n: json.loads(cs[0].group)["env"] for n, cs in groups.items()}
    pairs = [(a, b) for i, a in enumerate(final) for b in list(final)[i + 1 :] if env[a] == env[b]]
    return [(a, b, round(probability_of_improvement(final[a], final[b]), 3)) for a, b in pairs]


def _draw(groups: dict[str, list[Curve]], title: str) -> bytes:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    draw(axes, {name: [(c.steps, c.returns) for c in curves] for name, curves in groups.items()})
    what = "IQM and 95% interval over seeds" if any(len(curves) > 1 for curves in groups.values()) else "one seed each"
    axes.set(xlabel=steps_of(groups), ylabel="evaluation return", title=f"{literal(title)}: {what}")
    axes.legend(frameon=False, fontsize=8)
    return png(figure)


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}img{max-width:100%}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.3em .8em;border-bottom:1px solid #ddd;text-align:left}"
)


def _table(head: tuple, rows: list) -> str:
    cell = lambda tag, x: f"<{tag}>{'' if x is None else html.escape(str(x))}</{tag}>"
    line = lambda tag, row: "<tr>" + "".join(cell(tag, x) for x in row) + "</tr>"
    return "<table>" + line("th", head) + "".join(line("td", r) for r in rows) + "</table>"


def _page(pictures: dict[str, Path], rows: list, versus: list, more: list[tuple[str, tuple, list]], references: dict) -> str:
    encoded = {env: base64.b64encode(p.read_bytes()).decode() for env, p in pictures.items()}
    image = '<h2>{0}</h2><img alt="{0}" src="data:image/png;base64,{1}">'
    images = "".join(image.format(html.escape(env), data) for env, data in encoded.items())
    extra = "".join(f"<h2>{html.escape(title)}</h2>{_table(head, lines)}" for title, head, lines in more)
    measured = [(n, f"{r.source}: 0 is {r.random:,.1f}, 100 is {r.expert:,.1f}") for n, r in references.items()]
    measures = "<h2>Scores</h2>" + _table(("environment", "by"), measured) if measured else ""
    better = "<h2>Probability of improvement</h2>" + _table(("group", "over", "probability"), versus) if versus else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>rlx report</title><style>{STYLE}</style>'
        f"<h1>rlx report</h1>{extra}{_table(HEAD, rows)}{measures}{images}{better}"
        "<p>IQM: interquartile mean over seeds. Intervals: percentile bootstrap over seeds; one seed has none.</p></html>\n"
    )
