"""Pictures of a policy's regions, of its episodes and of what learning cost. See `rlx.agents.yann.report`."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from rlx.agents.yann.regions import Runs, Signal, Trained, opened, signals
from rlx.planning.slices import sections

Colour = Literal["region", "input", "change"]
INK, LOST = "#222222", "#d1203b"  # episodes, and those that violated limits
TINTS = ("#a6cee3", "#fdd0a2", "#c7e9c0", "#dadaeb", "#fbb4c4", "#fff2ae", "#b3e2cd", "#d9d9d9", "#e5d8bd", "#cbd5e8")
BEFORE, AFTER = "#7f7f7f", "#0072b2"
SHADES = {
    "input": ("#3f87bd", "#a9cde4", "#fbf9f4", "#f8cfa8", "#e58a4a"),
    "change": ("#7b5aa6", "#c9bbdd", "#fbfaf8", "#b5dcc4", "#2f8f63"),
}
FINE = 40  # pieces along a window's side, in which colours are shaded


def chosen(names: Sequence[Signal], which: str | int) -> int:
    """The place of a signal, by name or place.

    Raises:
        ValueError: there is none.
    """
    known = [s.name for s in names]
    if isinstance(which, str) and which not in known:
        raise ValueError(f"there is no {which!r} among {', '.join(known)}.")
    place = known.index(which) if isinstance(which, str) else which
    if not -len(known) <= place < len(known):
        raise ValueError(f"there are {len(known)} of these, {', '.join(known)}; got {which}.")
    return place % len(known)


def best_axes(it: Trained, runs: Sequence[Runs]) -> tuple[int, int]:
    """The two states that move the input most in ``runs``: by the unlimited law's gain times how far they go."""
    known = it.learner.known
    n = len(known.control.x)
    gain = (
        np.abs(np.linalg.solve(known.W[known.scale.size :, known.scale.size :], known.W[known.scale.size :, :n]))
        / known.scale[:n]
    )
    std = np.nanstd(np.concatenate([r.z.reshape(-1, r.z.shape[-1]) for r in runs]), 0) if runs else known.scale
    i, j = sorted(np.argsort(-gain.max(0) * std[:n], kind="stable")[:2].tolist())
    return i, j


def window(it: Trained, axes: Sequence[int], runs: Sequence[Runs]) -> tuple[np.ndarray, np.ndarray]:
    """Where episodes go along ``axes``, with room around, in deviations: [2] each. Without ``runs``, and where they go out of
    it, the box of the law."""
    known, keep = it.learner.known, list(axes)
    low, high = known.z_low[keep], known.z_high[keep]
    if not runs:
        return low, high
    held = [r.z[:, ~r.violated.any(0)][..., keep] for r in runs]
    points = np.concatenate([z.reshape(-1, len(keep)) for z in (*held, *(r.z[:1][..., keep] for r in runs))])
    least, most = np.nanmin(points, 0), np.nanmax(points, 0)
    room = 0.15 * (most - least) + 1e-3 * (high - low)
    return np.maximum(least - room, low), np.minimum(most + room, high)


def draw_regions(
    ax: Any,
    policy: Any,
    *,
    axes: tuple[str | int, str | int] | None = None,
    at: Mapping[str, float] | None = None,
    colour: Colour = "region",
    learned: bool = True,
    output: str | int = 0,
    runs: Runs | None = None,
    episodes: int = 6,
    within: tuple[Sequence[float], Sequence[float]] | None = None,
    span: tuple[float, float] | None = None,
    labels: bool | None = None,
) -> Any:
    """The regions of the law on a plane, as the exact polygons that their half-spaces leave of it; in physical units.

    Args:
        axes: two signals, by name or place; None: the states that move the input most.
        at: values of the others, by name; what is not named is at the operating point.
        colour: each region its own, or shaded by the ``output``-th input, or by how far learning changed that.
        learned: inputs are the learned policy's, not the controller's.
        runs: episodes to draw on top, ``episodes`` of them; they are projected onto the plane.
        within: lower and upper corner of the window; None: where the episodes go, or the box of the law.
        span: the ends of the colours.
        labels: numbers on the regions; None: with ``colour="region"``.

    Returns:
        What a colour bar is made of; None with ``colour="region"``.

    Raises:
        ValueError: the law has no regions, or no two parameters, or a name is unknown.
    """
    it = opened(policy)
    if it.regions is None or it.learner.nz < 2:
        raise ValueError("polygons of regions need a law that has regions, of two parameters or more.")
    z, u = signals(it.learner)
    given = [] if runs is None else [runs]
    i, j = best_axes(it, given) if axes is None else (chosen(z, axes[0]), chosen(z, axes[1]))
    point = np.zeros(len(z))
    for name, value in (at or {}).items():
        point[chosen(z, name)] = value - z[chosen(z, name)].centre
    centre = np.array([z[i].centre, z[j].centre])
    low, high = window(it, (i, j), given) if within is None else (np.asarray(corner, float) - centre for corner in within)
    found = sections(it.regions.A, it.regions.b, point, (i, j), low, high)
    k = chosen(u, output)
    which = np.zeros(0, int) if runs is None else far_apart(runs, (i, j), episodes)
    shades = None if colour == "region" else _shade(ax, it, found, point, (i, j), (low, high), colour, learned, k, span)
    for index, corners in found:
        tint = TINTS[index % len(TINTS)] if colour == "region" else "none"
        ax.fill(*(corners + centre).T, facecolor=tint, edgecolor="white" if colour == "region" else "#00000055", linewidth=0.8)
    if labels or (labels is None and colour == "region"):
        _number(ax, found, centre, high - low, runs_at(runs, which, (i, j)))
    if runs is not None:
        draw_runs(ax, runs, (i, j), centre, which)
    ax.set(xlim=np.array([low[0], high[0]]) + centre[0], ylim=np.array([low[1], high[1]]) + centre[1])
    ax.set(xlabel=str(z[i]), ylabel=str(z[j]), facecolor="#f4f4f2")
    return shades


