"""What the tests need to know of each agent, in one table: a new method adds one entry to `AGENTS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rlx.envs
from rlx import config as configs
from rlx import preferences, replay
from rlx.agents import dbc, offpolicy, ppo, repo
from rlx.agents.repo.networks import Net
from rlx.dynamics.told import Told
from rlx.nn.mlp import head
from rlx.preferences.sampling import Comparisons
from rlx.replay import Sequences
from rlx.types import AgentState, Array, Env, HostEnv, Leaf, Problem, ReplayState, Spec

from .repo.worlds import PAIRED
from .td_jepa.worlds import PICTURES
from .test_ppo import rows
from .test_sac import transitions

DISCOUNT = 0.8  # on the probe environments
OFF_POLICY_PROBES = {
    "env_steps": 1_200,
    "prefill": 400,
    "collect": 20,
    "n_envs": 4,
    "utd": 1.0,
    "batch": 64,
    "hidden": (32, 32),
    "eval_every": 10**6,
    "eval_episodes": 4,
    "actor_lr": 3e-3,
    "critic_lr": 3e-3,
    "tau": 0.05,
    "discount": DISCOUNT,
}


DBC_PROBES: dict[str, Any] = OFF_POLICY_PROBES | {
    "init_temperature": 1e-3,
    "temperature_lr": 0.0,
    "frames": 1,
    "features": 16,
    "model_hidden": (32,),
    "encoder_lr": 3e-3,
}
TDMPC: dict[str, Any] = {"latent": 4, "hidden": 4, "encoder_hidden": 4, "horizon": 2, "samples": 8, "proposals": 2, "elites": 4}


@dataclass(frozen=True)
class Settings:
    """``update`` and ``batch``: a small agent, and a batch for one update of it; None where its updates are another agent's.
    ``probes``: with what it solves the probe environments in seconds; None where these are not for it."""

    env: str = "rlx:point-mass"  # small, and one that it can be made for
    preset_envs: dict[str, str] = field(default_factory=dict)  # by preset, where that needs another
    update: dict[str, Any] | None = field(default_factory=lambda: {"hidden": (4,)})
    batch: Callable[[], Any] = transitions
    felt: frozenset[str] = frozenset()  # traced values that one update must feel
    fixed: frozenset[str] = frozenset()  # traced values of the agent that are no traced fields of its config
    probes: dict[str, Any] | None = None
    value: Callable[[AgentState, Any, Array, Array], Array] | None = None  # (state, hidden, obs, action) -> value
    off_policy: bool = False
    data: bool = False  # it learns from a dataset
    more: Callable[[ReplayState], dict[str, Any]] = lambda data: {}  # data beside that, made of it


def least_q(state: AgentState, hidden: tuple[int, ...], obs: Array, action: Array) -> Array:
    """The smaller of two critics' values."""
    return offpolicy.q_values(offpolicy.networks(hidden, 1).critics, state.learned["critics"], obs, action).min(0)


def dbc_value(state: AgentState, hidden: tuple[int, ...], obs: Array, action: Array) -> Array:
    """Of the features that the critics see."""
    net = dbc.Net.of(configs.replace(dbc.Config(), DBC_PROBES), 1)
    z = net.encoder.apply(state.learned["own"]["encoder"], obs)
    return least_q(state, hidden, z, action)


def ppo_value(state: AgentState, hidden: tuple[int, ...], obs: Array, action: Array) -> Array:
    net = ppo.actor_critic(ppo.Config(hidden=hidden), 1, categorical=False)
    return net.value(state.learned, net.normalized(state.learned, obs), jnp.inf)


REPO_PROBES: dict[str, Any] = {
    "env_steps": 3_000,
    "n_envs": 4,
    "prefill": 1_000,
    "collect": 20,
    "updates": 20,
    "batch": 16,
    "chunk": 6,
    "embedding": 16,
    "belief": 16,
    "state": 4,
    "hidden": 32,
    "actor_layers": 2,
    "head_layers": 2,
    "horizon": 4,
    "continues": True,
    "greedy": "tanh_mean",
    "objective": "recon",  # from rewards alone either of two neighbours may carry what both show, the later one too
    "init_beta": 1e-2,
    "beta_lr": 1e-2,
    "target_kl": 3.0,
    "model_lr": 3e-3,
    "actor_lr": 2e-3,
    "value_lr": 3e-3,
    "entropy_coef": 0.05,  # actions that make no difference stay random, and the model sees all of them
    "discount": DISCOUNT,
    "eval_every": 10**6,
    "eval_episodes": 4,
}


