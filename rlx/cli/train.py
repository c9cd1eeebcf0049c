"""``rlx train AGENT --env ENV``: trains, evaluates, draws; the same command on the same run folder goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from rlx import agents, config, keys
from rlx.cli import console, outputs
from rlx.cli.console import MOST, MOST_STREAMS
from rlx.envs.options import written
from rlx.precision import Precision
from rlx.replay.datasets import Where, nbytes
from rlx.train import Interrupted, Options, Policy, launch, memory, processes, run, sweeps
from rlx.train import run_config as run_configs
from rlx.train.checkpoint import Checkpoints
from rlx.train.compilation import compile_seconds
from rlx.train.evaluate import evaluate, evaluate_members
from rlx.train.lock import held
from rlx.train.plan import plan, validate
from rlx.train.policy import initial
from rlx.train.population import settings_of, split, traced_grid, turns
from rlx.train.run_config import MOST_SEEDS
from rlx.types import Agent, AgentState, Problem, RunState

EXAMPLE = "rlx train sac --env dmc:cartpole-swingup --repeat 8"


def _flag(default: Any, help: str, **bounds: float) -> Any:
    return config.size(default, help, **bounds)  # type: ignore[arg-type]  # `parse` extends the class, where comments are lost


@dataclass(frozen=True)
class Flags:
    env: str = _flag("", "the environment, such as dmc:walker-walk; an unknown name lists what there is")
    imports: console.IMPORTS = _flag(
        (), f"{console.IMPORTS_HELP}; may be given several times, and whatever reads the run imports it too"
    )
    env_options: console.ENV_OPTIONS = _flag((), console.ENV_OPTIONS_HELP)
    eval_env_options: console.EVAL_ENV_OPTIONS = _flag((), console.EVAL_ENV_OPTIONS_HELP)
    repeat: int | None = _flag(None, "simulation steps per decision; None: the environment's own", least=1, most=MOST)
    time_limit: int | None = _flag(None, "decisions per episode; None: the environment's own", least=1, most=MOST)
    data: str | None = _flag(None, "a dataset of any layout that `rlx data info` reads, for agents that learn from one")
    data_options: console.DATA_OPTIONS = _flag((), console.DATA_OPTIONS_HELP)
    data_in: Where = _flag("device", "where its rows lie; disk: a folder of shards, read as it is drawn, larger than memory")
    precision: Precision = _flag("default", "of products in networks: default, as JAX has it (TF32 on GPUs); highest: all bits")
    seed: int = _flag(0, "the root of all randomness", least=0, most=keys.MOST_SEED)
    seeds: int = _flag(1, "so many seeds, from --seed on, as one program", least=1, most=MOST_SEEDS)
    grid: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = _flag(
        (), "[traced] values to sweep in the same program, with all seeds: agent.actor_lr=1e-3,3e-4; may be given several times"
    )
    waves: str = _flag("1", "parts of the members one after another; auto: as many as memory needs")
    memory: float | None = _flag(None, "GiB per device to plan with; None: what is free", above=0)
    init_from: str | None = _flag(None, "begin with what the agent of this run folder has learned: the best, or the last")
    run_dir: str = _flag("", "where everything goes; default: runs/AGENT/ENV/seedK")
    allow_changes: bool = _flag(False, "go on although the dataset's content or package versions have changed since the start")
    episodes: int = _flag(10, "of the evaluation at the end", least=1, most=MOST_STREAMS)
    video: bool = _flag(True, "film one episode at the end, where there is OpenGL")
    log_every: int | None = _flag(None, "cycles between lines of metrics.jsonl; None: 100 lines per stage", least=1)
    checkpoint_seconds: float = _flag(60.0, "seconds between checkpoints; 0: only at the end", least=0)
    checkpoint_cycles: int | None = _flag(None, "and after every so many cycles", least=1)
    keep: int = _flag(2, "checkpoints kept", least=1)
    progress: bool = _flag(True, "a progress bar")
    tensorboard: bool = _flag(False, "metrics to TensorBoard too")
    wandb: str | None = _flag(None, "metrics to this project of Weights & Biases too")
    distributed: bool = _flag(False, "one of several processes that train the members together; SLURM, pods: recognised")
    coordinator: str | None = _flag(None, "HOST:PORT of process 0, where nothing is recognised")
    processes: int | None = _flag(None, "so many processes in all", least=1)
    process: int | None = _flag(None, "the number of this one, from 0", least=0)
    wait: int = _flag(300, "seconds to wait for the other processes at the start", least=1)


# What presets of an agent's config say about the command; a name counts where the agent's config has it too.
PRESETS: dict[str, dict[str, Any]] = {
    "debug": {"episodes": 2},
    "quickstart": {"env": "dmc:cartpole-swingup", "repeat": 8},
}


# Flags that decide the result; the others only watch.
RUN_CONFIG_FLAGS = (
    "repeat",
    "time_limit",
    "data",
    "seed",
    "seeds",
    "precision",
    "init_from",
    "imports",
    "env_options",
    "eval_env_options",
    "data_options",
    "data_in",
)


def main(argv: Sequence[str] | None = None) -> int:
    return console.command(body, argv)


def body(argv: list[str]) -> None:
    launch.die_with_parent()
    given, rest = given_run_config(argv)
    flags = parse(given, rest)
    name = given.agent
    alone = [f"--{k}" for k in ("coordinator", "processes", "process") if getattr(flags, k) is not None]
    if alone and not flags.distributed:
        config.stop(f"{', '.join(alone)} without --distributed would start a run that knows of no others: give it too")
    if flags.distributed:
        processes.start(flags.coordinator, flags.processes, flags.process, flags.wait)
    run_dir = Path(flags.run_dir or f"runs/{name}/{flags.env.replace(':', '-').replace('/', '-')}/seed{flags.seed}")
    grid = traced_grid(sweep_grid(flags.grid), config.hyper(flags.agent), config.static(flags.agent), flags.agent)
    settings = tuple(settings_of(grid)) if grid else given.settings
    part = given.part if (settings, flags.seeds) == (given.settings, given.seeds) else None
    run_config = run_configs.RunConfig(
        name, flags.env, flags.agent, settings=settings, part=part, **{k: getattr(flags, k) for k in RUN_CONFIG_FLAGS}
    )
    if flags.data and processes.is_process_zero():
        held = "read as it is drawn" if flags.data_in == "disk" else "into memory"
        print(f"data {flags.data}: {console.size(nbytes(flags.data))}, {held}", flush=True)
    problem = run_config.problem()
    try:
        values = train_waves(run_config, problem, run_dir, flags)
    except Interrupted as stopped:
        if processes.is_process_zero():
            print(f"\n{stopped}\n  rlx train {shlex.join(argv)}")
            console.result({"run_dir": run_dir, "interrupted": True})
        return
    if processes.is_process_zero():
        if len(settings) > 1:
            console.table("Ranking", outputs.ranked(sweeps.ranking(sweeps.scores(sweeps.members(sweeps.runs(run_dir))))))
        console.result(values)


def sweep_grid(words: Sequence[str]) -> dict[str, list[str]]:
    """Words ``name=a,b,c`` as values by name.

    Raises:
        ValueError: one is not of that form, or a name is there twice.
    """
    grid: dict[str, list[str]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if not equals or not name or not values:
            raise ValueError(f"{word!r} is no grid: give NAME=VALUE,VALUE,..., such as agent.actor_lr=1e-3,3e-4.")
        if name in grid:
            raise ValueError(f"{name} is given twice: put all its values into one grid.")
        grid[name] = values.split(",")
    return grid


def train_waves(run_config: run_configs.RunConfig, problem: Problem, run_dir: Path, flags: Any) -> dict[str, Any]:
    """Train all members, in one go or in several; what the result line says."""
    agent = run_config.make(problem)
    validate(agent, problem, run_config.key())
    limit = None if flags.memory is None else int(flags.memory * 2**30)
    waves = int(flags.waves) if flags.waves.isdecimal() else flags.waves
    begun = _waves_of(run_dir, run_config.members) if waves == "auto" else None
    parts = begun or turns(agent, problem, run_config.members, jax.local_devices(), waves, limit)
    if len(parts) == 1:
        return train(run_config, agent, problem, run_dir, flags)
    values, first = [], (run_config.part or (0,))[0]
    for k, (a, b) in enumerate(parts):
        part = first + a, first + b
        if processes.is_process_zero():
            print(f"\nwave {k + 1} of {len(parts)}: members {part[0]} to {part[1] - 1}")
        values.append(train(replace(run_config, part=part), agent, problem, run_dir / f"wave{k}", flags))
    return outputs.together(values, run_dir, run_config.reference())


def _waves_of(run_dir: Path, members: int) -> list[tuple[int, int]] | None:
    """The waves that this folder was begun with, whatever memory is free today; None where nothing was begun. A config alone
    is no beginning: a sweep writes that of a trial before its worker has looked at its memory."""
    first = run_dir / "wave0"
    part = run_configs.read(first).part if (first / run_configs.FILE).exists() else None
    if part:
        return split(members, -(-members // (part[1] - part[0])))
    return [(0, members)] if (run_dir / "checkpoints").is_dir() else None


def train(run_config: run_configs.RunConfig, agent: Agent, problem: Problem, run_dir: Path, flags: Any) -> dict[str, Any]:
    """Train in ``run_dir``, or go on there; evaluate, draw, and give what the result line says."""
    with held(run_dir) if processes.is_process_zero() else contextlib.nullcontext():
        return _train(run_config, agent, problem, run_dir, flags)


def _train(run_config: run_configs.RunConfig, agent: Agent, problem: Problem, run_dir: Path, flags: Any) -> dict[str, Any]:
    key, is_process_zero, compiled = run_config.key(), processes.is_process_zero(), compile_seconds()
    begun = Checkpoints(run_dir / "checkpoints").steps()  # then what it began with is not asked for any more
    init_from = None if begun else initial(run_config)
    validate(agent, problem, key, init_from)
    goes_on = run_configs.keep(run_config, run_dir, agent, flags.allow_changes) if is_process_zero else True
    processes.wait()
    where = [("run folder", f"{run_dir}{' (goes on from its last checkpoint)' if goes_on else ''}")]
    if is_process_zero:
        console.table("Plan", [*plan(agent, problem, key), *_memory_rows(agent, problem, run_config.members), *where])
    shared = {f.name: getattr(flags, f.name) for f in dataclasses.fields(Options) if hasattr(flags, f.name)}
    state = run(agent, problem, key, run_dir, options=Options(**shared), init_from=init_from)
    return finish(run_config, agent, problem, state, run_dir, flags, compile_seconds() - compiled)


def given_run_config(
    argv: list[str], command: str = "rlx train", example: str = EXAMPLE
) -> tuple[run_configs.RunConfig, list[str]]:
    """What to start from, and the remaining arguments: the defaults of the agent that comes first, or with ``--run-config
    FILE`` what another run had in its ``config.json``. Ends the process where there is neither."""
    known = agents.list()
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {command} AGENT --env ENV [OPTIONS]\n\nagents: {', '.join(known)}\nexample: {example}")
        if command == "rlx train":
            print("\n`rlx train --run-config RUN_DIR/config.json [OPTIONS]` does what that run did.")
        print(f"\n`{command} AGENT --import my_module --env ENV` takes agents and environments that my_module registers.")
        print(f"`{command} AGENT --help` shows all options. RLX_DEBUG=1 or --debug show where errors come from.")
        raise SystemExit(0 if argv else 2)
    if argv[0] == "--run-config" and len(argv) > 1 and command == "rlx train":
        return run_configs.read(Path(argv[1]).parent), argv[2:]
    if argv[0] == "--recipe":
        config.stop("--recipe is now called --run-config")
    if argv[0].startswith("-"):
        config.stop(f"the agent comes first, one of {', '.join(known)}, as in: {example}")
    return run_configs.RunConfig(argv[0], "", agents.config(argv[0])), argv[1:]


def parse(
    given: run_configs.RunConfig, argv: list[str], base: Any = Flags, command: str = "rlx train", example: str = EXAMPLE
) -> Any:
    """``base`` and a field ``agent`` with the agent's config, from ``given`` and the command line."""
    presets = agents.presets(given.agent)
    field = ("agent", type(given.config), dataclasses.field(default=given.config))
    kind = dataclasses.make_dataclass("Flags", [field], bases=(base,), frozen=True)
    table = config.compose({k: v for k, v in PRESETS.items() if k in presets}, agent=presets)
    same = {k: getattr(given, k) for k in RUN_CONFIG_FLAGS if hasattr(base, k)}
    words = {k: written(getattr(given, k)) for k in ("env_options", "eval_env_options", "data_options")}
    start = kind(env=given.env, **{**same, **words})
    about = (type(given.config).__doc__ or "").strip()
    flags: Any = config.parse(start, argv, table, prog=f"{command} {given.agent}", description=about)
    if not flags.env:
        config.stop(f"which environment? Give --env, as in: {example}")
    return flags


