"""``rlx data info|convert|demos|gen-pref|slice|score|reference``: datasets, looked at, rewritten, measured and made."""

from __future__ import annotations

import glob
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from rlx import config, envs, files
from rlx.cli import console, demos, gen_pref, rewrite
from rlx.envs import scores
from rlx.replay import datasets
from rlx.replay.dataset import Dataset
from rlx.replay.datasets.found import reading
from rlx.replay.datasets.loading import LAYOUTS, paths
from rlx.replay.describe import Description, describe
from rlx.train import stats
from rlx.train.pictures import literal

ACTIONS = {
    "info": "what a file holds, what is odd about it, and a picture of returns and lengths",
    "convert": "any layout into rlx's own: a folder of shards, or a file where --out ends in .npz, or .h5 (demonstrations)",
    "demos": "episodes in which a scripted expert does the task (--env), for methods that begin with some",
    "gen-pref": "two tasks to see preferences move from one to the other (--recipe)",
    "slice": "some of the episodes: the first, the best, those of a length, at random",
    "score": "returns of its episodes, from random actions (0) to experts (100); or what a model makes of it (--model)",
    "reference": "keep its mean return as that of random actions, or of an expert (--of), for scores from now on",
}
USAGE = "usage: rlx data ACTION FILES... [OPTIONS]\n\n" + "".join(f"  {name:<10}{what}\n" for name, what in ACTIONS.items())
SLICING = ("episodes", "best", "shuffle", "shortest", "longest")
TAKEN = {  # which actions take a flag; the others are for all
    "out": ("info", "convert", "slice", "score"),
    "model": ("score",),
    "horizon": ("score",),
    "member": ("score",),
    "of": ("reference",),
    **dict.fromkeys(SLICING, ("slice",)),
}
INSTEAD = {  # options of the data that are called the same
    "episodes": " The first episodes alone: --data-option episodes=N.",
    "horizon": " Steps after which episodes were cut: --data-option horizon=STEPS.",
}


@dataclass(frozen=True)
class Flags:
    out: str = config.size("", "where to write: the picture of info and of score --model, or the new dataset")
    data_options: console.DATA_OPTIONS = config.size((), console.DATA_OPTIONS_HELP)
    trust_arrays: bool = config.size(False, "read layouts that exist as pickles only; arrays, numbers and text, nothing is run")
    env: str = config.size("", "the environment, where the file does not say it: for scores")
    model: str = config.size("", "score: a run of mopo, mobile or morec, whose model is run along the data")
    horizon: int | None = config.size(None, "score --model: steps into the model, 50 at most where nothing is said", least=1)
    member: int = config.size(0, "score --model: of a run with several: seeds first, then settings", least=0)
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
    _refuse_others_flags(action, flags)
    if not sources:
        config.stop(f"which data? Give files, folders or globs, as in: rlx data {action} hopper_medium-v2.hdf5")
    if flags.out:
        console.spare_inputs(Path(flags.out), paths(sources))
    print(f"{' '.join(sources)}: {console.size(datasets.nbytes(sources))} to read", flush=True)
    options = reading(**_options(flags))
    {"info": _info, "convert": rewrite.convert, "slice": rewrite.take, "score": _score, "reference": _reference}[action](
        sources, options, flags
    )


def _refuse_others_flags(action: str, flags: Flags) -> None:
    """Ends the command for a flag that would do nothing."""
    usual = Flags()
    for one in fields(flags):
        takes = TAKEN.get(one.name, tuple(ACTIONS))
        needs_model = action == "score" and one.name in ("out", "horizon", "member") and not flags.model
        if getattr(flags, one.name) == getattr(usual, one.name) or (action in takes and not needs_model):
            continue
        flag, where = f"--{one.name.replace('_', '-')}", " or ".join(f"rlx data {a}" for a in takes)
        where += " --model" * (takes[-1] == "score")
        hint = INSTEAD.get(one.name, "")
        config.stop(f"{flag} does nothing in rlx data {action}{' without --model' * needs_model}, it is for {where}.{hint}")


