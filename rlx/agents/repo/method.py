"""RePo (Zhu, Simchowitz, Gadipudi and Gupta 2023, "RePo: Resilient Model-Based Reinforcement Learning by Regularizing Posterior
Predictability", arXiv:2309.00082): a world model that keeps of what it sees what predicts rewards and can itself be predicted.

::

    prefill: whole episodes at random
    repeat:  act for a while; as many times, on windows of rows o, a, r:
        h, s  <- filter: posterior q(s'|h', o'), prior p(s'|h')                                         (rlx.dynamics.rssm)
        model <- down the gradient of -log p(r|h, s) + beta (KL(q || p) - target), of the divergence k / (1 + k) to the prior
        beta  <- up the gradient of log(beta) (KL(q || p) - target)
        probe <- down the gradient of -log p(o|h, s), which nothing else feels
        actor <- up the gradient of lambda-returns imagined from all these (h, s), with some entropy            (behaviour.py)
        value <- down the gradient of its distance to these returns

No observation is reconstructed for the latent's sake; so it keeps no moving background. What it is compared with are settings:
``objective="recon"`` reconstructs, ``bottleneck`` says how the divergence is held; with both as Dreamer has them it is Dreamer
(preset ``dreamer``). Decisions may be those of plans in the same model, too (preset ``planner``). Filtering and acting begin
each episode with nothing known and an action of 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlx import keys, replay
from rlx.agents import offpolicy
from rlx.agents.repo import behaviour, world
from rlx.agents.repo.config import Config
from rlx.agents.repo.networks import BEHAVIOUR, Net, seen_leaf
from rlx.agents.repo.report import Report
from rlx.config import hyper
from rlx.dynamics.rssm import Latent, drawn
from rlx.envs import batch as batch_of
from rlx.nn.optim import apply_gradients, polyak
from rlx.planning import planner
from rlx.replay import Sequences
from rlx.types import (
    Agent,
    AgentState,
    Array,
    Clock,
    Collect,
    Eval,
    Key,
    Out,
    Problem,
    PyTree,
    Spec,
    Stage,
    Step,
    Update,
)


class Carry(NamedTuple):
    """What acting remembers of each stream [W]."""

    latent: Latent
    action: Array  # [W, A], the last one
    plans: PyTree = ()  # `rlx.planning.planner.Plans`, where there are any


@dataclass(frozen=True)
class Method:
    """The functions of the agent."""

    config: Config
    net: Net

    def init(self, key: Key, h: dict[str, Array]) -> AgentState:
        params = self.net.init(key)
        log_beta = jnp.log(h["init_beta"])
        parts = {name: {k: params[k] for k in own} for name, own in world.groups(self.net).items()}
        opt = {k: world.chain(k, h).init(part) for k, part in {**parts, **{k: params[k] for k in BEHAVIOUR}}.items()}
        opt["dual"] = world.dual_chain(h).init(log_beta)
        # in the state, as `report` has nothing else after training, and `rlx.agents.repo.adapting` before it goes on
        statistics = {"updates": jnp.int32(0), "active": jnp.int32(0), "kl": jnp.float32(0)}
        slow_value = jax.tree.map(jnp.copy, params["value"])
        return AgentState(h, {"params": params, "opt": opt, "log_beta": log_beta, "slow_value": slow_value, "told": statistics})

    def beta(self, state: AgentState) -> Array:
        """The multiplier; 1 where there are free nats."""
        own = {"dual": jnp.exp(state.learned["log_beta"]), "fixed": state.hyper["init_beta"], "free_nats": jnp.float32(1)}
        return own[self.config.bottleneck]

    # ---------------------------------------------------------------------------------------------------------- acting

    def carry(self, state: AgentState, n: int, context: PyTree = None) -> Carry:
        m = self.net.actions
        return Carry(self.net.rssm.blank(n), jnp.zeros((n, m)), planner.blank(self.config.planner, n, m))

    def filtered(self, params: PyTree, carry: Carry, step: Step, key: Key) -> Latent:
        """Where the model takes each stream to be, a draw of its posterior."""
        fresh = jax.tree.map(lambda x: jnp.where(step.first[:, None], 0.0, x), carry._replace(plans=()))
        embedding = self.net.embed(params, self.net.see(step.obs, 1))
        noise = jax.random.normal(key, fresh.latent.state.shape)
        return self.net.rssm.observe(params["rssm"], fresh.latent, fresh.action, embedding, noise)

    def act(self, state: AgentState, clock: Clock, carry: Carry, step: Step, key: Key, mode: str) -> tuple[Array, Carry, dict]:
        params = state.learned["params"]
        k_state, k_act = jax.random.split(key)
        latent, plans = self.filtered(params, carry, step, k_state), carry.plans
        if mode == "random":
            action = offpolicy.at_random(k_act, step, self.net.actions)
        elif mode == planner.MODE or (mode == "explore" and self.config.planner.use == "act"):
            noise, first = jnp.float32(mode == "explore"), jnp.asarray(step.first)
            action, plans = behaviour.planned(self.net, params, latent, plans, first, noise, state.hyper, k_act)
        else:
            policy = self.net.policy(params, latent.features)
            if mode == "explore":
                action = jnp.tanh(drawn(policy, jax.random.normal(k_act, policy.mean.shape)))
            elif self.config.greedy == "best_of_100":
                action = behaviour.likeliest(policy, k_act)
            else:
                action = jnp.tanh(policy.mean)
        return action, Carry(latent, action, plans), {}

    # -------------------------------------------------------------------------------------------------------- learning

    def update(self, state: AgentState, clock: Clock, rows: Sequences, key: Key) -> tuple[AgentState, Out]:
        net, h, old = self.net, state.hyper, state.learned
        k_filter, k_imagine = jax.random.split(key)
        w = world.shifted(world.window(net, rows), keys.fold(key, "shift"), self.config.pad)
        noise = jax.random.normal(k_filter, (*w.reward.shape, net.noises))

        params, opt, beta = old["params"], old["opt"], self.beta(state)
        model = {k: params[k] for k in net.world}
        (_, found), grads = jax.value_and_grad(world.loss, has_aux=True)(model, net, w, noise, beta, h)
        model, opt, norms = world.step(net, model, grads, opt, h)

        violation, log_beta = found.kl - h["target_kl"], old["log_beta"]
        if self.config.bottleneck == "dual":
            log_beta, dual = world.dual_step(log_beta, opt["dual"], violation, h)
            opt = {**opt, "dual": dual}

        start = jax.tree.map(lambda x: jax.lax.stop_gradient(x.reshape(-1, x.shape[-1])), found.filtered.latent)
        own = {k: params[k] for k in BEHAVIOUR}
        given = (
            model,
            {"value": old["slow_value"]},
            start,
            ~w.terminated.reshape(-1),
            behaviour.noise(net, k_imagine, start.belief.shape[0]),
            h,
        )
        (_, acted), grads = jax.value_and_grad(behaviour.loss, has_aux=True)(own, net, *given)
        for name in BEHAVIOUR:
            new, kept = apply_gradients(world.chain(name, h), own[name], grads[name], opt[name])
            own, opt = {**own, name: new}, {**opt, name: kept}

        metrics = {**found.metrics, **norms, **acted, "actor/grad_norm": world.norm(grads["actor"])}
        dual = {"beta": world.price(net, beta, violation, h), "violation": violation, "active": violation > 0}
        metrics |= {f"dual/{k}": v for k, v in dual.items()}
        statistics = {
            "updates": old["told"]["updates"] + 1,
            "active": old["told"]["active"] + (violation > 0),
            "kl": jnp.where(old["told"]["updates"] == 0, found.kl, 0.99 * old["told"]["kl"] + 0.01 * found.kl),
        }
        slow_value = polyak(old["slow_value"], own["value"], h["slow_value"])
        learned = {"params": {**model, **own}, "opt": opt, "log_beta": log_beta, "slow_value": slow_value, "told": statistics}
        return state._replace(learned=learned), Out(metrics)


# ---------------------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Plan:
    """How a run goes."""

    prefill: int  # rows per stream before the first update: whole episodes
    cycles: int

    @staticmethod
    def of(c: Config, spec: Spec) -> Plan:
        """Raises ValueError for settings that cannot be."""
        each = -(-c.prefill // c.n_envs)
        prefill = -(-each // spec.horizon) * (spec.horizon + 1) if spec.horizon else each
        left = c.env_steps - prefill * c.n_envs
        if left <= 0:
            whole = f", in whole episodes {prefill * c.n_envs} in {c.n_envs} streams," if spec.horizon else ""
            raise ValueError(f"repo: prefill={c.prefill}{whole} leaves nothing of env_steps={c.env_steps}; give fewer.")
        if prefill < c.chunk:
            raise ValueError(f"repo: chunk={c.chunk} rows are more than the prefill gives each stream, {prefill}; give fewer.")
        return Plan(prefill, -(-left // (c.collect * c.n_envs)))


def stages(method: Method, plan: Plan) -> tuple[Stage, ...]:
    c = method.config
    sampler = replay.sequences(c.batch, c.chunk, cross=True)
    learn = Collect("train", c.collect, "replay"), Update(c.updates, sampler, method.update)
    first = Collect("train", plan.prefill, "replay", mode="random")
    return Stage("prefill", 1, (first,)), Stage("learn", plan.cycles, learn)


def make(config: Config, problem: Problem) -> Agent:
    train = problem.envs["train"]
    if config.bottleneck == "dual" and config.init_beta <= 0:
        raise ValueError("repo: init_beta=0 stays 0, its logarithm is learned: give more, or bottleneck='fixed'.")
    if config.least_beta > config.most_beta:
        raise ValueError(f"repo: least_beta={config.least_beta:g} is above most_beta={config.most_beta:g}.")
    if config.pad and len(seen_leaf(train.spec).shape) != 3:
        raise ValueError(f"repo: pad={config.pad} shifts pictures, and this environment has none: give pad=0, or pixels='sdf'.")
    method, plan = Method(config, Net.of(config, train.spec)), Plan.of(config, train.spec)
    rows = min(-(-config.capacity // config.n_envs), plan.prefill + plan.cycles * config.collect)
    if rows < max(plan.prefill, config.collect):
        least = max(plan.prefill, config.collect) * config.n_envs
        raise ValueError(f"repo: capacity={config.capacity} does not hold what one Collect gives; give at least {least}.")
    every = max(1, config.eval_every // (config.collect * config.n_envs))
    main = Eval("main", problem.evaluated, config.eval_episodes, every, stages=("learn",))
    planned = planner.modes(config.planner)
    return Agent(
        "repo",
        config,
        hyper(config),
        method.init,
        method.act,
        stages(method, plan),
        envs={"train": batch_of(train, config.n_envs)},
        buffers={"replay": replay.ring(rows + 1, config.n_envs)},
        carry=method.carry,
        modes=("explore", "eval", "random", *planned),
        evals=(main, *(replace(main, name=mode, mode=mode) for mode in planned)),
        report=Report(method, train),
    )
