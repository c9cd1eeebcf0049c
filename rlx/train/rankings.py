"""What a sweep found, for people: the ranking of its settings, pictures of what each field does, and the cost."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlx.train.pictures import literal
from rlx.train.sweeps import label, members, ranking, result, scores, seeds_to_separate
from rlx.train.sweeps import settings as settings_of


@dataclass(frozen=True)
class Found:
    ranking: list[dict[str, Any]]
    tables: list[tuple[str, tuple, list]]  # title, head, rows
    pictures: dict[str, Path]


def report(run_dirs: Sequence[Path], out: Path) -> Found:
    """Of the trials in ``run_dirs``; pictures go into ``out``."""
    found = members(run_dirs)
    run_dirs = list(dict.fromkeys(m.folder for m in found))  # without copies
    settings, ranked = settings_of(found), ranking(scores(found))
    fields = list(next(iter(settings.values())))
    rows = []
    for place, row in enumerate(ranked, 1):
        better = "" if row.get("better") is None else f"{row['better']:.2f}"
        bounds = "[{:.4g}, {:.4g}]".format(*row["interval"]) if row["interval"] else f"none: {row['over']}"
        rows.append((place, row["setting"], row["seeds"], row["diverged"], f"{row['iqm']:.4g}", bounds, better))
    head = ("", "setting", "seeds", "diverged", "IQM", "95% interval over seeds", "P(better than the next)")
    tables: list[tuple[str, tuple, list]] = [("Ranking", head, rows)]
    if len(ranked) > 1:
        tables.append(("Is the best the best?", ("question", "answer"), [_separation(ranked)]))
    tables.append(("Cost", ("trial", "members", "wall-clock s", "compiling s", "memory MiB"), _costs(run_dirs)))
    pictures = {}
    picture = _heat_map(fields, settings, ranked) if len(fields) == 2 else _parallel(fields, settings, ranked)
    if picture:
        file = out / "settings.png"
        file.write_bytes(picture)
        pictures["final return by setting"] = file
    return Found([{k: v for k, v in r.items() if k != "all"} for r in ranked], tables, pictures)


def _separation(ranked: list[dict[str, Any]]) -> tuple[str, str]:
    first, second = ranked[0], ranked[1]
    more = seeds_to_separate(first["all"], second["all"])
    question = f"how many more seeds would separate {first['setting']} from {second['setting']}?"
    if more is None:
        return question, "cannot be said: it takes two seeds each, and a difference"
    return question, "none, they are apart" if not more else f"{more} each, if the difference stays what it is (80% power)"


def _costs(run_dirs: Sequence[Path]) -> list[tuple]:
    rows, sums = [], [0, 0.0, 0.0, 0]
    for folder in run_dirs:
        r = result(folder)
        row = [r["members"], r["wall_s"] or 0.0, r["compile_s"], round(r["memory_bytes"] / 2**20)]
        sums = [a + b for a, b in zip(sums[:3], row[:3], strict=True)] + [max(sums[3], row[3])]
        rows.append((folder.name, row[0], round(row[1], 1), round(row[2], 1), row[3]))
    return [*rows, ("all (memory: the most)", sums[0], round(sums[1], 1), round(sums[2], 1), sums[3])]


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def _word(value: Any) -> str:
    return literal(label({"": value})[1:])


def _order(values: list[Any]) -> list[Any]:
    """Distinct values, numbers by size, others by name."""
    distinct = {json.dumps(v): v for v in values}.values()
    return sorted(distinct, key=lambda v: (0, v, "") if isinstance(v, (int, float)) else (1, 0, json.dumps(v)))


def _heat_map(fields: list[str], settings: dict[str, dict[str, Any]], ranked: list[dict[str, Any]]) -> bytes | None:
    """Final IQM over two fields; a grid only, since draws hardly ever share a row."""
    across, down = (_order([p[f] for p in settings.values()]) for f in fields)
    if len(across) * len(down) > 2 * len(settings):
        return _parallel(fields, settings, ranked)
    cells = np.full((len(down), len(across)), np.nan)
    for row in ranked:
        point = settings[row["setting"]]
        cells[down.index(point[fields[1]]), across.index(point[fields[0]])] = row["iqm"]
    figure = _figure(2.5 + 0.9 * len(across), 1.5 + 0.6 * len(down))
    axes = figure.subplots()
    shown = np.ma.masked_invalid(cells)
    image = axes.imshow(shown, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(across)), [_word(v) for v in across])
    axes.set_yticks(range(len(down)), [_word(v) for v in down])
    axes.set(xlabel=fields[0], ylabel=fields[1])
    middle = (shown.min() + shown.max()) / 2
    for (i, j), value in np.ndenumerate(cells):
        if np.isfinite(value):
            axes.text(j, i, f"{value:.4g}", ha="center", va="center", color="black" if value > middle else "white")
    figure.colorbar(image, label="final return, IQM")
    return _png(figure)


def _parallel(fields: list[str], settings: dict[str, dict[str, Any]], ranked: list[dict[str, Any]]) -> bytes | None:
    """A line per setting through its values, coloured by what came out."""
    shown = [r for r in ranked if np.isfinite(r["iqm"])]
    if not fields or not shown:
        return None
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure = _figure(2.2 * (len(fields) + 1) + 1, 4)
    axes = figure.subplots()
    colour = ScalarMappable(Normalize(shown[-1]["iqm"], shown[0]["iqm"]), colormaps["viridis"])
    columns = [[settings[r["setting"]][f] for r in shown] for f in fields] + [[r["iqm"] for r in shown]]
    names = [*fields, "final return, IQM"]
    heights = [_heights(column) for column in columns]
    for i, row in reversed(list(enumerate(shown))):
        line = [h[i] for h in heights]
        axes.plot(range(len(names)), line, color=colour.to_rgba(row["iqm"]), linewidth=2.5 if i == 0 else 1.2, marker="o")
    for x, (column, h) in enumerate(zip(columns, heights, strict=True)):
        ends = sorted({(round(y, 6), _word(v)) for y, v in zip(h, column, strict=True)})
        for y, text in ends if len(ends) <= 8 else [ends[0], ends[-1]]:
            axes.annotate(text, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(names) - 0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.colorbar(colour, ax=axes, label="final return, IQM")
    return _png(figure)


def _heights(column: list[Any]) -> np.ndarray:
    """Places in [0, 1]: numbers by size (of wide positive ranges the logarithm), others evenly."""
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in column):
        order = [json.dumps(v) for v in _order(column)]
        return np.array([order.index(json.dumps(v)) for v in column]) / max(1, len(order) - 1)
    values = np.array(column, float)
    if values.min() > 0 and values.max() / values.min() > 20:
        values = np.log(values)
    return (values - values.min()) / (np.ptp(values) or 1.0)
