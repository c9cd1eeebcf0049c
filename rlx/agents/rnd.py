"""Exploration by random network distillation (Burda et al. 2018, arXiv:1810.12894), off-policy as URLB and ExoRL collect their
data (Laskin et al. 2021, arXiv:2110.15191; Yarats et al. 2022, arXiv:2201.13425): an agent that is paid for what it does not
know.

::

    f       a random network that never changes;  g  one that learns to be like it
    prefill: act at random
    repeat: act for a few decisions; as many times:
        x, x'   <- (s - mean) / std of the observations so far, within +-5; s' likewise
        e       <- mean over features of (g(x') - f(x'))^2
        g       <- down the gradient of the mean of e
        r       <- e / std of the errors so far                                 (the reward, in place of the environment's)
        an update of SAC on (x, a, r, x')

Where few have been, g is bad and r is large. The environment's reward is not looked at, but for evaluations, which say what it
would have been. Burda et al. divide by the spread of discounted sums of e and not of e itself, and give this reward a value
function of its own, which goes on at the ends of episodes; here, as in URLB, a terminal step ends both. URLB's agent is DDPG.
SAC explores better where a deterministic policy goes to an extreme and stays there: TD3 in its place covered half as much of
``rlx:pointmass-maze``.

What it stores while it trains is the data: ``rlx train rnd --env dmc:walker-walk --env-option physics=true --run-dir RUN``,
then ``rlx collect --mode replay --run-dir RUN --out walker-rnd.npz``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from rlx.agents import offpolicy, sac
from rlx.config import size, traced
from rlx.nn import normalize
from rlx.nn.mlp import MLP
from rlx.nn.normalize import Normalizer
from rlx.nn.optim import apply_gradients, optimizer
from rlx.replay import Transitions
from rlx.types import Agent, AgentState, Array, Clock, Key, Out, Problem, PyTree, Step, Update

CLIP = 5.0  # of normalised observations


@dataclass(frozen=True)
class Config(sac.Config):
    """Random network distillation, by SAC."""

    features: int = size(128, least=1)  # outputs of the random network
    predictor_hidden: tuple[int, ...] = size((256, 256), least=1)  # widths of it, and of the one that learns
    predictor_lr: float = traced(1e-4, "Adam's step size for the network that learns the random one.", least=0)


PRESETS: dict[str, dict[str, Any]] = {
    "debug": {**offpolicy.DEBUG, "features": 8, "predictor_hidden": (16,)},
    "urlb": {  # the sizes of URLB and ExoRL
        "env_steps": 1_000_000,
        "prefill": 4_000,
        "batch": 1_024,
        "hidden": (1_024, 1_024),
        "features": 512,
        "predictor_hidden": (1_024, 1_024),
        "actor_lr": 1e-4,
        "critic_lr": 1e-4,
        "temperature_lr": 1e-4,
        "tau": 0.01,
        "utd": 0.5,
    },
}


def errors(net: MLP, predictor: PyTree, random: PyTree, x: Array) -> Array:
    """e [B] of normalised observations ``x`` [B, n]."""
    return ((net.apply(predictor, x) - jax.lax.stop_gradient(net.apply(random, x))) ** 2).mean(-1)


def prediction_loss(predictor: PyTree, net: MLP, random: PyTree, x: Array) -> tuple[Array, Array]:
    """The mean error, and the errors [B]."""
    e = errors(net, predictor, random, x)
    return e.mean(), e


def rewards(e: Array, stats: Normalizer) -> tuple[Array, Normalizer]:
    """r [B] of errors ``e`` [B], and the statistics of all errors ``stats``, these included."""
    stats = normalize.update(stats, e[:, None], jnp.ones(e.shape, bool))
    return jax.lax.stop_gradient(e / jnp.maximum(normalize.std(stats)[0], 1e-8)), stats


def make(config: Config, problem: Problem) -> Agent:
    spec = problem.envs["train"].spec
    offpolicy.check(config, spec, "rnd")
    if config.n_step != 1:
        raise ValueError(f"rnd is paid for where a single step leads: give n_step=1, not {config.n_step}.")
    n, _ = offpolicy.obs_action_dims(spec, "rnd")
    explorer = sac.make(config, problem)
    net = MLP((*config.predictor_hidden, config.features), kernel_init="orthogonal")
    improve = next(phase.update for phase in explorer.stages[-1].phases if isinstance(phase, Update))

    def init(key: Key, hyper: dict[str, Array]) -> AgentState:
        begun, predictor, random = jax.random.split(key, 3)
        own: dict[str, Any] = {"predictor": net.init(predictor, jnp.zeros(n)), "random": net.init(random, jnp.zeros(n))}
        own |= {"predictor_opt": optimizer(0.0).init(own["predictor"])}
        own |= {"obs_stats": normalize.init((n,)), "error_stats": normalize.init((1,))}
        return AgentState(hyper, {**explorer.init(begun, hyper).learned, **own})

    def act(state: AgentState, clock: Clock, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        obs = normalize.apply(state.learned["obs_stats"], step.obs, CLIP)
        return explorer.act(state, clock, carry, step._replace(obs=obs), key, mode)

    def update(state: AgentState, clock: Clock, batch: Transitions, key: Key) -> tuple[AgentState, Out]:
        h, old = state.hyper, state.learned
        obs_stats = normalize.update(old["obs_stats"], batch.next_obs, jnp.ones(batch.reward.shape, bool))
        s, x = (normalize.apply(obs_stats, obs, CLIP) for obs in (batch.obs, batch.next_obs))
        (loss, e), grads = jax.value_and_grad(prediction_loss, has_aux=True)(old["predictor"], net, old["random"], x)
        predictor, opt = apply_gradients(optimizer(h["predictor_lr"]), old["predictor"], grads, old["predictor_opt"])
        reward, error_stats = rewards(e, old["error_stats"])
        state, out = improve(state, clock, batch._replace(obs=s, next_obs=x, reward=reward), key)
        own = {"predictor": predictor, "random": old["random"], "predictor_opt": opt}
        own |= {"obs_stats": obs_stats, "error_stats": error_stats}
        metrics = {"predictor/loss": loss, "explore/reward": reward.mean()}
        return state._replace(learned={**state.learned, **own}), out._replace(metrics={**out.metrics, **metrics})

    return replace(explorer, name="rnd", init=init, act=act, stages=offpolicy.stages(config, update))
