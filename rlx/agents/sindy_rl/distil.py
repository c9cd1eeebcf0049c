"""The policy as a polynomial (SINDy-RL, section "Approximating policies"): a sparse regression of what the network says, on
states that it visits in the model and around them.

The neighbourhood is what holds the polynomial where the network's own trajectories would never teach it. Ridge and threshold
are chosen among 25 pairs by the error of the clipped action.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.agents.sindy_rl.config import Config
from rlx.dynamics import stlsq
from rlx.dynamics.sparse import Dictionary, SparseModel, aggregated, poly
from rlx.envs import batch, begin, rollout
from rlx.types import Agent, AgentState, Array, Clock, Env, Key, PyTree, Step

LEVELS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)  # of ridge and threshold
COPIES = 2  # of each state, with noise


def blank_policy(config: Config, observations: int, actions: int) -> SparseModel:
    library = poly(observations, config.policy_degree, config.policy_bias)
    zeros = jnp.zeros((config.members, actions, len(library)))
    return SparseModel(zeros, zeros[0], library)


class Teacher(NamedTuple):
    """The policy to be put into words, and the model that it is run in."""

    learner: Agent  # acts in the modes "eval" and "mean" (not clipped)
    state: AgentState  # its own
    imagined: Env
    params: PyTree  # of that environment
    project: Callable[[np.ndarray], np.ndarray]  # of observations

    def act(self, step: Step, mode: str) -> Array:
        return self.learner.act(self.state, CLOCK, (), step, jax.random.key(0), mode)[0]


def distilled(config: Config, teacher: Teacher, key: Key) -> SparseModel:
    """The polynomial of the teacher's policy."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    states = visited(config, teacher, key, rng)
    near = np.concatenate([states] * COPIES)
    near = near + config.distil_noise * rng.standard_normal(near.shape)
    mean = jax.jit(lambda obs: teacher.act(step_at(obs), "mean"))
    limit = config.distil_clip
    wanted = lambda obs: np.clip(np.asarray(mean(jnp.asarray(obs, jnp.float32)), np.float64), -limit, limit)
    library = poly(states.shape[1], config.policy_degree, config.policy_bias)
    return regressed(library, (near, wanted(near)), (states, wanted(states)), config, rng)


def regressed(
    library: Dictionary, near: tuple[Array, Array], there: tuple[Array, Array], config: Config, rng: np.random.Generator
) -> SparseModel:
    """The ensemble for ``near`` (states [N, n], actions [N, m]) whose aggregate, clipped to the action's range, is nearest to
    ``there`` [S, ...], clipped too: of all levels of ridge and threshold."""
    (states, wanted), (known, true) = near, there
    theta, members = library(states), config.members
    weights = stlsq.bags(rng, len(theta), max(1, int(config.bag * len(theta))), members)
    mask = stlsq.dropped(rng, len(library), min(config.policy_drop, len(library) - 1), members)
    gram, moment = stlsq.moments(theta, wanted, weights)
    pairs = np.array(list(product(LEVELS, LEVELS)))[:, :, None, None]  # [25, 2, 1, 1]
    found = stlsq.stlsq(gram[:, None], moment, pairs[:, 0], pairs[:, 1], mask[:, None], unbias=config.unbias)
    middle = aggregated(np.moveaxis(found, 1, 0), config.policy_aggregate)  # [25, m, d]
    said = np.clip(np.einsum("sd,kmd->ksm", library(known), middle), -1, 1)
    error = ((said - np.clip(true, -1, 1)) ** 2).mean((1, 2))
    best = int(np.argmin(error))
    return SparseModel(jnp.asarray(found[best], jnp.float32), jnp.asarray(middle[best], jnp.float32), library)


CLOCK = Clock(jnp.int32(0), jnp.int32(0), jnp.int32(0))


def step_at(obs: Any) -> Step:
    """As if the interaction stood there."""
    no = jnp.zeros(obs.shape[:-1], bool)
    return Step(obs, jnp.zeros(obs.shape[:-1]), no, no, no, {})


def visited(config: Config, teacher: Teacher, key: Key, rng: np.random.Generator) -> np.ndarray:
    """States [about distil_steps, n] of runs of the policy without noise in the model, from starts with noise."""
    runs = -(-config.distil_steps // config.distil_length)
    vec = batch(teacher.imagined, runs)
    starts = np.asarray(teacher.params["starts"])
    starts = teacher.project(starts + config.distil_starts * rng.standard_normal(starts.shape)).astype(np.float32)
    params = {**teacher.params, "starts": jnp.asarray(starts)}
    policy: Any = lambda carry, step, now: (teacher.act(step, "eval"), carry, {})
    roll = lambda params, key: rollout(vec, params, policy, begin(vec, params, (), key), key, config.distil_length)[1]
    rows = jax.jit(roll)(params, key)
    return np.asarray(rows.obs, np.float64).reshape(-1, starts.shape[1])
