"""Fast adaptation (appendix E.7 of the paper): what was learned for all tasks goes on learning one of them, by TD3 on the
dataset with that task's rewards, and online on what it does itself::

    z <- the task's z, with the largest reward as ||z||^2
    online: act for a while, then before each update once more;  half of a batch is of these decisions, half of the dataset
    Q_h(s, a) = T_h(phi(s), z, a)' z;    y <- r + discount min_h Q_h-(s', clip(pi(phi-(s'), z) + noise))
    T, phi <- down the gradient of (Q_h(s, a) - y)^2
    every other update: pi <- up the mean of Q_h, near the data where asked for;  targets <- a step of tau
    of choices pi takes the best by the mean of Q_h, and explores by one in ten at random

Features are regularised no more, and the state encoder stays as it is where that is asked for.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import replay
from rlx.agents.td_jepa.config import ADAPT, PREFILL, RELABEL, Config
from rlx.agents.td_jepa.features.base import SOURCE, Batch
from rlx.agents.td_jepa.networks import Net, Params
from rlx.agents.td_jepa.tasks import Tasks
from rlx.nn.optim import apply_gradients, optimizer, polyak
from rlx.replay import Transitions
from rlx.replay.buffer import overlaid
from rlx.replay.flags import FIRST, has
from rlx.types import AgentState, Array, Clock, Collect, Host, Key, Out, ReplayState, Row, Sources, Stage, Update

SMOOTHING, SMOOTHING_CLIP, DELAY = 0.2, 0.5, 2  # as TD3 has them
CHUNK = 2**16  # rows that are scored together
OWN, DATA_SHARE = "replay", 0.5  # the buffer of its own decisions; of a batch, what is of the dataset


def scaled(z: Array, most: Array) -> Array:
    """``z`` [d] with ``most``, the largest reward, as its squared norm (1e-6 where that is not positive)."""
    return z * jnp.sqrt(jnp.maximum(most, 1e-6) / jnp.maximum((z**2).sum(), 1e-12))


def targets(net: Net, p: Params, target: Params, inputs: Array, z: Array, reward: Array, discount: Array, key: Key) -> Array:
    """y [B]; ``inputs`` [B, n] is what the state encoder sees of next observations. A flow actor draws its noise here as when
    it acts, and TD3's comes on top; choices have none."""
    own = jax.random.normal(jax.random.fold_in(key, 1), (len(inputs), net.noise)) if net.noise else None
    action = net.pi(p, net.actor_sees(target, inputs), z, own)
    if not net.discrete:
        noise = jnp.clip(SMOOTHING * jax.random.normal(key, action.shape), -SMOOTHING_CLIP, SMOOTHING_CLIP)
        action = jnp.clip(action + noise, -1.0, 1.0)
    q = net.values(target, net.phi(target, inputs), z, action)
    return jax.lax.stop_gradient(reward + discount * q.min(0))


def critic_loss(own: Params, net: Net, p: Params, obs: Array, z: Array, action: Array, y: Array) -> Array:
    """(Q_h - y)^2, its mean over the batch summed over heads, of the parameters ``own``; others are those of ``p``."""
    every = {**p, **own}
    q = net.values(every, net.phi(every, net.see(every, "phi", obs)), z, action)
    return ((q - y) ** 2).mean(-1).sum()


def largest(tasks: Tasks, data: ReplayState, reward: np.ndarray | None = None) -> float:
    """Of all rewards that the data have of the environment's own task, or ``reward`` [C, W] instead of those stored."""
    rows = overlaid(data)
    if not tasks.scores:
        arrived = ~has(np.asarray(data.index.flags), FIRST)
        return float(np.asarray(rows.reward if reward is None else reward)[arrived].max())
    pieces = [slice(i, i + CHUNK) for i in range(0, rows.reward.shape[0] - 1, CHUNK)]
    after = lambda piece: slice(piece.start + 1, piece.stop + 1)
    whole = lambda x, piece: np.asarray(x[piece])
    pairs = ((whole(rows.obs, after(p)), whole(rows.action, p)) for p in pieces)
    return max(float(tasks.scored(tasks.own, np, obs, action[: len(obs)]).max()) for obs, action in pairs)


