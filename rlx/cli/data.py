"""``rlx data info|convert|demos|gen-pref|slice|score|reference``: datasets, looked at, rewritten, measured and made."""

from __future__ import annotations

import glob
import io
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from rlx import config, envs, files
from rlx.cli import console, demos, gen_pref
from rlx.envs import scores
from rlx.files import free_memory
from rlx.replay import datasets
from rlx.replay.dataset import Dataset, agreed, alike
from rlx.replay.datasets.found import Found, look, reading
from rlx.replay.datasets.loading import LAYOUTS, layout_of, parts, paths
from rlx.replay.datasets.native import FOLDER
from rlx.replay.describe import Description, describe
from rlx.train import stats
from rlx.train.pictures import literal
from rlx.types import Row

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
SLICING = ("episodes", "best", "shuffle", "shortest", "longest")
TAKEN = {  # which actions take a flag; the others are for all
    "out": ("info", "convert", "slice", "score"),
    "model": ("score",),
    "horizon": ("score",),
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
    {"info": _info, "convert": _convert, "slice": _slice, "score": _score, "reference": _reference}[action](
        sources, options, flags
    )


def _refuse_others_flags(action: str, flags: Flags) -> None:
    """Ends the command for a flag that would do nothing."""
    usual = Flags()
    for one in fields(flags):
        takes = TAKEN.get(one.name, tuple(ACTIONS))
        needs_model = action == "score" and one.name in ("out", "horizon") and not flags.model
        if getattr(flags, one.name) == getattr(usual, one.name) or (action in takes and not needs_model):
            continue
        flag, where = f"--{one.name.replace('_', '-')}", " or ".join(f"rlx data {a}" for a in takes)
        where += " --model" * (takes[-1] == "score")
        said = INSTEAD.get(one.name, "")
        config.stop(f"{flag} does nothing in rlx data {action}{' without --model' * needs_model}, it is for {where}.{said}")


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


# ------------------------------------------------------------------------------------------------------- convert and slice


def _convert(sources: list[str], options: datasets.Reading, flags: Flags) -> None:
    out, notes, given = console.destination(flags.out), list[str](), paths(sources)
    read = [one for path in given for one in parts(look(path), options.format, notes, given)]
    in_memory = [one.path for one in read if layout_of(one, options.format) is not FOLDER]
    needs, free = max(map(datasets.nbytes, in_memory), default=0), free_memory()
    if free is not None and needs > free and options.episodes is None:
        config.stop(
            f"a file is read as a whole, and the largest takes {console.size(needs)} in memory, where {console.size(free)} are "
            "free: take a part of it, by --data-option episodes=N"
        )
    _write(_each(read, options), len(read), out, flags, {"converted_from": [Path(s).name for s in sources]}, notes)


def _each(read: list[Found], options: datasets.Reading) -> Iterator[Dataset]:
    """What is read, one after another, as many as hold the episodes that were asked for; shards stay on disk."""
    left = options.episodes
    for one in read:
        if left == 0:
            return
        own = replace(options, episodes=left)
        if layout_of(one, options.format) is FOLDER:
            datasets.verify(one.path)
            data = datasets.mapped(one.path, own)
        else:
            data = datasets.load(one.path, own)
        left = None if left is None else left - len(data)
        yield data
        del data  # or it would be there beside the next one


def _slice(sources: list[str], options: datasets.Reading, flags: Flags) -> None:
    out, data = console.destination(flags.out), datasets.load(sources, options)
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
    _write([data.select(chosen)], 1, out, flags, {"slice_of": [Path(s).name for s in sources]})


class _Told:
    """Of datasets that go by one after another: what `rlx.replay.datasets.join` would say of all of them."""

    def __init__(self) -> None:
        self.first: Dataset | None = None
        self.meta: dict[str, Any] = {}
        self.notes: dict[str, None] = {}
        self.episodes = self.transitions = 0

    def add(self, data: Dataset) -> None:
        """Raises ValueError where its rows are unlike those of the first one."""
        if self.first is None:
            bare = jax.tree.map(lambda x: np.empty((0, *x.shape[1:]), x.dtype), data.rows)
            self.first, self.meta = replace(data, rows=bare), dict(data.meta)
        alike([self.first, data])
        self.meta = agreed(self.meta, data.meta)
        self.notes |= dict.fromkeys(data.notes)
        self.episodes, self.transitions = self.episodes + len(data), self.transitions + data.transitions

    def of(self, read: Iterable[Dataset], progress: Callable[[float], None]) -> Iterator[Row]:
        """Their episodes; ``progress`` hears how many datasets are done."""
        for i, data in enumerate(read):
            self.add(data)
            for k in range(len(data)):
                yield data[k]
                progress(i + (k + 1) / len(data))
            del data  # before the next one is read


def _write(
    read: Iterable[Dataset], count: int, out: Path, flags: Flags, more: dict[str, Any], notes: Sequence[str] = ()
) -> None:
    """Whole or not at all. Of ``count`` datasets one is in memory at a time, but for a file .npz, which is written at once."""
    told = _Told()
    own = {"env": flags.env} if flags.env else {}
    meta = lambda: {**told.meta, **more, "notes": [*told.notes, *notes], **own}
    if out.suffix == ".npz":
        data = datasets.join(read)
        told.add(data)
        datasets.write(out, data, meta())
    else:
        with (
            console.whole_folder(out) as part,
            console.steps(count, "datasets", flags.progress) as progress,
            datasets.Writer(part) as writer,
        ):
            episodes = told.of(read, progress)
            for one in episodes:
                writer.append(chain([one], islice(episodes, BLOCK - 1)))
            writer.manifest["meta"] = json.loads(json.dumps(meta()))  # known when all was read
    size = console.on_disk(out)
    rows = [
        ("episodes", f"{told.episodes:,}"),
        ("transitions", f"{told.transitions:,}"),
        ("written", f"{out}, {console.size(size)}"),
    ]
    console.table("Dataset", rows)
    console.result({"out": out, "episodes": told.episodes, "transitions": told.transitions, "bytes": size})


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

    policy = load(flags.model, "last")
    report, own = model_audit.of(policy.agent), policy.spec
    mine, theirs = (own.obs.shape, own.action.shape), (data.rows.obs.shape[1:], data.rows.action.shape[1:])
    if mine != theirs:
        config.stop(f"the model is of observations {mine[0]} and actions {mine[1]}; the data have {theirs[0]} and {theirs[1]}")
    episodes = list(data)
    found = report.audit(policy.state, episodes, flags.horizon)
    each = report.scores(policy.state, episodes)
    told = model_audit.summary(found)
    by = "score" if "score" in each[0] else "error"
    mean = np.array([float(np.mean(e[by])) for e in each])
    worst = np.argsort(mean if by == "score" else -mean, kind="stable")[:5].tolist()
    lines = [(name.replace("_", ", "), console.number(value)) for name, value in told.items()]
    lines += [(f"mean {by} of a transition", console.number(float(mean.mean())))]
    lines += [("least like the model's data", "episodes " + ", ".join(f"{i} ({mean[i]:.3g})" for i in worst))]
    console.table(f"The model of {flags.model}, {found.horizon} steps", lines)
    picture, least = _picture(sources, flags, "-model"), float(policy.state.hyper["r_min"])
    drawn = console.drawn(picture, lambda: files.write_bytes(picture, model_audit.picture(found, least)), bool(flags.out))
    console.result({"horizon": found.horizon, **told, f"{by}_mean": float(mean.mean()), "worst": worst, "picture": drawn})


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
    said = data.meta.keys() & {"time_limit", "env_options"}
    if name != data.meta.get("env") or not said:
        return True
    limit, options = data.meta.get("time_limit"), data.meta.get("env_options") or {}
    if set(options) - scores.HARMLESS or len(said) == 1:  # one of them: files were joined that differ in the other
        return False
    try:
        with warnings.catch_warnings(action="ignore"):  # of old versions of an environment
            return limit == envs.make(name, repeat=data.meta.get("repeat") or 1).spec.horizon
    except ValueError:  # it cannot be made here
        return True
