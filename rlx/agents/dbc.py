"""Two methods that keep of pictures what rewards and dynamics ask for, on soft actor-critic: DeepMDP (Gelada et al. 2019,
"DeepMDP: Learning Continuous Latent Space Models for Representation Learning", arXiv:1906.02736) and DBC (Zhang et al. 2021,
"Learning Invariant Representations for Reinforcement Learning without Reconstruction", arXiv:2006.10742).

::

    z = features(s);  all expectations are over the replay; stop() passes no gradient
    prefill: act at random
    repeat: act for a few decisions; as many times:
        y        <- r + discount (min_i Q'_i(z', a') - alpha log pi(a'|z'))                                  (rlx.agents.sac)
        features <- down the gradient of  sum_i (Q_i(z, a) - y)^2
                      + (T(z, a) - stop(z'))^2 + (R(z, a) - r)^2                                           both methods
                      + bisim (d(z_i, z_j) - stop(d(r_i, r_j) + discount d(T_i, T_j)))^2                    DBC alone
        T, R     <- down the gradient of their own errors
        Q, pi, alpha, targets: soft actor-critic's, of z; what is learned of z are the critics' and the model's errors alone

d is Huber's distance, entry by entry of the features; j is another row of the batch. So features of two states lie as far from
each other as the states' rewards and futures do, and a background that changes neither has no room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rlx.agents import offpolicy, sac
from rlx.agents.offpolicy import Networks, critic_loss
from rlx.config import hyper, size, traced
from rlx.envs.observations import described
from rlx.nn.convolutions import of_pictures
from rlx.nn.distributions import tanh_normal_sample
from rlx.nn.images import LEAST_SIDE, ConvTrunk, push_frame
from rlx.nn.mlp import MLP
from rlx.nn.optim import apply_gradients, optimizer, polyak
from rlx.replay import Transitions
from rlx.types import Agent, AgentState, Array, Clock, Key, Leaf, Out, Problem, PyTree, Spec, Step

OBSERVATIONS = "images"  # and vectors


@dataclass(frozen=True)
class Config(offpolicy.OffPolicyConfig):
    """DBC and DeepMDP: features of pictures that say what rewards and dynamics are, under soft actor-critic."""

    objective: Literal["dbc", "deepmdp", "none"] = "dbc"  # what features learn beside values; none: soft actor-critic alone
    frames: int = size(3, least=1)  # observations stacked
    features: int = size(50, least=1)
    channels: int = size(32, least=1)  # of each convolution
    batch: int = size(128, least=2)
    capacity: int = size(500_000, least=1)  # rows of replay
    hidden: tuple[int, ...] = size((1024, 1024), least=1)  # of actor and critics
    model_hidden: tuple[int, ...] = size((512,), least=1)  # of the model of features, and of that of rewards

    encoder_lr: float = traced(1e-3, "Adam's step size for the features and the models that teach them.", least=0)
    actor_lr: float = traced(1e-3, "Adam's step size for the actor.", least=0)
    critic_lr: float = traced(1e-3, "Adam's step size for the critics.", least=0)
    temperature_lr: float = traced(1e-4, "Adam's step size for the temperature.", least=0)
    init_temperature: float = traced(0.1, "Temperature at the start; its logarithm is learned.", above=0)
    target_entropy: float = traced(-1.0, "Target entropy per action dimension.")
    tau: float = traced(0.01, "How far target critics move per update.", least=0, most=1)
    encoder_tau: float = traced(0.05, "How far the target features move per update.", least=0, most=1)
    bisim_coef: float = traced(0.5, "objective=dbc: weight of the distances between features.", least=0)
    model_coef: float = traced(1.0, "Weight of the errors of the models of features and rewards.", least=0)


TINY: dict[str, Any] = {  # in minutes on a few cores, for 32 x 32
    "env_steps": 30_000,
    "n_envs": 4,
    "collect": 10,
    "utd": 0.25,
    "batch": 64,
    "hidden": (256, 256),
    "model_hidden": (128,),
    "channels": 16,
    "capacity": 100_000,
    "eval_every": 2_500,
}
PRESETS: dict[str, dict[str, Any]] = {
    "debug": {**offpolicy.DEBUG, "model_hidden": (16,), "features": 8, "channels": 4},
    "tiny": TINY,
    "deepmdp": {"objective": "deepmdp"},
    "sac": {"objective": "none"},
}


# ------------------------------------------------------------------------------------------------------------ the networks


class Features(nn.Module):
    """Observations [..., H, W, C] in uint8, or [..., n], to [..., ``features``]: convolutions, or a layer of ``hidden``, then a
    dense layer and layer normalisation."""

    features: int
    channels: int
    hidden: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if x.dtype == jnp.uint8:
            x = ConvTrunk(None, self.channels)(x)
        else:
            x = jax.nn.relu(MLP((self.hidden,))(x))
        return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, param_dtype=float)(MLP((self.features,))(x))

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...


class Net(NamedTuple):
    """Static. Parameters of the first three are in ``learned["own"]`` by their names; ``sac`` is `offpolicy.Networks` of
    features."""

    encoder: Features
    dynamics: MLP  # T(z, a)
    reward: MLP  # R(z, a)
    sac: Networks

    @staticmethod
    def of(c: Config, actions: int) -> Net:
        model = MLP((*c.model_hidden, c.features)), MLP((*c.model_hidden, 1))
        return Net(Features(c.features, c.channels, c.hidden[0]), *model, offpolicy.networks(c.hidden, 2 * actions))

    def see(self, params: PyTree, obs: Array) -> Array:
        """Features [..., F] of observations."""
        return of_pictures(self.encoder, params, obs) if obs.dtype == jnp.uint8 else self.encoder.apply(params, obs)


def seen_leaf(c: Config, spec: Spec) -> Leaf:
    """The observation. Raises ValueError for what the agent cannot take."""
    if c.n_step != 1:
        raise ValueError(f"dbc: n_step={c.n_step}; the model that features learn from is of one step: give 1.")
    leaf = spec.obs
    picture = isinstance(leaf, Leaf) and len(leaf.shape) == 3 and leaf.dtype == np.uint8
    if not picture and not (isinstance(leaf, Leaf) and len(leaf.shape) == 1):
        raise ValueError(
            f"dbc takes vectors, or pictures in uint8 [H, W, C]; this environment has {described(leaf)}. "
            "With pixels=... give state=false too, so that the picture alone is the observation."
        )
    if picture and min(leaf.shape[:2]) < LEAST_SIDE:
        raise ValueError(f"dbc: pictures must be at least {LEAST_SIDE} wide and high; these are {leaf.shape[:2]}.")
    return leaf


# ---------------------------------------------------------------------------------------------------------------- formulas


def huber(x: Array, y: Array) -> Array:
    """Entry by entry: half the square of a difference below 1, its size less a half above."""
    d = jnp.abs(x - y)
    return jnp.where(d < 1, 0.5 * d**2, d - 0.5)


def bisimulation(z: Array, after: Array, reward: Array, discount: Array, other: Array) -> Array:
    """How far distances between features [B, n] are from those of rewards [B] and of what is predicted to come ``after``
    [B, n], which are taken as they are; ``other`` int [B] pairs the rows (Zhang et al. 2021, eq. 4 with their code's distance,
    entry by entry). The mean of squares."""
    wanted = huber(reward, reward[other])[:, None] + discount * huber(after, after[other])
    return ((huber(z, z[other]) - jax.lax.stop_gradient(wanted)) ** 2).mean()


def taught(
    own: PyTree, net: Net, batch: Transitions, next_z: Array, other: Array, h: dict[str, Array], bisim: bool
) -> tuple[Array, tuple[Array, dict[str, Array]]]:
    """What features learn of the model, beside the features [B, n] of ``batch.obs``."""
    z = net.see(own["encoder"], batch.obs)
    x = jnp.concatenate([z, batch.action], -1)
    after = net.dynamics.apply(own["dynamics"], x)
    dynamics = ((after - jax.lax.stop_gradient(next_z)) ** 2).mean()
    reward = ((net.reward.apply(own["reward"], x)[..., 0] - batch.reward) ** 2).mean()
    total, metrics = h["model_coef"] * (dynamics + reward), {"model/dynamics_loss": dynamics, "model/reward_loss": reward}
    if bisim:
        apart = bisimulation(z, after, batch.reward, h["discount"], other)
        total, metrics = total + h["bisim_coef"] * apart, {**metrics, "model/bisim_loss": apart}
    return total, (z, metrics)


# --------------------------------------------------------------------------------------------------------------- the agent


@dataclass(frozen=True)
class Method:
    """The functions of the agent."""

    config: Config
    net: Net
    leaf: Leaf  # of one observation
    actions: int

    def init(self, key: Key, h: dict[str, Array]) -> AgentState:
        c, k = self.config, jax.random.split(key, 4)
        obs, z = jnp.zeros(self.stacked, self.leaf.dtype), jnp.zeros(c.features + self.actions)
        own = {
            "encoder": self.net.encoder.init(k[0], obs),
            "dynamics": self.net.dynamics.init(k[1], z),
            "reward": self.net.reward.init(k[2], z),
        }
        learned = sac.begin(self.net.sac, k[3], c.features, self.actions, h["init_temperature"])
        target = jax.tree.map(jnp.copy, own["encoder"])
        return AgentState(h, {**learned, "own": own, "own_opt": optimizer(0.0).init(own), "target_encoder": target})

    @property
    def stacked(self) -> tuple[int, ...]:
        """The shape of what networks see."""
        return (*self.leaf.shape[:-1], self.config.frames * self.leaf.shape[-1])

    def carry(self, state: AgentState, n: int, context: PyTree = None) -> Array:
        return jnp.zeros((n, *self.stacked), self.leaf.dtype)

    def act(self, state: AgentState, clock: Clock, carry: Array, step: Step, key: Key, mode: str) -> tuple[Array, Array, dict]:
        frames = push_frame(carry, step.obs, step.first)
        if mode == "random":
            return offpolicy.at_random(key, step, self.actions), frames, {}
        z = self.net.see(state.learned["own"]["encoder"], frames)
        mean, log_std = sac.policy(self.net.sac.actor, state.learned["actor"], z)
        return (jnp.tanh(mean) if mode == "eval" else tanh_normal_sample(key, mean, log_std)[0]), frames, {}

    def update(self, state: AgentState, clock: Clock, batch: Transitions, key: Key) -> tuple[AgentState, Out]:
        net, h, old, objective = self.net, state.hyper, state.learned, self.config.objective
        k_target, k_pairs, k_learn = jax.random.split(key, 3)
        next_z = net.see(old["own"]["encoder"], batch.next_obs)
        judged = net.see(old["target_encoder"], batch.next_obs)
        y = sac.targets(net.sac, old, batch._replace(next_obs=next_z), k_target, judged)
        other = jax.random.permutation(k_pairs, batch.reward.shape[0])

        def loss(own: PyTree) -> tuple[Array, tuple[Array, dict[str, Array]]]:
            if objective == "none":
                total, (z, metrics) = jnp.float32(0), (net.see(own["encoder"], batch.obs), dict[str, Array]())
            else:
                total, (z, metrics) = taught(own, net, batch, next_z, other, h, objective == "dbc")
            return total + critic_loss(old["critics"], net.sac.critics, batch._replace(obs=z), y)[0], (z, metrics)

        slopes, (z, metrics) = jax.grad(loss, has_aux=True)(old["own"])
        state, out = sac.learn(net.sac, state, batch._replace(obs=z, next_obs=next_z), y, k_learn)
        own, opt = apply_gradients(optimizer(h["encoder_lr"]), old["own"], slopes, old["own_opt"])
        target = polyak(old["target_encoder"], own["encoder"], h["encoder_tau"])
        learned = {**state.learned, "own": own, "own_opt": opt, "target_encoder": target}
        return state._replace(learned=learned), out._replace(metrics={**out.metrics, **metrics})


def make(config: Config, problem: Problem) -> Agent:
    spec = problem.envs["train"].spec
    leaf = seen_leaf(config, spec)
    vector = Spec(Leaf((1,)), spec.action)
    offpolicy.check(config, vector, "dbc")
    actions = offpolicy.action_dims(spec.action, "dbc")
    method = Method(config, Net.of(config, actions), leaf, actions)
    shared = offpolicy.shared_parts(config, problem)
    stages = offpolicy.stages(config, method.update, config.frames)
    return Agent("dbc", config, hyper(config), method.init, method.act, stages, carry=method.carry, **shared)
