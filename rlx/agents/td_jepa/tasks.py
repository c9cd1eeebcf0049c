"""The tasks that an agent is asked: where their rewards come from, and how all of them are evaluated at once."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import replay
from rlx.agents.td_jepa.config import ADAPT, PREFILL, Config
from rlx.agents.td_jepa.features.base import SOURCE
from rlx.envs.ogbench import Goal, goals, single_task
from rlx.envs.rewards import Reward
from rlx.keys import roots
from rlx.replay.buffer import overlaid
from rlx.replay.flags import FIRST, has
from rlx.replay.windows import Index, admissible, capacity, draw_uniform, steps_back
from rlx.types import PHYSICS, Array, Clock, Env, Eval, HostEnv, Key, Problem, ReplayState, Sampler, Spec, Task

GIVEN = "tasks"  # the name of given rewards in `rlx.types.Problem.data`
NOW = Clock(*(np.int32(0) for _ in range(3)))


@dataclass(frozen=True)
class Tasks:
    """By name, in one order. Their rewards come from the first of these that there is:

    - ``Problem.data["tasks"]``: {"index": (t [N], w [N]) of transitions in the dataset, "rewards": {name: [N]}};
    - the environment's `rlx.types.Spec.tasks`, which score observations and actions;
    - the goals of OGBench, where the dataset has no rewards: "task1" and so on;
    - the rewards in the dataset, one task called "reward": of arriving; as OGBench pays, of being where the action is taken.
    """

    names: tuple[str, ...]
    own: int  # the task of the environment itself
    scores: tuple[Task, ...] = ()
    given: bool = False
    goals: tuple[Goal, ...] = ()
    before: bool = False  # rewards are of the state in which the action was taken

    @staticmethod
    def of(problem: Problem, spec: Spec, params: Any) -> Tasks:
        """Raises ValueError for given rewards of another form."""
        if GIVEN in problem.data:
            return Tasks(_checked(problem.data[GIVEN], problem.data[SOURCE]), 0, given=True)
        if spec.tasks:
            return Tasks(tuple(spec.tasks), int(params["task"]), tuple(spec.tasks.values()))
        found, own = goals_of(problem.envs["train"], problem.data.get(SOURCE))
        if found:
            return Tasks(tuple(f"task{i + 1}" for i in range(len(found))), own, goals=found)
        return Tasks(("reward",), 0, before=single_task(problem.envs["train"].name))

    def samples(self, c: Config, hyper: dict[str, Array], sources: dict[str, Any], key: Key) -> tuple[np.ndarray, np.ndarray]:
        """Observations [N, ...] and each task's rewards [K, N] for being there."""
        if self.given:
            t, w = (jnp.asarray(x) for x in sources[GIVEN]["index"])
            rewards = np.stack([np.asarray(sources[GIVEN]["rewards"][name]) for name in self.names])
            return arrivals(sources[SOURCE], t, w, c.frames), rewards
        drawn = transitions_of(sources[SOURCE], c.inference, c.frames, hyper, key)
        if self.goals:
            held, (t, w) = stored(sources[SOURCE]), drawn.index
            after = {name: np.asarray(held[name])[(t + 1) % len(held[name]), w] for name in self.goals[0].reads}
            return drawn.next_obs, np.stack([goal.rewards(after) for goal in self.goals])
        if not self.scores:
            return drawn.obs if self.before else drawn.next_obs, drawn.reward[None]
        return drawn.next_obs, np.stack([self.scored(i, np, drawn.next_obs, drawn.action) for i in range(len(self.names))])

    def scored(self, number: int, xp: Any, obs: Array, action: Array) -> Array:
        """Rewards [...] of one of the tasks that score."""
        score = self.scores[number].score
        assert score is not None
        return xp.broadcast_to(score(xp, obs, action), obs.shape[:-1])

    def decision_rewards(self, data: ReplayState) -> np.ndarray:
        """float32 [C, W]: of rows without rewards, those of the environment's own goal as OGBench pays them, at the row after a
        decision for the state before it; 0 where an episode begins."""
        goal, held = self.goals[self.own], stored(data)
        lead = np.shape(data.index.flags)
        states = {name: np.asarray(held[name]) for name in goal.reads}
        here = goal.rewards({name: x.reshape(-1, x.shape[-1]) for name, x in states.items()}).reshape(lead)
        return np.where(has(np.asarray(data.index.flags), FIRST), np.float32(0), np.roll(here, 1, 0))


