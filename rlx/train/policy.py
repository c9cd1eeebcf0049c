"""Trained policies: `load` one from its run folder, act with it, evaluate it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from rlx import envs, keys
from rlx.config import nearest
from rlx.envs.actions import to_native
from rlx.envs.observations import cast, flatten, named
from rlx.envs.wrappers import as_vector
from rlx.precision import in_float32
from rlx.replay import columns
from rlx.train import layout
from rlx.train import run_config as run_configs
from rlx.train import state as states
from rlx.train.checkpoint import Checkpoints
from rlx.train.evaluate import evaluate, evaluate_members
from rlx.train.host import stack
from rlx.train.plan import same_shapes
from rlx.train.schedule import clock_at
from rlx.types import Agent, AgentState, Env, Eval, HostEnv, Key, Leaf, Problem, PyTree, Spec, Step

Which = Literal["best", "last"]


@dataclass(frozen=True)
class Policy:
    """An agent and what it has learned, for notebooks, evaluation and export."""

    agent: Agent
    state: AgentState  # of one member
    problem: Problem
    stage: int = 0  # where the run stood: index into agent.stages, and its cycle
    cycle: int = 0
    run_config: run_configs.RunConfig | None = None  # where it comes from a run folder
    _compiled: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def spec(self) -> Spec:
        return self.problem.envs["train"].spec

    def carry(self, n: int = 1, context: PyTree = None) -> PyTree:
        """What the policy remembers, for ``n`` streams at the start of an episode."""
        return self.agent.carry(self.state, n, context)

    @in_float32
    def act(
        self,
        obs: PyTree | Step,
        carry: PyTree = None,
        key: Key | int = 0,
        mode: str = "eval",
        units: Literal["agent", "env"] = "agent",
    ) -> tuple[np.ndarray, PyTree]:
        """The action and the carry to give next time.

        ``obs``: what the environment emits (an array, or its dict), one observation or a batch [W, ...]; the action has the
        same leading axes. Or a `Step` [W].
        ``carry`` None: an episode begins. ``key`` is used by modes that draw their actions.
        ``units``: "agent", floats in [-1, 1] or the number of a choice from 0 on; or "env", what the environment behind rlx
        takes (`Spec.native_action`), such as ``gymnasium.make(...).step(policy.act(obs, units="env")[0])``.

        Raises:
            ValueError: the mode or the units are unknown, or an observation is not as the spec says.
        """
        if mode not in self.agent.modes:
            raise ValueError(f"{self.agent.name} has no mode {mode!r}.{nearest(mode, self.agent.modes)}")
        if units not in ("agent", "env"):
            raise ValueError(f"units={units!r} is unknown; give 'agent' or 'env'.")
        step, single = (obs, False) if isinstance(obs, Step) else self._step(obs, begins=carry is None)
        if carry is None:
            carry = self.carry(np.shape(step.reward)[0])
        key = keys.root(key) if isinstance(key, (int, np.integer)) else key
        action, carry = self._act(mode)(self.state, self._clock(), carry, step._replace(info={}), key)
        action = np.asarray(action)[0] if single else np.asarray(action)
        return (to_native(self.spec, action) if units == "env" else action), carry

    def actor(self, mode: str) -> Any:
        """``(carry, step, key) -> (action, carry, extras)``, pure: what `rlx.envs.rollout` takes."""
        return lambda carry, step, key: self.agent.act(self.state, self._clock(), carry, step, key, mode)

    def on(self, env: str | Env | HostEnv | None = None, **options: Any) -> Policy:
        """The same policy on another environment of the same shapes; a name is made with the run's repeat and time limit, and
        with ``options``. None, or the name of the run's own: that one, with its options, but for those given here.

        Raises:
            ValueError: unknown, or its observations or actions have other shapes than those trained on.
        """
        if env is None or isinstance(env, str):
            env = self._made(env, options)
        elif options:
            raise ValueError(f"options {sorted(options)} are for environments that are made by name; {env.name} is made.")
        if isinstance(self.spec.obs, Leaf) and not isinstance(env.spec.obs, Leaf):
            env = as_vector(env)
        same_shapes(self.problem.envs["train"], env)
        others = {name: other for name, other in self.problem.envs.items() if name != "eval"}  # where the run was evaluated
        problem = Problem({**others, "train": env}, self.problem.data)
        return replace(self, problem=problem, _compiled={})

    def _made(self, env: str | None, options: dict[str, Any]) -> Env | HostEnv:
        run_config = self.run_config
        if run_config is None:
            if env is None:
                raise ValueError("which environment? This policy is from no run folder that would name one.")
            return envs.make(env, **options)
        own = run_config.env_options if env in (None, run_config.env) else {}
        there = replace(run_config, env=env or run_config.env, env_options={**own, **options}, eval_env_options={}, data=None)
        return there.problem().envs["train"]

    def evaluate(self, episodes: int = 10, seed: int = 0) -> dict[str, np.ndarray]:
        """Whole episodes on keys that training never uses: ``returns`` [E], ``lengths`` [E], ``info/<leaf>`` [E].

        Raises:
            ValueError: the environment has no time limit.
        """
        key = keys.fold(keys.root(seed), "final evaluation")
        return evaluate(self.agent, self.problem, self.state, key, self.stage, self.cycle, episodes)

    def _act(self, mode: str) -> Any:
        if mode not in self._compiled:
            self._compiled[mode] = jax.jit(lambda *args: self.agent.act(*args, mode)[:2])
        return self._compiled[mode]

    def _clock(self) -> Any:
        return clock_at(self.agent, self.stage, self.cycle, 0)

    def _step(self, obs: PyTree, begins: bool) -> tuple[Step, bool]:
        """``obs`` with a leading axis, as a `Step`; whether it had none."""
        emitted = self.spec.native_obs is not None and isinstance(obs, Mapping)
        leaves = self.spec.native_obs if emitted else self.spec.obs
        wanted, given = {k: x.shape for k, x in named(leaves).items()}, _shapes_of(obs)
        single = given == wanted
        batches = {shape[:1] for shape in given.values()}
        if not single and ({k: shape[1:] for k, shape in given.items()} != wanted or len(batches) != 1 or () in batches):
            raise ValueError(
                f"an observation of {self.agent.name} here has shape {_one(wanted)}, or [W] before it; got {_one(given)}."
            )
        obs = cast(leaves, obs)
        obs = jax.tree.map(lambda x: x[None], obs) if single else obs
        n = jax.tree.leaves(obs)[0].shape[0]
        obs = flatten(np, obs, (n,)) if emitted else obs
        no = np.zeros(n, bool)
        return Step(obs, np.zeros(n, np.float32), no, no, np.full(n, begins), {}), single


def _shapes_of(obs: Any, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Shapes by name, as `rlx.envs.observations.named` calls the leaves of a spec."""
    if not isinstance(obs, Mapping):
        return {prefix: np.shape(obs)}
    return {k: s for key, x in obs.items() for k, s in _shapes_of(x, f"{prefix}/{key}" if prefix else str(key)).items()}


