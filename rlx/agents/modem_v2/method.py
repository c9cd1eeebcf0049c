"""MoDem-V2 (Lancaster, Hansen, Rajeswaran and Kumar 2024, "MoDem-V2: Visuo-Motor World Models for Real-World Robot
Manipulation", arXiv:2309.14236), and MoDem (Hansen et al. 2022, arXiv:2212.05698) as settings of it.

::

    bc      e0, pi0 <- down the gradient of (pi0(e0(o)) - a)^2 on demonstrations; then frozen, and copied to e and pi_1..M
    seed    act by the clone, with noise, for a few episodes
    warm    an episode of the planner's; model, rewards and critics learn as often as there were decisions; e and pi_i do not
    learn   repeat: act for an episode; as many times, on windows of which a scheduled share are demonstrations:
                e, d, R, Q_0..M  <- down the gradient of the loss of `rlx.dynamics.told_learning`;  pi_i <- up min Q_i

    act     with a probability that grows from 0 to 1 by a plan, else by the clone (one step, valued by Q_0);
            plans are what pi_1..M do in the model, valued by mean - 10 std of what critics say of each other's proposals;
            one of the best is done, drawn by its value

Nothing learns with a gradient of 0: what is frozen has no optimiser, and gets one at the entry of the stage in which it learns,
so that Adam begins to count then. Rows of the method's table of ablations are presets, see `config`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rlx import replay
from rlx.agents.modem_v2.config import Config
from rlx.agents.modem_v2.demonstrations import NAME, demonstrations, require_infos
from rlx.agents.modem_v2.planning import cloned_actions, latent_plans
from rlx.agents.modem_v2.times import Times, handed_over, share_at
from rlx.agents.offpolicy import action_dims
from rlx.agents.tdmpc import Carry, Looks, horizon_at, kept
from rlx.config import hyper
from rlx.dynamics import told_learning as learning
from rlx.dynamics.told import Told, noisy, sight_of
from rlx.dynamics.told_learning import Coefs, Windows
from rlx.envs import batch
from rlx.nn.mlp import head
from rlx.nn.optim import apply_gradients, linear, optimizer
from rlx.planning import mppi
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
    Sampler,
    Sources,
    Spec,
    Stage,
    Step,
    Update,
)

BC, SEED, WARM, LEARN = "bc", "seed", "warm", "learn"  # stages


def make(config: Config, problem: Problem) -> Agent:
    env = problem.envs["train"]
    data, count = demonstrations(problem, config.horizon)
    require_infos(config, env.spec.info, data.data.info)
    method = Method.of(config, env.spec, 2 * count if config.bc_updates is None else config.bc_updates)
    times = method.times
    rows = kept(config, times.rows, max(times.first, times.episode), NAME) + 1 if times.cycles else 0
    return Agent(
        NAME,
        config,
        hyper(config),
        method.init,
        method.act,
        stages(method),
        {"train": batch(env, config.n_envs)} if times.cycles else {},
        {"replay": replay.ring(rows, config.n_envs, priorities=True, ends=config.horizon + method.spare)}
        if times.cycles
        else {},
        reads=("data",),
        carry=method.carry,
        evals=evaluations(config, times, problem.evaluated),
        modes=("explore", "eval", "planner", "bc", "bc_noisy"),
        on_eval=method.on_eval,
    )


def stages(method: Method) -> tuple[Stage, ...]:
    c, times = method.config, method.times
    cloning = replay.sequences(c.batch, 2, source="data", stack=method.frames, spare=0 if c.bc_use_tail else c.horizon)
    cycles, each = times.cloning
    found = [Stage(BC, cycles, (Update(each, cloning, method.imitate),))] if cycles else []
    if not times.cycles:
        return tuple(found)
    both = ("replay", "data")
    episode = Collect("train", times.episode, "replay")
    seeding = Collect("train", times.first, "replay", mode="bc_noisy")
    learn = lambda n, stage: Update(n, method.sampler(stage), method.update, priorities_of=both)
    return (
        *found,
        Stage(SEED, 1, (seeding,), enter=method.copied),
        Stage(WARM, 1, (episode, learn(times.updates[0], WARM)), enter=method.begins(WARM)),
        Stage(LEARN, times.cycles, (episode, learn(times.updates[1], LEARN)), enter=method.begins(LEARN)),
    )


def evaluations(c: Config, times: Times, env: str) -> tuple[Eval, ...]:
    """The clone with and without its noise once; then what acts, and while control is handed over the planner alone too."""
    once = times.cloning[0]
    cloned = [Eval(mode, env, c.eval_episodes, once, mode, stages=(BC,)) for mode in ("bc", "bc_noisy") if once]
    if not times.cycles:
        return tuple(cloned)
    every = max(1, round(c.eval_every / times.decisions))
    acting = ["eval", "planner"] if c.handover.kind != "off" else ["eval"]
    names = {"eval": "main"}
    return (
        *(Eval(names.get(m, m), env, c.eval_episodes, every, m, stages=(LEARN,)) for m in acting),
        *cloned,
    )


@dataclass(frozen=True)
class Method(Looks):
    """The functions of the agent. ``learned`` holds "params" of the `Told` model, the "target", the "clone" {"encoder",
    "policy"}, optimisers "opt" of what learns in this stage, and how far control is handed over, "cap" and "best"."""

    config: Config
    times: Times
    plans: mppi.Search
    steps: mppi.Search  # of the clone

    @staticmethod
    def of(c: Config, spec: Spec, bc_updates: int) -> Method:
        """Raises ValueError for settings, observations or actions that cannot be."""
        sight, convolutions = sight_of(spec, NAME, c.convolutions, c.cameras, c.proprio)
        if c.centering and c.samples % c.ensemble_size:
            raise ValueError(f"{NAME}: samples={c.samples} candidates are no equal shares for ensemble_size={c.ensemble_size}.")
        if c.handover.kind != "off" and not c.clone:
            raise ValueError(f"{NAME}: handover.kind={c.handover.kind!r} is from a clone, and clone=False keeps none.")
        among = int(c.policy_share * c.samples) // c.ensemble_size * c.ensemble_size
        drawn, policies = (0, c.samples) if c.centering else (c.samples, among)
        plans = mppi.Search(c.horizon, drawn, policies, c.elites, c.iterations, c.centering, c.pick)
        steps = mppi.Search(1, 0, c.samples, c.elites, c.iterations, True, "elite")
        m = action_dims(spec.action, NAME)
        net = Told.of(m, c.latent, c.hidden, c.encoder_hidden, sight.views, convolutions, c.ensemble_size, int(c.clone))
        return Method(c, sight, net, spec, Times.of(c, spec, bc_updates), plans, steps)

    @property
    def spare(self) -> int:
        """Decisions at the end of an episode that no window holds."""
        return 0 if self.config.fix_tail_mask else 1

    # ------------------------------------------------------------------------------------------------------ parameters

    def init(self, key: Key, h: dict[str, Array]) -> AgentState:
        params = self.net.init(key, self.sight(self.nothing(), self.frames))
        clone = {"encoder": params["encoder"], "policy": head(params["policies"], 0)}
        target = jax.tree.map(jnp.copy, {k: params[k] for k in ("encoder", "critics")})
        opt = {"clone": cloning(h).init(clone)}
        at_first = {"cap": jnp.float32(0), "best": jnp.float32(-jnp.inf), "alpha": jnp.float32(0)}
        return AgentState(h, {"params": params, "target": target, "clone": clone, "opt": opt, **at_first})

    def copied(self, state: AgentState, sources: Sources, key: Key) -> AgentState:
        """What learns begins as the clone. Critics keep the starts that were drawn for them."""
        old, clone = state.learned, state.learned["clone"]
        policies = jax.tree.map(lambda x: jnp.stack([x] * self.config.ensemble_size), clone["policy"])
        params = {**old["params"], "encoder": clone["encoder"], "policies": policies}
        target = {**old["target"], "encoder": clone["encoder"]}
        return state._replace(learned={**old, "params": params, "target": target, "opt": {}})

    def begins(self, stage: str) -> Callable[[AgentState, Sources, Key], AgentState]:
        """Optimisers for what begins to learn in a stage."""
        late = self.config.clone  # without a clone all learn from the first update on

        def enter(state: AgentState, sources: Sources, key: Key) -> AgentState:
            params, opt = state.learned["params"], dict(state.learned["opt"])
            if stage == WARM:
                opt |= learning.model_optimizers(params, ("dynamics", "reward", "critics"))
            if late == (stage == LEARN):
                opt |= learning.model_optimizers(params, ("encoder",))
                opt["policies"] = learning.policy_optimizers(params["policies"])
            return state._replace(learned={**state.learned, "opt": opt})

        return enter

    # ---------------------------------------------------------------------------------------------------------- acting

    def act(self, state: AgentState, clock: Clock, carry: Carry, step: Step, key: Key, mode: str) -> tuple[Array, Carry, dict]:
        h, learned, first = state.hyper, state.learned, jnp.asarray(step.first)
        obs, carry = self.stacked(carry, step)
        zb = self.net.encode(learned["clone"]["encoder"], obs)
        k_coin, k_plan, k_clone = jax.random.split(key, 3)
        if mode in ("bc", "bc_noisy") or not self.times.cycles:  # nothing but the clone was trained
            mean = self.net.act(learned["clone"]["policy"], zb)
            return noisy(mean, h["std"] if mode == "bc_noisy" else 0.0, k_clone), carry, {}
        k, n = self.times.acting(clock), first.shape[0]
        settings, explore = self.settings(k, h), jnp.float32(mode == "explore")
        begin = jnp.where(first[:, None, None] | (not self.config.warm_start), 0.0, carry.mean)

        def plan() -> tuple[Array, Array]:
            z = self.net.encode(learned["params"]["encoder"], obs)
            imagine, ahead = latent_plans(self.net, learned["params"], h["std"]), horizon_at(k, h, self.config.horizon)
            one = lambda z, mean, key: mppi.search(imagine, self.plans, settings, z, mean, ahead, explore, key)
            found = jax.vmap(one)(z, begin, jax.random.split(k_plan, n))
            return found.action, jax.vmap(mppi.shifted)(found.mean)

        if mode == "planner" or self.config.handover.kind == "off":
            action, mean = plan()
            return action, carry._replace(mean=mean), {}
        alpha = handed_over(k, h, self.times, learned["cap"] if self.config.handover.kind == "gated" else None)
        planned = jax.random.uniform(k_coin, (n,)) < alpha
        action, mean = jax.lax.cond(planned.any(), plan, lambda: (jnp.zeros((n, *self.spec.action.shape)), begin))
        cautious = self.cloned(learned, zb, settings, h, explore, k_clone)
        return jnp.where(planned[:, None], action, cautious), carry._replace(mean=mean), {}

    def settings(self, k: Array, h: dict[str, Array]) -> mppi.Settings:
        least = linear(h["std_start"], h["std"], k / h["std_steps"])
        weights = (h["value_min"], h["value_mean"], h["value_std"])
        worst = -float(self.spec.horizon or 0)
        return mppi.Settings(h["discount"], h["temperature"], h["momentum"], least, weights=weights, worst=worst)

    def cloned(self, learned: Any, z: Array, settings: mppi.Settings, h: dict[str, Array], explore: Array, key: Key) -> Array:
        """Actions [W, A] of the cloned policy, of several that which its own critics prefer."""
        imagine = cloned_actions(self.net, learned["clone"], learned["params"]["critics"], h["std"])
        own, none = settings._replace(discount=1.0, weights=(1.0, 0.0, 0.0)), jnp.zeros((1, *self.spec.action.shape))
        one = lambda z, key: mppi.search(imagine, self.steps, own, (z, none[0]), none, 1, explore, key).action
        return jax.vmap(one)(z, jax.random.split(key, z.shape[0]))

    def on_eval(self, state: AgentState, report: dict[str, Any], key: Key) -> AgentState:
        """gated: an evaluation that is as good as the best raises what may be handed over, where that is what holds it up."""
        old, found = state.learned, report.get("main")
        if self.config.handover.kind != "gated" or found is None:
            return state
        success = found[f"info/{self.config.success}" if self.config.success else "returns"].mean()
        better = success >= old["best"]
        raised = jnp.where(better & (old["cap"] < old["alpha"]), old["cap"] + state.hyper["handover.raised"], old["cap"])
        return state._replace(learned={**old, "cap": raised, "best": jnp.maximum(old["best"], success)})

    # -------------------------------------------------------------------------------------------------------- learning

    def sampler(self, stage: str) -> Sampler:
        """Windows of both sources, a scheduled share of demonstrations."""
        c = self.config
        one = lambda source: replay.sequences(
            c.batch, c.horizon + 1, source=source, priorities=True, stack=self.frames, spare=self.spare
        )
        share = lambda h, clock: share_at(self.times.learning(clock, stage), h, c.batch)
        return replay.mix([one("data"), one("replay")], share)

    def imitate(self, state: AgentState, clock: Clock, drawn: replay.Sequences, key: Key) -> tuple[AgentState, Out]:
        old, h = state.learned, state.hyper
        first = jax.tree.map(lambda x: x[:1], drawn.obs)
        obs, action = jax.tree.map(lambda x: x[0], self.looked(first, key)), drawn.action[0]
        loss, grads = jax.value_and_grad(imitation)(old["clone"], self.net, obs, action)
        clone, opt = apply_gradients(cloning(h), old["clone"], grads, old["opt"]["clone"])
        return state._replace(learned={**old, "clone": clone, "opt": {"clone": opt}}), Out({"bc/loss": loss})

    def update(self, state: AgentState, clock: Clock, drawn: replay.Sequences, key: Key) -> tuple[AgentState, Out]:
        h, old, coefs, c = state.hyper, state.learned, Coefs.of(state.hyper), self.config
        k_look, k_model, k_policy = jax.random.split(key, 3)
        rates = h["lr"], h["max_grad_norm"]
        windows = Windows.of(drawn._replace(obs=self.looked(drawn.obs, k_look)), c.horizon)
        windows = windows._replace(reward=self.rewards(drawn, h))
        frozen = old["clone"] if c.clone else None
        policies = {k: v for k, v in old["opt"].items() if k == "policies"}
        params, opt, aux = learning.learn_model(
            self.net, old["params"], old["opt"], frozen, old["target"], windows, coefs, *rates, k_model
        )
        metrics = aux.metrics
        if policies:
            moved, opt["policies"], each = learning.learn_policies(
                self.net, params, opt["policies"], aux.latents, coefs, *rates, k_policy
            )
            params, metrics = {**params, "policies": moved}, {**metrics, "actor/loss": each.mean()}
        target = learning.move_target(old["target"], params, self.times.model_updates(clock) % c.delay == 0, h["tau"])
        alpha = handed_over(self.times.acting(clock), h, self.times, None)
        learned = {**old, "params": params, "target": target, "opt": opt, "alpha": alpha}
        return state._replace(learned=learned), Out(metrics, aux.priority)

    def rewards(self, drawn: replay.Sequences, h: dict[str, Array]) -> Array:
        """Rewards [H, B], shifted, less the price of what is penalised: its Euclidean norm."""
        c, after = self.config, slice(1, self.config.horizon + 1)
        reward = (drawn.info[c.reward] > 0.5).astype(jnp.float32) if c.reward else drawn.reward
        reward = reward[after] + h["reward_shift"]
        if not c.penalty:
            return reward
        price = drawn.info[c.penalty][after].astype(jnp.float32)
        return reward - h["penalty_coef"] * jnp.sqrt((price.reshape(*price.shape[:2], -1) ** 2).sum(-1))


def imitation(clone: PyTree, net: Told, obs: PyTree, action: Array) -> Array:
    """The mean square of what the policy does less what was done."""
    return ((net.act(clone["policy"], net.encode(clone["encoder"], obs)) - action) ** 2).mean()


def cloning(h: dict[str, Array]) -> Any:
    return optimizer(h["lr"], max_grad_norm=h["max_grad_norm"])
