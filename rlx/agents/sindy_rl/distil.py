"""The policy as a polynomial (SINDy-RL, section "Approximating policies"): a sparse regression of the network's mean, on
states that it visits in the model and around them.

The neighbourhood is what holds the polynomial where the network's own trajectories would never teach it. Ridge and threshold
are chosen among 25 pairs by the error of the clipped action.

Beyond the paper, the polynomial is then run in the model itself, and the network's actions there are learned too (Ross, Gordon
and Bagnell 2011, "A reduction of imitation learning and structured prediction to no-regret online learning", arXiv:1011.0686).
Of all rounds the polynomial with the largest return in the model is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.agents.sindy_rl.config import Config
from rlx.dynamics import stlsq
from rlx.dynamics.sparse import Dictionary, SparseModel, aggregated, poly
from rlx.envs import batch, begin, rollout
from rlx.types import Agent, AgentState, Array, Clock, Env, Key, PyTree, Row, Step

LEVELS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)  # of ridge and threshold
COPIES = 2  # of each state, with noise


def policy_library(config: Config, observations: int) -> Dictionary:
    return poly(observations, config.policy_degree, config.policy_bias)


def blank_policy(config: Config, observations: int, actions: int) -> SparseModel:
    library = policy_library(config, observations)
    zeros = jnp.zeros((config.ensemble_size, actions, len(library)))
    return SparseModel(zeros, zeros[0], library)


def distiller(
    config: Config, learner: Agent, imagined: Env, project: Callable[[np.ndarray], np.ndarray]
) -> Callable[[AgentState, PyTree, Callable[[], np.ndarray], Key], SparseModel]:
    """(state of ``learner``, params of ``imagined``, what gives the observations [N, n] of the data, key) -> the polynomial of
    its policy. ``project``: of observations."""
    runs = batch(imagined, -(-config.distil_steps // config.distil_length))
    library = policy_library(config, imagined.spec.obs.shape[0])
    limit = config.distil_clip
    act = lambda state, step, mode: learner.act(state, CLOCK, (), step, jax.random.key(0), mode)[0]

    def run(params: PyTree, key: Key, act: Callable[[Step], Array]) -> Row:
        policy: Any = lambda carry, step, now: (act(step), carry, {})
        return rollout(runs, params, policy, begin(runs, params, (), key), key, config.distil_length)[1]

    mean = jax.jit(lambda state, obs: act(state, step_at(obs), "mean"))
    network = jax.jit(lambda state, params, key: run(params, key, lambda step: act(state, step, "eval")))
    student = jax.jit(lambda model, params, key: run(params, key, lambda step: jnp.clip(model(step.obs), -1.0, 1.0)))

    def distilled(state: AgentState, params: PyTree, data: Callable[[], np.ndarray], key: Key) -> SparseModel:
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        known = np.asarray(params["starts"])
        starts = project(known + config.distil_starts * rng.standard_normal(known.shape))
        params = {**params, "starts": jnp.asarray(starts, jnp.float32)}
        wanted = lambda obs: np.clip(np.asarray(mean(state, jnp.asarray(obs, jnp.float32)), np.float64), -limit, limit)
        size, low, high = config.distil_steps, np.asarray(params["low"]), np.asarray(params["high"])
        drawn: dict[str, Callable[[], np.ndarray]] = {
            "runs": lambda: observed(network(state, params, key)),
            "rows": lambda: rng.choice(data(), size),
            "box": lambda: project(rng.uniform(low, high, (size, len(low)))),
        }
        states = drawn[config.distil_states]()
        found: list[tuple[float, SparseModel]] = []
        for _ in range(config.distil_rounds):
            near = np.concatenate([states] * COPIES)
            near = near + config.distil_noise * rng.standard_normal(near.shape)
            model = regressed(library, (near, wanted(near)), (states, wanted(states)), config, rng)
            rows = student(model, params, key)
            found.append((float(rows.reward.sum()), model))
            states = np.concatenate([states, observed(rows)])
        return max(found, key=lambda pair: pair[0])[1]

    return distilled


def observed(rows: Row) -> np.ndarray:
    """All observations [N, n] of rows [T, W, ...]."""
    return np.asarray(rows.obs, np.float64).reshape(-1, rows.obs.shape[-1])


def regressed(
    library: Dictionary, near: tuple[Array, Array], there: tuple[Array, Array], config: Config, rng: np.random.Generator
) -> SparseModel:
    """The ensemble for ``near`` (states [N, n], actions [N, m]) whose aggregate, clipped to the action's range, is nearest to
    ``there`` [S, ...], clipped too: of all levels of ridge and threshold."""
    (states, wanted), (known, true) = near, there
    theta, size = library(states), config.ensemble_size
    weights = stlsq.bags(rng, len(theta), max(1, int(config.bag * len(theta))), size)
    mask = stlsq.dropped(rng, len(library), config.policy_drop, size)
    gram, moment = stlsq.moments(theta, wanted, weights, library.products)
    pairs = np.array(list(product(LEVELS, LEVELS)))[:, :, None, None]  # [25, 2, 1, 1]
    found = stlsq.stlsq(gram[:, None], moment, pairs[:, 0], pairs[:, 1], mask[:, None], unbias=config.unbias)
    middle = aggregated(np.moveaxis(found, 1, 0), config.policy_aggregate)  # [25, m, d]
    predicted = np.clip(np.einsum("sd,kmd->ksm", library(known), middle), -1, 1)
    error = ((predicted - np.clip(true, -1, 1)) ** 2).mean((1, 2))
    best = int(np.argmin(error))
    return SparseModel(jnp.asarray(found[best], jnp.float32), jnp.asarray(middle[best], jnp.float32), library)


CLOCK = Clock(np.int32(0), np.int32(0), np.int32(0))  # numpy's: importing this must not open a device


def step_at(obs: Any) -> Step:
    """As if the interaction stood there."""
    no = jnp.zeros(obs.shape[:-1], bool)
    return Step(obs, jnp.zeros(obs.shape[:-1]), no, no, no, {})
