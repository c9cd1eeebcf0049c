"""Seven dummy agents with tiny networks and exactly the stage tuples of the seven methods.

They are here to hold the contracts of ``rlx.types`` still: what is awkward to write here is awkward for the real methods.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlx import replay
from rlx.envs import batch
from rlx.types import Agent, AgentState, Collect, Env, Eval, Host, Leaf, Out, Problem, Sampler, Spec, Stage, Step, Update

OBS, ACT, W, HORIZON = 3, 1, 2, 8


# ------------------------------------------------------------------------------------------------------------ tiny pieces


def layer(key, n, m):
    return jax.random.normal(key, (n, m)) * 0.3


def sgd(params, grads, lr):
    return jax.tree.map(lambda p, g: p - lr * g, params, grads)


def behave(w, obs, key, mode):
    """A linear policy; noise when exploring, uniform at random."""
    action = jnp.tanh(obs @ w)
    if mode == "random":
        return jax.random.uniform(key, action.shape, minval=-1, maxval=1)
    return action if mode == "eval" else jnp.clip(action + 0.1 * jax.random.normal(key, action.shape), -1, 1)


def reactive(state, clock, carry, step, key, mode):
    return behave(state.learned["actor"], step.obs, key, mode), carry, {}


def q_loss(params, batch):
    q = jnp.concatenate([batch.obs, batch.action], -1) @ params["critic"]
    target = batch.reward + batch.discount * jnp.tanh(batch.next_obs @ params["actor"])[..., 0]
    actor = -(
        jnp.concatenate([batch.obs, jnp.tanh(batch.obs @ params["actor"])], -1) @ jax.lax.stop_gradient(params["critic"])
    ).mean()
    error = q[..., 0] - jax.lax.stop_gradient(target)
    return (batch.weight * error**2).mean() + 0.1 * actor, jnp.abs(error)


def q_update(state, clock, batch, key):
    (loss, error), grads = jax.value_and_grad(q_loss, has_aux=True)({k: state.learned[k] for k in ("actor", "critic")}, batch)
    new = sgd({k: state.learned[k] for k in grads}, grads, state.hyper["lr"])
    return state._replace(learned={**state.learned, **new}), Out({"critic/loss": loss}, error)


def q_init(key, hyper, **more):
    k = jax.random.split(key, 2)
    return AgentState(hyper, {"actor": layer(k[0], OBS, ACT), "critic": layer(k[1], OBS + ACT, 1), **more})


def next_obs_loss(w, batch):
    prediction = batch.obs + jnp.concatenate([batch.obs, batch.action], -1) @ w
    return ((prediction - batch.next_obs) ** 2).mean()


def model_env(rewarder=lambda obs, action: -(obs**2).sum(-1)) -> Env:
    """What ``dynamics.as_env`` gives: learned dynamics as an environment whose parameters are traced."""
    spec = Spec(Leaf((OBS,)), Leaf((ACT,), low=-1, high=1), {}, horizon=HORIZON)

    def arrive(obs, reward, t, first=False):
        far = jnp.abs(obs).max() > 4.0
        return Step(obs, jnp.float32(reward), jnp.bool_(far & ~jnp.bool_(first)), t >= HORIZON, jnp.bool_(first), {})

    def reset(params, key):
        obs = params["starts"][jax.random.randint(key, (), 0, params["starts"].shape[0])]
        return (obs, jnp.int32(0)), arrive(obs, 0.0, jnp.int32(0), True)

    def step(params, state, action, key):
        obs = state[0] + jnp.concatenate([state[0], action]) @ params["model"]
        return (obs, state[1] + 1), arrive(obs, rewarder(obs, action), state[1] + 1)

    return Env("model", spec, {"model": jnp.zeros((OBS + ACT, OBS)), "starts": jnp.zeros((4, OBS))}, reset, step)


def dataset(seed: int = 0, episodes: int = 6, length: int = 9):
    """Random episodes as a frozen replay state."""
    rng = np.random.default_rng(seed)
    return replay.from_episodes(
        [
            {
                "obs": rng.normal(size=(length, OBS)).astype(np.float32),
                "action": rng.uniform(-1, 1, (length, ACT)).astype(np.float32),
                "reward": np.r_[0, rng.normal(size=length - 1)].astype(np.float32),
                "terminated": np.arange(length) == length - 1,
                "truncated": np.zeros(length, bool),
            }
            for _ in range(episodes)
        ]
    )


evals = (Eval("main", "train", episodes=2, every=2),)


# ------------------------------------------------------------------------------------------------------------- the seven


def td_jepa(problem: Problem) -> Agent:
    """Zero-shot: the task z lives in the carry and comes from the evaluation's context; adaptation is one more stage."""

    def init(key, hyper):
        k = jax.random.split(key, 2)
        return AgentState(hyper, {"phi": layer(k[0], OBS, 4), "actor": layer(k[1], OBS + 4, ACT)})

    def carry(state, n, context=None):
        z = jnp.zeros(4) if context is None else context @ state.learned["phi"]
        return {"z": jnp.broadcast_to(z, (n, 4)), "age": jnp.zeros(n, jnp.int32)}

    def act(state, clock, carry, step, key, mode):
        action = behave(state.learned["actor"], jnp.concatenate([step.obs, carry["z"]], -1), key, mode)
        return action, {**carry, "age": jnp.where(step.first, 0, carry["age"] + 1)}, {"z": carry["z"]}

    def loss(params, batch, key):
        z = jax.random.normal(key, (batch.obs.shape[0], 4))
        a = jnp.tanh(jnp.concatenate([batch.obs, z], -1) @ params["actor"])
        return ((batch.obs @ params["phi"] - batch.next_obs @ params["phi"]) ** 2).mean() + (a**2).mean()

    def update(state, clock, batch, key):
        value, grads = jax.value_and_grad(loss)(state.learned, batch, key)
        return state._replace(learned=sgd(state.learned, grads, state.hyper["lr"])), Out({"jepa/loss": value})

    one = Update(1, replay.transitions(8, source="data"), update)
    goals = [Eval(f"task{i}", "train", 2, every=2, context=jnp.eye(OBS)[i]) for i in range(2)]
    hyper = {"lr": 0.05, "discount": 0.9}
    return Agent(
        "td_jepa",
        None,
        hyper,
        init,
        act,
        (Stage("pretrain", 2, (one,)), Stage("adapt", 2, (one,))),
        reads=("data",),
        carry=carry,
        evals=tuple(goals),
    )


