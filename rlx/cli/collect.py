"""``rlx collect``: the rollouts of a policy, of random actions or of noise, or a run's replay, as a dataset file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
import tyro

from rlx import config, envs, keys
from rlx.cli import console
from rlx.cli.console import MOST, MOST_STREAMS
from rlx.envs.options import NoPhysics, parsed
from rlx.envs.scores import normalised, of_run
from rlx.replay import datasets
from rlx.replay.datasets.native import MANIFEST, SHARD
from rlx.train import load, origin, stats
from rlx.train import run_config as run_configs
from rlx.train.collect import Behaviour, acting, alike, collect, ornstein_uhlenbeck, random, replay_of, summary
from rlx.train.policy import Policy
from rlx.types import PHYSICS, Env, HostEnv, Key, Leaf, Row

FREE = ("random", "ou")  # behaviours that need no run
REPLAY = "replay"
PIECE = 100_000  # transitions of a shard at most
MODE_HELP = "a mode of the agent, or: random; ou (Ornstein-Uhlenbeck noise); replay (what the run stored while it trained)"
PART_HELP = "WHO:STEPS, several times: a mixture. WHO: a mode, a run folder, RUN_DIR@MODE. STEPS 0.5: half of --steps"


@dataclass(frozen=True)
class Flags:
    run_dir: str = ""  # the run folder of the policy
    env: str = ""  # another environment than the run's; with --mode random or ou no run is needed
    steps: int = config.size(10_000, least=1, most=MOST)  # transitions, at least; of a replay all there are
    out: str = ""  # the file to write, such as data.npz; or a folder of shards, with which the same command goes on
    mode: str = config.size("eval", MODE_HELP)
    sampled: float = config.size(0.0, least=0, most=1)  # this share of what a policy does in mode explore
    sampled_each: Literal["episode", "step"] = "episode"  # whole episodes, or single actions
    theta: float = config.size(0.15, above=0, most=1)  # of ou: how fast its noise comes back to 0
    sigma: float = config.size(0.2, above=0)  # of ou: the noise of a step
    part: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = config.size((), PART_HELP)
    physics: bool = True  # store the state of the physics, where the environment can, to compute other rewards later
    streams: int = config.size(10, least=1, most=MOST_STREAMS)  # episodes side by side
    seed: int = config.size(0, least=0, most=keys.MOST_SEED)
    which: Literal["best", "last"] = "best"
    member: int = config.size(0, least=0)  # of a run with several: seeds first, then settings
    repeat: int | None = config.size(None, least=1, most=MOST)  # without a run: simulation steps per decision
    time_limit: int | None = config.size(None, least=1, most=MOST)  # without a run: decisions per episode
    env_options: console.ENV_OPTIONS = config.size((), console.ENV_OPTIONS_HELP)
    imports: console.IMPORTS = config.size((), console.IMPORTS_HELP)
    progress: bool = True  # a progress bar


PRESETS = {"debug": {"steps": 200, "streams": 2}}


@dataclass(frozen=True)
class Part:
    """So many ``steps`` of what ``mode`` of the run in ``run_dir`` does (empty: none is needed)."""

    mode: str
    run_dir: str
    steps: int


def main(argv: Sequence[str] | None = None) -> int:
    return console.command(body, argv)


def body(argv: list[str]) -> None:
    flags: Flags = config.parse(Flags(), argv, PRESETS, prog="rlx collect", description=(__doc__ or "").strip())
    parts, out = _parts(flags), _out(flags)
    policies = {p.run_dir: _policy(flags, p.run_dir) for p in parts if p.run_dir and p.mode not in (*FREE, REPLAY)}
    env = _env(flags, parts, policies)
    behaviours = [_behaviour(flags, part, policies, env) for part in parts]  # refuses what does not go together
    pieces = _pieces(flags, parts, behaviours, env)
    meta = _meta(flags, env, parts, policies)
    if out.suffix == ".npz":
        found = [[e for piece in pieces if piece.part == i for e in piece.make()] for i in range(len(parts))]
        episodes = alike(found)
        counts = [_counts(each, env) for each in found]
        meta["parts"] = [entry | count for entry, count in zip(meta["parts"], counts, strict=True)]
        datasets.write(out, episodes, meta | _counts(episodes, env))
    else:
        _into_folder(out, pieces, meta)
    _say(flags, out, env, parts, _limit(flags, parts))


# ---------------------------------------------------------------------------------------------------------- what is asked for


def _out(flags: Flags) -> Path:
    if not flags.out:
        config.stop("where to? Give --out, such as --out data.npz")
    out = Path(flags.out)
    if not out.parent.is_dir() or (out.is_dir() and (out.suffix == ".npz" or any(out.iterdir()) and not _begun(out))):
        config.stop(f"--out {out} is to be a file .npz, or a new folder, in a folder that exists")
    return out


def _begun(out: Path) -> bool:
    return (out / MANIFEST).exists()


def _parts(flags: Flags) -> list[Part]:
    """The parts of a mixture, or the one that ``--mode`` names."""
    parts = [_part(flags, word) for word in flags.part] or [Part(flags.mode, flags.run_dir, flags.steps)]
    for part in parts:
        if not part.run_dir and (part.mode not in FREE or not flags.env):
            config.stop("whose rollouts? Give --run-dir, or for random actions --mode random --env ENV")
        for flag in ("repeat", "time_limit"):
            if part.run_dir and getattr(flags, flag) is not None:
                config.stop(f"--{flag.replace('_', '-')} is that of the run in {part.run_dir}: leave it out")
    return parts


def _part(flags: Flags, word: str) -> Part:
    who, colon, count = word.rpartition(":")
    try:
        steps = round(float(count) * flags.steps) if "." in count else int(count)
    except ValueError:
        steps = 0
    if not colon or not who or not 1 <= steps <= MOST:
        config.stop(f"--part {word} is none: give WHO:STEPS, such as random:10000, eval:0.5 or runs/walker@explore:20000")
    run_dir, at, mode = who.rpartition("@")
    if at:
        return Part(mode, run_dir, steps)
    is_folder = (Path(who) / run_configs.FILE).exists() or "/" in who
    return Part(flags.mode, who, steps) if is_folder else Part(who, flags.run_dir, steps)


def _policy(flags: Flags, run_dir: str) -> Policy:
    policy = load(run_dir, flags.which, flags.member)
    options = parsed(flags.env_options)
    if flags.physics and PHYSICS not in options:
        try:
            return policy.on(flags.env or None, physics=True, **options)
        except NoPhysics:
            pass
    return policy.on(flags.env or None, **options) if flags.env or options else policy


def _env(flags: Flags, parts: list[Part], policies: dict[str, Policy]) -> Env | HostEnv:
    """The environment of all parts: the first policy's, or that which the flags name, or that of the run of a replay."""
    if policies:
        found = {_settings(flags, policy): policy.problem.envs["train"] for policy in policies.values()}
        if len(found) > 1:
            config.stop(f"the runs are of {' and '.join(found)}: give --env, one that all of them can act in alike")
        return next(iter(found.values()))
    options = parsed(flags.env_options)
    run_dir = next((p.run_dir for p in parts if p.run_dir), "")
    if run_dir:
        run_config = run_configs.read(run_dir)
        if flags.env and flags.env != run_config.env:
            config.stop(f"the replay of {run_dir} is of {run_config.env}: leave out --env {flags.env}")
        make = lambda **more: run_config.with_options(**options, **more).problem().envs["train"]
    else:
        given = {k: v for k in ("repeat", "time_limit") if (v := getattr(flags, k)) is not None}
        make = lambda **more: envs.make(flags.env, **given, **options, **more)
    if flags.physics and PHYSICS not in options:
        try:
            return make(physics=True)
        except NoPhysics:
            pass
    return make()


