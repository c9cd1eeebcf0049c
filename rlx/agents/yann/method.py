"""YANN-RL (Braniff and Tian 2025, "Reinforcement Learning-based Control via Y-wise Affine Neural Networks", arXiv:2508.16474).

::

    offline: a linear model of the plant; its MPC program solved for all states: u = K_i z + r_i in region i       (eq. 8, 9)
             actor  pi(z)   <- K_i z + r_i + g_i(x), g trainable and 0 at the start                                (section 4.1)
             critic Q(z, u) <- the regulator's action value (trainable) + h(z, u), h trainable and 0 at the start  (section 4.2)
    warm-up: act as below
    repeat: act with u = clip(pi(z)) and a noise that ends where the linear model sees a state leave its box      (noise: ours)
        y   <- cost + discount Q'(z', clip(pi'(z')))                  (cost = -reward; discount is 0 after a terminal step only)
        Q   <- down the gradient of Huber((y - Q(z, u)) / c)          (c: mean stage cost of the first policy)
        pi  <- down the gradient of Q(z, clip(pi(z))) / c             (where clipped: only what leads back inside)
        Q', pi' <- a step of tau towards Q, pi
    at evaluations: keep the best, restore it after ``patience`` worse ones, halve the actor's step                (ours)

The paper gives no rates, losses, masks or safeguards: those are ours, as is everything that `Config` does not name as the
paper's. Gates select among exact rows instead of through big-M layers (``mode="bigm"`` has those).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rlx import replay
from rlx.agents.offpolicy import obs_action_dims
from rlx.agents.yann.config import Config
from rlx.agents.yann.controller import Controller, build, control_of
from rlx.agents.yann.learner import Learner, Units
from rlx.agents.yann.report import Report
from rlx.config import hyper
from rlx.envs import batch as batch_of
from rlx.nn.mlp import head
from rlx.nn.optim import apply_gradients, optimizer, polyak
from rlx.replay import Transitions
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
    Row,
    Sampler,
    Sources,
    Stage,
    Step,
    Update,
)

# ------------------------------------------------------------------------------------------------------------------ losses


def huber(error: Array, delta: Array) -> Array:
    """error^2 / 2 up to delta, linear beyond."""
    size = jnp.abs(error)
    return jnp.where(size <= delta, 0.5 * error**2, delta * (size - 0.5 * delta))


def targets(learner: Learner, learned: dict[str, Any], batch: Transitions) -> Array:
    """y [B]."""
    target, z = learned["target"], learner.known.see(batch.next_obs)
    ahead = learner.worst(target["critics"], learned["units"], z, learner.inputs(target["actor"], z))
    return jax.lax.stop_gradient(-batch.reward + batch.discount * ahead)


def critic_loss(
    critics: PyTree, learner: Learner, learned: dict[str, Any], h: dict[str, Array], z: Array, u: Array, y: Array
) -> tuple[Array, Array]:
    """Mean over the batch, summed over critics; and the mean absolute error in stage costs."""
    unit = learner.units(learned["units"], z).error
    errors = (y - learner.q_values(critics, learned["units"], z, u)) / unit
    each = huber(errors, h["huber_delta"]) if learner.config.loss == "huber" else errors**2
    return each.mean(-1).sum(), jnp.abs(errors[0]).mean()


def actor_loss(actor: PyTree, learner: Learner, critics: PyTree, learned: dict[str, Any], z: Array) -> Array:
    u = learner.inputs(actor, z)
    return (learner.q_value(head(critics, 0), learned["units"], z, u) / learner.units(learned["units"], z).error).mean()


# ------------------------------------------------------------------------------------------------------------------- agent


def make(config: Config, problem: Problem) -> Agent:
    """The agent for the plant "train" of ``problem``; see `rlx.agents.yann.controller.build` for ``problem.data``."""
    env = problem.envs["train"]
    control_of(env)
    check(config, env.spec.horizon, env.name)
    limit = env.spec.horizon or 1
    obs_action_dims(env.spec, "yann")
    learner = Learner(config, build(config, problem))

    def act(state: AgentState, clock: Clock, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        action, region = learner.act(state, step, key, mode)
        return action, carry, {"region": region} if mode == "explore" else {}

    def on_eval(state: AgentState, report: dict[str, Any], key: Key) -> AgentState:
        return keep_best(state, report["main"], config.patience) if config.safeguard == "keep_best" else state

    rows = -(-min(config.capacity, config.episodes * limit) // config.n_envs) + 2
    return Agent(
        "yann",
        config,
        {**hyper(config), "discount": config.discount},
        partial(initial, learner),
        act,
        stages(learner, limit),
        envs={"train": batch_of(env, config.n_envs)},
        buffers={"replay": replay.ring(rows, config.n_envs)},
        reads=("model",),
        modes=("explore", "eval", "base"),
        evals=(Eval("main", problem.evaluated, config.eval_episodes, eval_cycles(config, limit), stages=("warmup", "learn")),),
        on_eval=on_eval,
        report=Report(learner, env),
    )


def initial(learner: Learner, key: Key, hyper: dict[str, Array]) -> AgentState:
    a, c = jax.random.split(key)
    own = {"actor": learner.actor_init(a), "critics": learner.critics_init(c)}
    one = jnp.float32(1)
    learned = {**own, "target": jax.tree.map(jnp.copy, own), "opt": {k: optimizer(0.0).init(v) for k, v in own.items()}}
    learned |= {"units": Units(one, one), "lr_scale": one}
    learned |= {"visits": jnp.zeros(learner.known.count, jnp.int32), "violations": jnp.int32(0), "worse": jnp.int32(0)}
    none = jnp.full(learner.config.eval_episodes, jnp.inf)
    best = {"score": jnp.full(2, jnp.inf), "broken": none, "costs": none, **{k: learned[k] for k in KEPT}}
    return AgentState(hyper, {**learned, "best": best})


def count_visits(learner: Learner, state: AgentState, rows: Row, key: Key) -> AgentState:
    """Which regions acted, and how often limits were violated."""
    acted = (rows.valid & ~rows.last).astype(jnp.int32)
    counted = jnp.zeros(learner.known.count, jnp.int32).at[rows.extras["region"]].add(acted)
    broken = (rows.valid & rows.info.get("violation", False)).sum(dtype=jnp.int32)
    old = state.learned
    return state._replace(learned={**old, "visits": old["visits"] + counted, "violations": old["violations"] + broken})


def set_units(learner: Learner, limit: int, state: AgentState, sources: Sources, key: Key) -> AgentState:
    """Units of costs, from what the first policy met: nine tenths of the start values, and the mean stage cost."""
    config, known = learner.config, learner.known
    now = Clock(jnp.int32(0), jnp.int32(0), jnp.int32(0))
    rows = replay.transitions(1024)(state.hyper, now, sources, key)
    on = ~rows.terminated
    mean = jnp.maximum((-rows.reward * on).sum() / jnp.maximum(on.sum(), 1), 1e-6)
    if config.critic == "mlp":
        units = Units(mean / (1 - config.discount) if config.discount < 1 else mean * limit, mean)
    else:
        z, u = known.see(rows.obs), known.input(rows.action)
        value = jnp.abs(learner.start_value(head(state.learned["critics"], 0), z, u))
        units = Units(jnp.maximum(jnp.quantile(value, 0.9), 1e-6), mean)
    return state._replace(learned={**state.learned, "units": units})


def update(learner: Learner, state: AgentState, clock: Clock, batch: Transitions, key: Key) -> tuple[AgentState, Out]:
    """Critics first; every ``policy_delay`` updates the actor; then the targets."""
    config, known, h, old = learner.config, learner.known, state.hyper, state.learned
    z, u = known.see(batch.obs), known.input(batch.action)
    y = targets(learner, old, batch)
    (q_loss, error), grads = jax.value_and_grad(critic_loss, has_aux=True)(old["critics"], learner, old, h, z, u, y)
    critics, q_opt = apply_gradients(optimizer(h["critic_lr"]), old["critics"], grads, old["opt"]["critics"])

    def improve() -> tuple:
        loss, grads = jax.value_and_grad(actor_loss)(old["actor"], learner, critics, old, z)
        chain = optimizer(h["actor_lr"] * old["lr_scale"])
        return *apply_gradients(chain, old["actor"], grads, old["opt"]["actor"]), loss

    wait = lambda: (old["actor"], old["opt"]["actor"], jnp.float32(0))
    turn = (clock.updates + 1) % config.policy_delay == 0
    actor, pi_opt, pi_loss = improve() if config.policy_delay == 1 else jax.lax.cond(turn, improve, wait)
    target = {
        "actor": polyak(old["target"]["actor"], actor, h["tau_actor"]),
        "critics": polyak(old["target"]["critics"], critics, h["tau_critic"]),
    }
    new = {"actor": actor, "critics": critics, "target": target, "opt": {"actor": pi_opt, "critics": q_opt}}
    metrics = {"critic/loss": q_loss, "critic/error": error, "actor/loss": pi_loss, **watch(learner, actor, h, z)}
    return state._replace(learned={**old, **new}), Out(metrics, valid={"actor/loss": turn})


KEPT = ("actor", "critics", "target", "opt")  # what a restored best brings back


def check(config: Config, horizon: int | None, name: str) -> None:
    """Raises ValueError for settings that cannot be."""
    if horizon is None:
        raise ValueError(f"yann: {name} has no time limit; make it with one, since the budget is in episodes.")
    if config.warmup >= config.episodes * horizon:
        raise ValueError(f"yann: warmup={config.warmup} leaves nothing of {config.episodes} episodes of {horizon} decisions.")
    if config.mode == "bigm" and (config.outside != "zero" or config.law != "mpqp"):
        raise ValueError("yann: the big-M network gives 0 where no region holds: give law='mpqp' and outside='zero' with it.")
    if config.clone and config.actor != "mlp":
        raise ValueError("yann: clone is for actor='mlp'; an actor that starts as the controller has nothing to learn from it.")


def eval_cycles(config: Config, horizon: int) -> int:
    return max(1, config.eval_every * horizon // config.n_envs)


def stages(learner: Learner, horizon: int) -> tuple[Stage, ...]:
    """Clone, where asked for; warm up; learn, a decision and its updates at a time."""
    config = learner.config
    observe = partial(count_visits, learner)
    acting = Collect("train", 1, "replay", observe=observe)
    cloned = Update(config.clone, states_in_box(config.batch * 4, learner.known), cloning(learner))
    clone = (Stage("clone", 1, (cloned,)),) if config.clone else ()
    warmup = Stage("warmup", 1, (Collect("train", -(-config.warmup // config.n_envs), "replay", observe=observe),))
    cycles = -(-(config.episodes * horizon - config.warmup) // config.n_envs)
    if config.actor == "law" and config.residual == "none":
        return (*clone, warmup, Stage("learn", cycles, (acting,)))
    learn = Update(config.updates * config.n_envs, replay.transitions(config.batch), partial(update, learner))
    return (*clone, warmup, Stage("learn", cycles, (acting, learn), enter=partial(set_units, learner, horizon)))


def states_in_box(count: int, known: Controller) -> Sampler:
    """Parameters z [B, nz] of all sizes: uniform in the box shrunk by a factor that is log-uniform in [0.01, 1]."""

    def draw(sources: Sources, h: dict[str, Array], clock: Clock, key: Key) -> Array:
        a, b = jax.random.split(key)
        z = jax.random.uniform(a, (count, len(known.scale)), minval=jnp.asarray(known.z_low), maxval=jnp.asarray(known.z_high))
        return z * 10 ** jax.random.uniform(b, (count, 1), minval=-2.0)

    return Sampler(draw, lambda sources, index: index)


def cloning(learner: Learner) -> Any:
    """An update of the actor towards the controller, in shares of the input's range."""

    def loss(actor: PyTree, z: Array) -> Array:
        wanted = jnp.clip(learner.known.law(z).u, learner.low, learner.high)
        return (((learner.raw(actor, z)[0] - wanted) / learner.half) ** 2).mean()

    def update(state: AgentState, clock: Clock, z: Array, key: Key) -> tuple[AgentState, Out]:
        old = state.learned
        error, grads = jax.value_and_grad(loss)(old["actor"], z)
        actor, opt = apply_gradients(optimizer(1e-3), old["actor"], grads, old["opt"]["actor"])
        target = {**old["target"], "actor": jax.tree.map(jnp.copy, actor)}
        new = {**old, "actor": actor, "target": target, "opt": {**old["opt"], "actor": opt}}
        return state._replace(learned=new), Out({"clone/error": error})

    return update