def yann(problem: Problem) -> Agent:
    """Plain off-policy; ``on_eval`` rolls back to the best."""

    def init(key, hyper):
        state = q_init(key, hyper)
        safe = jax.tree.map(jnp.copy, state.learned)
        return AgentState(hyper, {**state.learned, "safe": safe, "score": jnp.float32(-jnp.inf)})

    def on_eval(state, report, key):
        score, new = report["main"]["returns"].mean(), state.learned
        better = score > new["score"]
        now = {k: new[k] for k in new["safe"]}
        kept = jax.tree.map(lambda a, b: jnp.where(better, a, b), now, new["safe"])
        return state._replace(learned={**kept, "safe": kept, "score": jnp.maximum(score, new["score"])})

    learn = Stage("learn", 4, (Collect("train", 1, "replay"), Update(1, replay.transitions(4), q_update)))
    return Agent(
        "yann", None, {"lr": 0.05, "discount": 0.9}, init, reactive, (learn,),
        envs={"train": batch(problem.envs["train"], W)}, buffers={"replay": replay.ring(64, W)}, evals=evals, on_eval=on_eval,
    )  # fmt: skip


def repo(problem: Problem) -> Agent:
    """Recurrent carry, prefill, then an adaptation stage in which only a copied encoder learns."""

    def init(key, hyper):
        k = jax.random.split(key, 3)
        return AgentState(hyper, {"encoder": layer(k[0], OBS, 4), "cell": layer(k[1], 8, 4), "actor": layer(k[2], 4, ACT)})

    def cell(params, h, obs, first, encoder):
        h = jnp.where(first[:, None], 0.0, h)
        return jnp.tanh(jnp.concatenate([h, obs @ params[encoder]], -1) @ params["cell"])

    def act(state, clock, carry, step, key, mode):
        encoder = "target" if mode == "target" else "encoder"
        h = cell(state.learned, carry, step.obs, step.first, encoder)
        return behave(state.learned["actor"], h, key, mode), h, {}

    def loss(params, batch, encoder):
        def one(h, x):
            h = cell(params, h, x[0], x[1], encoder)
            return h, h

        _, hs = jax.lax.scan(one, jnp.zeros((batch.obs.shape[1], 4)), (batch.obs, batch.first))
        return ((hs[:-1].mean(-1) - batch.reward[1:]) ** 2).mean()

    def learn(encoder, only):
        def update(state, clock, batch, key):
            value, grads = jax.value_and_grad(loss)(state.learned, batch, encoder)
            new = sgd(state.learned, grads, state.hyper["lr"])
            learned = {k: new[k] if k in only or not only else v for k, v in state.learned.items()}
            return state._replace(learned=learned), Out({"model/loss": value})

        return update

    def copy(state, sources, key):
        return state._replace(learned={**state.learned, "target": state.learned["encoder"]})

    sample = replay.sequences(3, 4, cross=True)
    target = replay.sequences(3, 4, cross=True, source="calibration")
    stages = (
        Stage("prefill", 1, (Collect("train", 6, "replay", mode="random"),)),
        Stage("learn", 2, (Collect("train", 5, "replay"), Update(2, sample, learn("encoder", ())))),
        Stage("calibrate", 1, (Collect("shifted", 9, "calibration", mode="target"),), enter=copy),
        Stage(
            "adapt", 2, (Collect("shifted", 5, "calibration", mode="target"), Update(2, target, learn("target", ("target",))))
        ),
    )
    envs = {k: batch(problem.envs["train"], W) for k in ("train", "shifted")}
    return Agent(
        "repo", None, {"lr": 0.05}, init, act, stages, envs=envs,
        buffers={"replay": replay.ring(64, W), "calibration": replay.ring(32, W)},
        carry=lambda state, n, context=None: jnp.zeros((n, 4)), modes=("explore", "eval", "random", "target"), evals=evals,
    )  # fmt: skip