def _settings(flags: Flags, policy: Policy) -> str:
    """The environment that a policy acts in, and how it was made."""
    env, run_config = policy.problem.envs["train"], policy.run_config
    options = run_config.env_options if run_config and not flags.env else {}
    more = "".join(f", {k}={v}" for k, v in sorted({**options, **parsed(flags.env_options)}.items()))
    return f"{env.name} (repeat {env.spec.repeat}, time limit {env.spec.horizon}{more})"


def _behaviour(flags: Flags, part: Part, policies: dict[str, Policy], env: Env | HostEnv) -> Behaviour | None:
    if part.mode == REPLAY:
        return None
    if part.mode == "random":
        return random(env.spec)
    if part.mode == "ou":
        return ornstein_uhlenbeck(env.spec, flags.theta, flags.sigma)
    policy = policies[part.run_dir]
    if part.mode not in policy.agent.modes:
        known = [*policy.agent.modes, *FREE, REPLAY]
        config.stop(f"{policy.agent.name} has no mode {part.mode!r}.{config.nearest(part.mode, known)}")
    return acting(policy, part.mode, flags.sampled, flags.sampled_each)


# --------------------------------------------------------------------------------------------------------------- what is done


class Piece(NamedTuple):
    """Episodes to collect at one go: where a folder is written, a shard that a kill cannot take away any more."""

    part: int
    make: Callable[[], list[Row]]


