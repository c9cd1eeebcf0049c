"""SINDy-RL (Zolman, Lagemann, Fasel, Kutz and Brunton 2024, "SINDy-RL: Interpretable and Efficient Model-Based Reinforcement
Learning", arXiv:2403.09110).

::

    D0 <- real decisions at random
    x' = Xi theta(x, u), r = Xr theta(x', u): an ensemble of sparse regressions on D0; the median of the members is the model
    repeat: a round of PPO in the model                                                        (Algorithm 1)
            every ``refit_every`` rounds: D1 <- real decisions of the policy, the oldest trajectories forgotten
                                          fit anew on D0 and D1
    the policy as a polynomial: a sparse regression of the network's mean, on states visited in the model and around them

What is learned is a pytree of coefficients that enters the imagined environment traced. A refit that fails, or predicts the
data far worse than the model before it, is not taken. Sparse models are fitted in float64 on the host; networks may stand in
the place of the dynamics, for comparison, and a refit of these goes on from where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import replay
from rlx.agents import ppo
from rlx.agents.offpolicy import at_random, vector
from rlx.agents.sindy_rl.config import Config
from rlx.agents.sindy_rl.distil import blank_policy, distiller
from rlx.agents.sindy_rl.gradient import improver
from rlx.agents.sindy_rl.report import Report
from rlx.agents.sindy_rl.world import Rows, World, box_of, known_of, names_of, transitions
from rlx.config import hyper
from rlx.dynamics import as_env, penalised
from rlx.envs import batch
from rlx.types import Agent, AgentState, Array, Collect, Env, Eval, Host, Key, Problem, Sources, Stage, Step, Update

STARTS = 256  # states in the bank that imagined episodes begin from
FAR = 1e6  # bounds before the data are seen


def make(config: Config, problem: Problem) -> Agent:
    spec = problem.envs["train"].spec
    seen, m = vector(spec, "sindy_rl")
    check(config, spec.horizon, seen)
    n = config.modes or seen
    names = names_of(config, spec, n, m)
    world, box = World(config, n, m, *known_of(config, spec)), box_of(config, spec, n)
    whole = spec.horizon or config.horizon  # decisions of a real episode
    imagined, lasting = (imagination(world, box, horizon) for horizon in (config.horizon or whole, whole))
    learner = ppo.make(config.ppo, Problem({"train": imagined}))
    model_round, = (p for p in learner.stages[0].phases if isinstance(p, Update))  # fmt: skip
    model_collect = next(p for p in learner.stages[0].phases if isinstance(p, Collect))
    policy_of = lambda state: state._replace(hyper={k.removeprefix("ppo."): v for k, v in state.hyper.items()})

    def init(key: Key, h: dict[str, Array]) -> AgentState:
        state = AgentState(h, {})
        own = learner.init(key, policy_of(state).hyper).learned
        basis = {"mean": jnp.zeros(seen), "modes": jnp.eye(seen, n)} if config.modes else {}
        more = {"world": imagined.params, "basis": basis, "sparse": blank_policy(config, n, m), "fits": jnp.zeros(2)}
        best = {"score": jnp.float32(-jnp.inf), **{k: {**own, **more}[k] for k in KEPT}}
        return AgentState(h, {**own, **more, "error": jnp.float32(jnp.inf), "best": jax.tree.map(jnp.copy, best)})

    def encoded(learned: dict[str, Any], obs: Array) -> Array:
        """Principal components, in standard deviations, of what the real environment shows."""
        if not config.modes or obs.shape[-1] == n:
            return obs
        return (obs - learned["basis"]["mean"]) @ learned["basis"]["modes"]

    def act(state: AgentState, clock: Any, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        if mode == "random":
            return at_random(key, step, m), carry, {}
        step = step._replace(obs=encoded(state.learned, step.obs))
        if mode == "sparse":
            return jnp.clip(state.learned["sparse"](step.obs), -1.0, 1.0), carry, {}
        return learner.act(policy_of(state), clock, carry, step, key, mode)

    def as_policy(fn: Callable) -> Callable:
        """PPO's function of its own state, as one of this agent's."""

        def wrapped(state: AgentState, *rest: Any) -> Any:
            out = fn(policy_of(state), *rest)
            return (
                out._replace(hyper=state.hyper) if isinstance(out, AgentState) else (out[0]._replace(hyper=state.hyper), out[1])
            )

        return wrapped

    def imagine(state: AgentState, sources: Sources) -> Any:
        world = state.learned["world"]
        return {**world, "model": {"model": world["model"]["model"], "caution": state.hyper["caution"]}}

    improve = (
        as_policy(model_round.update) if config.improve == "ppo" else improver(config, learner, imagined, policy_of, imagine)
    )

    def episodes(learned: dict[str, Any], sources: dict[str, Any]) -> list[Any]:
        kept = [e for k in ("seed", "online") if k in sources for e in replay.export(sources[k])]
        return [e._replace(obs=np.asarray(encoded(learned, e.obs))) for e in kept]

    def first_fit(state: AgentState, sources: dict[str, Any], key: Key) -> tuple[AgentState, dict[str, Any]]:
        learned = state.learned
        if config.modes:
            learned = {**learned, "basis": principal(replay.export(sources["seed"]), n)}
        data = episodes(learned, sources)
        bounds = box if box is not None else around(np.concatenate([e.obs for e in data]))
        low, high = (np.asarray(x, np.float32) for x in bounds)
        learned = {**learned, "world": {**learned["world"], "low": low, "high": high}}
        return refit(state._replace(learned=learned), sources, key, first=True)

    def refit(state: AgentState, sources: dict[str, Any], key: Key, first: bool = False) -> tuple[AgentState, dict[str, Any]]:
        learned = state.learned
        if not first:
            sources = {**sources, "online": online.evict(sources["online"], -(-config.online // config.n_envs) + 1)}
        data, old = episodes(learned, sources), learned["world"]
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        rows = transitions(data, old["low"], old["high"])
        new, error, taken = refitted(world, old["model"]["model"], rows, rng, names, first)
        weights = float(state.hyper["ppo.discount"]) ** np.arange(whole)  # to the end of an episode
        least = min(0.0, float(rows.reward.min())) * weights.sum()
        bank = np.stack([e.obs[0] for e in data]) if config.starts == "starts" else rows.obs
        bank = bank[rng.integers(len(bank), size=STARTS)].astype(np.float32)
        params = {**old, "model": {**old["model"], "model": new}, "starts": bank, "exit_reward": np.float32(least)}
        fits = np.asarray(learned["fits"] + np.array([1, taken]), np.float32)
        return state._replace(learned={**learned, "world": params, "fits": fits, "error": np.float32(error)}), sources

    def distil(state: AgentState, sources: dict[str, Any], key: Key) -> tuple[AgentState, dict[str, Any]]:
        data = lambda: transitions(episodes(state.learned, sources)).obs
        found = distilled(policy_of(state), imagine(state, sources), data, key)
        return state._replace(learned={**state.learned, "sparse": found}), sources

    distilled = distiller(config, learner, lasting, world.projected)
    online = replay.ring(-(-config.online // config.n_envs) + -(-config.collect // config.n_envs) + 3, config.n_envs)
    streams = batch(problem.envs["train"], config.n_envs)
    model_streams = batch(imagined, config.ppo.n_envs)
    return Agent(
        "sindy_rl",
        config,
        {**hyper(config)},
        init,
        act,
        stages(config, first_fit, refit, distil, replace(
            model_collect, env="model", params=imagine, counts="model",
            observe=as_policy(model_collect.observe) if model_collect.observe else None,
        ), replace(model_round, update=improve)),
        envs={"train": streams, "model": model_streams},
        buffers={
            "seed": replay.ring(seed_rows(config), config.n_envs),
            **({"online": online} if config.refit_every else {}),
            **learner.buffers,
        },
        modes=("explore", "eval", "mean", "random", "sparse"),
        evals=evaluations(config, "eval" if "eval" in problem.envs else "train"),
        on_eval=keep_best,
        report=Report(world, names, lasting, problem.envs["train"], act, encoded),
    )  # fmt: skip


def imagination(world: World, box: tuple[np.ndarray, np.ndarray] | None, horizon: int) -> Env:
    """The environment that a model before its first fit imagines; where there is no ``box`` the data will name one."""
    config, n = world.config, world.observations
    low, high = (np.full(n, -FAR), np.full(n, FAR)) if box is None else box
    params, starts = {"model": world.blank(), "caution": jnp.float32(0)}, jnp.zeros((STARTS, n))
    how: dict[str, Any] = {"actions": world.actions, "horizon": horizon, "low": low, "high": high, "exit": config.exit}
    return as_env(penalised(world), params, starts, **how)


KEPT = ("actor", "critic", "log_std", "seen", "world")  # what belongs to a policy


def keep_best(state: AgentState, report: dict[str, Any], key: Key) -> AgentState:
    """The policy of the best evaluation, with the model it learned in: what is distilled."""
    learned = state.learned
    score = report["main"]["returns"].mean()
    now = {"score": score, **{k: learned[k] for k in KEPT}}
    best = jax.tree.map(lambda a, b: jnp.where(score > learned["best"]["score"], a, b), now, learned["best"])
    return state._replace(learned={**learned, "best": best})


def back_to_best(state: AgentState, sources: Sources, key: Key) -> AgentState:
    return state._replace(learned={**state.learned, **{k: jax.tree.map(jnp.copy, state.learned["best"][k]) for k in KEPT}})


def check(config: Config, limit: int | None, observations: int) -> None:
    """Raises ValueError for settings that cannot be."""
    least = {
        "seed_steps": 2,
        "seed_episode": 2,
        "n_envs": 1,
        "members": 1,
        "eval_every": 1,
        "eval_episodes": 1,
        "policy_degree": 1,
        "distil_rounds": 1,
    }
    least |= {"collect": 1, "online": 2, "distil_steps": 1, "distil_length": 1, "refit_every": 0, "horizon": 0, "modes": 0}
    for name, bound in least.items():
        if getattr(config, name) < bound:
            raise ValueError(f"sindy_rl: {name} must be at least {bound}, got {getattr(config, name)}.")
    if config.modes > observations:
        raise ValueError(f"sindy_rl: modes={config.modes} of {observations} observations; give at most as many.")
    if limit is None and not config.horizon:
        raise ValueError("sindy_rl: this environment has no time limit; give horizon, the decisions of an imagined episode.")
    if config.seed_steps < config.n_envs * 2 or config.collect < config.n_envs:
        raise ValueError(f"sindy_rl: seed_steps and collect are of all n_envs={config.n_envs} streams together; give more.")


def around(obs: np.ndarray, factor: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """A box of ``factor`` times the extent of the data [N, n] about its middle."""
    low, high = obs.min(0), obs.max(0)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-3)
    return middle - factor * half, middle + factor * half


def principal(episodes: list[Any], count: int) -> dict[str, np.ndarray]:
    """Of the observations: their mean, and the leading principal directions, each divided by its standard deviation."""
    obs = np.concatenate([np.asarray(e.obs, np.float64) for e in episodes])
    mean = obs.mean(0)
    _, size, right = np.linalg.svd(obs - mean, full_matrices=False)
    modes = right[:count].T / np.maximum(size[:count] / np.sqrt(len(obs)), 1e-12)
    return {"mean": mean.astype(np.float32), "modes": modes.astype(np.float32)}


def refitted(
    world: World, old: dict[str, Any], rows: Rows, rng: np.random.Generator, names: tuple[str, ...], first: bool
) -> tuple[dict[str, Any], float, bool]:
    """The models to go on with, their error on the rows, and whether they are new. The first fit has nothing to fall back on:
    what is wrong with it is raised."""
    error = lambda models: world.error(models, rows, np.random.default_rng(0))
    try:
        new = world.fitted(rows, rng, names, None if first else old)
    except ValueError:
        if first:
            raise
        return old, error(old), False
    found = error(new)
    if first or not world.config.guard:
        return new, found, True
    before = error(old)
    taken = bool(np.isfinite(found) and found <= world.config.guard * before)
    return (new, found, True) if taken else (old, before, False)


def seed_cycles(config: Config) -> tuple[int, int]:
    """How often the random behaviour is begun anew, and its decisions per stream each time."""
    each = min(config.seed_episode, -(-config.seed_steps // config.n_envs))
    return -(-config.seed_steps // (each * config.n_envs)), each


def seed_rows(config: Config) -> int:
    cycles, each = seed_cycles(config)
    return cycles * (each + 1) + 2


def stages(config: Config, first_fit: Any, refit: Any, distil: Any, imagine: Collect, improve: Update) -> tuple[Stage, ...]:
    cycles, each = seed_cycles(config)
    behave = Collect("train", each, "seed", mode="random", fresh=True)
    again = config.refit_every
    real = (
        (
            Collect("train", -(-config.collect // config.n_envs), "online", mode="eval", fresh=True, every=again),
            Host(refit, every=again),
        )
        if again
        else ()
    )
    out = (
        Stage("seed", cycles, (behave,)),
        Stage("fit", 1, (Host(first_fit),)),
        Stage("dyna", config.ppo.cycles, (imagine, improve, *real)),
    )
    return (*out, Stage("distil", 1, (Host(distil),), enter=back_to_best)) if config.distil else out


def evaluations(config: Config, env: str) -> tuple[Eval, ...]:
    main = Eval("main", env, config.eval_episodes, config.eval_every, stages=("dyna", "distil"))
    return (main, Eval("sparse", env, config.eval_episodes, 1, mode="sparse", stages=("distil",))) if config.distil else (main,)
