"""Zero-shot reinforcement learning: from data without rewards a family of policies pi_z, so that whatever reward is asked for
later is a vector z. TD-JEPA (Bagatella et al. 2025, "TD-JEPA: Latent-predictive Representations for Zero-Shot Reinforcement
Learning", arXiv:2510.00739) and the methods that it is compared with::

    repeat: s, a, s' <- the data;  images are shifted, s and s' each by its own draw
        z  <- a direction on the sphere, or psi of one of the s' (by the inverse second moment of psi, where so chosen)
        a' <- pi(phi-(s'), z)
        phi, psi, T   <- down the gradient of the method's loss                  (features/, a file each)
        second moment <- a step towards that of psi(s)
        pi <- down the gradient of -T(phi(s), z, pi(s, z))' z, near the data where asked for      (new phi and T)
        targets (of phi, psi, T) <- a step of tau towards their networks
    before each evaluation: the z of each task, by least squares of its rewards on psi(s')
    adapt, where asked for: TD3 from there on the environment's own task, offline or online                 (adapt.py)

One agent, whose setting ``features`` says which method: they share every other setting, so that methods are compared, swept and
loaded alike. `ZeroShot` is what is asked of a trained one.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import replay
from rlx.agents.offline import rows_of
from rlx.agents.offpolicy import action_dims, obs_action_dims
from rlx.agents.td_jepa import actor
from rlx.agents.td_jepa import z as zs
from rlx.agents.td_jepa.adapt import OWN, Adaptation, room
from rlx.agents.td_jepa.config import ADAPT, PRETRAIN, Config
from rlx.agents.td_jepa.features import METHODS, Batch, Features, Given
from rlx.agents.td_jepa.features.base import ACTIONS, SOURCE
from rlx.agents.td_jepa.losses import orthonormality, participation
from rlx.agents.td_jepa.networks import Net, Params, common
from rlx.agents.td_jepa.report import Report, Watch, asking_nothing, watched
from rlx.agents.td_jepa.tasks import GIVEN, Tasks, evaluations
from rlx.config import hyper
from rlx.envs import batch as streams_of
from rlx.envs.observations import described
from rlx.nn.images import LEAST_SIDE, push_frame, random_shift
from rlx.nn.optim import apply_gradients, optimizer, polyak
from rlx.types import (
    Agent,
    AgentState,
    Array,
    Clock,
    Env,
    Host,
    HostEnv,
    Key,
    Leaf,
    Out,
    Problem,
    PyTree,
    ReplayState,
    Spec,
    Stage,
    Step,
    Update,
)

CHUNK = 1024  # observations that are encoded together
RATES = {"trunk_phi": "lr_phi", "phi": "lr_phi", "trunk_psi": "lr_psi", "psi": "lr_psi", "predictor": "lr_predictor"}
ACTOR = {"actor": "lr_actor", "flow": "lr_flow"}


def make(config: Config, problem: Problem) -> Agent:
    env = problem.envs["train"]
    data = rows_of(problem, "td_jepa")
    method = Method.of(config, env.spec, Tasks.of(problem, env.spec, env.params))
    return Agent(
        "td_jepa",
        config,
        hyper(config),
        method.init,
        method.act,
        stages(method, data),
        **interaction(config, env),
        reads=(SOURCE, GIVEN),
        carry=method.carry,
        evals=evaluations(config, problem, method.tasks, {name: plan(config, n)[1] for name, n in budgets(config).items()}),
        report=Report(method),
    )


def budgets(c: Config) -> dict[str, int]:
    """Updates by stage."""
    return {name: n for name, n in ((PRETRAIN, c.updates), (ADAPT, c.adapt)) if n}


def interaction(c: Config, env: Env | HostEnv) -> dict[str, Any]:
    """Streams and buffer of an `rlx.types.Agent` that adapts online."""
    if not c.adapt_online:
        return {}
    n, _, cycles = plan(c, c.adapt)
    return {"envs": {"train": streams_of(env, c.n_envs)}, "buffers": {OWN: replay.ring(room(c, n, cycles) + 1, c.n_envs)}}


def plan(c: Config, updates: int) -> tuple[int, int, int]:
    """Updates per cycle, cycles between evaluations, and cycles in all: whole intervals, so that the last evaluation sees tasks
    inferred anew."""
    interval = min(c.eval_every, updates)
    n = min(c.per_cycle, interval)
    every = -(-interval // n)
    return n, every, -(-updates // (n * every)) * every


def stages(method: Method, data: ReplayState) -> tuple[Stage, ...]:
    c, found = method.config, []
    for name, updates in budgets(c).items():
        n, every, cycles = plan(c, updates)
        if name == PRETRAIN:
            phases = Update(n, method.features.sampler(), method.update), Host(method.infer, every)
            found.append(Stage(name, cycles, phases))
        else:
            found += Adaptation.of(method, data).stages(n, cycles)
    return tuple(found)


class Carry(NamedTuple):
    """What a policy remembers: its task, and where it looks at several frames the last of them."""

    z: Array  # [n, d_psi]
    frames: Array | tuple = ()


@dataclass(frozen=True)
class Method:
    """The functions of the agent."""

    config: Config
    net: Net
    features: Features
    tasks: Tasks
    spec: Spec
    extra: dict[str, tuple[Array, ...]]  # inputs of the networks that the method adds

    @staticmethod
    def of(c: Config, spec: Spec, tasks: Tasks) -> Method:
        """Raises ValueError for settings that cannot be."""
        features = METHODS[c.features](c)
        images = sees_images(c, spec)
        discrete = spec.action.choices is not None
        if images:
            actions = spec.action.choices or action_dims(spec.action, "td_jepa")
        else:
            actions = obs_action_dims(spec, "td_jepa", discrete=True)[1]
        if discrete and c.actor == "flow":
            raise ValueError(
                "td_jepa: actor='flow' makes vectors; of choices that of the largest value is taken: leave it out."
            )
        features.check()
        if not (c.updates or c.adapt):
            raise ValueError("td_jepa: updates=0 and adapt=0 leave nothing to do.")
        if c.adapt_online and not c.adapt:
            raise ValueError("td_jepa: adapt_online=True says where adapting has its data from; adapt=0 does none.")
        if c.adapt and tasks.given:
            raise ValueError(f"td_jepa: adapt={c.adapt} takes rewards of all rows; the data {GIVEN!r} have those of some.")
        own = features.modules(actions)
        modules = {
            **common(c, actions, images, features.shared, discrete),
            **{name: module for name, (module, _) in own.items()},
        }
        noise = actions if c.actor == "flow" else 0
        net = Net(c, modules, actions, features.shared, features.blind, noise, discrete)
        return Method(c, net, features, tasks, spec, {name: inputs for name, (_, inputs) in own.items()})

    # ---------------------------------------------------------------------------------------------------- parameters

    def init(self, key: Key, h: dict[str, Array]) -> AgentState:
        params = self.parameters(key)
        learner, own = self.split(params)
        opt = {"features": optimizer(0.0).init(learner), "actor": optimizer(0.0).init(own)}
        d = self.config.d_psi
        return AgentState(
            h,
            {
                "params": params,
                "target": jax.tree.map(jnp.copy, {k: params[k] for k in self.targets}),
                "opt": opt,
                "moment": jnp.eye(d),  # of psi, a moving average
                "mean": jnp.zeros(d),
                "tasks": jnp.zeros((len(self.tasks.names), d)),  # the z of each, as of the last inference
                "watch": Watch(*(jnp.float32(0) for _ in Watch._fields)),
            },
        )

    def parameters(self, key: Key) -> Params:
        c, net = self.config, self.net
        p: Params = {}
        keys = dict(zip(sorted(net.modules), jax.random.split(key, len(net.modules)), strict=True))
        shape = self.spec.obs.shape
        obs = jnp.zeros((*shape[:-1], shape[-1] * c.frames), self.spec.obs.dtype)
        for name in ("trunk_phi", "trunk_psi"):
            if name in net.modules:
                p[name] = net.modules[name].init(keys[name], obs)
        h, action, z = net.see(p, "psi", obs), jnp.zeros(net.actions), jnp.zeros(c.d_psi)
        p["psi"] = net.modules["psi"].init(keys["psi"], h)
        if "phi" in net.modules:
            p["phi"] = net.modules["phi"].init(keys["phi"], h)
        state = net.phi(p, h)
        p["predictor"] = net.modules["predictor"].init(keys["predictor"], state, z[:0] if net.blind else z, action)
        if not net.discrete:
            p["actor"] = net.modules["actor"].init(keys["actor"], net.actor_sees(p, h), z, jnp.zeros(net.noise))
        if net.noise:
            p["flow"] = net.modules["flow"].init(keys["flow"], h, action, jnp.zeros(1))
        rest = {name: inputs for name, inputs in self.extra.items() if name not in p}
        return {**p, **{name: net.modules[name].init(keys[name], *(inputs or (h,))) for name, inputs in rest.items()}}

    def split(self, params: Params) -> tuple[Params, Params]:
        """Those that the method's loss trains, and the actor's."""
        return {k: v for k, v in params.items() if k not in ACTOR}, {k: v for k, v in params.items() if k in ACTOR}

    @property
    def targets(self) -> list[str]:
        trunks = ["trunk_phi", "trunk_psi"] if self.config.target_trunk else []
        return [k for k in (*self.features.targets, *trunks) if k in self.net.modules]

    @property
    def linear(self) -> tuple[str, ...]:
        """Encoders without layers."""
        layers = {"psi": self.config.psi_layers, "phi": self.config.phi_layers}
        return tuple(name for name, n in layers.items() if not n)

    @property
    def rates(self) -> dict[str, str]:
        return {**RATES, **self.features.rates}

    def actor_chain(self, h: dict[str, Array], own: Params) -> Any:
        return optimizer({k: h[ACTOR[k]] for k in own})

    # -------------------------------------------------------------------------------------------------------- acting

    def carry(self, state: AgentState, n: int, context: PyTree = None) -> Carry:
        """``context``: numbers of tasks, one or [n]; or z itself, [d] or [n, d]; None: the environment's own task."""
        learned, c = state.learned, self.config
        own = learned.get("adapted", self.tasks.own)
        given = jnp.asarray(own if context is None else context)
        z = learned["tasks"][given] if jnp.issubdtype(given.dtype, jnp.integer) else given
        shape = self.spec.obs.shape
        frames = jnp.zeros((n, *shape[:-1], c.frames * shape[-1]), self.spec.obs.dtype) if c.frames > 1 else ()
        return Carry(jnp.broadcast_to(z, (n, c.d_psi)), frames)

    def act(self, state: AgentState, clock: Any, carry: Carry, step: Step, key: Key, mode: str) -> tuple[Array, Carry, dict]:
        p, obs = state.learned["params"], step.obs
        if self.config.frames > 1:
            obs = push_frame(jnp.asarray(carry.frames), obs, step.first)
            carry = carry._replace(frames=obs)
        return actor.taken(self.net, p, obs, carry.z, key, state.hyper["actor_std"], mode == "explore"), carry, {}

    # ------------------------------------------------------------------------------------------------------ learning

    def update(self, state: AgentState, clock: Clock, drawn: Any, key: Key) -> tuple[AgentState, Out]:
        h, old, net = state.hyper, state.learned, self.net
        k_shift, k_z, k_next, k_act = jax.random.split(key, 4)
        batch = self.read(self.features.view(drawn, h), k_shift)
        given, here = self.given(old, batch, h, k_z, k_next)

        learner, own = self.split(old["params"])
        (_, metrics), grads = jax.value_and_grad(lambda p: self.features.loss(net, p, given), has_aux=True)(learner)
        chain = optimizer({name: h[self.rates[name]] for name in learner})
        learner, opt = apply_gradients(chain, learner, grads, old["opt"]["features"])

        own, own_opt, more = self.improved(own, learner, old["opt"]["actor"], batch, given.z, h, k_act, here["phi"])

        params = {**learner, **own}
        psi, phi = net.psi(old["params"], here["psi"], given.mean), net.phi(old["params"], here["phi"])
        learned = {
            **old,
            "params": params,
            "target": polyak(old["target"], {k: params[k] for k in self.targets}, h["tau"]),
            "opt": {"features": opt, "actor": own_opt},
            "moment": zs.moved(old["moment"], psi),
        }
        if self.features.centred:
            learned["mean"] = old["mean"] + zs.RATE * net.psi(old["params"], given.next_psi, given.mean).mean(0)
        return state._replace(learned=learned), self.out(metrics | more, old["watch"], psi, phi)

    def given(self, old: dict[str, Any], batch: Batch, h: dict[str, Array], k_z: Key, k_next: Key) -> tuple[Given, Any]:
        """What the loss is told, and what the encoders see of the states; nothing here has a gradient."""
        net, p, target = self.net, old["params"], {**old["params"], **old["target"]}
        here, there = ({k: net.see(p, k, o) for k in ("phi", "psi")} for o in (batch.obs, batch.next_obs))
        scale = self.config.scale_goals if self.features.scale_goals is None else self.features.scale_goals
        z = zs.sample(k_z, net.psi(p, there["psi"], old["mean"]), h["goal_share"], old["moment"] if scale else None)
        if self.config.target_trunk:
            there = {k: net.see(target, k, batch.next_obs) for k in there}
        following = actor.acted(net, p, net.actor_sees(target, there["phi"]), z, h, k_next)
        return Given(batch, z, following, there["phi"], there["psi"], target, old["mean"], h), here

    def out(self, metrics: dict[str, Array], watch: Watch, psi: Array, phi: Array) -> Out:
        for name, x in (("psi", psi), *((("phi", phi),) if "phi" in self.net.modules else ())):
            metrics |= {f"{name}/off_diagonal": orthonormality(x).off_diagonal, f"{name}/participation": participation(x)}
        known = watch.psi_eigenvalue_ratio > 0
        return Out({**metrics, "psi/eigenvalue_ratio": watch.psi_eigenvalue_ratio}, valid={"psi/eigenvalue_ratio": known})

    def improved(
        self, own: Params, learner: Params, opt: Any, batch: Batch, z: Array, h: dict[str, Array], key: Key, seen: Any = None
    ) -> tuple[Params, Any, dict[str, Array]]:
        """The actor after a step, its optimiser, and metrics; ``seen``: what the state encoder sees of the batch, where that is
        known. Choices have no actor."""
        if self.net.discrete:
            return own, opt, {}
        seen = self.net.see(learner, "phi", batch.obs) if seen is None else seen
        improve = jax.value_and_grad(actor.loss, has_aux=True)
        (_, metrics), grads = improve(own, self.net, learner, seen, batch, z, h, key)
        own, opt = apply_gradients(self.actor_chain(h, own), own, grads, opt)
        return own, opt, metrics

    def read(self, batch: Batch, key: Key) -> Batch:
        """Images shifted, and choices as vectors."""
        if self.net.discrete:
            one = lambda action: jax.nn.one_hot(action, self.net.actions)
            more = {k: one(x) if k in ACTIONS else x for k, x in batch.more.items()}
            batch = batch._replace(action=one(batch.action), more=more)
        return shifted(batch, key, self.config.pad)

    # ----------------------------------------------------------------------------------------------------- inference

    @cached_property
    def encode(self) -> Any:
        """(learned, obs [N, ...]) -> (psi [N, d_psi], phi [N, d_phi]), in pieces that fit."""

        def both(learned: dict[str, Any], obs: Array) -> tuple[Array, Array]:
            p, net = learned["params"], self.net
            one = lambda o: (net.psi(p, net.see(p, "psi", o), learned["mean"]), net.phi(p, net.see(p, "phi", o)))
            return jax.lax.map(one, obs, batch_size=min(CHUNK, obs.shape[0]))

        fn = jax.jit(both)
        return lambda learned, obs: tuple(map(np.asarray, fn({k: learned[k] for k in ("params", "mean")}, obs)))

    def inferred(self, psi: Any, rewards: Any, weights: Any = None, **regression: Any) -> np.ndarray:
        """z [d], or [K, d], of rewards [N], or [K, N], at arrivals with features ``psi`` [N, d]; 0 where all rewards are 0.
        ``weights`` [N], and ``ridge`` and ``bias`` where there is a regression, as `z.regressed` has them."""
        inference = zs.regressed if self.features.regression else zs.correlated
        return inference(psi, rewards, weights=weights, **regression)

    def infer(self, state: AgentState, sources: dict[str, Any], key: Key) -> tuple[AgentState, dict[str, Any]]:
        """Host: the z of each task, and a look at the features."""
        obs, rewards = self.tasks.samples(self.config, state.hyper, sources, key)
        psi, phi = self.encode(state.learned, obs)
        if not (np.isfinite(psi).all() and np.isfinite(phi).all()):
            return state, sources  # the run has diverged, and says so
        z = self.inferred(psi, rewards + float(state.hyper["reward_shift"])).astype(np.float32)
        watch, words = watched(psi, phi, self.features.orthonormal, self.linear)
        for message in [*words, *asking_nothing(self.tasks.names, z)]:
            warnings.warn(f"td_jepa: {message}", stacklevel=2)
        return state._replace(learned={**state.learned, "tasks": z, "watch": watch}), sources


