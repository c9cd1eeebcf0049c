"""``rlx sweep AGENT --env ENV --grid NAME=VALUES``: settings times seeds; the same command goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from rlx import config, files, keys
from rlx.cli import console, outputs
from rlx.cli.console import MOST, MOST_STREAMS
from rlx.cli.train import RUN_CONFIG_FLAGS, given_run_config, parse, train_waves
from rlx.cli.train import Flags as TrainFlags
from rlx.cli.train import _flag as flag
from rlx.precision import Precision
from rlx.replay.datasets import Where
from rlx.train import Diverged, Interrupted, launch, layout, memory, report, sweeps
from rlx.train import run_config as run_configs
from rlx.train.run_config import MOST_SEEDS

EXAMPLE = "rlx sweep sac --env rlx:pendulum --grid agent.actor_lr=1e-3,3e-4 --grid agent.hidden=128,256 --seeds 8"


@dataclass(frozen=True)
class Flags:
    env: str = flag("", "the environment, such as dmc:walker-walk; an unknown name lists what there is")
    imports: console.IMPORTS = flag((), f"{console.IMPORTS_HELP}; may be given several times, and every trial imports it too")
    env_options: console.ENV_OPTIONS = flag((), console.ENV_OPTIONS_HELP)
    eval_env_options: console.EVAL_ENV_OPTIONS = flag((), console.EVAL_ENV_OPTIONS_HELP)
    grid: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = flag(
        (), "values of a field, agent.actor_lr=1e-3,3e-4 or agent.hidden=128,64x64; or a range, agent.actor_lr=log:1e-5..1e-2"
    )
    search: str = flag("grid", "grid: all combinations; random:N: N draws from lists and ranges")
    seeds: int = flag(4, "of each setting, from --seed on", least=1, most=MOST_SEEDS)
    workers: str = flag(
        "one", "one: as few programs as can be, here; local:N: N processes; ray:ADDRESS, ray:auto: a Ray cluster"
    )
    retries: int = flag(3, "how often a trial that died is started again; it goes on from its checkpoint", least=0)
    repeat: int | None = flag(None, "simulation steps per decision; None: the environment's own", least=1, most=MOST)
    time_limit: int | None = flag(None, "decisions per episode; None: the environment's own", least=1, most=MOST)
    data: str | None = flag(None, "a dataset of any layout that `rlx data info` reads, for agents that learn from one")
    data_options: console.DATA_OPTIONS = flag((), console.DATA_OPTIONS_HELP)
    data_in: Where = flag("device", "where its rows lie; disk: a folder of shards, read as it is drawn, larger than memory")
    precision: Precision = flag("default", "of products in networks: default, as JAX has it (TF32 on GPUs); highest: all bits")
    seed: int = flag(0, "the root of all randomness, of the search too", least=0, most=keys.MOST_SEED)
    init_from: str | None = flag(None, "every run begins with what the agent of this run folder has learned")
    run_dir: str = flag("", "where everything goes; default: runs/AGENT/ENV/sweep")
    allow_changes: bool = flag(False, "go on although the dataset's content or package versions have changed since the start")
    episodes: int = flag(10, "of the evaluation at the end of each trial", least=1, most=MOST_STREAMS)
    waves: str = flag("auto", "parts of the members of a program one after another; auto: as many as memory needs")
    memory: float | None = flag(None, "GiB per device to plan with; None: what is free", above=0)
    checkpoint_seconds: float = flag(60.0, "seconds between checkpoints of a trial", least=0)
    keep: int = flag(2, "checkpoints kept", least=1)
    progress: bool = flag(True, "a progress bar")


def main(argv: Sequence[str] | None = None) -> int:
    return console.command(body, argv)


def body(argv: list[str]) -> None:
    given, rest = given_run_config(argv, "rlx sweep", EXAMPLE)
    flags = parse(given, rest, Flags, "rlx sweep", EXAMPLE)
    kind, _, where = flags.workers.partition(":")
    if not (flags.workers == "one" or (kind == "local" and where.isdigit() and int(where)) or (kind == "ray" and where)):
        config.stop(f"--workers {flags.workers!r} is unknown: give one, local:N or ray:ADDRESS (ray:auto).")
    if kind == "ray":
        launch.reachable(where)
    if kind != "one":
        launch.share_devices()
    points = sweeps.points(sweeps.axes(flags.agent, flags.grid), flags.search, flags.seed)
    run_config = run_configs.RunConfig(given.agent, flags.env, flags.agent, **{k: getattr(flags, k) for k in RUN_CONFIG_FLAGS})
    trials = sweeps.trials(run_config, points, together=kind == "one")
    run_dir = Path(flags.run_dir or f"runs/{given.agent}/{flags.env.replace(':', '-').replace('/', '-')}/sweep")
    costs = _plan(trials, points, flags, run_dir)
    keep(run_dir, run_config, points, flags.workers)
    console.table("Sweep", costs)
    waiting = {t.name: run_dir / "trials" / t.name for t in trials if not ended(run_dir / "trials" / t.name)}
    try:
        failed = _run(trials, waiting, kind, where, flags, run_dir)
    except Interrupted:
        console.result({"run_dir": run_dir, "interrupted": True})
        raise
    _finish(run_dir, trials, points, failed)


def ended(folder: Path) -> bool:
    return (folder / "result.json").is_file()


def _plan(trials: list[sweeps.Trial], points: list[sweeps.Point], flags: Any, run_dir: Path) -> list[tuple[str, Any]]:
    """What will be done; every agent is made once, so that what cannot be is refused before anything is written."""
    members = sum(t.run_config.members for t in trials)
    rows: list[tuple[str, Any]] = [
        ("settings", f"{len(points)} of {', '.join(points[0])}"),
        ("members", f"{members} ({flags.seeds} seeds each)"),
        ("programs to compile", len({json.dumps(config.static(t.run_config.config)) for t in trials})),
        ("trials", f"{len(trials)}, {sum(ended(run_dir / 'trials' / t.name) for t in trials)} of them done"),
        ("workers", flags.workers),
    ]
    bytes_of: dict[str, int] = {}
    problem = trials[0].run_config.problem()
    for t in trials:
        fixed = sweeps.label({k: v for k, v in config.static(t.run_config.config).items() if k in points[0]}) or "one program"
        if fixed not in bytes_of:
            bytes_of[fixed] = sum(memory.needs(t.run_config.make(problem), problem).values()) * t.run_config.members
            rows.append((f"memory {fixed}", f"{console.size(bytes_of[fixed])} for {t.run_config.members} members together"))
    return [*rows, ("all in", run_dir)]


def keep(run_dir: Path, run_config: run_configs.RunConfig, points: list[sweeps.Point], workers: str) -> None:
    """Writes what this sweep is into its folder, or finds the same one there. Where that one has a smaller budget and nothing
    else differs, its trials have not ended any more: their results go, and they go on.

    Raises:
        ValueError: the folder holds another sweep, or one of an older layout.
    """
    together = workers == "one"
    this = {"run_config": json.loads(run_config.to_json()), "points": json.loads(json.dumps(points)), "together": together}
    versions = this["run_config"].pop("versions")
    path = run_dir / sweeps.FILE
    if path.exists():
        there = files.read_json(path)
        layout.check(there.pop("rlx", None), run_dir)
        if there == this:
            return
        if not _longer(there, this, config.budget(run_config.config)):
            raise ValueError(
                f"{run_dir} holds another sweep: give another --run-dir, or the flags that it was made "
                "with; only its budget may grow."
            )
        for result in (run_dir / "trials").glob(f"*/{sweeps.RESULT}"):
            result.unlink()
    run_dir.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps({**this, "rlx": versions["rlx"]}, indent=2) + "\n")


def _longer(there: dict[str, Any], this: dict[str, Any], budget: dict[str, float]) -> bool:
    """Whether ``this`` is the sweep that is ``there`` but for a larger ``budget`` (by dotted name in its agent's config)."""
    old = json.loads(json.dumps(there))
    for name, now in budget.items():
        *path, last = name.split(".")
        at = old.get("run_config", {}).get("config", {})
        for key in path:
            at = at.get(key, {})
        if not isinstance(at.get(last), int | float) or at[last] > now:
            return False
        at[last] = now
    return old == this


def _run(trials: list[sweeps.Trial], waiting: dict[str, Path], kind: str, where: str, flags: Any, run_dir: Path) -> dict:
    """The trials that have not ended; those that failed, with their exit codes."""
    failed: dict[str, int] = {}
    with console.trials(len(trials), len(trials) - len(waiting), flags.progress) as done:

        def report(name: str, code: int) -> None:
            if code or not ended(waiting[name]):
                failed[name] = code
            done(name, code)

        if kind == "one":
            for t in trials:
                if t.name in waiting:
                    report(t.name, _here(t, waiting[t.name], flags))
            return failed
        for t in trials:
            agent = t.run_config.make(t.run_config.problem())
            run_configs.keep(t.run_config, run_dir / "trials" / t.name, agent, flags.allow_changes)
        shared = ("episodes", "waves", "checkpoint_seconds", "keep")
        more = [x for k in shared for x in (f"--{k.replace('_', '-')}", str(getattr(flags, k)))]
        more += ["--no-video", "--no-progress"] + (["--memory", str(flags.memory)] if flags.memory else [])
        more += ["--allow-changes"] if flags.allow_changes else []
        try:
            if kind == "local":
                launch.local(waiting, int(where), more, report, flags.retries)
            else:
                launch.ray(waiting, where, more, report, flags.retries)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped; the running trials were told to save. The same command goes on in {run_dir}."
            ) from None
    return failed