def sindy_rl(problem: Problem) -> Agent:
    """Dyna: the model is refitted on the host from a FIFO of whole trajectories and enters the imagined rollout traced."""
    real, imagined = replay.ring(48, W), replay.ring(16, 4)

    def init(key, hyper):
        return q_init(key, hyper, model=jnp.zeros((OBS + ACT, OBS)), starts=jnp.zeros((4, OBS)))

    def fit(state, sources, key):
        episodes = real.export(sources["real"])
        x = np.concatenate([np.concatenate([e.obs[:-1], e.action[:-1]], -1) for e in episodes])
        y = np.concatenate([np.diff(e.obs, axis=0) for e in episodes])
        model = np.linalg.lstsq(x.T @ x + 0.1 * np.eye(OBS + ACT), x.T @ y, rcond=None)[0]
        starts = np.stack([e.obs[0] for e in episodes] * 4)[:4]
        learned = {**state.learned, "model": model.astype(np.float32), "starts": starts.astype(np.float32)}
        sources = {**sources, "real": real.evict(sources["real"], 30)}
        return state._replace(learned=learned), sources

    def params(state, sources):
        return {"model": state.learned["model"], "starts": state.learned["starts"]}

    stages = (
        Stage("seed", 1, (Collect("train", 20, "real", mode="random"), Host(fit))),
        Stage("dyna", 4, (
            Collect("model", 8, "imagined", params=params, counts="model"),
            Update(2, replay.transitions(4, source="imagined"), q_update),
            Collect("train", 6, "real", mode="eval", fresh=True, every=2),
            Host(fit, every=2),
        )),
        Stage("distil", 1, (Host(lambda state, sources, key: (state, sources)),)),
    )  # fmt: skip
    return Agent(
        "sindy_rl", None, {"lr": 0.05, "discount": 0.9}, init, reactive, stages,
        envs={"train": batch(problem.envs["train"], W), "model": batch(model_env(), 4, starts="pool")},
        buffers={"real": real, "imagined": imagined}, modes=("explore", "eval", "random"), evals=evals,
    )  # fmt: skip


