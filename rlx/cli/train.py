"""``rlx train AGENT --env ENV``: trains, evaluates, draws; the same command on the same run folder goes on."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx import agents, config
from rlx.cli import console, outputs
from rlx.train import Interrupted, Options, run
from rlx.train import recipe as recipes
from rlx.train.compilation import compile_seconds
from rlx.train.plan import memory, plan, validate
from rlx.train.policy import Policy
from rlx.types import Agent, Problem, RunState

EXAMPLE = "rlx train sac --env dmc:cartpole-swingup --repeat 8"


def _flag(default: Any, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help})  # `parse` extends the class, where comments are lost


@dataclass(frozen=True)
class Flags:
    env: str = _flag("", "the environment, such as dmc:walker-walk; an unknown name lists what there is")
    repeat: int | None = _flag(None, "simulation steps per decision; None: the environment's own")
    time_limit: int | None = _flag(None, "decisions per episode; None: the environment's own")
    data: str | None = _flag(None, "a dataset, as `rlx collect` writes it, for agents that learn from one")
    seed: int = _flag(0, "the root of all randomness")
    members: int = _flag(1, "so many seeds, from --seed on, as one program")
    run_dir: str = _flag("", "where everything goes; default: runs/AGENT/ENV/seedK")
    episodes: int = _flag(10, "of the evaluation at the end")
    video: bool = _flag(True, "film one episode at the end, where there is OpenGL")
    log_every: int | None = _flag(None, "cycles between lines of metrics.jsonl; None: 100 lines per stage")
    checkpoint_seconds: float = _flag(60.0, "seconds between checkpoints; 0: only at the end")
    checkpoint_cycles: int | None = _flag(None, "and after every so many cycles")
    keep: int = _flag(2, "checkpoints kept")
    progress: bool = _flag(True, "a progress bar")
    tensorboard: bool = _flag(False, "metrics to TensorBoard too")
    wandb: str | None = _flag(None, "metrics to this project of Weights & Biases too")


# What presets of an agent's config say about the command; a name counts where the agent's config has it too.
PRESETS: dict[str, dict[str, Any]] = {
    "debug": {"episodes": 2},
    "quickstart": {"env": "dmc:cartpole-swingup", "repeat": 8},
}


RECIPE = ("repeat", "time_limit", "data", "seed", "members")  # flags that decide the result; the others only watch


def main(argv: Sequence[str] | None = None) -> int:
    return console.command(body, argv)


def body(argv: list[str]) -> None:
    name, rest = parse_agent(argv)
    flags = parse(name, rest)
    recipe = recipes.Recipe(name, flags.env, flags.agent, **{k: getattr(flags, k) for k in RECIPE})
    run_dir = Path(flags.run_dir or f"runs/{name}/{flags.env.replace(':', '-').replace('/', '-')}/seed{flags.seed}")
    problem = recipe.problem()
    agent, key = recipe.make(problem), recipe.key()
    validate(agent, problem, key)
    goes_on = recipes.keep(recipe, run_dir)
    where = [("run folder", f"{run_dir}{' (goes on from its last checkpoint)' if goes_on else ''}")]
    console.table("Plan", [*plan(agent, problem, key), *_memory_rows(agent, problem, key), *where])
    shared = {f.name: getattr(flags, f.name) for f in dataclasses.fields(Options) if hasattr(flags, f.name)}
    try:
        state = run(agent, problem, key, run_dir, options=Options(**shared))
    except Interrupted as stopped:
        print(f"\n{stopped}\n  rlx train {shlex.join(argv)}")
        console.result({"run_dir": run_dir, "interrupted": True})
        return
    finish(recipe, agent, problem, state, run_dir, flags)


def parse_agent(argv: list[str]) -> tuple[str, list[str]]:
    """The agent's name and the remaining arguments. Ends the process where there is none."""
    known = agents.list()
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: rlx train AGENT --env ENV [OPTIONS]\n\nagents: {', '.join(known)}\nexample: {EXAMPLE}")
        print("\n`rlx train AGENT --help` shows all options. RLX_DEBUG=1 or --debug show where errors come from.")
        raise SystemExit(0 if argv else 2)
    if argv[0].startswith("-"):
        config.stop(f"the agent comes first, one of {', '.join(known)}, as in: {EXAMPLE}")
    if argv[0] not in known:
        config.stop(f"unknown agent {argv[0]!r}.{config.nearest(argv[0], known)}")
    return argv[0], argv[1:]


