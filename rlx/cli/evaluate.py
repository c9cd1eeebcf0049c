"""``rlx evaluate --run-dir DIR``: whole episodes of a trained policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rlx import config, keys
from rlx.cli import console, outputs
from rlx.cli.console import MOST_STREAMS
from rlx.envs.options import parsed
from rlx.train import load


@dataclass(frozen=True)
class Flags:
    run_dir: str = ""  # the run folder
    env: str = ""  # another environment than the run's, of the same shapes
    episodes: int = config.size(10, least=1, most=MOST_STREAMS)  # whole episodes, all at once
    seed: int = config.size(0, least=0, most=keys.MOST_SEED)  # of starts and noise; training never uses these keys
    which: Literal["best", "last"] = "best"  # the best by evaluation return while training, or the last
    member: int = config.size(0, least=0)  # of a run with several: seeds first, then settings
    video: bool = False  # film one episode into the run folder
    env_options: console.ENV_OPTIONS = config.size((), console.ENV_OPTIONS_HELP)
    imports: console.IMPORTS = config.size((), console.IMPORTS_HELP)


PRESETS = {"debug": {"episodes": 2}}


def main(argv: Sequence[str] | None = None) -> int:
    return console.command(body, argv)


def body(argv: list[str]) -> None:
    flags: Flags = config.parse(Flags(), argv, PRESETS, prog="rlx evaluate", description=(__doc__ or "").strip())
    if not flags.run_dir:
        config.stop("which run? Give --run-dir, as in: rlx evaluate --run-dir runs/walker")
    policy = load(flags.run_dir, flags.which, flags.member)
    if flags.env or flags.env_options:
        policy = policy.on(flags.env or None, **parsed(flags.env_options))
    found, env = policy.evaluate(flags.episodes, flags.seed), policy.problem.envs["train"]
    returns = found["returns"]
    interval = outputs.interval(returns)
    rows = [
        ("run", f"{flags.run_dir} ({flags.which}, after cycle {policy.cycle})"),
        ("environment", env.name),
        (
            "return, mean",
            f"{console.bounds(returns.mean(), interval)}  95% bootstrap interval",
        ),
        ("return, median", console.number(np.median(returns))),
        ("return, min to max", f"{console.number(returns.min())} to {console.number(returns.max())}"),
        ("episode length, mean", console.number(found["lengths"].mean())),
    ]
    info = {k.removeprefix("info/"): float(v.mean()) for k, v in found.items() if k.startswith("info/")}
    rows += [(f"{k}, mean", console.number(v)) for k, v in info.items()]
    console.table(f"{flags.episodes} episodes", rows)
    values = {
        "run_dir": flags.run_dir,
        "env": env.name,
        "which": flags.which,
        "episodes": flags.episodes,
        "seed": flags.seed,
        "return_mean": returns.mean(),
        "return_ci": interval,
        "return_std": returns.std(),
        "returns": returns,
        "length_mean": found["lengths"].mean(),
        **{f"info_{k}": v for k, v in info.items()},
        "video": outputs.film(policy, env, Path(flags.run_dir), flags.seed) if flags.video else None,
    }
    if values["video"]:
        print(f"\nvideo: {values['video']}")
    console.result(values)
