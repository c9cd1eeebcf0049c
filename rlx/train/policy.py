"""Trained policies: `load` one from its run folder, act with it, evaluate it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx.config import nearest
from rlx.train import recipe as recipes
from rlx.train import state as states
from rlx.train.evaluate import Evaluator
from rlx.train.program import Program
from rlx.types import Agent, AgentState, Env, Eval, HostEnv, Key, Leaf, Problem, PyTree, RunState, Spec, Step

Which = Literal["best", "last"]


@dataclass(frozen=True)
class Policy:
    """An agent and what it has learned, for notebooks, evaluation and export."""

    agent: Agent
    state: AgentState  # of one member
    problem: Problem
    stage: int = 0  # where the run stood: index into agent.stages, and its cycle
    cycle: int = 0
    recipe: recipes.Recipe | None = None  # where it comes from a run folder
    _compiled: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def spec(self) -> Spec:
        return self.problem.envs["train"].spec

    def carry(self, n: int = 1, context: PyTree = None) -> PyTree:
        """What the policy remembers, for ``n`` streams at the start of an episode."""
        return self.agent.carry(self.state, n, context)

    def act(
        self, obs: PyTree | Step, carry: PyTree = None, key: Key | int = 0, mode: str = "eval"
    ) -> tuple[np.ndarray, PyTree]:
        """The action in [-1, 1] and the carry to give next time.

        ``obs``: one observation of the spec's shape, or a batch [W, ...]; the action has the same leading axes. Or a `Step` [W].
        ``carry`` None: an episode begins. ``key`` is used by modes that draw their actions.

        Raises:
            ValueError: the mode is unknown, or an observation has another shape than the spec says.
        """
        if mode not in self.agent.modes:
            raise ValueError(f"{self.agent.name} has no mode {mode!r}.{nearest(mode, self.agent.modes)}")
        step, single = (obs, False) if isinstance(obs, Step) else self._step(obs, begins=carry is None)
        if carry is None:
            carry = self.carry(np.shape(step.reward)[0])
        key = jax.random.key(key) if isinstance(key, int) else key
        action, carry = self._act(mode)(self.state, self._clock(), carry, step._replace(info={}), key)
        action = jax.tree.map(np.asarray, action)
        return (jax.tree.map(lambda x: x[0], action) if single else action), carry

    def evaluate(self, episodes: int = 10, seed: int = 0, env: Env | HostEnv | None = None) -> dict[str, np.ndarray]:
        """Whole episodes on keys that training never uses: ``returns`` [E], ``lengths`` [E], ``info/<leaf>`` [E].

        Raises:
            ValueError: ``env`` has another observation or action than what the policy was trained on, or no time limit.
        """
        problem = self.problem
        if env is not None:
            same_shapes(self.spec, env.spec, self.problem.envs["train"].name, env.name)
            problem = Problem({**problem.envs, "train": env}, problem.data)
        program = Program(self.agent, problem, self.stage, states.frozen_data(problem), None)
        key = keys.fold(jax.random.key(seed), "final evaluation")
        reports = {"tally": None, "running": None}
        run = RunState(key, self.stage, self.cycle, self.state, {}, dict(problem.data), {}, {}, np.bool_(True), reports)
        evaluator = Evaluator(program, Eval("final", "train", episodes=episodes))
        try:
            return evaluator(run)
        finally:
            evaluator.env.close()

    def _act(self, mode: str) -> Any:
        if mode not in self._compiled:
            self._compiled[mode] = jax.jit(lambda *args: self.agent.act(*args, mode)[:2])
        return self._compiled[mode]

    def _clock(self) -> Any:
        from rlx.train.program import clock_at

        return clock_at(self.agent, self.stage, self.cycle, 0)

    def _step(self, obs: PyTree, begins: bool) -> tuple[Step, bool]:
        """``obs`` with a leading axis, as a `Step`; whether it had none."""
        leaves, arrays = jax.tree.leaves(self.spec.obs), jax.tree.leaves(obs)
        shapes = [np.shape(x) for x in arrays]
        wanted = [leaf.shape for leaf in leaves]
        single = shapes == wanted
        if not single and [s[1:] for s in shapes] != wanted:
            raise ValueError(f"an observation of {self.agent.name} here has shape {_one(wanted)}, or [W] before it; got {_one(shapes)}.")
        cast = lambda leaf, x: np.asarray(x, leaf.dtype)[None] if single else np.asarray(x, leaf.dtype)
        obs = jax.tree.map(cast, self.spec.obs, obs, is_leaf=lambda x: isinstance(x, Leaf))
        n = jax.tree.leaves(obs)[0].shape[0]
        no = np.zeros(n, bool)
        return Step(obs, np.zeros(n, np.float32), no, no, np.full(n, begins), {}), single


def _one(items: list) -> Any:
    return items[0] if len(items) == 1 else items


def same_shapes(trained: Spec, given: Spec, trained_name: str, name: str) -> None:
    """Raises ValueError where a policy for one spec cannot act on the other."""
    for what, a, b in (("observation", trained.obs, given.obs), ("action", trained.action, given.action)):
        shape = lambda tree: {jax.tree_util.keystr(p) or what: leaf.shape for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        if shape(a) != shape(b):
            raise ValueError(
                f"a policy trained on {trained_name} cannot act on {name}: "
                f"its {what} has shape {_one(list(shape(a).values()))}, there it is {_one(list(shape(b).values()))}."
            )


def load(run_dir: str | os.PathLike, which: Which = "best", member: int = 0) -> Policy:
    """The policy of a run folder: the best by evaluation return, or the last.

    Raises:
        ValueError: no run folder, no readable checkpoint, one of another agent, no such member, nothing evaluated yet.
    """
    raise NotImplementedError
