"""``rlx evaluate --run-dir DIR``: whole episodes of a trained policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlx import config, keys
from rlx.cli import console, outputs
from rlx.cli.console import MOST_STREAMS
from rlx.envs.options import parsed
from rlx.envs.scores import Reference, of_run
from rlx.train import Policy, load, stats, sweeps
from rlx.train.policy import evaluate_all, load_members


@dataclass(frozen=True)
class Flags:
    run_dir: str = ""  # the run folder
    env: str = ""  # another environment than the run's, of the same shapes
    episodes: int = config.size(10, least=1, most=MOST_STREAMS)  # whole episodes, all at once
    seed: int = config.size(0, least=0, most=keys.MOST_SEED)  # of starts and noise; training never uses these keys
    which: Literal["best", "last"] = "best"  # the best by evaluation return while training, or the last
    member: int | None = config.size(None, least=0)  # of a run with several, seeds first, then settings; None: all, over seeds
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
    policies = _policies(flags)
    if len(policies) > 1:
        found = evaluate_all(policies, flags.episodes, flags.seed)
    else:
        (only,) = policies.values()
        found = {k: v[None] for k, v in only.evaluate(flags.episodes, flags.seed).items()}
    means = found["returns"].mean(1)
    shown = list(policies.values())[int(np.argmax(means))]
    values, rows = _summary(policies, found, _reference(flags, shown))
    env = shown.problem.envs["train"]
    each = f" of each of {len(policies)} members" if len(policies) > 1 else f" after cycle {shown.cycle}"
    place = [("run", f"{flags.run_dir} ({flags.which})"), ("environment", env.name)]
    console.table(f"{flags.episodes} episodes{each}", [*place, *rows])
    by_setting: dict[str, list[float]] = {}
    for (_, setting), mean in zip(_who(policies), means, strict=True):
        by_setting.setdefault(sweeps.label(setting), []).append(mean)
    if len(by_setting) > 1:
        console.table("Ranking", outputs.ranked(sweeps.ranking({k: np.array(v) for k, v in by_setting.items()})))
    given = {"run_dir": flags.run_dir, "env": env.name, **{k: getattr(flags, k) for k in ("which", "episodes", "seed")}}
    film = outputs.film(shown, env, Path(flags.run_dir), flags.seed) if flags.video else None
    if film:
        print(f"\nvideo: {film}")
    console.result({**given, "members": list(policies), **values, "video": film})


def _who(policies: dict[int, Policy]) -> list[tuple[int, dict[str, float]]]:
    """Seed and setting of each."""
    return [policy.run_config.who()[m] for m, policy in policies.items() if policy.run_config]


def _reference(flags: Flags, policy: Policy) -> Reference | None:
    """Of the environment that is evaluated on, which may be another than the run's."""
    run_config = policy.run_config
    assert run_config is not None
    own = run_config.env_options if flags.env in ("", run_config.env) else {}
    return of_run(flags.env or run_config.env, run_config.time_limit, {**own, **parsed(flags.env_options)})


def _summary(
    policies: dict[int, Policy], found: dict[str, np.ndarray], reference: Reference | None
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What there is to say of ``found`` [M, E], for programs and for people; of several members of the mean of each."""
    returns, many = found["returns"], len(policies) > 1
    values = outputs.return_of([{"setting": setting} for _, setting in _who(policies)], returns)
    shown, what = (returns.mean(1), "mean return of a member") if many else (returns[0], "return")
    values |= outputs.score_of(values, reference)
    info = {k.removeprefix("info/"): stats.estimate(v) for k, v in found.items() if k.startswith("info/")}
    rows = [
        ("return, mean", outputs.return_text(values)),
        *outputs.score_rows(values),
        (f"{what}, median", console.number(np.median(shown))),
        (f"{what}, min to max", f"{console.number(shown.min())} to {console.number(shown.max())}"),
        ("episode length, mean", console.number(found["lengths"].mean())),
        *((f"{k}, mean", console.estimate(v)) for k, v in info.items()),
    ]
    values |= {"return_std": shown.std(), "returns": returns if many else returns[0], "length_mean": found["lengths"].mean()}
    return {**values, **{f"info_{k}": v.value for k, v in info.items()}}, rows


def _policies(flags: Flags) -> dict[int, Policy]:
    """What to evaluate, by number of the member, on the environment to evaluate it on."""
    if flags.member is None:
        policies = load_members(flags.run_dir, flags.which)
    else:
        policies = {flags.member: load(flags.run_dir, flags.which, flags.member)}
    if not policies:
        raise ValueError(f"all members of {flags.run_dir} diverged: name one with --member to see it nevertheless.")
    if not flags.env and not flags.env_options:
        return policies
    problem = next(iter(policies.values())).on(flags.env or None, **parsed(flags.env_options)).problem
    return {m: replace(policy, problem=problem) for m, policy in policies.items()}
