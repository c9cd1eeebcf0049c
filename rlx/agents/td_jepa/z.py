"""Tasks as vectors z of norm sqrt(d): drawn while learning, and inferred from rewards, goals and preferences.

Inference is on the host in float64, by singular values, so that features which have collapsed give a finite answer.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.agents.td_jepa.networks import on_sphere
from rlx.nn.optim import apply_gradients, optimizer
from rlx.precision import exact
from rlx.types import Array, Key

RATE = 0.005  # of the moving averages of the features' second moment and mean
RIDGE, SAFE_RIDGE = 1e-6, 1e-4  # of inverses of the second moment; of its trace, where the first does not do
RCOND = 1e-6  # singular values below this share of the largest are noise of float32 features
STEPS, STEP_SIZE, TEMPERATURE = 500, 0.05, 0.2  # of the search for the z of preferences


@exact
def unscaled(goals: Array, moment: Array) -> Array:
    """Goal features [..., d] times the inverse of the second moment of features [d, d]. Where these have collapsed so far that
    float32 has no such inverse, a ten-thousandth of the moment's trace is added to its diagonal."""
    d = moment.shape[-1]

    def solved(ridge: Array | float) -> Array:
        factor = jax.scipy.linalg.cho_factor(moment + ridge * jnp.eye(d))
        return jax.scipy.linalg.cho_solve(factor, goals.reshape(-1, d).T).T.reshape(goals.shape)

    found = solved(RIDGE)
    safe = lambda: solved(RIDGE + SAFE_RIDGE * jnp.trace(moment))
    return jax.lax.cond(jnp.isfinite(found).all(), lambda: found, safe)


def sample(key: Key, goals: Array, share: Array | float, moment: Array | None = None) -> Array:
    """z [B, d]: of a uniform direction, or with probability ``share`` that of a goal, each row by its own odds. ``goals``
    [B, d] are features of states, dealt out by one permutation; ``moment`` [d, d] has them scaled by its inverse."""
    of_direction, of_choice, of_order = jax.random.split(key, 3)
    free = jax.random.normal(of_direction, goals.shape)
    dealt = goals[jax.random.permutation(of_order, goals.shape[0])]
    dealt = dealt if moment is None else unscaled(dealt, moment)
    goal = jax.random.uniform(of_choice, (goals.shape[0], 1)) < share
    return jax.lax.stop_gradient(on_sphere(jnp.where(goal, dealt, free)))


@exact
def moved(moment: Array, features: Array) -> Array:
    """The moving average of the second moment [d, d] after a batch of features [B, d]."""
    return (1 - RATE) * moment + RATE * features.T @ features / features.shape[0]


# --------------------------------------------------------------------------------------------------------------- inference


def brought_to_sphere(w: Any) -> np.ndarray:
    """``w`` [..., d] with norm sqrt(d), float64; 0 stays 0."""
    w = np.asarray(w, np.float64)
    return w * np.sqrt(w.shape[-1]) / np.maximum(np.linalg.norm(w, axis=-1, keepdims=True), 1e-12)


def regressed(features: Any, rewards: Any, ridge: float = 0.0, bias: bool = False, weights: Any = None) -> np.ndarray:
    """z [d], or [K, d], of the v that gives ``rewards`` r [N], or [K, N], as linear in ``features`` psi [N, d], without a
    constant: the least squares of least norm, of sum_i w_i (psi_i' v - r_i)^2 + ``ridge`` ||v||^2. ``weights`` w [N] are 1
    where None. With ``bias`` a constant is fitted beside v, which neither the ridge nor z has part in."""
    x, rewards = np.asarray(features, np.float64), np.asarray(rewards, np.float64)
    d = x.shape[-1]
    if bias:
        x = np.concatenate([x, np.ones((len(x), 1))], 1)
    if weights is not None:
        root = np.sqrt(np.asarray(weights, np.float64))
        x, rewards = root[:, None] * x, root * rewards
    if ridge:
        x = np.concatenate([x, np.sqrt(ridge) * np.eye(d, x.shape[-1])])
        rewards = np.concatenate([rewards, np.zeros((*rewards.shape[:-1], d))], -1)
    return brought_to_sphere(np.linalg.lstsq(x, rewards.T, rcond=RCOND)[0][:d].T)


def correlated(features: Any, rewards: Any, weights: Any = None) -> np.ndarray:
    """z of the mean of reward times feature: what methods with the density of a measure take. Shapes as in `regressed`."""
    rewards = np.asarray(rewards, np.float64) * (1.0 if weights is None else np.asarray(weights, np.float64))
    return brought_to_sphere(rewards @ np.asarray(features, np.float64))


def of_goal(features: Any, moment: Any = None) -> np.ndarray:
    """z of a goal's features [..., d]; with their second ``moment`` [d, d] by its inverse, which is what the regression of a
    reward at the goal alone gives."""
    features = np.asarray(features, np.float64)
    if moment is None:
        return brought_to_sphere(features)
    return brought_to_sphere(features @ np.linalg.pinv(np.asarray(moment, np.float64), rcond=RCOND, hermitian=True))


def preferred(first: Any, second: Any, labels: Any, steps: int = STEPS) -> np.ndarray:
    """z [d] by which the segments with the embeddings ``second`` [P, d] were preferred to ``first`` with the probabilities
    ``labels`` [P], of which ties (1/2) count both ways: Adam on

        -log softmax(cos(z, e) / t) of the preferred one of two

    over a free vector (FB-PbRL). The temperature t is 0.2, as is its authors'. It begins at the mean difference."""
    with jax.enable_x64(True):
        one, two = (jnp.asarray(brought_to_sphere(e)) / np.sqrt(np.shape(e)[-1]) for e in (first, second))
        return brought_to_sphere(_searched(one, two, jnp.asarray(labels, jnp.float64), steps))


@partial(jax.jit, static_argnums=3)
def _searched(one: Array, two: Array, label: Array, steps: int) -> Array:
    """What Adam finds after so many steps, for embeddings [P, d] of norm 1."""
    start = ((2 * label[:, None] - 1) * (two - one)).mean(0)

    def loss(z: Array) -> Array:
        unit = z / jnp.sqrt((z**2).sum() + 1e-24)
        odds = jax.nn.log_softmax(jnp.stack([one @ unit, two @ unit], -1) / TEMPERATURE)
        return -((1 - label) * odds[:, 0] + label * odds[:, 1]).mean()

    chain = optimizer(STEP_SIZE)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        z, state = carry
        return apply_gradients(chain, z, jax.grad(loss)(z), state), None

    begun = start / jnp.sqrt((start**2).sum() + 1e-24)
    return jax.lax.scan(step, (begun, chain.init(begun)), None, steps)[0][0]