def _shade(
    ax: Any,
    it: Trained,
    found: list[tuple[int, np.ndarray]],
    point: np.ndarray,
    axes: tuple[int, int],
    box: tuple[np.ndarray, np.ndarray],
    colour: Colour,
    learned: bool,
    output: int,
    span: tuple[float, float] | None,
) -> Any:
    """Colours that are smooth inside regions and jump between them where the policy does."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.tri import Triangulation

    size = box[1] - box[0]
    meshes = [mesh(corners, size / FINE) for _, corners in found]
    if not meshes:
        return None
    z = np.concatenate([np.tile(point, (len(p), 1)) for p, _ in meshes])
    z[:, list(axes)] = np.concatenate([p for p, _ in meshes])
    base, new = it.inputs(z, np.concatenate([np.full(len(p), i) for (i, _), (p, _) in zip(found, meshes, strict=True)]))
    signals_z, signals_u = signals(it.learner)
    value = ((new - base) if colour == "change" else (new if learned else base) + [s.centre for s in signals_u])[:, output]
    starts = np.cumsum([0, *(len(p) for p, _ in meshes)])
    triangles = np.concatenate([t + s for (_, t), s in zip(meshes, starts, strict=False)])
    centre = np.array([signals_z[axes[0]].centre, signals_z[axes[1]].centre])
    if span is None:
        known, at = it.learner.known, signals_u[output].centre
        most = max(float(np.abs(value).max()), 0.01 * known.half[output])
        span = (-most, most) if colour == "change" else (known.low[output] + at, known.high[output] + at)
    x, y = (z[:, list(axes)] + centre).T
    corners = Triangulation(x, y, triangles)
    shades = LinearSegmentedColormap.from_list(colour, SHADES[colour])
    return ax.tripcolor(corners, value, shading="gouraud", cmap=shades, vmin=span[0], vmax=span[1], rasterized=True)


def mesh(corners: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points [k, 2] and triangles [t, 3] of a convex polygon: a fan around its middle, each part cut into equal pieces not
    longer than about ``size`` [2]."""
    middle, points, triangles, offset = corners.mean(0), [], [], 0
    for a, b in zip(corners, np.roll(corners, -1, 0), strict=True):
        longest = max(np.linalg.norm((p - q) / size) for p, q in ((a, b), (b, middle), (middle, a)))
        cuts = int(np.clip(np.ceil(longest), 1, FINE))
        steps = [(r, c) for r in range(cuts + 1) for c in range(cuts + 1 - r)]
        place = {rc: k + offset for k, rc in enumerate(steps)}
        points += [middle + (a - middle) * r / cuts + (b - middle) * c / cuts for r, c in steps]
        for r, c in steps:
            if r + c < cuts:
                triangles.append((place[r, c], place[r + 1, c], place[r, c + 1]))
            if r + c < cuts - 1:
                triangles.append((place[r + 1, c], place[r + 1, c + 1], place[r, c + 1]))
        offset += len(steps)
    return np.array(points), np.array(triangles)


