"""``rlx pref transfer|label``: labels for one dataset from those of another, without training; or from a person."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from matplotlib.figure import Figure

from rlx import config, files, keys, replay
from rlx.cli import console, label
from rlx.preferences import alignment, labels, pairs
from rlx.preferences.alignment import Alignment, Settings
from rlx.preferences.pairs import Episodes

ACTIONS = {
    "transfer": "label pairs of episodes of --target by those of --source, by optimal transport; draws the coupling",
    "label": "show pairs of pieces of --data on a page of this machine, and keep each answer as it is given",
}
USAGE = "usage: rlx pref ACTION [OPTIONS]\n\n" + "".join(f"  {name:<10}{what}\n" for name, what in ACTIONS.items())


@dataclass(frozen=True)
class Flags:
    # episodes of the labelled task: a file, folder or glob; of several tasks, which vote, one flag each
    source: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    target: str = ""  # episodes of the task that has no labels
    # pairs of the source that were labelled, of each source in turn; without, its returns label all pairs
    source_labels: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    out: str = "labels.npz"  # the file of pairs to write; the picture lies beside it
    features: str = config.size("delta", "what a trajectory is: delta, flat_s, flat_sa, hand, moments")
    entries: int | None = config.size(None, "of an observation only so many first entries; 18 for Meta-World", least=1)
    geometry: Literal["gw", "fused", "linear"] = "gw"  # fused and linear: where both have the same observations
    alpha: float = config.size(0.5, "fused: the share of Gromov-Wasserstein", least=0, most=1)
    eps: float = config.size(5e-3, "larger: softer labels, of which the sure ones are more reliable", above=0)
    outer: int = config.size(20, "rounds of linearisation", least=1)
    inner: int = config.size(50, "rounds of Sinkhorn in each", least=1)
    group_size: int | None = config.size(None, "transport and pairs within random groups of so many of either task", least=3)
    restarts: int = config.size(0, "so many random couplings to begin at, besides the even one; the cheapest counts", least=0)
    scale: Literal["max", "mean", "none"] = config.size("max", "what distances within a task are divided by")
    proximal: bool = config.size(False, "towards a coupling without blur")
    norm: Literal["pair", "global"] = "pair"
    tau: float = config.size(0.0, "global: labels less confident are ties", least=0)
    vote_tau: float = config.size(0.01, "several sources: their labels are weighed by softmax(-cost / this)", above=0)
    float64: bool = config.size(False, "compute on the host in float64")
    trajectories: int = config.size(64, "of either task, at most", least=2)
    pairs: int = config.size(2_000, "at most", least=1)
    least_confidence: float = config.size(0.0, "of a label, to count", least=0, most=1)
    seed: int = config.size(0, "of which episodes and pairs are taken, where there are more", least=0, most=keys.MOST_SEED)


PRESETS: dict[str, dict[str, Any]] = {"debug": {"outer": 5, "inner": 20}}


def main(argv: Sequence[str] | None = None) -> int:
    return console.command(body, argv)


def body(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{USAGE}\n`rlx pref ACTION --help` shows the options.")
        raise SystemExit(0 if argv else 2)
    action = argv[0]
    if action not in ACTIONS:
        config.stop(f"unknown action {action!r}.{config.nearest(action, ACTIONS)}")
    about = f"rlx pref {action}: {ACTIONS[action]}."
    if action == "label":
        asked: label.Flags = config.parse(label.Flags(), argv[1:], label.PRESETS, prog="rlx pref label", description=about)
        return label.run(asked)
    flags: Flags = config.parse(Flags(), argv[1:], PRESETS, prog="rlx pref transfer", description=about)
    if not flags.source or not all(flags.source) or not flags.target:
        config.stop("which data? Give both: rlx pref transfer --source a.npz --target b.npz --out labels.npz")
    if not flags.out.endswith(".npz"):
        config.stop(f"--out {flags.out}: labels are written as one file that ends in .npz.")
    if flags.source_labels and len(flags.source_labels) != len(flags.source):
        config.stop(
            f"there are {len(flags.source)} of --source and {len(flags.source_labels)} of --source-labels: give one of the "
            "latter for each of the former, in their order, or none."
        )
    _spares(flags)
    _transfer(flags)


def _spares(flags: Flags) -> None:
    """Stops where the file to write is one that is read, or holds what people have answered."""
    out, same = Path(flags.out), lambda path: os.path.realpath(path) == os.path.realpath(flags.out)
    if any(map(same, (*flags.source, flags.target, *flags.source_labels))):
        config.stop(f"--out {out} is one of the files to read, and would be lost: give another name.")
    if out.exists() and (pairs.read(out).source == pairs.SOURCES.index("human")).any():
        config.stop(f"--out {out} holds answers of people, which would be lost: give another name.")


def _transfer(flags: Flags) -> None:
    settings = Settings(**{f.name: getattr(flags, f.name) for f in fields(Settings)})
    read = lambda path: pairs.episodes(replay.load(path).replay(False))
    target = read(flags.target)
    given = map(pairs.read, flags.source_labels) if flags.source_labels else [None] * len(flags.source)
    labelled = [
        labels.source_of(read(path), own, flags.trajectories, flags.seed) for path, own in zip(flags.source, given, strict=True)
    ]
    got = labels.label(
        "cpa",
        target,
        np.random.default_rng(flags.seed),
        source=labelled,
        settings=settings,
        most=flags.trajectories,
        count=flags.pairs,
        least_confidence=flags.least_confidence,
    )
    aligned = got.alignment
    assert aligned is not None
    out = pairs.write(flags.out, got.pairs)
    picture = out.with_suffix(".png")
    draw(aligned, picture)
    values: dict[str, Any] = {"pairs": int((got.pairs.weight > 0).sum()), "cost": float(aligned.coupling.cost)}
    values |= {"row_error": float(aligned.coupling.row_error), "degenerate": aligned.degenerate, "asymmetry": aligned.asymmetry}
    values |= _measured(got, labelled, target)
    if len(labelled) > 1:
        values |= {"costs": [float(a.coupling.cost) for a in got.each], "votes": [float(v) for v in got.votes]}
    console.table("labels by transport", [*((k, _text(v)) for k, v in values.items()), ("labels", out), ("coupling", picture)])
    if aligned.degenerate:
        print("The two sets say nothing about each other: all labels are 0.5 and none counts.")
    elif abs(aligned.asymmetry) < 0.2:
        print("In the source neither the middle nor the rim of its trajectories is preferred: labels may be mirrored.")
    console.result({**values, "labels": out, "picture": picture})


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return console.number(value) if isinstance(value, float) else str(value)


def _measured(got: labels.Labelled, sources: Sequence[labels.Source], target: Episodes) -> dict[str, Any]:
    """Accuracies over all pairs of trajectories where the target has true rewards: of each source alone too where there are
    several, and of the nearest trajectory where there is one source with as many numbers. Else nothing."""
    returns, aligned = target.returns[got.chosen], got.alignment
    if np.ptp(returns) == 0 or aligned is None:
        return {}
    right = lambda label: alignment.accuracy(label, returns, None if aligned.degenerate else aligned.weight)
    found: dict[str, Any] = {"accuracy": right(aligned.label)}
    if len(sources) > 1:
        return {**found, "accuracies": [right(a.label) for a in got.each]}
    try:
        nearest = labels.carried("dis", sources[0], [target.trajectories()[i] for i in got.chosen], Settings())
    except ValueError:  # the spaces differ
        return found
    return {**found, "accuracy_nearest": right(nearest.label)}


def draw(aligned: Alignment, path: Path) -> None:
    """The coupling (with all sources, by their votes), sources and targets from the least to the most preferred, as a PNG."""
    order = np.argsort(aligned.label.mean(1))
    plan = aligned.coupling.plan[:, order]
    centre = plan @ np.arange(plan.shape[1]) / np.maximum(plan.sum(1), 1e-12)
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(plan[np.argsort(centre)], aspect="auto", origin="lower", cmap="viridis")
    axes.set_xlabel("target trajectories, as labelled: worst to best")
    axes.set_ylabel("source trajectories, by where they go")
    figure.colorbar(shown, label="mass of the coupling")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    files.write_bytes(path, picture.getvalue())
