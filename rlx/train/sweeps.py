"""Sweeps: settings of an agent's fields, as trials that are run folders, and the ranking of what came out.

Settings that differ in traced values alone share a program; each value of a static field needs one of its own.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from rlx import config, keys
from rlx.files import read_json
from rlx.train import run_config as run_configs
from rlx.train.population import each_once
from rlx.train.run_config import RunConfig
from rlx.train.stats import of_setting, probability_of_improvement

FILE, RESULT = "sweep.json", "result.json"
MOST_DRAWS = 100_000
Point = dict[str, Any]  # field -> value


@dataclass(frozen=True)
class Range:
    """``log:LOW..HIGH`` or ``lin:LOW..HIGH``: drawn evenly in the logarithm, or evenly."""

    kind: str
    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        if self.kind == "lin":
            return float(rng.uniform(self.low, self.high))
        return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))


@dataclass(frozen=True)
class Trial:
    """One run folder of a sweep."""

    name: str
    run_config: RunConfig


# ------------------------------------------------------------------------------------------------------------------ settings


def axes(own: Any, words: Sequence[str]) -> dict[str, list[Any] | Range]:
    """What to sweep: ``NAME=A,B,...`` or ``NAME=log:LOW..HIGH`` (``lin:``) for fields of the config ``own``.

    Widths are written ``128x64``; a single ``128`` stands for as many layers as the default has.

    Raises:
        ValueError: an unknown field, a value that is there twice, not of its type or out of bounds, a range on a static field
            or one that is none.
    """
    traced, fixed = config.hyper(own), config.static(own)
    out: dict[str, list[Any] | Range] = {}
    for word in words:
        given, equals, text = word.partition("=")
        name = given.removeprefix("agent.").replace("-", "_")
        if not equals or not text:
            raise ValueError(f"{word!r} is no grid: give NAME=VALUE,VALUE,... or NAME=log:LOW..HIGH, as agent.tau=0.01,0.005.")
        if name not in traced and name not in fixed:
            raise ValueError(f"no field {given!r} to sweep.{config.hint(own, name)}")
        if name in out:
            raise ValueError(f"{given} is given twice: put all its values into one grid.")
        if text.startswith(("log:", "lin:")):
            if name in fixed:
                raise ValueError(f"{given} is static, each value is a program of its own: give a list of values, not a range.")
            out[name] = found = _range(given, text)
            config.check_values(own, name, (found.low, found.high))
            continue
        listed: list[Any]
        if name in traced:
            listed = [_number(given, value) for value in text.split(",")]
            config.check_values(own, name, listed)
        else:
            listed = [_static(own, name, value, fixed[name]) for value in text.split(",")]
        each_once(given, listed)
        out[name] = listed
    return out


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name}: {text!r} is no number.")
    return value


def _range(name: str, text: str) -> Range:
    match = re.fullmatch(r"(log|lin):([^.]*(?:\.\d[^.]*)?)\.\.(.+)", text)
    if not match:
        raise ValueError(f"{name}: {text!r} is no range: give log:LOW..HIGH or lin:LOW..HIGH.")
    kind, low, high = match[1], _number(name, match[2]), _number(name, match[3])
    if low >= high or (kind == "log" and low <= 0):
        raise ValueError(f"{name}: {text!r} needs LOW below HIGH{', both above 0' if kind == 'log' else ''}.")
    return Range(kind, low, high)


def _static(own: Any, name: str, text: str, like: Any) -> Any:
    value: Any = text
    if isinstance(like, bool):
        value = {"true": True, "false": False}.get(text.lower(), text)
    elif isinstance(like, tuple) and re.fullmatch(r"\d+(x\d+)*", text):
        parts = tuple(int(p) for p in text.split("x"))
        value = parts * max(1, len(like)) if len(parts) == 1 else parts
    elif re.fullmatch(r"-?\d+", text):
        value = int(text)
    elif not isinstance(like, str):
        try:
            value = float(text)
        except ValueError:
            value = {"none": None}.get(text.lower(), text)
    config.check_values(own, name, [value])
    return value


def points(found: Mapping[str, list[Any] | Range], search: str, seed: int) -> list[Point]:
    """All combinations, or with ``search="random:N"`` so many draws from lists and ranges, the same ones for a seed.

    Raises:
        ValueError: nothing to sweep, an unknown search, or ranges without one.
    """
    if not found:
        raise ValueError("nothing to sweep: give --grid NAME=VALUE,VALUE,..., as agent.actor_lr=1e-3,3e-4.")
    kind, _, number = search.partition(":")
    if kind == "grid" and not number:
        ranges = [name for name, values in found.items() if isinstance(values, Range)]
        if ranges:
            raise ValueError(f"{', '.join(ranges)} is a range: give --search random:N for N draws, or a list of values.")
        return [dict(zip(found, values, strict=True)) for values in itertools.product(*found.values())]  # type: ignore[arg-type]
    if kind != "random" or not number.isdigit() or not 1 <= int(number) <= MOST_DRAWS:
        raise ValueError(f"--search {search!r} is unknown: give grid, or random:N with N draws, at most {MOST_DRAWS:,}.")
    rng = np.random.default_rng(keys.checked(seed))
    pick = lambda values: values.draw(rng) if isinstance(values, Range) else values[int(rng.integers(len(values)))]
    drawn = [{name: pick(values) for name, values in found.items()} for _ in range(int(number))]
    return [p for i, p in enumerate(drawn) if p not in drawn[:i]]


def trials(run_config: RunConfig, settings: Sequence[Point], together: bool) -> list[Trial]:
    """``settings`` as trials, each with all seeds. ``together``: settings that share a program are one trial."""
    traced = config.hyper(run_config.config)
    programs: dict[str, list[tuple[Point, Point]]] = {}
    apart = [{k: v for k, v in point.items() if not (together and k in traced)} for point in settings]
    digits = _digits(apart)
    for point, shown in zip(settings, apart, strict=True):
        fixed = {k: v for k, v in point.items() if k not in traced}
        moving = {k: v for k, v in point.items() if k in traced}
        name = label(shown, digits) or "all"
        programs.setdefault(name, []).append((fixed, moving))
    out = []
    for name, members in programs.items():
        own = config.replace(run_config.config, members[0][0])
        swept = tuple(m for _, m in members) if members[0][1] else ()
        out.append(Trial(_short(name), replace(run_config, config=own, settings=swept)))
    return out


def label(point: Point, digits: int = 6) -> str:
    """``"actor_lr=0.001 hidden=128x128"``"""

    def word(value: Any) -> str:
        if isinstance(value, (tuple, list)):
            return "x".join(map(str, value))
        return f"{value:.{digits}g}" if isinstance(value, float) else str(value)

    return " ".join(f"{k}={word(v)}" for k, v in point.items())


def _digits(points: Iterable[Point]) -> int:
    """How many digits tell ``points`` apart in their labels."""
    distinct = {json.dumps(point): point for point in points}.values()
    return 6 if len({label(point) for point in distinct}) == len(distinct) else 17


def _short(name: str) -> str:
    """``name`` as a folder's."""
    joined = name.replace(" ", ",")
    plain = re.sub(r"[^\w.=,-]", "_", joined)
    return plain if plain == joined and len(plain) <= 100 else f"{plain[:90]}-{zlib.crc32(name.encode()):08x}"