def _memory_rows(agent: Agent, problem: Problem, members: int) -> list[tuple[str, str]]:
    plain = {k: f" (instead of {console.size(members * n)})" for k, n in memory.unpacked(agent, problem).items()}
    sizes = memory.needs(agent, problem).items()
    rows = [(f"memory {name}", console.size(members * size) + plain.get(name, "")) for name, size in sizes]
    return rows if members == 1 else [(name, f"{size} for all members") for name, size in rows]


def finish(
    run_config: run_configs.RunConfig,
    agent: Agent,
    problem: Problem,
    state: RunState,
    run_dir: Path,
    flags: Any,
    compile_s: float,
) -> dict[str, Any]:
    """The last evaluation, pictures, ``result.json``, and what there is to say."""
    which = "best" if state.best else "last"
    whole = state.agent._replace(learned=state.best["learned"]) if state.best else state.agent
    returns = _last_returns(run_config, agent, problem, whole, state, flags.episodes)
    if not processes.is_process_zero():
        return {}
    each = [
        {"seed": seed, "setting": setting, "return_mean": float(r.mean()) if alive else None}
        for (seed, setting), r, alive in zip(run_config.who(), returns, np.atleast_1d(state.alive), strict=True)
    ]
    alive = np.atleast_1d(state.alive)
    first = int(np.argmax(np.where(alive, returns.mean(-1), -np.inf)))
    shown = whole if run_config.solo else jax.tree.map(lambda x: x[first], whole)
    policy = Policy(agent, shown, problem, state.stage, state.cycle, run_config)
    returns = returns[alive]
    best = float(np.max(state.best["score"])) if state.best else None
    seconds = [line["wall_s"] for line in outputs.read_metrics(run_dir)]
    total = lambda name: int(np.sum(state.counts[name]))
    found = outputs.return_of(each, returns)
    values = {
        "run_dir": run_dir,
        "agent": run_config.agent,
        "env": run_config.env,
        "seed": run_config.seed,
        "members": run_config.members,
        "diverged": int(np.sum(~state.alive)),
        "episodes": returns.size,
        **found,
        **outputs.score_of(found, run_config.reference()),
        "return_best": best,
        **{name: total(name) for name in ("env_steps", "sim_steps", "model_steps", "eval_steps", "updates")},
        "wall_s": seconds[-1] if seconds else None,
        "compile_s": round(compile_s, 3),
        "memory_bytes": memory.peak(),
        "curve": outputs.curve(run_dir),
        "report": outputs.reports(policy, run_dir),
        "video": outputs.film(policy, problem.envs["train"], run_dir, run_config.seed) if flags.video else None,
    }
    outputs.write_result(run_dir, values, each)
    outputs.read_out(values["report"])
    console.table("Result", _result_rows(values, which))
    return values