def room(c: Config, n: int, cycles: int) -> int:
    """Rows per stream of its own decisions, of ``cycles`` with ``n`` updates.

    Raises:
        ValueError: ``adapt_capacity`` holds less than is collected at once.
    """
    each = lambda decisions: -(-decisions // c.n_envs)
    most = max(each(c.adapt_prefill), each(n))
    if each(c.adapt_capacity) < most:
        raise ValueError(
            f"td_jepa: adapt_capacity={c.adapt_capacity} does not hold what is collected at once, {most * c.n_envs} decisions "
            "(adapt_prefill, or one for each update of a cycle); give at least that."
        )
    return min(each(c.adapt_capacity), each(c.adapt_prefill) + cycles * each(n))


@dataclass(frozen=True)
class Adaptation:
    """The functions of the stage; ``method`` is the agent's `rlx.agents.td_jepa.method.Method`, ``most`` the largest reward."""

    method: Any
    most: float
    reward: np.ndarray | None = None  # rewards of rows that have none

    @staticmethod
    def of(method: Any, data: ReplayState) -> Adaptation:
        """Warns where the data have no reward above 0, whose size z could have."""
        reward = method.tasks.decision_rewards(data) if method.tasks.goals else None
        most, shift = largest(method.tasks, data, reward), method.config.reward_shift
        if most + shift <= 0:
            more = f", with reward_shift={shift:g} {most + shift:g}" if shift else ""
            warnings.warn(
                f"td_jepa: the largest reward in the data is {most:g}{more}; adapting scales z to it and needs one above 0. "
                "Give a larger reward_shift.",
                stacklevel=2,
            )
        return Adaptation(method, most, reward)

    def stages(self, n: int, cycles: int) -> tuple[Stage, ...]:
        """``cycles`` with ``n`` updates; online behind as many decisions. Rows without rewards are given theirs before."""
        first = () if self.reward is None else (Stage(RELABEL, 1, (Host(self.relabel),)),)
        return first + self.learning(n, cycles)

    def relabel(self, state: AgentState, sources: dict[str, Any], key: Key) -> tuple[AgentState, dict[str, Any]]:
        """Host: as OGBench has it, a task that is solved is over."""

        def fresh(rows: Row) -> dict[str, Any]:
            return {"reward": self.reward, "terminated": rows.terminated | (self.reward == 0) & ~rows.first}

        return state, {**sources, SOURCE: replay.relabel(sources[SOURCE], fresh)}

    def learning(self, n: int, cycles: int) -> tuple[Stage, ...]:
        c = self.method.config
        drawn = lambda source: replay.transitions(c.batch, source=source, stack=c.frames)
        if not c.adapt_online:
            return (Stage(ADAPT, cycles, (Update(n, drawn(SOURCE), self.update),), enter=self.enter),)
        act = lambda decisions: Collect("train", -(-decisions // c.n_envs), OWN)
        both = replay.mix([drawn(SOURCE), drawn(OWN)], DATA_SHARE)
        first = Stage(PREFILL, 1, (act(c.adapt_prefill),), enter=self.enter)
        return first, Stage(ADAPT, cycles, (act(n), Update(n, both, self.update)))

    @property
    def trained(self) -> list[str]:
        frozen = self.method.config.adapt_frozen
        names = ("predictor",) if frozen else ("predictor", "trunk_phi", "phi")
        shared = () if frozen or not self.method.net.shared else ("psi", "trunk_psi")
        return [k for k in (*names, *shared) if k in self.method.net.modules]

    def rewards(self, obs: Array, action: Array, reward: Array) -> Array:
        """[...] of the environment's own task, for arriving at ``obs``: by its score, or as the dataset has them."""
        tasks = self.method.tasks
        return tasks.scored(tasks.own, jnp, obs, action) if tasks.scores else reward

    def enter(self, state: AgentState, sources: Sources, key: Key) -> AgentState:
        """The task's z on the scale of its rewards, and optimisers anew. A z that is 0, as nothing was learned before or no
        reward was seen, would keep all values at 0: a direction at random takes its place."""
        learned, method = state.learned, self.method
        most = self.most + state.hyper["reward_shift"]
        own = {k: learned["params"][k] for k in self.trained}
        opt = {"features": optimizer(0.0).init(own), "actor": optimizer(0.0).init(method.split(learned["params"])[1])}
        z = learned["tasks"][method.tasks.own]
        z = jnp.where(z.any(), z, jax.random.normal(key, z.shape))
        return state._replace(learned={**learned, "opt": opt, "adapted": scaled(z, most)})

    def update(self, state: AgentState, clock: Clock, drawn: Transitions, key: Key) -> tuple[AgentState, Out]:
        h, old, net, method = state.hyper, state.learned, self.method.net, self.method
        k_shift, k_next, k_act = jax.random.split(key, 3)
        batch = method.read(Batch(drawn.obs, drawn.action, drawn.next_obs, drawn.discount), k_shift)
        z = jnp.broadcast_to(old["adapted"], (len(batch.action), old["adapted"].shape[0]))
        params, target = old["params"], {**old["params"], **old["target"]}
        reward = self.rewards(drawn.next_obs, drawn.action, drawn.reward) + h["reward_shift"]
        inputs = net.see(target if method.config.target_trunk else params, "phi", batch.next_obs)
        y = targets(net, params, target, inputs, z, reward, batch.discount, k_next)

        own = {k: params[k] for k in self.trained}
        q_loss, grads = jax.value_and_grad(critic_loss)(own, net, params, batch.obs, z, batch.action, y)
        chain = optimizer({k: h[method.rates[k]] for k in own})
        own, opt = apply_gradients(chain, own, grads, old["opt"]["features"])
        params = {**params, **own}

        def improve() -> tuple:
            learner, mine = method.split(params)
            mine, mine_opt, metrics = method.improved(mine, learner, old["opt"]["actor"], batch, z, h, k_act)
            new = {**learner, **mine}
            moved = polyak(old["target"], {k: new[k] for k in method.targets}, h["tau"])
            return mine, mine_opt, moved, metrics.get("actor/loss", jnp.float32(0))

        def wait() -> tuple:
            return method.split(params)[1], old["opt"]["actor"], old["target"], jnp.float32(0)

        turn = (clock.updates + 1) % DELAY == 0
        mine, mine_opt, moved, actor_loss = jax.lax.cond(turn, improve, wait)
        opt = {"features": opt, "actor": mine_opt}
        learned = {**old, "params": {**params, **mine}, "target": moved, "opt": opt}
        if net.discrete:
            return state._replace(learned=learned), Out({"critic/loss": q_loss})
        metrics = {"critic/loss": q_loss, "actor/loss": actor_loss}
        return state._replace(learned=learned), Out(metrics, valid={"actor/loss": turn})