# ------------------------------------------------------------------------------------------------------------------- results


def folders(sweep_dir: Path) -> list[Path]:
    """The run folders of a sweep that have ended, those of waves one by one.

    Raises:
        ValueError: it is no sweep folder.
    """
    if not (sweep_dir / FILE).is_file():
        raise ValueError(f"{sweep_dir} is no sweep folder: it has no {FILE}.")
    ended = [p.parent for p in sorted((sweep_dir / "trials").rglob(RESULT))]
    return [folder for folder in ended if not (folder / "wave0").is_dir()]


def runs(folder: Path) -> list[Path]:
    """The run folders in ``folder``: those of a sweep that have ended, those of waves, or itself."""
    if (folder / FILE).is_file():
        return folders(folder)
    return sorted(folder.glob("wave[0-9]*"), key=lambda p: int(p.name[4:])) or [folder]


def result(folder: Path) -> dict[str, Any]:
    """The ``result.json`` of a run folder: its result line, and ``each`` member.

    Raises:
        ValueError: there is none, or it is no result.
    """
    path = folder / RESULT
    tree = read_json(path)
    number = lambda x: isinstance(x, (int, float)) and not isinstance(x, bool)
    each = tree.get("each")
    fine = isinstance(each, list) and all(number(tree.get(k)) for k in ("members", "compile_s", "memory_bytes"))
    fine = fine and (tree.get("wall_s") is None or number(tree["wall_s"]))
    for member in each if fine else ():
        fine = fine and isinstance(member, dict) and number(member.get("seed")) and isinstance(member.get("setting"), dict)
        fine = fine and "return_mean" in member and (member["return_mean"] is None or number(member["return_mean"]))
    if not fine or not each:
        raise ValueError(f"{path} is no result of a run: remove it, and the command that made it writes it anew.")
    return tree