def _here(t: sweeps.Trial, folder: Path, flags: Any) -> int:
    """Runs a trial in this process; the exit code that it would have had in one of its own."""
    shared = {f.name: getattr(flags, f.name) for f in dataclasses.fields(Flags) if hasattr(TrainFlags, f.name)}
    names = ("grid", "env", "run_dir")
    own = TrainFlags(**{k: v for k, v in shared.items() if k not in names}, video=False)
    try:
        train_waves(t.run_config, t.run_config.problem(), folder, own)
        return 0
    except Diverged as error:
        (folder / launch.LOG).write_text(f"error: {error}\n")
        return console.BAD_INPUT
    finally:
        jax.clear_caches()  # another program follows


def _finish(run_dir: Path, trials: list[sweeps.Trial], points: list[sweeps.Point], failed: dict[str, int]) -> None:
    done = sum(ended(run_dir / "trials" / t.name) for t in trials)
    values: dict[str, Any] = {"run_dir": run_dir, "trials": len(trials), "done": done, "failed": sorted(failed)}
    if not done:
        console.result(values)
        console.fail(f"no trial of {run_dir} ended: see {run_dir / 'trials' / trials[0].name / launch.LOG}.")
    made = report.report([run_dir], run_dir / "report")
    best = made["ranking"][0]
    console.table("Ranking", outputs.ranked(made["ranking"]))
    values |= {"settings": len(points), "best": best["setting"], "iqm": best["iqm"]}
    values |= {"ci": best["interval"], "ci_over": best["over"]}
    console.table("Report", [("page", made["page"])])
    console.result({**values, "page": made["page"]})
    if failed:
        console.fail(f"{len(failed)} of {len(trials)} trials failed: {', '.join(sorted(failed))}. The same command tries them.")