def modem_v2(problem: Problem) -> Agent:
    """Demonstrations mixed with online rows by a scheduled count, priorities of both flow back, optimisers are made at stage
    entry."""
    opt = optax.adam(1e-2)

    def imitate(state, clock, batch, key):
        loss = lambda w: ((jnp.tanh(batch.obs @ w) - batch.action) ** 2).mean()
        value, grads = jax.value_and_grad(loss)(state.learned["actor"])
        actor = sgd(state.learned["actor"], grads, state.hyper["lr"])
        return state._replace(learned={**state.learned, "actor": actor}), Out({"bc/loss": value})

    def with_optimiser(state, sources, key):
        nets = {k: state.learned[k] for k in ("actor", "critic")}
        return state._replace(learned={**state.learned, "opt": opt.init(nets)})

    def update(state, clock, batch, key):
        nets = {k: state.learned[k] for k in ("actor", "critic")}
        (loss, error), grads = jax.value_and_grad(q_loss, has_aux=True)(nets, batch)
        steps, opt_state = opt.update(grads, state.learned["opt"])
        learned = {**state.learned, **optax.apply_updates(nets, steps), "opt": opt_state}
        return state._replace(learned=learned), Out({"critic/loss": loss}, error + 1e-3)

    def share(hyper, clock):  # of demonstrations: from 3/4 down to 1/4 over 10 updates
        return jnp.clip(0.75 - 0.05 * clock.updates, 0.25, 0.75)

    online = replay.transitions(8, source="replay", priorities=True)
    mixed, both = replay.mix((replay.transitions(8, source="data", priorities=True), online), share), ("data", "replay")
    stages = (
        Stage("bc", 2, (Update(1, replay.transitions(8, source="data"), imitate),)),
        Stage("seed", 1, (Collect("train", 5, "replay", mode="eval"),)),
        Stage("warm", 1, (Collect("train", 5, "replay"), Update(2, mixed, update, priorities_of=both)), enter=with_optimiser),
        Stage("learn", 2, (Collect("train", 5, "replay"), Update(3, mixed, update, priorities_of=both))),
    )
    hyper = {"lr": 0.05, "discount": 0.9, "priority_exponent": 0.6, "importance_exponent": 0.4}
    return Agent(
        "modem_v2", None, hyper, q_init, reactive, stages, envs={"train": batch(problem.envs["train"], W)},
        buffers={"replay": replay.ring(64, W, priorities=True)}, reads=("data",), evals=evals,
    )  # fmt: skip