def repo_value(state: AgentState, hidden: int, obs: Array, action: Array) -> Array:
    """Of where the model thinks that the action leads: its values count the reward of a state with the state."""
    net = Net.of(configs.replace(repo.Config(), REPO_PROBES), Spec(Leaf((2,)), Leaf((1,), low=-1, high=1)))
    params, rssm, n = state.learned["params"], net.rssm, len(obs)
    noise = jnp.zeros((n, rssm.state))
    latent = rssm.observe(params["rssm"], rssm.blank(n), jnp.zeros((n, 1)), net.embed(params, obs), noise)
    return net.head(params, "value", rssm.imagine(params["rssm"], latent, action, noise).features)


def windows() -> Sequences:
    """Of three rows; in one an episode begins."""
    pair, more = neighbours(), transitions(2)
    one = lambda x, y: jnp.concatenate([x, y[None]])
    no = jnp.zeros((1, 6), bool)
    first = jnp.zeros((3, 6), bool).at[2, 0].set(True)
    return Sequences(
        one(pair.obs, more.obs),
        jnp.where(first, 0.0, one(pair.reward, more.reward)),
        *(jnp.concatenate([x, no]) for x in (pair.terminated, pair.truncated)),
        first,
        {},
        one(pair.action, more.action),
        {},
        jnp.ones((3, 6), bool),
        jnp.ones(6),
        pair.index,
    )


def two_states_one_input() -> Any:
    batch = transitions()
    return batch._replace(obs=batch.obs[:, :2], next_obs=batch.next_obs[:, :2], action=batch.action[:, :1])


def neighbours() -> Sequences:
    """Pairs of rows, the second of which may be a last one."""
    a, b = transitions(), transitions(1)
    two = lambda x, y: jnp.stack([x, y])
    ends = two(jnp.zeros(6, bool), jnp.arange(6) % 3 == 0), two(jnp.zeros(6, bool), jnp.arange(6) == 1)
    rows = two(a.obs, a.next_obs), two(a.reward, b.reward), *ends, jnp.zeros((2, 6), bool), {}
    return Sequences(*rows, two(a.action, b.action), {}, jnp.ones((2, 6), bool), jnp.ones(6), a.index)


def compared() -> tuple[Comparisons, Any]:
    """Two pairs of windows of three transitions, of the first pair two, beside transitions; one window ends."""
    rng = np.random.default_rng(5)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    obs, action = draw(4, 2, 2, 4), jnp.tanh(draw(3, 2, 2, 2))
    ended = jnp.zeros((3, 2, 2), bool).at[2, 0, 1].set(True)
    mask = jnp.ones((3, 2, 2)).at[2, :, 0].set(0.0)
    return Comparisons(obs, action, ended, mask, jnp.float32([1, 0.3]), jnp.float32([1, 0.5])), transitions()


def latent_windows() -> Sequences:
    """Windows of three rows, not all of one weight, whose tasks may end on arrival at the last."""
    rng = np.random.default_rng(7)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    no = jnp.zeros((3, 6), bool)
    rows = draw(3, 6, 4), 9 * draw(3, 6), no.at[2, 0].set(True), no, no, {}, jnp.tanh(draw(3, 6, 2)), {}, ~no
    return Sequences(*rows, jnp.linspace(0.2, 1, 6), transitions().index)


def latent_value(state: AgentState, hidden: int, obs: Array, action: Array) -> Array:
    net, params = Told.of(1, latent=8, hidden=hidden, encoder_hidden=hidden), state.learned["params"]
    z = net.encode(params["encoder"], obs)
    return net.values(head(params["critics"], 0), z, action).min(0)


def well_paid() -> Any:
    """Transitions whose values are above 0, where MOBILE cuts them."""
    batch = transitions()
    return batch._replace(reward=batch.reward + 20)


