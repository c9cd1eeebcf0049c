"""The config of a run: all that decides its result, as the ``config.json`` of its run folder."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from rlx import _versions, agents, config, envs, keys, plugins, replay
from rlx._version import __version__
from rlx.files import write_text
from rlx.precision import Precision, exact
from rlx.replay import columns
from rlx.train import layout
from rlx.train.checkpoint import Checkpoints
from rlx.train.plan import check_data
from rlx.train.population import members
from rlx.types import Agent, Collect, Eval, Host, Key, Members, Problem, Sampler, Stage, Update

FILE = "config.json"


@dataclass(frozen=True)
class RunConfig:
    """Same run config, same machine: same result. How a run is watched and kept (`rlx.train.Options`) is not part of it."""

    agent: str  # a name in rlx.agents.list()
    env: str  # a name that rlx.envs.make knows
    config: Any  # the agent's config
    repeat: int | None = None  # sim steps per decision; None: the environment's own
    time_limit: int | None = None  # decisions per episode; None: the environment's own
    data: str | None = None  # a file of rlx.replay.datasets, for agents that learn from one
    seed: int = 0
    seeds: int = 1  # so many from `seed` on; with several members they run as one program
    settings: tuple[dict[str, float], ...] = ()  # traced values by name, each with every seed; () is those of the config
    part: tuple[int, int] | None = None  # first and last + 1 of the members that run here; None: all
    precision: Precision = "default"  # of products in networks; all others are exact
    init_from: str | None = None  # the run folder whose agent, as learned, is what this one begins with
    imports: tuple[str, ...] = ()  # modules that register agent or environment, imported when this is read back

    def __post_init__(self) -> None:
        if keys.checked(self.seed) + self.seeds - 1 > keys.MOST_SEED:
            raise ValueError(f"seeds={self.seeds} from seed={self.seed} on go past {keys.MOST_SEED}, the largest: begin lower.")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision={self.precision!r} is unknown; give one of {', '.join(get_args(Precision))}.")

    def problem(self) -> Problem:
        """Raises ValueError where the environment is unknown or cannot be had, or the dataset is not as it should be."""
        given = {"repeat": self.repeat, "time_limit": self.time_limit}
        data = {"data": replay.from_episodes(replay.datasets.read(self.data))} if self.data else {}
        env = envs.make(self.env, **{k: v for k, v in given.items() if v is not None})
        return Problem({"train": agents.seen_by(self.agent, env)}, data)

    def make(self, problem: Problem) -> Agent:
        """Raises ValueError where config, problem and agent do not go together."""
        agent = agents.make(self.agent, self.config, problem)
        with columns.of(self.data) if self.data else contextlib.nullcontext():
            check_data(agent, problem)
        return _exactly(agent) if self.precision == "highest" else agent

    def who(self) -> list[tuple[int, dict[str, float]]]:
        """Seed and setting of each member: settings first, seeds within each."""
        seeds = range(self.seed, self.seed + self.seeds)
        return [(seed, setting) for setting in self.settings or ({},) for seed in seeds][slice(*(self.part or (None,)))]

    @property
    def members(self) -> int:
        return len(self.who())

    @property
    def solo(self) -> bool:
        """Whether it is one run without a member axis."""
        return self.members == 1 and not self.settings and self.part is None

    def key(self) -> Key | Members:
        """The root of all randomness: of each member that of its solo run."""
        return keys.root(self.seed) if self.solo else members(self.who())

    def to_json(self) -> str:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "config"}
        own |= {"config": json.loads(config.to_json(self.config)), "versions": versions()}
        return json.dumps(own, indent=2) + "\n"

    def differences(self, other: RunConfig) -> list[str]:
        """Where ``other`` departs from this one: ``"seed: 0, not 1"``."""
        mine, theirs = _flat(self), _flat(other)
        return [f"{k}: {mine.get(k)!r}, not {theirs.get(k)!r}" for k in {**mine, **theirs} if mine.get(k) != theirs.get(k)]

    def longer(self, other: RunConfig) -> bool:
        """Whether ``other`` is this run with a larger budget, and nothing else differs."""
        if self.agent != other.agent:
            return False
        mine, theirs = config.budget(self.config), config.budget(other.config)
        larger = all(mine[k] <= theirs[k] for k in mine)
        return larger and not replace(self, config=config.replace(self.config, theirs)).differences(other)


def _exactly(record: Any) -> Any:
    """An agent, or a part of one, with all of its functions `rlx.precision.exact`."""
    if isinstance(record, tuple):
        return tuple(map(_exactly, record))
    if isinstance(record, (Agent, Stage, Collect, Update, Host, Eval)):
        own = {f.name: getattr(record, f.name) for f in fields(record) if f.name not in ("config", "context")}
        return replace(record, **{name: _exactly(value) for name, value in own.items()})
    return exact(record) if callable(record) and not isinstance(record, Sampler) else record


def _flat(run_config: RunConfig) -> dict[str, Any]:
    out: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for name, entry in value.items():
                walk(f"{prefix}.{name}" if prefix else name, entry)
        else:
            out[prefix] = value

    tree = json.loads(run_config.to_json())
    del tree["versions"], tree["imports"]  # which module brings a name decides nothing
    own = tree.pop("config")
    walk("", tree)
    walk("agent", own)  # as the flags are called
    return out


def versions() -> dict[str, str]:
    names = ("jax", "jaxlib", "numpy", "flax", "optax", "pysindy", "mujoco", "mujoco-mjx", "dm_control", "brax", "gymnasium")
    found = {name: _versions.installed(name) for name in names}
    return {"rlx": __version__, "python": platform.python_version(), **{k: v for k, v in found.items() if v}}


def read(run_dir: str | os.PathLike) -> RunConfig:
    """The run config of a run folder.

    Raises:
        ValueError: there is none, it is of an older layout, it cannot be read back, or one of its imports is not to be had.
    """
    path = Path(run_dir) / FILE
    try:
        tree = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{run_dir} is no run folder: it has no {FILE}. Give one that `rlx train` has written.") from None
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from None
    layout.check(tree.pop("versions", {}).get("rlx"), run_dir)
    imports = tuple(tree.pop("imports", ()))
    plugins.import_modules(imports, f"{path} needs {plugins.FLAG}")
    try:
        own = config.from_json(agents.config(tree["agent"]), json.dumps(tree.pop("config")))
        settings, part = tuple(tree.pop("settings", ())), tree.pop("part", None)
        return RunConfig(**tree, config=own, settings=settings, part=part and tuple(part), imports=imports)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a config of this version of rlx: {error}.") from None


def keep(run_config: RunConfig, run_dir: Path, agent: Agent | None = None) -> bool:
    """Writes the run config into ``run_dir``; True where the same one was there already, so that its run goes on. With the
    ``agent`` of the run config also where the one there has a smaller budget; its result goes, since it is about to change.

    Raises:
        ValueError: the folder holds the run of another run config, or one that has gone on to a stage after the longer one.
        OSError: the folder cannot be written.
    """
    path = run_dir / FILE
    if path.exists():
        old = read(run_dir)
        if old.agent != run_config.agent:
            raise ValueError(f"{run_dir} holds a run of {old.agent!r}, not of {run_config.agent!r}. Give another --run-dir.")
        differs = old.differences(run_config)
        if differs and agent is not None and old.longer(run_config):
            saved = Checkpoints(run_dir / "checkpoints")
            newest = saved.last()
            if newest is not None:
                layout.same_past(agent, saved.meta(int(newest.name)), run_dir)
            write_text(path, run_config.to_json())
            (run_dir / "result.json").unlink(missing_ok=True)
        elif differs:
            budget = " or ".join(f"agent.{k}" for k in config.budget(run_config.config))
            raise ValueError(
                f"{run_dir} holds a run with another configuration ({'; '.join(differs)}). "
                f"Give another --run-dir, or the flags that it was made with; only {budget or 'its budget'} may grow."
            )
        return True
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(path, run_config.to_json())
    return False