def _last_returns(
    run_config: run_configs.RunConfig, agent: Agent, problem: Problem, learned: AgentState, state: RunState, episodes: int
) -> np.ndarray:
    """Of each member [M, E], all at once, on keys that training never used."""
    roots = jax.vmap(lambda root: keys.fold(root, "final evaluation"))(keys.roots(seed for seed, _ in run_config.who()))
    if run_config.solo:
        return evaluate(agent, problem, learned, roots[0], state.stage, state.cycle, episodes)["returns"][None]
    return evaluate_members(agent, problem, learned, roots, state.stage, state.cycle, episodes)["returns"]


def _result_rows(values: dict[str, Any], which: str) -> list[tuple[str, str]]:
    lost = f", {values['diverged']} diverged" if values["diverged"] else ""
    rows = [(f"return of the {which} agent", outputs.return_text(values) + lost)]
    rows += outputs.score_rows(values)
    if values["return_best"] is not None:
        rows.append(("best while training", console.number(values["return_best"])))
    rows += [("env steps", f"{values['env_steps']:,}"), ("updates", f"{values['updates']:,}")]
    rows += [
        ("wall-clock time", f"{values['wall_s'] or 0:.1f} s (this process spent {values['compile_s']:.1f} s on compiling)")
    ]
    rows += [(name, str(values[name])) for name in ("curve", "video") if values[name]]
    rows += [("report", ", ".join(map(str, values["report"])))] if values["report"] else []
    return [*rows, ("all in", str(values["run_dir"]))]