def dataset(env: Env | HostEnv, episodes: int = 5, length: int = 8, seed: int = 0) -> ReplayState:
    """Random episodes of the shapes of ``env``, every second one cut; done in the end, where it says such things."""
    rng = np.random.default_rng(seed)
    seen = lambda leaf: abs(rng.normal(2.0, 3.0, (length, *leaf.shape))).astype(leaf.dtype)
    told = {"success": np.arange(length) > 2, "torque": np.ones(length, np.float32)}
    one = lambda cut: {
        "obs": jax.tree.map(seen, env.spec.obs, is_leaf=lambda x: isinstance(x, Leaf)),
        "action": rng.uniform(-1, 1, (length, *env.spec.action.shape)).astype(np.float32),
        "reward": rng.normal(size=length).astype(np.float32),
        "terminated": (np.arange(length) == length - 1) & (not cut),
        "info": {k: v for k, v in told.items() if k in env.spec.info},
    }
    return replay.from_episodes([one(i % 2 == 1) for i in range(episodes)])


def problem(name: str, preset: str | None = None, **envs: Env | HostEnv) -> Problem:
    """One that the agent can be made for; ``envs`` beside "train", or in place of it."""
    own = AGENTS[name]
    found = {"train": rlx.envs.make(own.preset_envs.get(preset, own.env)), **envs}
    if not own.data:
        return Problem(found)
    data = dataset(found["train"])
    return Problem(found, {"data": data, **own.more(data)})


