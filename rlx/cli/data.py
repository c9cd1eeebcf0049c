"""``rlx data info|convert|demos|gen-pref|slice|score|reference``: datasets, looked at, rewritten, measured and made."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from rlx import config, files
from rlx.cli import console, demos, gen_pref
from rlx.envs import scores
from rlx.replay import datasets
from rlx.replay.dataset import Dataset
from rlx.replay.datasets.found import reading
from rlx.replay.datasets.loading import LAYOUTS
from rlx.replay.describe import Description, describe
from rlx.train import stats
from rlx.train.pictures import literal

ACTIONS = {
    "info": "what a file holds, what is odd about it, and a picture of returns and lengths",
    "convert": "any layout into rlx's own: a folder of shards, or a file where --out ends in .npz",
    "demos": "episodes in which a scripted expert does the task (--env), for methods that begin with some",
    "gen-pref": "two tasks to see preferences move from one to the other (--recipe)",
    "slice": "some of the episodes: the first, the best, those of a length, at random",
    "score": "returns of its episodes, from random actions (0) to experts (100); or what a model makes of it (--model)",
    "reference": "keep its mean return as that of random actions, or of an expert (--of), for scores from now on",
}
USAGE = "usage: rlx data ACTION FILES... [OPTIONS]\n\n" + "".join(f"  {name:<10}{what}\n" for name, what in ACTIONS.items())
BLOCK = 200  # episodes of a shard


@dataclass(frozen=True)
class Flags:
    out: str = config.size("", "where to write: the picture of info and of score --model, or the new dataset")
    data_options: console.DATA_OPTIONS = config.size((), console.DATA_OPTIONS_HELP)
    trust_arrays: bool = config.size(False, "read layouts that exist as pickles only; arrays, numbers and text, nothing is run")
    env: str = config.size("", "the environment, where the file does not say it: for scores")
    model: str = config.size("", "score: a run of mopo, mobile or morec, whose model is run along the data")
    horizon: int | None = config.size(None, "score --model: steps into the model, 50 at most where nothing is said", least=1)
    of: Literal["random", "expert"] | None = config.size(None, "reference: whose returns these are")
    episodes: int | None = config.size(None, "slice: so many", least=1)
    best: bool = config.size(False, "slice: those with the largest returns, instead of the first ones")
    shuffle: int | None = config.size(None, "slice: at random, by this seed", least=0)
    shortest: int = config.size(1, "slice: those of at least so many steps", least=1)
    longest: int | None = config.size(None, "slice: and at most so many", least=1)
    progress: bool = config.size(True, "a progress bar")


PRESETS: dict[str, dict[str, Any]] = {"debug": {}}


def main(argv: Sequence[str] | None = None) -> int:
    return console.command(body, argv)


def body(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{USAGE}\nlayouts: {', '.join(layout.name for layout in LAYOUTS)}\n`rlx data ACTION --help` shows the options.")
        raise SystemExit(0 if argv else 2)
    action, rest = argv[0], argv[1:]
    if action not in ACTIONS:
        config.stop(f"unknown action {action!r}.{config.nearest(action, ACTIONS)}")
    if action in ("demos", "gen-pref"):
        return (demos if action == "demos" else gen_pref).body(rest)
    first = next((i for i, word in enumerate(rest) if word.startswith("-")), len(rest))
    sources = rest[:first]
    about = f"rlx data {action}: {ACTIONS[action]}."
    flags: Flags = config.parse(Flags(), rest[first:], PRESETS, prog=f"rlx data {action} FILES...", description=about)
    if not sources:
        config.stop(f"which data? Give files, folders or globs, as in: rlx data {action} hopper_medium-v2.hdf5")
    print(f"{' '.join(sources)}: {console.size(datasets.nbytes(sources))} to read", flush=True)
    options = reading(**_options(flags))
    {"info": _info, "convert": _convert, "slice": _slice, "score": _score, "reference": _reference}[action](
        sources, options, flags
    )


def _options(flags: Flags) -> dict[str, Any]:
    from rlx.envs.options import parsed

    own = parsed(flags.data_options, "--data-option")
    return own | ({"trust_arrays": True} if flags.trust_arrays else {})


# --------------------------------------------------------------------------------------------------------------------- info


def _info(sources: list[str], options: datasets.Reading, flags: Flags) -> None:
    data = datasets.load(sources, options)
    found = describe(data)
    picture = Path(flags.out or f"{Path(sources[0]).stem or 'data'}.png")
    draw(found, picture)
    console.table(found.name, [*found.lines(), ("in memory", console.size(found.nbytes)), ("picture", picture)])
    values = {"format": found.format, "episodes": found.episodes, "transitions": found.transitions, "bytes": found.nbytes}
    values |= {"terminated": found.terminated, "truncated": found.truncated, "return_mean": found.returns.mean()}
    console.result({**values, "odd": list(found.odd), "notes": list(found.notes), "picture": picture, **_scored(data, flags)})


def draw(found: Description, path: Path) -> None:
    """Histograms of the returns and of the lengths of episodes, as a PNG."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, values, name in ((left, found.returns, "return of an episode"), (right, found.lengths, "steps of an episode")):
        axes.hist(values, bins=min(60, max(10, len(values) // 5)), color="#4477aa")
        axes.axvline(values.mean(), color="#ee6677", label=f"mean {values.mean():.4g}")
        axes.set_xlabel(name)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    left.set_ylabel("episodes")
    figure.suptitle(f"{literal(Path(found.name).name)}: {found.transitions:,} transitions", fontsize=10)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    files.write_bytes(path, picture.getvalue())


# ------------------------------------------------------------------------------------------------------- convert and slice


def _convert(sources: list[str], options: datasets.Reading, flags: Flags) -> None:
    data = datasets.load(sources, options)
    _write(data, console.destination(flags.out), flags, {"converted_from": [Path(s).name for s in sources]})


def _slice(sources: list[str], options: datasets.Reading, flags: Flags) -> None:
    data = datasets.load(sources, options)
    chosen = np.flatnonzero((data.lengths >= flags.shortest) & (data.lengths <= (flags.longest or np.inf)))
    if flags.best and flags.shuffle is not None:
        config.stop("--best and --shuffle do not go together: give one")
    if flags.best:
        chosen = chosen[np.argsort(-data.returns[chosen], kind="stable")]
    if flags.shuffle is not None:
        chosen = np.random.default_rng(flags.shuffle).permutation(chosen)
    chosen = chosen[: flags.episodes]
    if not len(chosen):
        config.stop(f"no episode is left of {len(data)}, whose lengths are {data.lengths.min()} to {data.lengths.max()}")
    _write(data.select(chosen), console.destination(flags.out), flags, {"slice_of": [Path(s).name for s in sources]})


def _write(data: Dataset, out: Path, flags: Flags, more: dict[str, Any]) -> None:
    """Whole or not at all: a folder is written beside its place and moved there when it is complete."""
    meta = {**data.meta, **more, "notes": list(data.notes)}
    if flags.env:
        meta["env"] = flags.env
    if out.suffix == ".npz":
        datasets.write(out, data, meta)
    else:
        part = out.with_name(f".{out.name}.part")
        if part.exists():  # of a command that was ended
            shutil.rmtree(part)
        with console.steps(len(data), "episodes", flags.progress) as progress, datasets.Writer(part, meta) as writer:
            for begin in range(0, len(data), BLOCK):
                writer.append(data[i] for i in range(begin, min(begin + BLOCK, len(data))))
                progress(min(begin + BLOCK, len(data)))
        part.rename(out)
    size = console.on_disk(out)
    rows = [
        ("episodes", f"{len(data):,}"),
        ("transitions", f"{data.transitions:,}"),
        ("written", f"{out}, {console.size(size)}"),
    ]
    console.table("Dataset", rows)
    console.result({"out": out, "episodes": len(data), "transitions": data.transitions, "bytes": size})


# -------------------------------------------------------------------------------------------------------------------- score


def _score(sources: list[str], options: datasets.Reading, flags: Flags) -> None:
    data = datasets.load(sources, options)
    if flags.model:
        return _audit(data, flags)
    scored = _scored(data, flags)
    if scored["score"] is None:
        name = flags.env or data.meta.get("env")
        where = f"of {name} no reference returns are known" if name else "the file does not say which environment it is of"
        config.stop(f"{where}: give --env, or keep references by `rlx data reference FILE --of random`")
    lines = [("return, mean of episodes", console.estimate(stats.estimate(data.returns[None])))]
    lines += [(f"score ({scored['score_reference']})", console.number(scored["score"]))]
    console.table("Score", lines)
    console.result({"return_mean": data.returns.mean(), **scored, "episodes": len(data)})


def _audit(data: Dataset, flags: Flags) -> None:
    """What the model of a run makes of the data: errors in it, its disagreement, and the score of what it says."""
    from rlx.agents import model_audit
    from rlx.train import load

    policy = load(flags.model, "last")
    report, own = model_audit.of(policy.agent), policy.spec
    mine, theirs = (own.obs.shape, own.action.shape), (data.rows.obs.shape[1:], data.rows.action.shape[1:])
    if mine != theirs:
        config.stop(f"the model is of observations {mine[0]} and actions {mine[1]}; the data have {theirs[0]} and {theirs[1]}")
    episodes = list(data)
    found = report.audit(policy.state, episodes, flags.horizon)
    each = report.scores(policy.state, episodes)
    picture = Path(flags.out or f"{Path(data.name).stem or 'data'}-model.png")
    files.write_bytes(picture, model_audit.picture(found, float(policy.state.hyper["r_min"])))
    told = model_audit.summary(found)
    by = "score" if "score" in each[0] else "error"
    mean = np.array([float(np.mean(e[by])) for e in each])
    worst = np.argsort(mean if by == "score" else -mean, kind="stable")[:5].tolist()
    lines = [(name.replace("_", ", "), console.number(value)) for name, value in told.items()]
    lines += [(f"mean {by} of a transition", console.number(float(mean.mean())))]
    lines += [("least like the model's data", "episodes " + ", ".join(f"{i} ({mean[i]:.3g})" for i in worst))]
    console.table(f"The model of {flags.model}, {found.horizon} steps", [*lines, ("picture", picture)])
    console.result({"horizon": found.horizon, **told, f"{by}_mean": float(mean.mean()), "worst": worst, "picture": picture})


def _reference(sources: list[str], options: datasets.Reading, flags: Flags) -> None:
    data = datasets.load(sources, options)
    name = flags.env or str(data.meta.get("env") or "")
    if not name or flags.of is None:
        config.stop("of what, and whose? Give --of random or --of expert, and --env where the file does not say it")
    how, mean = f"{flags.of}: {len(data)} episodes of {Path(sources[0]).name}", float(data.returns.mean())
    entry = scores.extend(name, how=how, random=mean) if flags.of == "random" else scores.extend(name, how=how, expert=mean)
    console.table(f"References of {name}", [(k, v) for k, v in entry.items()])
    console.result({"env": name, **entry})


def _scored(data: Dataset, flags: Flags) -> dict[str, Any]:
    name = flags.env or str(data.meta.get("env") or "")
    reference = scores.reference(name) if name else None
    if reference is None:
        return {"score": None, "score_reference": None}
    return {"score": float(scores.normalised(reference, data.returns.mean())), "score_reference": reference.source}