def transitions_of(data: ReplayState, n: int, frames: int, hyper: dict[str, Array], key: Key) -> replay.Transitions:
    """``n`` transitions as numpy, wherever the rows lie."""
    sampler, draw = _sampler(n, frames)
    index = draw(data._replace(data=None), hyper, key)
    return jax.tree.map(np.asarray, sampler.read({SOURCE: data}, jax.tree.map(np.asarray, index)))


@functools.cache
def _sampler(n: int, frames: int) -> tuple[Sampler, Any]:
    """And its draw, compiled once."""
    sampler = replay.transitions(n, source=SOURCE, stack=frames)
    return sampler, jax.jit(lambda data, hyper, key: sampler.draw({SOURCE: data}, hyper, NOW, key))


def arrivals(source: Any, t: Array, w: Array, frames: int) -> np.ndarray:
    """The observations after rows (t [N], w [N]) of a dataset, of so many stacked frames."""
    ring = jax.tree.map(jnp.asarray, source.index)
    places = np.asarray(steps_back(ring, Index((t + 1) % capacity(ring), w), frames - 1))
    obs = np.asarray(source.data.obs)
    return np.concatenate([obs[places[:, i], np.asarray(w)] for i in reversed(range(frames))], -1)


def relabelled(data: ReplayState, rewards: Mapping[str, Reward], n: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """What `rlx.types.Problem.data` takes as "tasks": of ``n`` transitions of a dataset with stored physics what other tasks
    would have paid, as in ``{"spin": reward_of("dmc:walker-spin")}`` (`rlx.envs.rewards`).

    Raises:
        ValueError: the rows hold no physics, or that of another environment.
    """
    rows = overlaid(data)
    if PHYSICS not in rows.info:
        raise ValueError("the data hold no physics to pay for: collect them with physics, as rlx collect does where it can.")
    index = draw_uniform(jax.tree.map(jnp.asarray, data.index), roots([seed])[0], n, 2)
    t, w = np.asarray(index.t), np.asarray(index.w)
    after = (t + 1) % rows.reward.shape[0]
    before, physics = (np.asarray(rows.info[PHYSICS])[i, w] for i in (t, after))
    action = np.asarray(rows.action)[t, w]
    found = {name: np.asarray(reward(physics, action, before), np.float32) for name, reward in rewards.items()}
    return {"index": (t, w), "rewards": found}


def goals_of(env: Env | HostEnv, data: Any) -> tuple[tuple[Goal, ...], int]:
    """`goals` of ``env``, where ``data`` (a replay, or None) have no rewards and hold what they are computed from. Warns where
    they do not."""
    if data is None or np.any(np.asarray(overlaid(data).reward)):
        return (), 0
    found, own = goals(env.name)
    lacking = [name for name in found[0].reads if name not in stored(data)] if found else []
    if lacking:
        warnings.warn(
            f"td_jepa: the data have no rewards and, of {env.name}, no {' and no '.join(lacking)} to compute them from, so the "
            "z of its task means nothing: give the file as it was downloaded, or that of one task with rewards. Goals that are "
            "observations can be asked for all the same (ZeroShot.infer_goal).",
            stacklevel=2,
        )
    return ((), 0) if lacking else (found, own)


def stored(data: ReplayState) -> dict[str, Any]:
    """What is stored beside observations, by name. Physics begin with ``qpos``."""
    info = overlaid(data).info
    return {**({"qpos": info[PHYSICS]} if PHYSICS in info else {}), **info}


def _checked(given: Any, data: ReplayState) -> tuple[str, ...]:
    form = 'give {"index": (t [N], w [N]), "rewards": {name: [N]}}'
    whole = isinstance(given, dict) and set(given) == {"index", "rewards"}
    if not whole or not isinstance(given["rewards"], Mapping) or not given["rewards"] or len(given["index"]) != 2:
        raise ValueError(f"td_jepa: the data {GIVEN!r} are {type(given).__name__} of another form: {form}.")
    rewards, (t, w) = {k: np.asarray(r) for k, r in given["rewards"].items()}, map(np.asarray, given["index"])
    sizes = {"t": t.shape, "w": w.shape, **{name: r.shape for name, r in rewards.items()}}
    if len(set(sizes.values())) > 1 or t.ndim != 1 or not len(t):
        raise ValueError(f"td_jepa: index and rewards of the data {GIVEN!r} have shapes {sizes}: {form}, all of one length.")
    wrong = [name for name, r in rewards.items() if r.dtype.kind not in "fiub" or not np.isfinite(r).all()]
    if wrong:
        raise ValueError(f"td_jepa: rewards of the tasks {', '.join(wrong)} are not all finite.")
    ring, lead = jax.tree.map(jnp.asarray, data.index), np.shape(data.index.flags)
    inside = all(x.dtype.kind in "iu" and (x >= 0).all() and (x < size).all() for x, size in zip((t, w), lead, strict=True))
    if not inside or not admissible(ring, Index(jnp.asarray(t), jnp.asarray(w)), 2).all():
        raise ValueError(f"td_jepa: the index of the data {GIVEN!r} names no transitions of the dataset, rows {list(lead)}.")
    return tuple(sorted(rewards))


def evaluations(c: Config, problem: Problem, tasks: Tasks, every: dict[str, int]) -> tuple[Eval, ...]:
    """By stage, which has them ``every`` so many cycles. While it learns for all tasks: these as one batch where the
    environment says by a parameter which of them pays, each stream with its own z; else each on the environment of its name,
    or the only one on that which there is. While it adapts: the environment's own; online also before the first update."""
    where, when = problem.evaluated, (PREFILL, ADAPT) if c.adapt_online else (ADAPT,)
    adapted = [Eval(stage, where, c.eval_episodes, k, stages=when) for stage, k in every.items() if stage == ADAPT]
    return (*(e for stage, k in every.items() if stage != ADAPT for e in _of_all(c, problem, tasks, k, stage)), *adapted)


def of_each(names: Sequence[str], numbers: Sequence[int], env: Env | HostEnv, episodes: int, where: str) -> Eval:
    """``episodes`` of each of ``names``, the agent's tasks with these ``numbers``, as one batch, each stream with its own z. A
    device environment is told by a parameter which of its tasks pays; streams of a host environment are `side_by_side`."""
    which = np.repeat(np.asarray(numbers, np.int32), episodes)
    one = Eval("tasks", where, len(which), context=which, parts=tuple(names))
    if isinstance(env, HostEnv):
        return one
    params = {**env.params, "task": jnp.asarray(which)}
    axes = {name: 0 if name == "task" else None for name in params}
    return replace(one, params=lambda state, sources: params, params_axes=axes)


def _of_all(c: Config, problem: Problem, tasks: Tasks, every: int, stage: str) -> list[Eval]:
    where = problem.evaluated
    env, when = problem.envs[where], (stage,)
    if tasks.scores and isinstance(env, Env):
        all_tasks = range(len(tasks.names))
        return [replace(of_each(tasks.names, all_tasks, env, c.eval_episodes, where), every=every, stages=when)]
    if len(tasks.names) == 1:
        return [Eval(tasks.names[0], where, c.eval_episodes, every, context=np.int32(0), stages=when)]
    rows = [(np.int32(i), name) for i, name in enumerate(tasks.names) if name in problem.envs]
    if (tasks.scores or tasks.goals) and not rows:  # on the host: its own task
        return [Eval(tasks.names[tasks.own], where, c.eval_episodes, every, context=np.int32(tasks.own), stages=when)]
    return [Eval(name, name, c.eval_episodes, every, context=i, stages=when) for i, name in rows]