def _options(flags: Flags) -> dict[str, Any]:
    from rlx.envs.options import parsed

    own = parsed(flags.data_options, "--data-option")
    return own | ({"trust_arrays": True} if flags.trust_arrays else {})


# --------------------------------------------------------------------------------------------------------------------- info


def _info(sources: list[str], options: datasets.Reading, flags: Flags) -> None:
    data = datasets.load(sources, options)
    found, earned = describe(data), _earned(data, flags)
    picture = _picture(sources, flags)
    rows = [*found.lines(), ("in memory", console.size(found.nbytes))]
    if len(earned.returns) < len(data):
        mean = "" if earned.mean is None else f", mean return {earned.mean:.4g}"
        rows.append(("whole episodes", f"{len(earned.returns):,}{mean}"))
    console.table(found.name, rows)
    drawn = console.drawn(picture, lambda: draw(found, picture), bool(flags.out))
    values = {"format": found.format, "episodes": found.episodes, "transitions": found.transitions, "bytes": found.nbytes}
    values |= {"terminated": found.terminated, "truncated": found.truncated, "return_mean": earned.mean}
    console.result({**values, "odd": list(found.odd), "notes": list(found.notes), "picture": drawn, **earned.scored()})


def _picture(sources: list[str], flags: Flags, ending: str = "") -> Path:
    """Where the picture goes: here, by the name of the data, where nothing is said. Of a glob that is its last part without
    signs."""
    path = Path(sources[0])
    plain = [part for part in path.parts if path.exists() or not glob.has_magic(part)]
    name = Path(plain[-1]).stem.strip(".") if plain else ""
    return console.spare_inputs(Path(flags.out or f"{name or 'data'}{ending}.png"), paths(sources))


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


# -------------------------------------------------------------------------------------------------------------------- score


def _score(sources: list[str], options: datasets.Reading, flags: Flags) -> None:
    data = datasets.load(sources, options)
    if flags.model:
        return _audit(data, sources, flags)
    earned = _earned(data, flags)
    if earned.reference is None:
        name = flags.env or data.meta.get("env")
        where = f"of {name} no reference returns are known" if name else "the file does not say which environment it is of"
        if name and scores.reference(name):
            config.stop(f"the reference returns of {name} do not hold for {_SETTINGS}. {_NAME_THEM}")
        config.stop(f"{where}: give --env, or keep references by `rlx data reference FILE --of random`")
    lines = [("return, mean of whole episodes", console.estimate(stats.estimate(_some(data, earned)[None])))]
    scored = earned.scored()
    lines += [(f"score ({scored['score_reference']})", console.number(scored["score"]))]
    console.table("Score", lines)
    console.result({"return_mean": earned.mean, **scored, "episodes": len(earned.returns)})


def _audit(data: Dataset, sources: list[str], flags: Flags) -> None:
    """What the model of a run makes of the data: errors in it, its disagreement, and the score of what it says."""
    from rlx.agents import model_audit
    from rlx.train import load

    policy = load(flags.model, "last", flags.member)
    report, own = model_audit.of(policy.agent), policy.spec
    mine, theirs = (own.obs.shape, own.action.shape), (data.rows.obs.shape[1:], data.rows.action.shape[1:])
    if mine != theirs:
        config.stop(f"the model is of observations {mine[0]} and actions {mine[1]}; the data have {theirs[0]} and {theirs[1]}")
    episodes = list(data)
    found = report.audit(policy.state, episodes, flags.horizon)
    each = report.scores(policy.state, episodes)
    values = model_audit.summary(found)
    by = "score" if "score" in each[0] else "error"
    mean = np.array([float(np.mean(e[by])) for e in each])
    worst = np.argsort(mean if by == "score" else -mean, kind="stable")[:5].tolist()
    lines = [(name.replace("_", ", "), console.number(value)) for name, value in values.items()]
    lines += [(f"mean {by} of a transition", console.number(float(mean.mean())))]
    lines += [("least like the model's data", "episodes " + ", ".join(f"{i} ({mean[i]:.3g})" for i in worst))]
    console.table(f"The model of {flags.model}, {found.horizon} steps", lines)
    picture, least = _picture(sources, flags, "-model"), float(policy.state.hyper["r_min"])
    drawn = console.drawn(picture, lambda: files.write_bytes(picture, model_audit.picture(found, least)), bool(flags.out))
    console.result({"horizon": found.horizon, **values, f"{by}_mean": float(mean.mean()), "worst": worst, "picture": drawn})


