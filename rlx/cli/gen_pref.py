"""``rlx data gen-pref``: two tasks to see preferences move from one to the other, without a simulator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from rlx import config, keys, replay
from rlx.cli import console
from rlx.preferences import labels, pairs, stand_ins
from rlx.replay import datasets


@dataclass(frozen=True)
class Flags:
    recipe: Literal["toy", "point-mass"] = "toy"  # paths in the plane, rotated; or pushes along x, and along y
    out: Annotated[str, tyro.conf.arg(aliases=("-o",))] = ""  # a new folder: source.npz, target.npz, labels of the source
    episodes: int = config.size(40, "of either task", least=2, most=1_000_000)
    steps: int = config.size(50, "of an episode", least=2, most=100_000)
    pairs: int = config.size(500, "of the source that are labelled by true returns, at most", least=1)
    flips: float = config.size(0.0, "share of these labels that are turned round", least=0, most=1)
    seed: int = config.size(0, least=0, most=keys.MOST_SEED)


PRESETS: dict[str, dict[str, Any]] = {"debug": {"episodes": 6, "steps": 10}}
ABOUT = "rlx data gen-pref: two tasks to see preferences move from one to the other, without a simulator."


def body(argv: list[str]) -> None:
    flags: Flags = config.parse(Flags(), argv, PRESETS, prog="rlx data gen-pref", description=ABOUT)
    if not flags.out:
        config.stop("where to? Give a new folder, such as --out stand_in")
    out = Path(flags.out)
    if out.exists():
        config.stop(f"--out {out} is there already: give another name, or remove it first")
    found = dict(
        zip(("source", "target"), stand_ins.RECIPES[flags.recipe](flags.episodes, flags.steps, flags.seed), strict=True)
    )
    meta = {"generator": f"gen-pref {flags.recipe}", "seed": flags.seed}
    meta |= {"env": "rlx:point-mass"} if flags.recipe == "point-mass" else {}
    states = {name: replay.from_episodes(episodes) for name, episodes in found.items()}
    rng = np.random.default_rng(flags.seed)
    told = labels.label("oracle", pairs.episodes(states["source"]), rng, count=flags.pairs, most=flags.episodes).pairs
    turned = rng.uniform(size=len(told.label)) < flags.flips
    out.mkdir(parents=True)
    for name, state in states.items():
        datasets.write(out / f"{name}.npz", replay.export(state), {**meta, "task": name})
    pairs.write(out / "labels.npz", told._replace(label=np.where(turned, 1 - told.label, told.label).astype(np.float32)))
    rows = [("recipe", flags.recipe), ("episodes", f"{flags.episodes} of {flags.steps} steps, twice")]
    console.table("Preferences", [*rows, ("labels of the source", f"{len(told.label)}, {turned.sum()} turned"), ("in", out)])
    print(f"rlx pref transfer --source {out}/source.npz --target {out}/target.npz --source-labels {out}/labels.npz")
    console.result({"out": out, "episodes": flags.episodes, "pairs": len(told.label), "turned": int(turned.sum())})
