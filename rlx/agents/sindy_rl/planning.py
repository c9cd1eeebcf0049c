"""Model predictive control in the fitted model: the mode "planner" of SINDy-RL (`rlx.planning.planner`)."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rlx.agents import ppo
from rlx.agents.sindy_rl import filtering
from rlx.agents.sindy_rl.world import World
from rlx.nn import normalize
from rlx.planning import mppi, planner
from rlx.planning.planner import Plans
from rlx.types import Array, Key, PyTree


def decided(
    world: World, learned: dict[str, Any], h: dict[str, Array], params: PyTree, plans: Plans, obs: Array, first: Array, key: Key
) -> tuple[Array, Plans]:
    """Actions [W, A] at ``obs`` [W, n] by plans in the imagined environment whose parameters are ``params``: its box and price
    of an exit count as they do for PPO, whose policy proposes and whose critic says what is behind the horizon."""
    model, k_begin, k_search = filtering.around(world), *jax.random.split(key)
    begun = jax.vmap(lambda obs, key: mppi.imagined_state(model, params["model"], obs, key))
    states = begun(obs, jax.random.split(k_begin, obs.shape[0]))
    policy = {k: learned[k] for k in (*ppo.TRAINED, "obs_stats", "return_stats")}
    given = {"world": params, "policy": policy, "value_bound": h["ppo.value_bound"]}
    imagine = partial(imagined, world)
    return planner.decide(world.config.planner, imagine, given, states, plans, first, h["ppo.discount"], 0.0, k_search)


def imagined(world: World, given: dict[str, Any]) -> mppi.Imagination:
    """One decision of the model a step, given the environment's parameters, "world", and PPO's networks, "policy"."""
    config, params, learned = world.config, given["world"], given["policy"]
    net = ppo.actor_critic(config.ppo, world.actions, categorical=False)

    def policy(obs: Array, key: Key) -> Array:
        return jnp.clip(net.policy(learned, net.normalized(learned, obs)).sample(key), -1.0, 1.0)

    def value(obs: Array, key: Key) -> Array:
        scale = normalize.std(learned["return_stats"].stats) if config.ppo.normalize_reward else 1.0
        return scale * net.value(learned, net.normalized(learned, obs), given["value_bound"])[None]

    def inside(obs: Array) -> Array:
        return ((obs > params["low"]) & (obs < params["high"])).all(-1).astype(obs.dtype)

    return mppi.imagined(
        filtering.around(world),
        params["model"],
        value if config.planner.value else None,
        policy if config.planner.proposals else None,
        inside,
        params["exit_reward"] if config.exit == "penalty" else 0.0,
    )