def _reference(sources: list[str], options: datasets.Reading, flags: Flags) -> None:
    data = datasets.load(sources, options)
    name = flags.env or str(data.meta.get("env") or "")
    if not name or flags.of is None:
        config.stop("of what, and whose? Give --of random or --of expert, and --env where the file does not say it")
    if not _usual(data, name):
        config.stop(f"returns of {_SETTINGS} say nothing of {name} as it is. {_NAME_THEM}")
    returns = _some(data, _earned(data, flags))
    how, mean = f"{flags.of}: {len(returns)} episodes of {Path(sources[0]).name}", float(returns.mean())
    entry = scores.extend(name, how=how, random=mean) if flags.of == "random" else scores.extend(name, how=how, expert=mean)
    console.table(f"References of {name}", [(k, v) for k, v in entry.items()])
    console.result({"env": name, **entry})


# ------------------------------------------------------------------------------------------------------------------ returns

_SETTINGS = "this data's time limit or options"
_NAME_THEM = "Give them a name of their own by --env NAME, here and to `rlx data reference FILE --of random`"


class Earned(NamedTuple):
    """What whole episodes came to, and the reference returns that this may be compared with."""

    returns: np.ndarray
    reference: scores.Reference | None

    @property
    def mean(self) -> float | None:
        return float(self.returns.mean()) if len(self.returns) else None

    def scored(self) -> dict[str, Any]:
        score = None if self.reference is None or self.mean is None else float(scores.normalised(self.reference, self.mean))
        return {"score": score, "score_reference": None if score is None or self.reference is None else self.reference.source}


def _earned(data: Dataset, flags: Flags) -> Earned:
    """Where the file says its time limit, episodes that were cut before it are none, as `rlx collect` has it."""
    returns, name = data.returns, flags.env or str(data.meta.get("env") or "")
    if "time_limit" in data.meta:
        ended = np.asarray(data.rows.terminated[:])[data.offsets[1:] - 1]
        returns = returns[ended | (data.lengths == data.meta["time_limit"])]
    return Earned(returns, scores.reference(name) if name and _usual(data, name) else None)


def _some(data: Dataset, earned: Earned) -> np.ndarray:
    """Its returns; ends the command where no episode is whole."""
    if not len(earned.returns):
        config.stop(
            f"none of {len(data)} episodes is whole: they were cut before the time limit of {data.meta['time_limit']}, after "
            f"{data.lengths.max()} steps at most. Collect more steps"
        )
    return earned.returns


def _usual(data: Dataset, name: str) -> bool:
    """Whether references of the environment ``name`` hold for these data: whether they are of its own time limit, without
    options that change what is paid. Of another name than the file's it is the user who knows."""
    stated = data.meta.keys() & {"time_limit", "env_options"}
    if name != data.meta.get("env") or not stated:
        return True
    limit, options = data.meta.get("time_limit"), data.meta.get("env_options") or {}
    if set(options) - scores.HARMLESS or len(stated) == 1:  # one of them: files were joined that differ in the other
        return False
    try:
        with warnings.catch_warnings(action="ignore"):  # of old versions of an environment
            return limit == envs.make(name, repeat=data.meta.get("repeat") or 1).spec.horizon
    except ValueError:  # it cannot be made here
        return True