def parse(name: str, argv: list[str]) -> Any:
    """`Flags` and a field ``agent`` with the agent's config."""
    own, presets = agents.config(name), agents.presets(name)
    field = ("agent", type(own), dataclasses.field(default=own))
    kind = dataclasses.make_dataclass("Train", [field], bases=(Flags,), frozen=True)
    table = config.compose({k: v for k, v in PRESETS.items() if k in presets}, agent=presets)
    flags: Any = config.parse(kind, argv, table, prog=f"rlx train {name}", description=(type(own).__doc__ or "").strip())
    if not flags.env:
        config.stop(f"which environment? Give --env, as in: {EXAMPLE}")
    for field_name, least in (("repeat", 1), ("time_limit", 1), ("members", 1), ("episodes", 1), ("keep", 1), ("seed", 0)):
        value = getattr(flags, field_name)
        if value is not None and value < least:
            config.stop(f"--{field_name.replace('_', '-')} must be at least {least}, got {value}")
    return flags


def _memory_rows(agent: Agent, problem: Problem, key: Any) -> list[tuple[str, str]]:
    return [(f"memory {name}", console.size(count)) for name, count in memory(agent, problem, key).items()]


def finish(recipe: recipes.Recipe, agent: Agent, problem: Problem, state: RunState, run_dir: Path, flags: Any) -> None:
    """The last evaluation, pictures, ``result.json``, and what there is to say."""
    compile_s = compile_seconds()  # what comes now compiles too
    which, policies = _policies(recipe, agent, problem, state)
    returns = np.stack([p.evaluate(flags.episodes, recipe.seed + i)["returns"] for i, p in enumerate(policies)])
    best = float(np.max(state.best["score"])) if state.best else None
    seconds = [line["wall_s"] for line in outputs.read_metrics(run_dir)]
    total = lambda name: int(np.sum(state.counts[name]))
    values = {
        "run_dir": run_dir,
        "agent": recipe.agent,
        "env": recipe.env,
        "seed": recipe.seed,
        "members": recipe.members,
        "episodes": returns.size,
        "return_mean": float(returns.mean()),
        "return_ci": outputs.interval(returns),
        "return_best": best,
        **{name: total(name) for name in ("env_steps", "sim_steps", "model_steps", "eval_steps", "updates")},
        "wall_s": seconds[-1] if seconds else None,
        "compile_s": round(compile_s, 3),
        "curve": outputs.curve(run_dir),
        "video": outputs.film(policies[0], problem.envs["train"], run_dir, recipe.seed) if flags.video else None,
    }
    outputs.write_result(run_dir, values)
    console.table("Result", _result_rows(values, which))
    console.result(values)


def _policies(recipe: recipes.Recipe, agent: Agent, problem: Problem, state: RunState) -> tuple[str, list[Policy]]:
    """Of each member: the best by evaluation return, where there was one, else the last."""
    which = "best" if state.best else "last"
    whole = state.agent._replace(learned=state.best["learned"]) if state.best else state.agent
    alone = recipe.members == 1
    parts = [whole if alone else jax.tree.map(lambda x, m=m: x[m], whole) for m in range(recipe.members)]
    return which, [Policy(agent, part, problem, state.stage, state.cycle, recipe) for part in parts]


def _result_rows(values: dict[str, Any], which: str) -> list[tuple[str, str]]:
    mean = console.bounds(values["return_mean"], values["return_ci"])
    rows = [(f"return of the {which} agent", f"{mean}  95% interval over {values['episodes']} episodes")]
    if values["return_best"] is not None:
        rows.append(("best while training", console.number(values["return_best"])))
    rows += [("env steps", f"{values['env_steps']:,}"), ("updates", f"{values['updates']:,}")]
    rows += [
        ("wall-clock time", f"{values['wall_s'] or 0:.1f} s (this process spent {values['compile_s']:.1f} s on compiling)")
    ]
    rows += [(name, str(values[name])) for name in ("curve", "video") if values[name]]
    return [*rows, ("all in", str(values["run_dir"]))]
