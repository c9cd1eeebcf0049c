"""``rlx data demos``: demonstrations of a scripted expert as a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from rlx import config, envs, keys
from rlx.cli import console
from rlx.cli.console import MOST, MOST_STREAMS
from rlx.envs import experts
from rlx.envs.options import NoPhysics, parsed
from rlx.replay import datasets
from rlx.replay.datasets import native
from rlx.train import origin, outcomes
from rlx.train.demonstrations import demonstrate, successes
from rlx.types import PHYSICS, Env, HostEnv, Row


@dataclass(frozen=True)
class Flags:
    env: str = ""  # whose expert demonstrates
    episodes: int = config.size(10, least=1, most=1_000_000)  # how many to keep
    out: Annotated[str, tyro.conf.arg(aliases=("-o",))] = ""  # where to write: a file .npz or .h5, or a new folder of shards
    noise: float = config.size(0.0, "standard deviation of noise on its actions: what it then sees and mends", least=0, most=1)
    successes: int = config.size(5, "keep episodes with at least so many decisions in success", least=1, most=MOST)
    keep_all: bool = config.size(False, "keep the first episodes, successful or not")
    physics: bool = config.size(
        True, "store the state of the physics, where the environment can, to compute other rewards later"
    )
    streams: int = config.size(10, least=1, most=MOST_STREAMS)  # episodes side by side
    seed: int = config.size(0, least=0, most=keys.MOST_SEED)
    repeat: int | None = config.size(None, least=1, most=MOST)  # simulation steps per decision
    time_limit: int | None = config.size(None, least=1, most=MOST)  # decisions per episode
    env_options: console.ENV_OPTIONS = config.size((), console.ENV_OPTIONS_HELP)
    imports: console.IMPORTS = config.size((), console.IMPORTS_HELP)
    progress: bool = config.size(True, "a progress bar")


PRESETS: dict[str, dict[str, Any]] = {"debug": {"episodes": 2, "streams": 2}}
ABOUT = "rlx data demos: episodes in which a scripted expert does the task, as a dataset."


def body(argv: list[str]) -> None:
    flags: Flags = config.parse(Flags(), argv, PRESETS, prog="rlx data demos", description=ABOUT)
    if not flags.env:
        config.stop(f"whose expert? Give --env; there are those of {', '.join(experts.names())}")
    out, options = console.destination(flags.out), parsed(flags.env_options)
    experts.known(flags.env)
    env = _env(flags, options)
    expert = experts.of(env, options)
    least = 0 if flags.keep_all else flags.successes
    with console.steps(flags.episodes, "episodes", flags.progress) as progress:
        found, played = demonstrate(
            expert,
            env,
            flags.episodes,
            noise=flags.noise,
            least=least,
            streams=flags.streams,
            key=flags.seed,
            progress=progress,
        )
    rows = found if flags.physics else [_without_physics(e) for e in found]
    meta = {
        "env": env.name,
        "env_options": options,
        "repeat": env.spec.repeat,
        "time_limit": env.spec.horizon,
        "seed": flags.seed,
        "generator": "scripted expert",
        "noise": flags.noise,
        "successes": least,
        "played": played,
        "versions": origin.versions(),
    }
    if out.suffix in native.FILES:
        datasets.write(out, rows, meta)
    else:
        with console.whole_folder(out) as part, datasets.Writer(part, meta) as writer:
            writer.append(rows)
    _say(flags, out, env, found, played)


def _env(flags: Flags, options: dict[str, Any]) -> Env | HostEnv:
    """With its physics where it can: experts look at it, whether or not it is stored."""
    given = {k: v for k in ("repeat", "time_limit") if (v := getattr(flags, k)) is not None} | options
    try:
        return envs.make(flags.env, **{**given, PHYSICS: True})
    except NoPhysics:
        return envs.make(flags.env, **given)


def _without_physics(episode: Row) -> Row:
    return episode._replace(info={k: v for k, v in episode.info.items() if k != PHYSICS})


def _say(flags: Flags, out: Any, env: Env | HostEnv, episodes: list[Row], played: int) -> None:
    transitions = sum(len(e.reward) - 1 for e in episodes)
    returns, done = [float(e.reward.sum()) for e in episodes], [successes(e) for e in episodes]
    size = console.on_disk(out)
    lines: list[tuple[str, Any]] = [("environment", env.name), ("episodes", f"{len(episodes)} of {played} that were played")]
    lines += [("transitions", f"{transitions:,}"), ("return, mean", console.number(float(np.mean(returns))))]
    lines += [("decisions in success, mean", console.number(float(np.mean(done))))]
    measured = outcomes.of_episodes(episodes)
    lines += [(outcomes.words(name), console.number(value)) for name, value in measured.items()]
    lines += [("observations", f"{console.size(sum(x.nbytes for e in episodes for x in jax.tree.leaves(e.obs)))} in memory")]
    lines += [("written", f"{out}, {console.size(size)}")]
    console.table("Demonstrations", lines)
    values = {"out": out, "env": env.name, "episodes": len(episodes), "played": played, "transitions": transitions}
    means = {"return_mean": float(np.mean(returns)), "successes_mean": float(np.mean(done)), "outcomes": measured}
    console.result({**values, **means, "bytes": size})