MODEL_BASED: dict[str, Any] = {"hidden": (4,), "dynamics.hidden": (4,), "starts": 4, "horizon": 3, "real_ratio": 0.0}
MODEL_BASED_FELT = frozenset(
    {"actor_lr", "critic_lr", "temperature_lr", "tau", "target_entropy", "reward_scale", "reward_shift", "uncertainty_penalty"}
)
AGENTS = {
    "sac": Settings(
        felt=frozenset({"actor_lr", "critic_lr", "temperature_lr", "tau", "target_entropy"}),
        probes=OFF_POLICY_PROBES | {"init_temperature": 1e-3, "temperature_lr": 0.0},
        value=least_q,
        off_policy=True,
    ),
    "td3": Settings(
        update={"hidden": (4,), "policy_delay": 1},
        felt=frozenset({"actor_lr", "critic_lr", "tau", "smoothing"}),
        probes=OFF_POLICY_PROBES,
        value=least_q,
        off_policy=True,
    ),
    "rnd": Settings(  # what probes pay it does not look at
        update={"hidden": (4,), "features": 4, "predictor_hidden": (4,)},
        felt=frozenset({"actor_lr", "critic_lr", "temperature_lr", "tau", "target_entropy", "predictor_lr"}),
        off_policy=True,
    ),
    "dbc": Settings(
        update={"hidden": (4,), "model_hidden": (4,), "features": 3, "frames": 1},
        felt=frozenset(
            {"actor_lr", "critic_lr", "temperature_lr", "tau", "target_entropy", "encoder_lr", "encoder_tau", "bisim_coef"}
            | {"model_coef"}
        ),
        probes=DBC_PROBES,
        value=dbc_value,
        off_policy=True,
    ),
    "heron": Settings(  # comparisons leave open what a constant reward is
        update={"hidden": (4,), "n_envs": 2, "steps": 5, "minibatches": 1, "reward_hidden": (4,), "reward_minibatches": 1},
        batch=rows,
        felt=frozenset({"lr", "discount", "gae_lambda", "clip", "entropy_coef", "kl_coef", "reward_lr"}),
    ),
    "ppo": Settings(
        update={"hidden": (4,), "n_envs": 2, "steps": 5, "minibatches": 1},
        batch=rows,
        felt=frozenset({"lr", "discount", "gae_lambda", "clip", "entropy_coef", "kl_coef"}),
        probes={
            "env_steps": 8_192,
            "n_envs": 8,
            "steps": 32,
            "minibatches": 4,
            "hidden": (32,),
            "lr": 3e-3,
            "discount": DISCOUNT,
            "eval_every": 10**6,
            "eval_episodes": 4,
            "normalize_obs": True,
            "value_coef": 1.0,
        },
        value=ppo_value,
    ),
    "repo": Settings(
        preset_envs={"tia": PICTURES},
        update={"embedding": 8, "belief": 6, "state": 3, "hidden": 6, "horizon": 4, "batch": 6, "chunk": 3},
        batch=windows,
        felt=frozenset(
            {"model_lr", "probe_lr", "actor_lr", "value_lr", "beta_lr", "prior_train_steps"}
            | {"discount", "return_lambda", "entropy_coef"}
        ),
        probes=REPO_PROBES,
        value=repo_value,
    ),
    "repo_adapt": Settings(env=PAIRED, update=None, data=True),  # it begins with what repo has learned
    "yann": Settings(
        env="rlx:double-integrator",  # it needs what a controller needs
        batch=two_states_one_input,
        felt=frozenset({"actor_lr", "critic_lr", "tau_actor", "tau_critic"}),
        fixed=frozenset({"discount"}),  # samplers read it, and the controller was solved with it
    ),
    "td_jepa": Settings(
        env="rlx:pointmass-maze",
        preset_envs={"pixels": PICTURES, "ogbench_pixels": PICTURES},
        update={"d_phi": 6, "d_psi": 3, "psi_hidden": 8, "predictor_hidden": 8, "actor_hidden": 8},
        felt=frozenset(
            {"tau", "lr_phi", "lr_psi", "lr_predictor", "lr_actor", "lambda_phi", "lambda_psi", "goal_share", "bc"}
            | {"actor_std", "actor_clip", "pessimism", "actor_pessimism"}
        ),
        data=True,
    ),
    "bc": Settings(felt=frozenset({"actor_lr"}), fixed=frozenset({"discount"}), data=True),
    "td3_bc": Settings(
        update={"hidden": (4,), "policy_delay": 1},
        felt=frozenset({"actor_lr", "critic_lr", "tau", "smoothing", "alpha", "reward_scale", "reward_shift"}),
        data=True,
    ),
    "iql": Settings(
        felt=frozenset(
            {"actor_lr", "critic_lr", "value_lr", "tau", "expectile", "temperature", "reward_scale", "reward_shift"}
        ),
        data=True,
    ),
    "pearl": Settings(
        felt=frozenset(
            {"actor_lr", "critic_lr", "value_lr", "tau", "expectile", "temperature", "reward_scale", "reward_shift"}
        ),
        data=True,
        more=lambda data: {"source": preferences.source_of(preferences.episodes(data))},
    ),
    "ipl": Settings(
        batch=compared,
        felt=frozenset({"actor_lr", "critic_lr", "value_lr", "tau", "expectile", "temperature", "reward_coef", "discount"}),
        data=True,
    ),
    "oppo": Settings(
        update={"segment": 3, "width": 4, "layers": 1, "pairs": 5, "warmup": 2.0},
        batch=lambda: compared()[0],
        felt=frozenset({"actor_lr", "warmup", "context_lr", "context_decay", "preference_coef", "norm_coef"}),
        data=True,
    ),
    "rebrac": Settings(
        update={"hidden": (4,), "policy_delay": 1},
        batch=neighbours,
        felt=frozenset({"actor_lr", "critic_lr", "tau", "smoothing", "discount", "actor_penalty", "critic_penalty"}),
        data=True,
    ),
    "mopo": Settings(
        update=MODEL_BASED,
        batch=well_paid,
        felt=MODEL_BASED_FELT - {"uncertainty_penalty"},  # it is paid in imagined rewards
        data=True,
    ),
    "mobile": Settings(update=MODEL_BASED, batch=well_paid, felt=MODEL_BASED_FELT, data=True),
    "morec": Settings(
        update=MODEL_BASED | {"base": "mobile", "scorer.hidden": (4,), "scorer.snapshots": 2},
        batch=well_paid,
        felt=MODEL_BASED_FELT,
        data=True,
    ),
    "tdmpc": Settings(
        update=TDMPC,
        batch=latent_windows,
        felt=frozenset({"lr", "tau", "rho", "std", "consistency_coef", "reward_coef", "value_coef"}),
        probes={
            **TDMPC,
            "env_steps": 1_200,
            "prefill": 400,
            "collect": 20,
            "n_envs": 4,
            "batch": 64,
            "latent": 8,
            "hidden": 32,
            "encoder_hidden": 32,
            "horizon": 1,
            "iterations": 2,
            "samples": 24,
            "eval_every": 10**6,
            "eval_episodes": 4,
            "lr": 3e-3,
            "tau": 0.05,
            "discount": DISCOUNT,
        },
        value=latent_value,
    ),
    "modem_v2": Settings(  # what an update needs is made at the entry of its stage
        env="rlx:push-toy", preset_envs={"torque_penalty": "rlx:push-lite"}, update=None, data=True
    ),
    "sindy_rl": Settings(env="rlx:ks22", preset_envs={"swimmer": "gym:Swimmer-v5"}, update=None),  # its updates are PPO's
}