def _number(ax: Any, found: list[tuple[int, np.ndarray]], centre: np.ndarray, size: np.ndarray, lines: np.ndarray) -> None:
    """Numbers on regions, each where it is farthest from the region's border and from ``lines`` [k, 2]."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.5, foreground="white", alpha=0.8)]
    for index, corners in found:
        inner = corners / size  # in shares of the window
        places = mesh(inner, np.full(2, 1 / 16))[0]
        sides = np.roll(inner, -1, 0) - inner
        normal = np.stack([-sides[:, 1], sides[:, 0]], 1) / np.linalg.norm(sides, axis=1, keepdims=True)
        free = ((places[:, None] - inner) * normal).sum(-1).min(1)
        if len(lines):
            free = np.minimum(free, np.linalg.norm(places[:, None] - lines / size, axis=-1).min(1))
        if free.max() < 0.02:
            continue
        x, y = places[np.argmax(free)] * size + centre
        style: dict[str, Any] = {
            "ha": "center",
            "va": "center",
            "fontsize": 9,
            "color": "#444444",
            "clip_on": True,
            "zorder": 6,
        }
        ax.text(x, y, str(index), path_effects=halo, **style)


def far_apart(runs: Runs, axes: Sequence[int], count: int) -> np.ndarray:
    """Indices of ``count`` episodes that start far from one another: the outermost first, then whoever is farthest from all."""
    start = runs.z[0][:, list(axes)]
    start = (start - start.mean(0)) / np.maximum(start.std(0), 1e-9)
    found = [int(np.argmax(np.linalg.norm(start, axis=1)))]
    while len(found) < min(count, len(start)):
        found.append(int(np.argmax(np.linalg.norm(start[:, None] - start[found], axis=-1).min(1))))
    return np.array(found)


def runs_at(runs: Runs | None, which: Iterable[int], axes: tuple[int, int]) -> np.ndarray:
    """Points [k, 2] of these episodes, in deviations."""
    if runs is None:
        return np.zeros((0, 2))
    z = runs.z[:, list(which)][..., list(axes)].reshape(-1, 2)
    return z[np.isfinite(z).all(1)]


def draw_runs(ax: Any, runs: Runs, axes: tuple[int, int], centre: np.ndarray, which: Iterable[int]) -> None:
    """Episodes as lines that begin at a ring; in red, up to a cross, where limits are violated."""
    for k in which:
        z = runs.z[:, k][:, list(axes)] + centre
        broken = np.flatnonzero(runs.violated[:, k])
        path, colour = (z[: broken[0] + 1], LOST) if len(broken) else (z, INK)
        ax.plot(*path.T, color="white", linewidth=2.6, alpha=0.6, zorder=3)
        ax.plot(*path.T, color=colour, linewidth=1.1, zorder=4)
        inner = LOST if len(broken) else "white"
        ax.plot(*path[0], marker="o", markersize=4.5, markerfacecolor=inner, markeredgecolor=colour, zorder=5)
        if len(broken):
            ax.plot(*path[-1], marker="x", markersize=7, color=LOST, markeredgewidth=2, zorder=5)


def draw_costs(ax: Any, lines: Sequence[Mapping[str, Any]], label: str = "", colour: str = AFTER) -> None:
    """What evaluations while training cost, from a run's metrics: means, with red crosses and shares where episodes
    violated limits; dashed: the controller, which the first evaluation sees. All see the same starts, so the band is the 95%
    interval of the difference to the controller: on each start, or of several members over their means."""
    evals = [line for line in lines if line.get("kind", "eval") == "eval" and line.get("eval", "main") == "main"]
    if not evals:
        raise ValueError("these metrics hold no evaluation yet.")
    x = np.array([np.mean(line["env_steps"]) for line in evals])
    costs = [-np.asarray(line["returns"], float) for line in evals]
    costs = [c.mean(-1) if c.ndim > 1 and len(c) > 1 else c.ravel() for c in costs]
    mean = np.array([c.mean() for c in costs])
    broken = np.array([np.mean(line.get("info/violation_mean", 0.0)) for line in evals])
    off = [c - costs[0] if c.shape == costs[0].shape else c for c in costs]
    band = np.array([1.96 * d.std() / np.sqrt(d.size) if d.size > 1 else np.nan for d in off])
    ax.fill_between(x, mean - band, mean + band, color=colour, alpha=0.15, linewidth=0)
    ax.plot(x, mean, color=colour, marker="o", markersize=3.5, label=label or None, zorder=3)
    ax.axhline(mean[0], color=BEFORE, linestyle="--", linewidth=1, zorder=2)
    for place, cost, share in zip(x, mean, broken, strict=True):
        if share > 0:
            ax.plot(place, cost, marker="x", color=LOST, markersize=9, markeredgewidth=1.8, zorder=4)
            ax.annotate(f"{share:.0%}", (place, cost), (0, 7), textcoords="offset points", ha="center", fontsize=7, color=LOST)
    ax.margins(y=0.15)
    ax.set(xlabel="environment steps", ylabel="cost of an episode")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


# --------------------------------------------------------------------------------------------------------------- picture


def picture(policy: Any, axes: tuple[str | int, str | int] | None = None, runs: tuple[Runs, Runs] | None = None) -> bytes:
    """Before and after learning, as a PNG: the controller's inputs over the plane with episodes, the learned policy's with
    episodes from the same starts, and what learning changed. Of one parameter: laws and episodes as curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    it = opened(policy)
    before, after = (it.runs("base"), it.runs("eval")) if runs is None else runs
    figure = Figure(figsize=(13, 4.3), layout=ConstrainedLayoutEngine(wspace=0.03))
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    if it.learner.nz == 1 or it.regions is None:
        _curves(panels, it, before, after)
    else:
        _planes(figure, panels, it, before, after, axes)
    rest = "" if it.learner.nz <= 2 else " (what is not shown is at the operating point; episodes are projected)"
    figure.suptitle(f"{it.env.name}: before and after learning{rest}", fontsize="large")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130)
    return out.getvalue()


