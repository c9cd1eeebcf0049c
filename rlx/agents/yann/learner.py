"""Actor, critic and behaviour of one configuration on one plant, as functions of their parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx.agents.yann import networks as nets
from rlx.agents.yann.config import Config
from rlx.agents.yann.controller import Controller
from rlx.nn.mlp import MLP
from rlx.planning.laws import PiecewiseLaw
from rlx.types import AgentState, Array, Key, PyTree, Step


class Units(NamedTuple):
    """In which costs are counted: of the critic's h, and of its errors."""

    h: Array
    error: Array


class Learner:
    """Shapes: z [..., nz], u [..., m], both in deviations from the operating point (`Controller`)."""

    def __init__(self, config: Config, known: Controller):
        self.config, self.known = config, known
        self.m, self.nz = len(known.half), len(known.scale)
        self.bound = None if config.trust is None else jnp.asarray(2 * config.trust * known.half)
        self.form = nets.Form.of(known.W, self.nz)
        if config.actor == "mlp":
            self.actor_net = MLP((*config.hidden, self.m), last_scale=0.01)
        self.residual_net = nets.ResidualNet.of(config.residual, config.init, known.count, config.width, self.m)
        unseen = self.m if config.critic_input == "deviation" else 0
        plain = config.critic == "mlp"
        self.h = MLP((*config.hidden, 1)) if plain else nets.zero_mlp((*config.critic_hidden, 1), config.init, unseen)
        self.low, self.high, self.half = (jnp.asarray(x, jnp.result_type(float)) for x in (known.low, known.high, known.half))

    # ------------------------------------------------------------------------------------------------------------- actor

    def actor_init(self, key: Key) -> PyTree:
        if self.config.actor == "mlp":
            return self.actor_net.init(key, jnp.zeros(self.nz))
        return self.residual_net.init(key, self.nz)

    def raw(self, actor: PyTree, z: Array) -> tuple[Array, Array, Array]:
        """u [..., m] before it is clipped, the region [...], whether z is outside the law's domain [...]."""
        c, x = self.config, self.known.features(z)
        if c.actor == "mlp":
            nowhere = jnp.zeros(z.shape[:-1], jnp.int32)
            return self.known.input(jnp.tanh(self.actor_net.apply(actor, x))), nowhere, nowhere > 0
        if self.known.bigm is not None:
            return self._raw_bigm(actor, z, x)
        move = self.known.law(z)
        g = self.residual(actor, z, move.region)
        if c.outside == "zero" and isinstance(self.known.law, PiecewiseLaw):
            g = jnp.where(move.outside[..., None], 0.0, g)
        return move.u + g, move.region, move.outside

    def residual(self, actor: PyTree, z: Array, region: Array) -> Array:
        """What is added to the law of ``region`` [...] at z: [..., m]."""
        kind, x = self.config.residual, self.known.features(z)
        g = self.residual_net.apply(actor, x, region)
        return nets.bounded(g if kind == "paper" else g * self.half, self.bound)

    def _raw_bigm(self, actor: PyTree, z: Array, x: Array) -> tuple[Array, Array, Array]:
        c, law = self.config, self.known.law
        assert self.known.bigm is not None and isinstance(law, PiecewiseLaw)
        _, y3 = nets.bigm_gates(self.known.bigm, z)
        every = jnp.arange(law.regions)
        v = jax.vmap(law.affine, (None, 0), -2)(z, every) if z.ndim == 1 else law.affine(z[..., None, :], every)
        if c.residual == "paper":
            g = self.residual_net.of_all(actor, x)
        else:
            of = lambda i: self.residual_net.apply(actor, x, jnp.full(x.shape[:-1], i)) * self.half
            g = jnp.stack([of(i) for i in range(law.regions)], -2)
        learned = y3[..., None] * nets.bounded(
            g, self.bound
        )  # not through M, which bounds the laws and nothing that is learned
        u = nets.bigm_output(self.known.bigm, y3, v) + learned.sum(-2)
        return u, jnp.argmax(y3, -1).astype(jnp.int32), ~(y3 > 0).any(-1)

    def inputs(self, actor: PyTree, z: Array) -> Array:
        """u = clip(pi(z)), with gradients for a cost."""
        return nets.saturate(self.raw(actor, z)[0], self.low, self.high)

    # ------------------------------------------------------------------------------------------------------------ critic

    def critics_init(self, key: Key) -> PyTree:
        """Of all critics, which have a leading axis."""
        return jax.vmap(self.critic_init)(jax.random.split(key, self.config.n_critics))

    def critic_init(self, key: Key) -> dict[str, Any]:
        h = {"h": self.h.init(key, jnp.zeros(self.nz + self.m))}
        return {"q": nets.quadratic_init(self.known.W, self.nz), **h} if self.config.critic == "lqr" else h

    def start_value(self, critic: dict[str, Any], z: Array, u: Array) -> Array:
        """The part of Q that is known at the start [...]."""
        if self.config.critic == "mlp":
            return jnp.zeros(z.shape[:-1])
        if self.config.critic == "lqr":
            return nets.quadratic(critic["q"], self.form, self.known.features(z), u / self.half)
        assert self.known.value is not None
        return self.known.cost(z, u) + self.config.discount * self.known.value(self.known.predicted(z, u))

    def units(self, start: Units, z: Array) -> Units:
        """Of h and of errors at z [...]. Local ones are the regulator's cost to go: all states weigh alike however small their
        costs, and what is learned where costs are large does not disturb where they are small."""
        if self.config.critic_scale == "replay" or self.config.critic == "mlp":
            return start
        unit = start.error + self.form.value(self.known.features(z))
        return Units(unit, unit)

    def q_value(self, critic: dict[str, Any], start: Units, z: Array, u: Array) -> Array:
        """Q(z, u) [...]: the expected discounted cost to go."""
        c, x, unit = self.config, self.known.features(z), self.units(start, z).h
        if c.critic == "mlp":
            return unit * self.h.apply(critic["h"], jnp.concatenate([x, u / self.half], -1))[..., 0]
        known = jnp.clip(self.known.law(z).u, self.low, self.high) if c.critic_input == "deviation" else 0.0
        h = self.h.apply(critic["h"], jnp.concatenate([x, (u - known) / self.half], -1))[..., 0]
        return self.start_value(critic, z, u) + unit * h

    def q_values(self, critics: PyTree, start: Units, z: Array, u: Array) -> Array:
        """Of each critic [n_critics, ...]."""
        return jax.vmap(lambda critic: self.q_value(critic, start, z, u))(critics)

    def worst(self, critics: PyTree, start: Units, z: Array, u: Array) -> Array:
        """The largest of the critics' costs [...]."""
        return self.q_values(critics, start, z, u).max(0)

    # ----------------------------------------------------------------------------------------------------------- behaviour

    def act(self, state: AgentState, step: Step, key: Key, mode: str) -> tuple[Array, Array]:
        """Actions [W, m] in [-1, 1] and regions [W]."""
        c, learned, h = self.config, state.learned, state.hyper
        z = self.known.see(step.obs)
        if mode == "base":
            move = self.known.law(z)
            return jnp.clip(self.known.action(jnp.clip(move.u, self.low, self.high)), -1.0, 1.0), move.region
        u, region, _ = self.raw(learned["actor"], z)
        u = jnp.clip(u, self.low, self.high)
        if c.safeguard == "q_gate":
            base = jnp.clip(self.known.law(z).u, self.low, self.high)
            value = lambda u: self.worst(learned["target"]["critics"], learned["units"], z, u)
            gain = value(base) - value(u)
            u = jnp.where((gain > h["gate"] * jnp.abs(value(base)))[..., None], u, base)
        if mode == "explore":
            noise = h["explore_sigma"] * 2 * self.half * jax.random.normal(key, u.shape)
            u = self.known.probed(z, u, noise, h["margin"]) if c.actor == "law" else jnp.clip(u + noise, self.low, self.high)
        if c.filter:
            u = self.known.kept(z, u, h["margin"])
        return jnp.clip(self.known.action(u), -1.0, 1.0), region