def watch(learner: Learner, actor: PyTree, h: dict[str, Array], z: Array) -> dict[str, Array]:
    """What the actor does on a batch: how far it is from the controller, how often at a bound, outside, or held back."""
    u, _, outside = learner.raw(actor, z)
    base = learner.known.law(z).u
    clipped = jnp.clip(u, learner.low, learner.high)
    out = {
        "actor/residual": (jnp.abs(u - base) / learner.half).mean(),
        "actor/saturated": (u != clipped).any(-1).mean(),
        "actor/outside": outside.mean(),
    }
    if learner.config.filter:
        held = jnp.abs(learner.known.kept(z, clipped, h["margin"]) - clipped) > 1e-6 * learner.half
        out["actor/filtered"] = held.any(-1).mean()
    return out


def keep_best(state: AgentState, episodes: dict[str, Array], patience: int) -> AgentState:
    """The best by (episodes with violations, mean cost), which at the first evaluation is the controller itself; restored, with
    half the actor's step, after ``patience`` evaluations in a row that cost more than 1 + tolerance times as much.

    Evaluations begin at the same starts, ``returns`` [E], so they are compared start by start. What takes the best one's place
    has surely fewer violations, or no more and surely lower costs (`surely_less`): the least of many evaluations would else be
    one that had luck with these starts.
    """
    learned, h = state.learned, state.hyper
    best, costs = learned["best"], -episodes["returns"]
    broken = episodes.get("info/violation", jnp.zeros_like(costs)).astype(costs.dtype)
    score = jnp.stack([broken.sum(), costs.mean()])
    safer = surely_less(broken, best["broken"], h["certainty"])
    cheaper = surely_less(costs, best["costs"], h["certainty"])
    better = ~jnp.isfinite(best["score"]).all() | safer | ((score[0] <= best["score"][0]) & cheaper)
    new = {"score": score, "broken": broken, "costs": costs, **{k: learned[k] for k in KEPT}}
    best = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, best)
    enough = score[1] <= best["score"][1] + h["tolerance"] * jnp.abs(best["score"][1])  # NaN is not
    bad = (score[0] > best["score"][0]) | ~enough
    worse = jnp.where(bad, learned["worse"] + 1, 0)
    back = worse >= patience
    restored = {k: jax.tree.map(lambda a, b: jnp.where(back, a, b), best[k], learned[k]) for k in KEPT}
    scale = jnp.where(back, 0.5, 1.0) * learned["lr_scale"]
    return state._replace(learned={**learned, **restored, "best": best, "worse": jnp.where(back, 0, worse), "lr_scale": scale})


def surely_less(new: Array, old: Array, certainty: Array) -> Array:
    """Whether ``new`` [E] is less than ``old`` on average: by more than ``certainty`` standard errors of paired differences, by
    anything where that is 0 or there is one pair. Where one pair of many differs, it is by one standard error."""
    gain = old - new
    error = jnp.sqrt(((gain - gain.mean()) ** 2).sum() / max(len(gain) - 1, 1) / len(gain))
    return gain.mean() > (1 + 1e-4) * certainty * error  # at rounding, not more