def _pieces(flags: Flags, parts: list[Part], behaviours: list[Behaviour | None], env: Env | HostEnv) -> list[Piece]:
    """What there is to do, in order. A file is written at once; for a folder parts are cut into pieces, with their own keys."""
    key, whole, pieces = keys.root(flags.seed), flags.out.endswith(".npz"), []
    leaves = jax.tree.leaves((env.spec.obs, env.spec.info, env.spec.action), is_leaf=lambda x: isinstance(x, Leaf))
    row = sum(int(np.prod(x.shape)) * np.dtype(x.dtype).itemsize for x in leaves) + 8
    most = MOST if whole else max(1, min(PIECE, SHARD // 4 // row))
    for i, (part, behaviour) in enumerate(zip(parts, behaviours, strict=True)):
        if behaviour is None:
            for some in _by_rows(replay_of(part.run_dir, flags.member), most):
                pieces.append(Piece(i, partial(list, some)))
            continue
        for k, begin in enumerate(range(0, part.steps, most)):
            steps, at = min(most, part.steps - begin), keys.fold(key, "part", i, k)
            pieces.append(Piece(i, partial(_rolled, flags, part, behaviour, env, steps, at)))
    return pieces


def _rolled(flags: Flags, part: Part, behaviour: Behaviour, env: Env | HostEnv, steps: int, key: Key) -> list[Row]:
    with console.steps(steps, f"{part.mode} {part.run_dir}".strip(), flags.progress) as progress:
        return collect(behaviour, env, steps, flags.streams, key, progress)


def _by_rows(episodes: list[Row], most: int) -> list[list[Row]]:
    """Episodes in groups of about so many rows."""
    groups = np.cumsum([len(e.reward) for e in episodes]) // most
    return [[e for e, g in zip(episodes, groups, strict=True) if g == group] for group in np.unique(groups)]


def _into_folder(out: Path, pieces: list[Piece], meta: dict[str, Any]) -> None:
    """Each piece is a shard. The same command goes on behind the last one, so a kill costs what was in the making.

    Raises:
        ValueError: the folder holds what another command collects, or parts have other columns than the first.
    """
    with datasets.Writer(out, meta, resume=_begun(out)) as writer:
        had = writer.manifest["meta"]
        other = [k for k, v in json.loads(json.dumps(meta)).items() if k != "versions" and had.get(k) != v]
        if other:
            raise ValueError(f"{out} holds what another command collects ({', '.join(other)} differ): give another --out.")
        if writer.shards:
            print(f"{out} goes on after {writer.shards} of {len(pieces)} pieces.")
        for piece in pieces[writer.shards :]:
            writer.append([e._replace(extras={}) for e in piece.make()] if len(meta["parts"]) > 1 else piece.make())


def _meta(flags: Flags, env: Env | HostEnv, parts: list[Part], policies: dict[str, Policy]) -> dict[str, Any]:
    """What the data says of itself: all that decides what is in it."""
    of_parts = []
    for part in parts:
        policy = policies.get(part.run_dir) if part.mode not in (*FREE, REPLAY) else None
        entry: dict[str, Any] = {"mode": part.mode} | ({} if part.mode == REPLAY else {"steps": part.steps})
        if part.mode == "ou":
            entry |= {"theta": flags.theta, "sigma": flags.sigma}
        if part.run_dir and part.mode not in FREE:
            agent = run_configs.read(part.run_dir).agent
            entry |= {"run_dir": part.run_dir, "agent": agent, "member": flags.member}
        if policy is not None:
            entry |= {"which": flags.which, "cycle": policy.cycle}
            entry |= {"sampled": flags.sampled, "sampled_each": flags.sampled_each} if flags.sampled else {}
        of_parts.append(entry)
    return {
        "env": env.name,
        "env_options": _options(flags, parts),
        "repeat": env.spec.repeat,
        "time_limit": env.spec.horizon,
        "seed": flags.seed,
        "streams": flags.streams,
        "physics": PHYSICS in env.spec.info and not _without(parts),
        "parts": of_parts,
        "versions": origin.versions(),
    }


def _without(parts: list[Part]) -> list[str]:
    """The runs whose replay holds no physics: they trained without."""
    return [p.run_dir for p in parts if p.mode == REPLAY and not run_configs.read(p.run_dir).env_options.get(PHYSICS)]


def _runs(parts: list[Part]) -> list[run_configs.RunConfig]:
    return [run_configs.read(p.run_dir) for p in parts if p.run_dir]


def _options(flags: Flags, parts: list[Part]) -> dict[str, Any]:
    runs = _runs(parts)
    return {**(runs[0].env_options if runs and not flags.env else {}), **parsed(flags.env_options)}


def _limit(flags: Flags, parts: list[Part]) -> int | None:
    """The time limit that was asked for."""
    runs = _runs(parts)
    return runs[0].time_limit if runs else flags.time_limit


def _counts(episodes: Iterable[Row], env: Env | HostEnv) -> dict[str, Any]:
    values = summary(episodes, env.spec.horizon)
    returns = values.pop("returns")
    return {**values, "return_mean": float(returns.mean()) if len(returns) else None}


def _say(flags: Flags, out: Path, env: Env | HostEnv, parts: list[Part], limit: int | None) -> None:
    data = datasets.read(out) if out.suffix == ".npz" else datasets.mapped(out)
    found, physics = summary(data, env.spec.horizon), PHYSICS in data.rows.info
    modes, returns = ", ".join(dict.fromkeys(p.mode for p in parts)), found.pop("returns")
    size = console.on_disk(out)
    rows: list[tuple[str, Any]] = [("environment", env.name), ("mode", modes), ("transitions", f"{found['transitions']:,}")]
    rows += [("episodes", found["episodes"]), ("physics", "stored" if physics else "not stored")]
    if PHYSICS in env.spec.info and (without := _without(parts)):
        rows[-1] = ("physics", f"not stored, as {' and '.join(without)} trained without --env-option physics=true")
    rows += [("file" if out.is_file() else "folder", f"{out}, {console.size(size)}")]
    mean = float(returns.mean()) if len(returns) else None
    reference = of_run(env.name, limit, _options(flags, parts)) if len(returns) else None
    score = None if reference is None else float(normalised(reference, mean))
    if len(returns):
        rows.append(("return, mean of whole episodes", console.estimate(stats.estimate(returns[None]))))
    if reference is not None:
        rows.append((f"score ({reference.source})", console.number(score or 0.0)))
    console.table("Dataset", rows)
    values = {"out": out, "run_dir": flags.run_dir or None, "env": env.name, "mode": modes, "physics": physics, **found}
    console.result({**values, "return_mean": mean, "score": score, "score_reference": reference and reference.source})
