"""``rlx pref label``: a page on this machine where a person says which of two clips is better."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from rlx import config, keys, replay
from rlx.cli import console
from rlx.envs.options import parsed
from rlx.envs.stills import still_of
from rlx.preferences import asking, pairs
from rlx.preferences.asking import ANSWERS, Asking
from rlx.preferences.clips import Film, film_of
from rlx.preferences.page import Page, serve
from rlx.replay.dataset import Dataset
from rlx.types import PHYSICS

OUT = Annotated[str, tyro.conf.arg(aliases=("-o",))]


@dataclass(frozen=True)
class Flags:
    data: str = ""  # episodes: a file, folder or glob
    out: OUT = "labels.npz"  # the file of answers; what it holds already is not asked again
    pairs: int = config.size(100, "so many questions are drawn, or all where there are fewer", least=1)
    pairs_file: str = config.size("", "instead: the pairs of this file are asked, whatever their labels are")
    segment: int | None = config.size(None, "steps of a piece; without: whole episodes", least=1)
    question: str = "Which of the two is better?"
    annotator: int = config.size(0, "who answers: a number, kept with each answer", least=0, most=console.MOST)
    env: str = config.size("", "the environment, where the file does not say it: draws stored physics")
    env_options: console.ENV_OPTIONS = config.size((), console.ENV_OPTIONS_HELP)
    port: int = config.size(0, "of the page; 0: any that is free", least=0, most=65_535)
    seed: int = config.size(0, "of which pieces are asked", least=0, most=keys.MOST_SEED)


PRESETS: dict[str, dict[str, Any]] = {"debug": {"pairs": 3}}


def run(flags: Flags) -> None:
    if not flags.data:
        config.stop("which data? Give it: rlx pref label --data runs.npz -o labels.npz")
    if not flags.out.endswith(".npz"):
        config.stop(f"--out {flags.out}: labels are written as one file that ends in .npz.")
    out, data = Path(flags.out), replay.load(flags.data)
    if not out.parent.is_dir():
        config.stop(f"--out {out} is to lie in a folder that exists")
    session = Asking(_questions(flags, data), out, flags.annotator)
    given = session.given()
    if given is not None:
        pairs.inside(given, data.lengths)
    kind, film = _film(flags, data)
    page = Page(session, film, f"{Path(flags.data).name}: which is better?", flags.question, flags.port)
    rows = [("questions", f"{len(session)}, of which {session.answered().sum()} are answered"), ("shown", kind)]
    console.table("Labels of a person", [*rows, ("answers", out), ("open", page.url)])
    serve(page)
    given = session.given()
    answers = [] if given is None else list(zip(given.label.tolist(), given.weight.tolist(), strict=True))
    counts = {name: answers.count(what) for name, what in ANSWERS.items()}
    console.result({"out": out, "answered": int(session.answered().sum()), "of": len(session), **counts})


def _questions(flags: Flags, data: Dataset) -> pairs.Preferences:
    if not flags.pairs_file:
        rng = np.random.default_rng(flags.seed)
        return asking.questions(data.lengths, flags.pairs, flags.segment, rng)
    given = pairs.read(flags.pairs_file)
    pairs.inside(given, data.lengths)
    return given


def _film(flags: Flags, data: Dataset) -> tuple[str, Film]:
    """Stored physics is drawn where that can be; a message says why where it cannot."""
    name, still = flags.env or str(data.meta.get("env") or ""), None
    if PHYSICS in data.rows.info and name:
        try:
            own = data.meta.get("env_options") or {}
            still = still_of(name, **{**own, **parsed(flags.env_options)})
        except ValueError as error:
            print(f"no pictures of the physics: {error}", flush=True)
    return film_of(data, still)