def _one(shapes: dict[str, tuple[int, ...]]) -> Any:
    return shapes[""] if set(shapes) == {""} else shapes


def load(run_dir: str | os.PathLike, which: Which | None = "best", member: int = 0) -> Policy:
    """The policy of a run folder: the best by evaluation return while training, or the last; None: the best where there is one.
    Of the newest readable checkpoint only what was learned is read.

    Raises:
        ValueError: no run folder, no readable checkpoint, one of another agent, no such member, nothing evaluated yet.
    """
    return _load(run_dir, which, [member])[member]


def load_members(run_dir: str | os.PathLike, which: Which | None = "best") -> dict[int, Policy]:
    """The policies of all members of a run folder that did not diverge, by number. Raises as `load`."""
    return _load(run_dir, which, None)


@in_float32
def _load(run_dir: str | os.PathLike, which: Which | None, members: Iterable[int] | None) -> dict[int, Policy]:
    if which not in ("best", "last", None):
        raise ValueError(f"which={which!r} is unknown; give 'best' or 'last'.")
    run_config = run_configs.read(run_dir)
    for member in members or ():
        if not 0 <= member < run_config.members:
            raise ValueError(f"{run_dir} has {run_config.members} member(s), counted from 0; there is no member {member}.")
    folder = Path(run_dir) / "checkpoints"
    found = None
    if folder.is_dir():
        with columns.of(f"{run_dir}: its agent is made for its environment and data"):
            problem = run_config.problem()
        agent = run_config.make(problem)
        found = Checkpoints(folder).newest(lambda meta: _template(agent, problem, run_config, meta, folder), part=True)
    if found is None:
        remedy = run_configs.in_waves(run_dir) or "Let its run go on, with the command that began it."
        raise ValueError(f"{run_dir} has no checkpoint yet. {remedy}")
    _, tree, meta = found
    if which == "best" and not meta["has_best"]:
        raise ValueError(f"{run_dir} has no best policy, as nothing was evaluated so far: give which='last'.")
    which = which or ("best" if meta["has_best"] else "last")
    policies = {}
    for number in np.flatnonzero(meta["alive"]).tolist() if members is None else members:
        state, cycle = _member(tree, meta, None if run_config.solo else number, which)
        policies[number] = Policy(agent, state, problem, meta["stage"], cycle, run_config)
    return policies


