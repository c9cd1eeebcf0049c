"""IPL (Hejna and Sadigh 2023, "Inverse Preference Learning", arXiv:2305.15363), with IQL: a policy from preferences without a
reward model. An action value implies a reward, and that one is made to explain the preferences::

    repeat, on pairs of windows and on transitions of the data, which weigh the same:
        q       <- min_i Q'_i(s, a)
        V       <- down the gradient of |expectile - 1[q < V(s)]| (q - V(s))^2
        r_i     =  Q_i(s, a) - discount V(s'),    V(s') within 1 / (c (1 - discount)) of 0 where ``clamp``
        Q_i     <- down the gradient of CE(label, sum r_i over the first - over the second window) + c mean r_i^2
        pi      <- down the gradient of -min(exp(temperature (q - V(s))), 100) log pi(a|s)
        Q'_i    <- a step of tau towards Q_i

c is ``reward_coef``; labels are the probability that the second is preferred (`rlx.preferences`). The data's own rewards are
looked at where labels are made of them (labels=oracle) and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import replay
from rlx.agents import iql, offline
from rlx.agents.offpolicy import q_values
from rlx.config import hyper, size, traced
from rlx.nn.mlp import MLP
from rlx.nn.optim import apply_gradients, optimizer, polyak
from rlx.preferences import labels, pairs
from rlx.preferences.learning import cross_entropy
from rlx.preferences.sampling import Comparisons, beside, comparisons
from rlx.replay import Transitions
from rlx.types import Agent, AgentState, Array, Clock, Key, Out, Problem, PyTree, Step


@dataclass(frozen=True)
class Config(offline.OfflineConfig):
    """Inverse preference learning with implicit Q-learning."""

    labels: str = "oracle"  # where Problem.data has no "pairs": oracle (true returns), random, or a file of pairs
    pairs: int = size(500, least=1)  # of oracle and random
    pairs_seed: int = size(0, least=0)  # and which these are
    segment: int = size(15, least=1)  # transitions of a window, at most those of the longest piece that was compared
    batch_pairs: int = size(16, least=1)
    clamp: bool = True  # bounds V(s') where it implies a reward
    discount: float = traced(0.99, "Discount per decision.", least=0, below=1)
    expectile: float = traced(0.7, "Expectile of V: 0.5 is the mean over the data's actions.", above=0, below=1)
    temperature: float = traced(3.0, "Inverse temperature of the policy: how much better actions count more.", least=0)
    reward_coef: float = traced(0.5, "Weight of squared implied rewards.", above=0)
    critic_lr: float = traced(3e-4, "Adam's step size for the critics.", least=0)
    value_lr: float = traced(3e-4, "Adam's step size for V.", least=0)
    tau: float = traced(0.005, "How far target networks move per update.", least=0, most=1)


PRESETS: dict[str, dict[str, Any]] = {
    "debug": offline.DEBUG | {"pairs": 20, "segment": 4, "batch_pairs": 4},
    "metaworld": {"reward_coef": 3.0, "expectile": 0.75, "hidden": (256, 256, 256), "updates": 200_000},
    "robomimic": {"reward_coef": 4.0, "temperature": 0.5, "batch_pairs": 8, "segment": 31},
}


def implied(q: Array, v_next: Array, discount: Array, h: dict[str, Array], clamp: bool) -> Array:
    """r = Q - discount V(s'); ``discount`` is 0 where s' is terminal."""
    most = 1 / (h["reward_coef"] * (1 - h["discount"]))
    return q - discount * (jnp.clip(v_next, -most, most) if clamp else v_next)


def critic_loss(
    params: PyTree, critics: MLP, batch: tuple[Array, ...], about: Comparisons, share: Array, h: dict[str, Array], clamp: bool
) -> tuple[Array, tuple[Array, Array]]:
    """CE + c mean r^2, the mean of both critics; and CE, and the share of pairs with a preference that Q_1 sides with.

    ``batch``: observations, actions, V(s') and discounts [N, ...], first those of the windows [H, 2, B] in order, then the
    transitions; ``share`` [N] of each in a mean."""
    obs, action, v_next, discount = batch
    r = implied(q_values(critics, params, obs, action), v_next, discount, h, clamp)  # [2, N]
    steps, _, count = about.terminated.shape
    worth = (about.mask * r[:, : steps * 2 * count].reshape(-1, steps, 2, count)).sum(1)  # [2 critics, 2 windows, B]
    gap = worth[:, 0] - worth[:, 1]
    preference = (about.weight * cross_entropy(about.label, gap)).mean()
    decided = (about.label != 0.5) & (about.weight > 0)
    right = (decided & ((gap[0] < 0) == (about.label > 0.5))).sum() / jnp.maximum(decided.sum(), 1)
    return preference + h["reward_coef"] * (share * r**2).sum(-1).mean(), (preference, right)


def updater(nets: iql.Networks, clamp: bool) -> Any:
    def update(state: AgentState, clock: Clock, batch: tuple[Comparisons, Transitions], key: Key) -> tuple[AgentState, Out]:
        h, old = state.hyper, state.learned
        opt, (about, rest) = dict(old["opt"]), batch
        flat = lambda x: x.reshape(-1, x.shape[-1])
        see = old["scales"].obs
        obs = see(jnp.concatenate([flat(about.obs[:-1]), rest.obs]))
        next_obs = see(jnp.concatenate([flat(about.obs[1:]), rest.next_obs]))
        action = jnp.clip(jnp.concatenate([flat(about.action), rest.action]), -offline.EDGE, offline.EDGE)
        discount = jnp.concatenate([h["discount"] * ~about.terminated.reshape(-1), rest.discount])
        mask = about.mask.reshape(-1)
        share = jnp.concatenate([0.5 * mask / mask.sum(), jnp.full(len(rest.obs), 0.5 / len(rest.obs))])

        def value_loss(params: PyTree) -> Array:
            error = q - nets.value.apply(params, obs)[..., 0]
            return (share * iql.expectile_loss(error, h["expectile"])).sum()

        def actor_loss(params: PyTree) -> Array:
            log_prob = offline.gaussian(nets.actor, params, obs).log_prob(action)
            return -(share * iql.imitation_weight(q - v, h["temperature"]) * log_prob).sum()

        q = q_values(nets.critics, old["target"], obs, action).min(0)
        v_loss, grads = jax.value_and_grad(value_loss)(old["value"])
        value, opt["value"] = apply_gradients(optimizer(h["value_lr"]), old["value"], grads, opt["value"])
        v, v_next = nets.value.apply(value, jnp.stack([obs, next_obs]))[..., 0]

        slope = jax.value_and_grad(critic_loss, has_aux=True)
        of = (obs, action, v_next, discount), about, share, h, clamp
        (q_loss, (preference, right)), grads = slope(old["critics"], nets.critics, *of)
        critics, opt["critics"] = apply_gradients(optimizer(h["critic_lr"]), old["critics"], grads, opt["critics"])

        pi_loss, grads = jax.value_and_grad(actor_loss)(old["actor"])
        actor, opt["actor"] = apply_gradients(optimizer(h["actor_lr"]), old["actor"], grads, opt["actor"])

        learned = {**old, "actor": actor, "value": value, "critics": critics, "opt": opt}
        learned["target"] = polyak(old["target"], critics, h["tau"])
        metrics = {"critic/loss": q_loss, "critic/preference": preference, "critic/right": right, "value/loss": v_loss}
        return state._replace(learned=learned), Out({**metrics, "value/mean": v.mean(), "actor/loss": pi_loss})

    return update


def make(config: Config, problem: Problem) -> Agent:
    data, n, m = offline.dataset(problem, "ipl")
    nets, scales, found = iql.networks(config.hidden, m), offline.scales(data, config), pairs.episodes(data)
    rng = np.random.default_rng(config.pairs_seed)
    scripted = lambda kind: labels.label(kind, found, rng, count=config.pairs).pairs
    given = labels.of_problem("ipl", config.labels, problem.data.get("pairs"), scripted)
    compared = comparisons(given, found, config.batch_pairs, config.segment)

    def init(key: Key, hyper: dict[str, Array]) -> AgentState:
        return AgentState(hyper, {**iql.begin(nets, key, n, m), "scales": scales})

    def act(state: AgentState, clock: Clock, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        policy = offline.gaussian(nets.actor, state.learned["actor"], state.learned["scales"].obs(step.obs))
        action = policy.mode() if mode == "eval" else jnp.clip(policy.sample(key), -1.0, 1.0)
        return action, carry, {}

    sampler = beside(compared, replay.transitions(config.batch, source="data"))
    shared = offline.shared_parts(config, problem, updater(nets, config.clamp), sampler)
    return Agent("ipl", config, hyper(config), init, act, **{**shared, "reads": ("data", "pairs")})
