"""The config of a run: all that decides its result, as the ``config.json`` of its run folder."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

from rlx import agents, config, envs, keys, plugins
from rlx.envs import camera, options, scores
from rlx.envs.observations import as_vectors
from rlx.files import read_json, write_text
from rlx.precision import Precision, exact
from rlx.replay import columns
from rlx.replay.datasets import Where, replay_of
from rlx.train import layout, origin
from rlx.train.checkpoint import Checkpoints
from rlx.train.plan import check_data, same_shapes
from rlx.train.population import each_once, members
from rlx.types import Agent, Collect, Env, Eval, Host, HostEnv, Key, Members, Problem, Sampler, Stage, Update

FILE = "config.json"
MOST_SEEDS = 100_000


@dataclass(frozen=True)
class RunConfig:
    """Same run config, same machine: same result. How a run is watched and kept (`rlx.train.Options`) is not part of it."""

    agent: str  # a name in rlx.agents.list()
    env: str  # a name that rlx.envs.make knows
    config: Any  # the agent's config
    repeat: int | None = config.size(None, least=1)  # sim steps per decision; None: the environment's own
    time_limit: int | None = config.size(None, least=1)  # decisions per episode; None: the environment's own
    data: str | None = None  # a file, folder or glob that rlx.replay.load reads, for agents that learn from data
    data_options: dict[str, Any] = field(default_factory=dict)  # fields of rlx.replay.datasets.Reading, or words "name=value"
    data_in: Where = "device"  # where its rows lie: on disk they may be larger than memory
    seed: int = config.size(0, least=0, most=keys.MOST_SEED)
    seeds: int = config.size(1, least=1, most=MOST_SEEDS)  # so many from `seed` on; several run as one program
    settings: tuple[dict[str, float], ...] = ()  # traced values by name, each with every seed; () is those of the config
    part: tuple[int, int] | None = None  # first and last + 1 of the members that run here; None: all
    precision: Precision = "default"  # of products in networks; all others are exact
    init_from: str | None = None  # the run folder whose agent, as learned, is what this one begins with
    imports: tuple[str, ...] = ()  # modules that register agent or environment, imported when this is read back
    env_options: dict[str, Any] = field(default_factory=dict)  # of the environment, by name; or words "name=value"
    eval_env_options: dict[str, Any] = field(default_factory=dict)  # where it is evaluated those that differ

    def __post_init__(self) -> None:
        for name in ("env_options", "eval_env_options", "data_options"):
            given, flag = getattr(self, name), f"--{name.removesuffix('s').replace('_', '-')}"
            words = isinstance(given, (tuple, list))
            object.__setattr__(self, name, options.parsed(given, flag) if words else dict(given))
        for name in ("env_options", "eval_env_options"):  # a run is read from other folders than it was begun in
            object.__setattr__(self, name, camera.anchored(getattr(self, name)))
        for name in ("data", "init_from"):  # likewise
            if getattr(self, name):
                object.__setattr__(self, name, os.path.abspath(os.path.expanduser(getattr(self, name))))
        if keys.checked(self.seed) + self.seeds - 1 > keys.MOST_SEED:
            raise ValueError(f"seeds={self.seeds} from seed={self.seed} on go past {keys.MOST_SEED}, the largest: begin lower.")
        each_once("settings", [tuple(f"{k}={v}" for k, v in sorted(setting.items())) for setting in self.settings])
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision={self.precision!r} is unknown; give one of {', '.join(get_args(Precision))}.")

    def problem(self) -> Problem:
        """Raises ValueError where the environment is unknown or cannot be had, or the dataset is not as it should be."""
        env = self._env()
        train, data = agents.seen_by(self.agent, env), {}
        if self.data:
            data["data"] = replay_of(self.data, self.data_in, env.spec.repeat, **self.data_options)
            if isinstance(env.spec.obs, dict) and not isinstance(train.spec.obs, dict):
                data["data"] = as_vectors(data["data"], env, "data")
        if not self.eval_env_options:
            return Problem({"train": train}, data)
        other = agents.seen_by(self.agent, self._env(**self.eval_env_options))
        same_shapes(train, other)
        return Problem({"train": train, "eval": other}, data)

    def _env(self, **changed: Any) -> Env | HostEnv:
        """The environment, with some options ``changed``."""
        given: dict[str, Any] = {"repeat": self.repeat, "time_limit": self.time_limit}
        given = {k: v for k, v in given.items() if v is not None}
        return envs.make(self.env, **given, **{**self.env_options, **changed})

    def with_options(self, **env_options: Any) -> RunConfig:
        """The same but for these options of the environment."""
        return replace(self, env_options={**self.env_options, **env_options})

    def reference(self) -> scores.Reference | None:
        """What returns of this run are measured by; None where nothing is known, or its settings change what is paid."""
        return scores.of_run(self.env, self.time_limit, self.env_options)

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
        try:
            json.dumps([self.env_options, self.eval_env_options])
        except (TypeError, ValueError) as error:
            given = {**self.env_options, **self.eval_env_options}
            raise ValueError(f"options of {self.env} must be what JSON can say ({error}); got {given}.") from error
        own |= {"config": json.loads(config.to_json(self.config)), "versions": origin.versions()}
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


def record(run_dir: str | os.PathLike) -> dict[str, Any]:
    """All that the ``config.json`` of a run folder says: the run config, and what the run was made of (`rlx.train.origin`).

    Raises:
        ValueError: there is none, it cannot be read, or it is of an older layout.
    """
    path = Path(run_dir) / FILE
    if not path.exists():
        remedy = in_waves(run_dir) or "Give one that `rlx train` has written."
        raise ValueError(f"{run_dir} is no run folder: it has no {FILE}. {remedy}")
    tree = read_json(path)
    written = tree.get("versions")
    layout.check(written.get("rlx") if isinstance(written, dict) else None, run_dir)
    return tree


def in_waves(run_dir: str | os.PathLike) -> str:
    """What to say to who asks ``run_dir`` for members that were trained in waves; empty where it has none."""
    folders = sorted(Path(run_dir).glob(f"wave[0-9]*/{FILE}"), key=lambda p: (len(p.parts[-2]), p.parts[-2]))
    return f"Its members were trained in waves: give one of {', '.join(str(p.parent) for p in folders)}." if folders else ""


def read(run_dir: str | os.PathLike) -> RunConfig:
    """The run config of a run folder.

    Raises:
        ValueError: there is none, it is of an older layout, it cannot be read back, or one of its imports is not to be had.
    """
    path = Path(run_dir) / FILE
    tree = {k: v for k, v in record(run_dir).items() if k not in origin.KEYS}
    try:
        imports, name = tree.get("imports", []), tree.get("agent")
        if not isinstance(imports, list) or not all(isinstance(x, str) for x in imports):
            raise ValueError(f"imports is {imports!r}, it must be a list of modules")
        plugins.import_modules(tuple(imports), f"{path} needs {plugins.FLAG}")
        if not isinstance(name, str) or not isinstance(tree.get("config"), dict) or not tree.get("env"):
            raise ValueError("it does not name an agent, its config and an environment")
        found = config.replace(RunConfig(name, "", agents.config(name)), tree)
        config.check(found)
        first, last = found.part or (0, 1)
        if not 0 <= first < last <= len(found.settings or "1") * found.seeds and found.part:
            raise ValueError(f"part is {found.part}, of {replace(found, part=None).members} members")
        return found
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a config of this version of rlx: {error}".rstrip(".") + ".") from None


def identities(run_dir: str | os.PathLike) -> list[tuple[str, int]]:
    """Who each member of a run folder is, whatever run it is part of: all that decides its result but its seed, as JSON with
    the config's values by dotted name, and its seed. Members that share the first are seeds of one setting; that share both,
    copies. Raises as `read`."""
    found, digest = read(run_dir), record(run_dir).get("data_digest")
    apart = ("config", "seed", "seeds", "settings", "part", "imports")  # which module brings a name decides nothing
    own = {f.name: getattr(found, f.name) for f in fields(found) if f.name not in apart}
    own |= {"data_digest": digest} if digest else {}
    values = {**config.static(found.config), **config.hyper(found.config)}
    return [(json.dumps({**own, "config": {**values, **setting}}, sort_keys=True), seed) for seed, setting in found.who()]


def keep(run_config: RunConfig, run_dir: Path, agent: Agent | None = None, allow_changes: bool = False) -> bool:
    """Writes the run config into ``run_dir``, and what the run is made of; True where the same one was there already, so that
    its run goes on. With the ``agent`` of the run config also where the one there has a smaller budget; its result goes, since
    it is about to change. ``allow_changes``: also where the dataset's content or versions of packages differ, which is kept.

    Raises:
        ValueError: the folder holds the run of another run config, one that has gone on to a stage after the longer one, or one
            that was made of something else.
        OSError: the folder cannot be written.
    """
    path, now = run_dir / FILE, origin.origin(run_config.data)
    if not path.exists():
        run_dir.mkdir(parents=True, exist_ok=True)
        write_text(path, _whole(run_config, now))
        return False
    old, before = read(run_dir), record(run_dir)
    if old.agent != run_config.agent:
        raise ValueError(f"{run_dir} holds a run of {old.agent!r}, not of {run_config.agent!r}. Give another --run-dir.")
    differs = old.differences(run_config)
    longer = bool(differs) and agent is not None and old.longer(run_config)
    if differs and not longer:
        budget = " or ".join(f"agent.{k}" for k in config.budget(run_config.config))
        raise ValueError(
            f"{run_dir} holds a run with another configuration ({'; '.join(differs)}). "
            f"Give another --run-dir, or the flags that it was made with; only {budget or 'its budget'} may grow."
        )
    changed = origin.differences(before, now, run_config.data)
    if changed and not allow_changes:
        raise ValueError(
            f"{run_dir} was begun with other things ({'; '.join(changed)}), and its result would be that of neither. Put them "
            "back, give another --run-dir, or go on all the same with --allow-changes."
        )
    moved = origin.elsewhere(before, now)
    if moved:
        warnings.warn(f"{run_dir}: {moved}.", stacklevel=2)
    if longer and agent is not None:
        saved = Checkpoints(run_dir / "checkpoints")
        newest = saved.last()
        if newest is not None:
            layout.same_past(agent, saved.meta(int(newest.name)), run_dir)
        (run_dir / "result.json").unlink(missing_ok=True)
    if longer or changed:
        kept = {k: before[k] for k in origin.KEYS if k in before and k != "earlier"}
        earlier = before["earlier"] if isinstance(before.get("earlier"), list) else []
        write_text(path, _whole(run_config, now | {"earlier": [*earlier, kept]} if changed else before))
    return True


def _whole(run_config: RunConfig, made_of: dict[str, Any]) -> str:
    own = json.loads(run_config.to_json())
    return json.dumps({**own, **{k: made_of[k] for k in origin.KEYS if k in made_of}}, indent=2) + "\n"