def _member(tree: PyTree, meta: dict[str, Any], member: int | None, which: Which) -> tuple[AgentState, int]:
    """What one member has learned (None: the run without members), and the cycle when it had."""
    row = None
    if member is not None:
        held = member in meta["member_ids"]
        row, tree = (meta["member_ids"].index(member), tree) if held else (member, tree["retired"])
    state, cycle = tree["agent"], meta["cycle"]
    if which == "best":
        state, cycle = state._replace(learned=tree["best"]["learned"]), tree["best"]["cycle"]
    state, cycle = (state, cycle) if row is None else jax.tree.map(lambda x: x[row] if np.ndim(x) else x, (state, cycle))
    return state, int(cycle)


def evaluate_all(policies: Mapping[int, Policy], episodes: int | Eval, seed: int) -> dict[str, np.ndarray]:
    """Whole episodes of members of one run, by number, at once: as `Policy.evaluate`, or those of an `Eval`; [M, E]. Each has
    starts of its own, since an interval over seeds takes members as independent.

    Raises:
        ValueError: the environment has no time limit.
    """
    first, root = next(iter(policies.values())), keys.fold(keys.root(seed), "final evaluation")
    roots = jax.vmap(lambda number: keys.fold(root, number))(np.array(list(policies)))
    states_, cycle = stack([p.state for p in policies.values()]), max(p.cycle for p in policies.values())
    return evaluate_members(first.agent, first.problem, states_, roots, first.stage, cycle, episodes)


def initial(run_config: run_configs.RunConfig) -> AgentState | None:
    """What the run begins with, where its config names another in ``init_from``: the best agent by evaluation return, or the
    last where nothing was evaluated. Of one run for all members; of as many members, of each for its own.

    Raises:
        ValueError: as `load`; or it holds another number of members.
    """
    folder = run_config.init_from
    if folder is None:
        return None
    there, here = run_configs.read(folder).members, replace(run_config, part=None).members
    if there == 1:
        return load(folder, None).state
    if there != here:
        raise ValueError(f"{folder} holds {there} members, this run has {here}: give the folder of one run, or of as many.")
    return stack([p.state for p in _load(folder, None, range(*(run_config.part or (here,)))).values()])


def _template(agent: Agent, problem: Problem, run_config: run_configs.RunConfig, meta: dict[str, Any], folder: Path) -> PyTree:
    """The learned part of a checkpoint, as shapes."""
    layout.check(meta.get("rlx"), folder)
    if meta.get("agent") != agent.name:
        raise ValueError(f"{folder} holds a run of {meta.get('agent')!r}, not of {agent.name!r} as {run_configs.FILE} says.")
    state, _ = states.outline(agent, problem, meta["stage"])

    def part(lead: tuple[int, ...]) -> PyTree:
        wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype), state)
        best = {"score": np.zeros(lead, np.float32), "learned": wide.learned, "cycle": np.zeros(lead, np.int64)}
        return {"agent": wide, **({"best": best} if meta["has_best"] else {})}

    if run_config.solo:
        return part(())
    return {**part((len(meta["member_ids"]),)), **({"retired": part((run_config.members,))} if meta["retired"] else {})}