def sees_images(c: Config, spec: Spec) -> bool:
    """Whether observations are images. Raises ValueError for those that the agent cannot take."""
    leaf = lambda x: isinstance(x, Leaf)
    pictures = [x for x in jax.tree.leaves(spec.obs, is_leaf=leaf) if len(x.shape) == 3]
    if pictures and not leaf(spec.obs):
        raise ValueError(
            f"td_jepa takes a vector, or one image in uint8 [H, W, C]; this environment has {described(spec.obs)}. With "
            "pixels=... give state=false too (--env-option state=false), so that the picture alone is the observation."
        )
    if pictures and spec.obs.dtype != np.uint8:
        raise ValueError(f"td_jepa takes images in uint8; this environment has {spec.obs.dtype}.")
    if pictures and min(spec.obs.shape[:2]) < LEAST_SIDE:
        raise ValueError(f"td_jepa: pictures must be at least {LEAST_SIDE} wide and high; these are {spec.obs.shape[:2]}.")
    if c.frames > 1 and not pictures:
        raise ValueError(f"td_jepa: frames={c.frames} are stacked of images; observations here are {described(spec.obs)}.")
    return bool(pictures)


def shifted(batch: Batch, key: Key, pad: int) -> Batch:
    """Images of the batch, each observation by a shift of its own; all else as it is."""
    if batch.obs.ndim < 4 or not pad:
        return batch

    def look(x: Array, k: Key) -> Array:
        if x.ndim < 4:
            return x
        lead = math.prod(x.shape[:-3])
        return random_shift(k, x.reshape(lead, *x.shape[-3:]), pad).reshape(x.shape)

    keys = jax.random.split(key, 2 + len(batch.more))
    more = {name: look(x, k) for (name, x), k in zip(batch.more.items(), keys[2:], strict=True)}
    return batch._replace(obs=look(batch.obs, keys[0]), next_obs=look(batch.next_obs, keys[1]), more=more)
