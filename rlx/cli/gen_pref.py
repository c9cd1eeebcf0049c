"""``rlx data gen-pref``: two tasks to see preferences move from one to the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from rlx import config, keys, replay
from rlx.cli import console
from rlx.envs import meta_world_cpl
from rlx.preferences import labels, meta_world, pairs, stand_ins
from rlx.preferences.pairs import Preferences
from rlx.replay import datasets
from rlx.types import ReplayState

# recipe -> episodes, decisions of each, and of a piece that is compared (None: whole episodes), where they are not given
SIZES: dict[str, tuple[int, int, int | None]] = {
    "toy": (40, 50, None),
    "point-mass": (40, 50, None),
    "metaworld": (40, 150, None),
    "metaworld-mixed": (400, 500, 25),
}


@dataclass(frozen=True)
class Flags:
    # paths in the plane, rotated; pushes along x, and along y; Meta-World's scripts with noise, or mixed with others
    recipe: Literal["toy", "point-mass", "metaworld", "metaworld-mixed"] = "toy"
    out: Annotated[str, tyro.conf.arg(aliases=("-o",))] = ""  # a new folder: source.npz, target.npz, labels of the source
    source_task: str = "button-press-v3"  # of Meta-World
    target_task: str = "window-open-v3"  # of Meta-World
    episodes: int | None = config.size(None, "of either task; None: 40, of metaworld-mixed 400", least=2, most=1_000_000)
    steps: int | None = config.size(None, "of an episode; None: 50, metaworld 150, metaworld-mixed 500", least=2, most=100_000)
    segment: int | None = config.size(None, "compare pieces of so many; None: whole episodes, of metaworld-mixed 25", least=1)
    # metaworld: observations of 35 numbers, a tenth of the reward and 250 steps, as contrastive preference learning has it
    cpl: bool = False
    pairs: int = config.size(500, "of the source that are labelled by true returns, at most", least=1)
    flips: float = config.size(0.0, "share of these labels that are turned round", least=0, most=1)
    seed: int = config.size(0, least=0, most=keys.MOST_SEED)
    progress: bool = config.size(True, "a progress bar")


PRESETS: dict[str, dict[str, Any]] = {"debug": {"episodes": 6, "steps": 10}}
ABOUT = "rlx data gen-pref: two tasks to see preferences move from one to the other."


def body(argv: list[str]) -> None:
    flags: Flags = config.parse(Flags(), argv, PRESETS, prog="rlx data gen-pref", description=ABOUT)
    if not flags.out:
        config.stop("where to? Give a new folder, such as --out stand_in")
    out = Path(flags.out)
    if out.exists():
        config.stop(f"--out {out} is there already: give another name, or remove it first")
    usual = SIZES[flags.recipe]
    episodes, steps = flags.episodes or usual[0], flags.steps or (meta_world_cpl.HORIZON if flags.cpl else usual[1])
    segment = flags.segment or (usual[2] and min(usual[2], steps))
    states, meta = made(flags, episodes, steps)
    rng = np.random.default_rng(flags.seed)
    preferences = compared(states["source"], flags.pairs, episodes, segment, rng)
    turned = rng.uniform(size=len(preferences.label)) < flags.flips
    out.mkdir(parents=True)
    for name, state in states.items():
        datasets.write(out / f"{name}.npz", replay.export(state), {"seed": flags.seed, "time_limit": steps, **meta[name]})
    pairs.write(out / "labels.npz", pairs.flipped(preferences, turned))
    rows = [("recipe", flags.recipe), ("episodes", f"{episodes} of {steps} steps at most, twice")]
    what = f"{len(preferences.label)}, {turned.sum()} turned" + (f", of pieces of {segment} steps" if segment else "")
    console.table("Preferences", [*rows, ("labels of the source", what), ("in", out)])
    given = "" if segment else f" --source-labels {out}/labels.npz"  # whole episodes are what is carried over
    given += f" --entries {meta_world.FRAME}" if flags.recipe in meta_world.RECIPES else ""  # the latest of its two frames
    print(f"rlx pref transfer --source {out}/source.npz --target {out}/target.npz{given}")
    console.result({"out": out, "episodes": episodes, "pairs": len(preferences.label), "turned": int(turned.sum())})


def made(flags: Flags, episodes: int, steps: int) -> tuple[dict[str, ReplayState], dict[str, dict[str, Any]]]:
    """Source and target, and what their files say of them."""
    meta: dict[str, dict[str, Any]] = {name: {"generator": f"gen-pref {flags.recipe}"} for name in ("source", "target")}
    if flags.recipe in stand_ins.RECIPES:
        if flags.cpl:
            config.stop(f"--cpl is a form of Meta-World's episodes, and --recipe {flags.recipe} has none: give metaworld.")
        found = stand_ins.RECIPES[flags.recipe](episodes, steps, flags.seed)
        if flags.recipe == "point-mass":
            for name, axis in (("source", "x"), ("target", "y")):
                meta[name] |= {"env": "rlx:point-mass", "env_options": {"along": axis}}
        return {name: replay.from_episodes(each) for name, each in zip(meta, found, strict=True)}, meta
    states: dict[str, ReplayState] = {}
    with console.steps(2 * episodes, "episodes", flags.progress) as progress:
        for i, (name, task) in enumerate((("source", flags.source_task), ("target", flags.target_task))):
            key = keys.fold(keys.root(flags.seed), name, task)
            report = lambda done, i=i: progress(i * episodes + done)
            rows = meta_world.RECIPES[flags.recipe](task, episodes, steps, key, report)
            states[name] = replay.from_episodes(map(meta_world.as_cpl, rows) if flags.cpl else rows)
            meta[name] |= {"env": meta_world.CPL if flags.cpl else meta_world.ENV, "env_options": {"env_name": task}}
    return states, meta


def compared(source: ReplayState, count: int, episodes: int, segment: int | None, rng: np.random.Generator) -> Preferences:
    """Pairs of whole episodes by their returns, or of pieces of ``segment`` decisions by theirs, discounted."""
    found = pairs.episodes(source)
    if segment is None:
        return labels.label("oracle", found, rng, count=count, most=episodes).pairs
    return labels.of_pieces(found, count, segment, rng)