class Member(NamedTuple):
    """What became of one member of a run that has ended."""

    group: str  # as `run_config.identities` has it
    seed: int
    values: Point  # what is in that, the config's values by their own names
    score: float  # its final mean return; NaN where it diverged
    folder: Path


def members(run_dirs: Sequence[Path]) -> list[Member]:
    """Those of all runs, each once.

    Raises:
        ValueError: a folder is no run folder, or its result is none, or that of another run.
    """
    found = []
    for folder in run_dirs:
        each, who = result(folder)["each"], run_configs.identities(folder)
        if [m["seed"] for m in each] != [seed for _, seed in who]:
            raise ValueError(f"{folder / RESULT} is of other members than {run_configs.FILE} says: remove it, and train again.")
        for (group, seed), member in zip(who, each, strict=True):
            value = member["return_mean"]
            score = math.nan if value is None else float(value)
            own = json.loads(group)
            values = own.pop("config")
            found.append(Member(group, seed, {**own, **values}, score, folder))
    return distinct(found)[0]


class _Known(Protocol):
    @property
    def group(self) -> str: ...
    @property
    def seed(self) -> int: ...


M = TypeVar("M", bound=_Known)


def distinct(found: Iterable[M]) -> tuple[list[M], list[tuple[M, M]]]:
    """What is known of members, the first of each: a run and its copy are one run. And what was left out, each with what it
    repeats."""
    kept: dict[tuple[str, int], M] = {}
    repeats = [(one, first) for one in found if (first := kept.setdefault((one.group, one.seed), one)) is not one]
    return list(kept.values()), repeats


def settings(found: Sequence[Member]) -> dict[str, Point]:
    """The fields in which members differ and their values, by label of each setting."""
    names = {k: None for m in found for k in m.values}
    differ = [k for k in names if len({json.dumps(m.values.get(k)) for m in found}) > 1]
    points = {json.dumps(point): point for point in ({k: m.values.get(k) for k in differ} for m in found)}
    digits = _digits(points.values())
    return {label(point, digits) or "all": point for point in points.values()}


def scores(found: Sequence[Member]) -> dict[str, np.ndarray]:
    """The final mean return of each seed [N], by label of the setting; not finite where a member diverged."""
    by_label = settings(found)
    return {
        name: np.array([m.score for m in found if all(m.values.get(k) == v for k, v in point.items())])
        for name, point in by_label.items()
    }


def ranking(found: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row per setting, best first by the IQM of what its seeds ended with; ``better``: the probability that a run of this
    setting ends higher than one of the next."""
    rows = []
    for name, values in found.items():
        rows.append({"setting": name, **of_setting(values), "all": values[np.isfinite(values)]})
    rows.sort(key=lambda r: -r["iqm"])
    for first, second in itertools.pairwise(rows):
        sizes = len(first["all"]) and len(second["all"])
        first["better"] = probability_of_improvement(first["all"][:, None], second["all"][:, None]) if sizes else None
    return rows


def seeds_to_separate(a: np.ndarray, b: np.ndarray) -> int | None:
    """How many more seeds each of two settings needs until their difference, if it is what was seen, would show: two-sided 5%
    level and 80% power by the normal approximation, n = 2 (1.96 + 0.84)^2 s^2 / d^2. None: no difference, or too few to say."""
    if min(len(a), len(b)) < 2 or np.mean(a) == np.mean(b):
        return None
    pooled = (np.var(a, ddof=1) + np.var(b, ddof=1)) / 2
    needed = 2 * (1.959964 + 0.841621) ** 2 * pooled / (np.mean(a) - np.mean(b)) ** 2
    return max(0, math.ceil(needed) - min(len(a), len(b)))