def morec(problem: Problem) -> Agent:
    """Ensemble, scorer with snapshots, policy on imagined rows that stop early."""
    members, snapshots = 3, 2

    def init(key, hyper):
        models = jax.vmap(lambda k: layer(k, OBS + ACT, OBS) * 0.1)(jax.random.split(key, members))
        more = {"models": models, "best": jnp.float32(jnp.inf), "patience": jnp.int32(0), "scorer": jnp.zeros((OBS, 1))}
        return q_init(key, hyper, **more, snapshots=jnp.zeros((snapshots, OBS, 1)), saved=jnp.int32(0))

    def fit(state, clock, batch, key):
        losses, grads = jax.vmap(jax.value_and_grad(next_obs_loss), (0, None))(state.learned["models"], batch)
        models = sgd(state.learned["models"], grads, state.hyper["lr"])
        return state._replace(learned={**state.learned, "models": models}), Out({"ensemble/loss": losses.mean()})

    def holdout(state, sources, key):
        data = sources["data"].data
        error = np.float32(np.mean([np.abs(data.obs[..., :] @ m[:OBS]).mean() for m in state.learned["models"]]))
        gain = error < state.learned["best"]
        more = {
            "best": np.minimum(error, state.learned["best"]),
            "patience": np.int32(0 if gain else state.learned["patience"] + 1),
        }
        return state._replace(learned={**state.learned, **more}), sources

    def score(state, clock, batch, key):
        loss = lambda w: jax.nn.softplus(-(batch.next_obs @ w)).mean() + jax.nn.softplus(batch.obs @ w).mean()
        value, grads = jax.value_and_grad(loss)(state.learned["scorer"])
        scorer = sgd(state.learned["scorer"], grads, state.hyper["lr"])
        return state._replace(learned={**state.learned, "scorer": scorer}), Out({"scorer/loss": value})

    def snapshot(state, sources, key):
        new, i = np.array(state.learned["snapshots"]), int(state.learned["saved"])
        new[i % snapshots] = state.learned["scorer"]
        return state._replace(learned={**state.learned, "snapshots": new, "saved": np.int32(i + 1)}), sources

    def params(state, sources):
        data = sources["data"].data.obs.reshape(-1, OBS)
        return {"model": state.learned["models"][0] * 3, "starts": data[:4] * 2}

    stages = (
        Stage("ensemble", 6, (Update(2, replay.transitions(8, source="data"), fit), Host(holdout)),
              stop=lambda state: state.learned["patience"] > 0),
        Stage("scorer", 2, (Update(2, replay.transitions(8, source="data"), score), Host(snapshot))),
        Stage("policy", 2, (
            Collect("model", HORIZON + 1, "imagined", params=params, fresh=True, counts="model"),
            Update(3, replay.transitions(8, source="imagined"), q_update),
        )),
    )  # fmt: skip
    return Agent(
        "morec", None, {"lr": 0.05, "discount": 0.9}, init, reactive, stages,
        envs={"model": batch(model_env(), 6, ends="stop")}, buffers={"imagined": replay.ring(40, 6)},
        reads=("data",), evals=evals,
    )  # fmt: skip


def pearl(problem: Problem) -> Agent:
    """Host transport, a reward model, relabelling of the shared source by a per-member overlay, offline learning."""

    def init(key, hyper):
        return q_init(key, hyper, reward=layer(key, OBS + ACT, 1), plan=jnp.zeros((4, 4)))

    def transport(state, sources, key):
        cost = np.abs(sources["data"].data.reward[:4] - sources["data"].data.reward[4:8].T)
        plan = np.exp(-cost)
        for _ in range(20):
            plan = plan / plan.sum(1, keepdims=True) / 4
            plan = plan / plan.sum(0, keepdims=True) / 4
        return state._replace(learned={**state.learned, "plan": plan.astype(np.float32)}), sources

    def prefer(state, clock, batch, key):
        loss = lambda w: (
            ((jnp.concatenate([batch.obs, batch.action], -1) @ w)[..., 0] - batch.reward * state.learned["plan"].sum()) ** 2
        )
        value, grads = jax.value_and_grad(lambda w: loss(w).mean())(state.learned["reward"])
        reward = sgd(state.learned["reward"], grads, state.hyper["lr"])
        return state._replace(learned={**state.learned, "reward": reward}), Out({"reward/loss": value})

    def relabel(state, sources, key):
        def label(rows):
            reward = (np.concatenate([rows.obs, rows.action], -1) @ state.learned["reward"])[..., 0]
            return {"reward": np.roll(reward, 1, axis=0).astype(np.float32)}

        return state, {**sources, "data": replay.relabel(sources["data"], label)}

    one = replay.transitions(8, source="data")
    stages = (
        Stage("align", 1, (Host(transport),)),
        Stage("reward", 2, (Update(2, one, prefer),)),
        Stage("relabel", 1, (Host(relabel),)),
        Stage("iql", 2, (Update(2, one, q_update),)),
    )
    return Agent("pearl", None, {"lr": 0.05, "discount": 0.9}, init, reactive, stages, reads=("data",), evals=evals)


AGENTS: dict[str, Any] = {f.__name__: f for f in (td_jepa, yann, repo, sindy_rl, modem_v2, morec, pearl)}
OFFLINE = ("td_jepa", "modem_v2", "morec", "pearl")
_ = Sampler