def _legend(name: str, runs: Runs) -> str:
    lost = int(runs.violated.any(0).sum())
    return f"{name}: mean cost {runs.cost.mean():.4g}" + (f", {lost} of {len(runs.cost)} violate limits" if lost else "")


def _planes(figure: Any, panels: Any, it: Trained, before: Runs, after: Runs, axes: tuple[str | int, str | int] | None) -> None:
    z, u = signals(it.learner)
    places = best_axes(it, (before, after)) if axes is None else (chosen(z, axes[0]), chosen(z, axes[1]))
    centre = np.array([z[places[0]].centre, z[places[1]].centre])
    low, high = window(it, places, (before, after))
    options: dict[str, Any] = {"axes": places, "within": (low + centre, high + centre), "labels": True}
    shades = draw_regions(panels[0], it, colour="input", learned=False, runs=before, **options)
    draw_regions(panels[1], it, colour="input", runs=after, **options)
    change = draw_regions(panels[2], it, colour="change", **options)
    same = change is None or not np.any(change.get_array())
    changed = "nothing changed: the controller was the best" if same else "what learning changed"
    for panel, title in zip(panels, (_legend("controller", before), _legend("learned", after), changed), strict=True):
        panel.set_title(title, fontsize="medium")
    bars = (shades, list(panels[:2]), str(u[0]), 0.01), (change, panels[2], f"change of {u[0]}", 0.02)
    for shade, ax, label, pad in bars:
        if shade is not None:  # no region on the plane
            figure.colorbar(shade, ax=ax, label=label, pad=pad)


def _curves(panels: Any, it: Trained, before: Runs, after: Runs) -> None:
    z, u = signals(it.learner)
    i = 0 if it.learner.nz == 1 else best_axes(it, (before, after))[0]
    low, high = window(it, (i,), (before, after))
    line = np.zeros((401, it.learner.nz))
    line[:, i] = np.linspace(low[0], high[0], len(line))
    base, new = it.inputs(line)
    x = line[:, i] + z[i].centre
    panels[0].plot(x, base[:, 0] + u[0].centre, color=BEFORE, linestyle="--", label="controller")
    panels[0].plot(x, new[:, 0] + u[0].centre, color=AFTER, label="learned")
    panels[1].plot(x, new[:, 0] - base[:, 0], color=AFTER)
    for panel in panels[:2]:
        for edge in _edges(it) + z[i].centre:
            panel.axvline(edge, color="0.8", linewidth=0.8, zorder=0)
        panel.set(xlabel=str(z[i]), xlim=(x[0], x[-1]))
    panels[0].set(ylabel=str(u[0]), title="input, and borders of regions")
    panels[1].set(ylabel=f"change of {u[0]}", title="what learning changed")
    for runs, colour, name, style in ((before, BEFORE, "controller", "--"), (after, AFTER, "learned", "-")):
        for k in far_apart(before, (i,), 5):
            label = _legend(name, runs) if k == far_apart(before, (i,), 5)[0] else None
            panels[2].plot(runs.z[:, k, i] + z[i].centre, color=colour, linestyle=style, linewidth=1, label=label)
    far = np.flatnonzero(np.nanmax(np.abs(before.z[..., i]), 1) > 0.01 * np.nanmax(np.abs(before.z[..., i])))
    panels[2].set(xlabel="decisions", ylabel=str(z[i]), title="episodes from the same starts", xlim=(0, 1.2 * far[-1] + 1))
    for panel in (panels[0], panels[2]):
        panel.legend(frameon=False, fontsize=8)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.title.set_fontsize("medium")


def _edges(it: Trained) -> np.ndarray:
    """Borders of the regions of one parameter."""
    if it.regions is None or it.learner.nz > 1:
        return np.zeros(0)
    A, b = it.regions.A[..., 0], it.regions.b
    real = np.isfinite(b) & (A != 0)
    return np.unique(np.round(b[real] / A[real], 9))
