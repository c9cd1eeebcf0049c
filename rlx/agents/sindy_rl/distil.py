"""The policy as a polynomial (SINDy-RL, section "Approximating policies"): a sparse regression of the network's mean, on
states that it visits in the model and around them.

The neighbourhood is what holds the polynomial where the network's own trajectories would never teach it. Ridge and threshold
are chosen among 25 pairs by the error of the clipped action.

Beyond the paper:

- The polynomial is run in the model itself, and the network's actions there are learned too (Ross, Gordon and Bagnell 2011, "A
  reduction of imitation learning and structured prediction to no-regret online learning", arXiv:1011.0686).
- Where the network asks for more than the action's range, any value beyond the bound is right: once the polynomial is there,
  such a row is left out and the regression solved again. Otherwise the rows at the bounds, of which a network that switches has
  many, outweigh the slope between them, which is what balances.
- Degrees are tried by turns. Of all rounds and degrees that polynomial is kept whose return in the model is largest, over runs
  from where real episodes began and from around there; of nearly equal returns, that of the least degree.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, Literal, NamedTuple

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
NEARLY = 0.02  # of the best return: a polynomial of a smaller degree may earn so much less
HULL = 6  # observations at most, of which a convex hull can be had
Data = Callable[[Literal["all", "online", "last"]], np.ndarray]  # real observations [N, n]: all, the policy's, its last run's


def policy_library(config: Config, observations: int, degree: int | None = None) -> Dictionary:
    """Of the largest degree, unless told otherwise; terms of smaller ones come first in it."""
    return poly(observations, degree or max(config.policy_degrees), config.policy_bias)


def blank_policy(config: Config, observations: int, actions: int) -> SparseModel:
    library = policy_library(config, observations)
    zeros = jnp.zeros((config.ensemble_size, actions, len(library)))
    return SparseModel(zeros, zeros[0], library)


def distiller(
    config: Config, learner: Agent, imagined: Env, project: Callable[[np.ndarray], np.ndarray]
) -> Callable[[AgentState, PyTree, Data, Key], SparseModel]:
    """(state of ``learner``, params of ``imagined``, the data, key) -> the polynomial of its policy. ``project``: of
    observations."""
    runs = batch(imagined, -(-config.distil_steps // config.distil_length))
    whole = policy_library(config, imagined.spec.obs.shape[0])
    libraries = [policy_library(config, whole.variables, degree) for degree in sorted(set(config.policy_degrees))]
    act = lambda state, step, mode: learner.act(state, CLOCK, (), step, jax.random.key(0), mode)[0]

    def run(params: PyTree, key: Key, act: Callable[[Step], Array]) -> Row:
        policy: Any = lambda carry, step, now: (act(step), carry, {})
        return rollout(runs, params, policy, begin(runs, params, (), key), key, config.distil_length)[1]

    mean = jax.jit(lambda state, obs: act(state, step_at(obs), "mean"))
    network = jax.jit(lambda state, params, key: run(params, key, lambda step: act(state, step, "eval")))
    student = jax.jit(lambda model, params, key: run(params, key, lambda step: jnp.clip(model(step.obs), -1.0, 1.0)))

    def distilled(state: AgentState, params: PyTree, data: Data, key: Key) -> SparseModel:
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        known = np.asarray(params["starts"])
        starts = project(known + config.distil_starts * rng.standard_normal(known.shape))
        around = {**params, "starts": jnp.asarray(starts, jnp.float32)}
        wanted = lambda obs: np.asarray(mean(state, jnp.asarray(obs, jnp.float32)), np.float64)
        first = sampled(config, params, data, project, rng, lambda: observed(network(state, around, key)))
        found: list[Found] = []
        for library in libraries:
            states = first
            for _ in range(config.distil_rounds):
                model = regressed(library, *split(config, states, data, wanted, project, rng), config, rng)
                model = within(whole, model)
                rows = student(model, around, key)
                earned = float(rows.reward.sum() + student(model, params, key).reward.sum())
                found.append(Found(earned, len(library), model))
                states = np.concatenate([states, observed(rows)])
        return chosen(found).model

    return distilled


class Found(NamedTuple):
    """A polynomial, what it earns in the model, and how many terms it might have."""

    earned: float
    terms: int
    model: SparseModel


def chosen(found: list[Found]) -> Found:
    """The best of the least degree that earns nearly as much as the best of all."""
    best = max(found, key=lambda f: f.earned)
    enough = [f for f in found if f.earned >= best.earned - NEARLY * abs(best.earned)]
    least = min(f.terms for f in enough)
    return max((f for f in enough if f.terms == least), key=lambda f: f.earned)


def within(library: Dictionary, model: SparseModel) -> SparseModel:
    """``model`` in the terms of a ``library`` that has all of its own and more."""
    place = np.array([library.factors.index(term) for term in model.library.factors])
    wide = lambda x: jnp.zeros((*x.shape[:-1], len(library))).at[..., place].set(x)
    return SparseModel(wide(model.members), wide(model.coef), library)


# ----------------------------------------------------------------------------------------------------------------- states


def sampled(
    config: Config,
    params: PyTree,
    data: Data,
    project: Callable[[np.ndarray], np.ndarray],
    rng: np.random.Generator,
    runs: Callable[[], np.ndarray],
) -> np.ndarray:
    """The states [S, n] that the first polynomial is fitted to, as ``distil_states`` says. ``runs``: the network's in the
    model."""
    size, low, high = config.distil_steps, np.asarray(params["low"]), np.asarray(params["high"])

    def gaussian() -> np.ndarray:
        states = data("all")
        return project(rng.multivariate_normal(states.mean(0), np.cov(states.T).reshape(len(low), -1), size))

    ways: dict[str, Callable[[], np.ndarray]] = {
        "runs": runs,
        "rows": lambda: rng.choice(data("all"), size),
        "box": lambda: project(rng.uniform(low, high, (size, len(low)))),
        "gaussian": gaussian,
        "hull": lambda: project(in_hull(data("last"), size, rng)),
    }
    return ways[config.distil_states]()


def in_hull(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform draws [count, n] from the convex hull of points [N, n]: of its simplices one by volume, then a point of that.

    Raises:
        ValueError: the points are too few, or lie in a plane.
    """
    from scipy.spatial import ConvexHull, Delaunay, QhullError

    if points.shape[1] == 1:
        return rng.uniform(points.min(), points.max(), (count, 1))
    try:
        corners = points[ConvexHull(points).vertices]
        simplices = corners[Delaunay(corners).simplices]  # [K, n + 1, n]
    except (QhullError, ValueError) as error:
        raise ValueError(f"distil_states='hull': the {len(points)} states of the last run span no hull: {error}") from None
    volume = np.abs(np.linalg.det(simplices[:, 1:] - simplices[:, :1]))
    which = rng.choice(len(simplices), count, p=volume / volume.sum())
    return np.einsum("ki,kin->kn", rng.dirichlet(np.ones(points.shape[1] + 1), count), simplices[which])


Pairs = tuple[np.ndarray, np.ndarray]  # states [N, n], and what the network wants there [N, m]


def split(
    config: Config,
    states: np.ndarray,
    data: Data,
    wanted: Callable[[np.ndarray], np.ndarray],
    project: Callable[[np.ndarray], np.ndarray],
    rng: np.random.Generator,
) -> tuple[Pairs, Pairs]:
    """What a polynomial is fitted to, and what ridge and threshold are chosen by, as ``distil_select`` says."""
    there = states
    if config.distil_select == "held_out":
        order = rng.permutation(len(states))
        cut = max(1, len(states) // 5)
        there, states = states[order[:cut]], states[order[cut:]]
    elif config.distil_select == "online":
        there = data("online")
    near = np.concatenate([states] * COPIES)
    near = project(near + config.distil_noise * rng.standard_normal(near.shape))
    return (near, wanted(near)), (there, wanted(there))


def observed(rows: Row) -> np.ndarray:
    """All observations [N, n] of rows [T, W, ...]."""
    return np.asarray(rows.obs, np.float64).reshape(-1, rows.obs.shape[-1])


# ------------------------------------------------------------------------------------------------------------- regression


def regressed(library: Dictionary, near: Pairs, there: Pairs, config: Config, rng: np.random.Generator) -> SparseModel:
    """The ensemble for ``near`` whose aggregate, clipped to the action's range, is nearest to ``there``, clipped too: of all
    levels of ridge and threshold. With ``distil_passes`` these are chosen by fits to all rows, repeated without the rows that
    are beyond a bound as they should be; the ensemble is then of the rows that the best of them was fitted to."""
    (states, wanted), (known, true) = near, there
    theta, theta_known, right = library(states), library(known), np.clip(true, -1, 1)
    bags = stlsq.bags(rng, len(theta), max(1, int(config.bag * len(theta))), config.ensemble_size)
    mask = stlsq.dropped(rng, len(library), config.policy_drop, config.ensemble_size)
    every, whole = np.ones((1, len(theta))), np.ones((1, len(library)), bool)

    def fitted(task: Task, weights: np.ndarray, mask: np.ndarray) -> tuple[float, Task, np.ndarray, np.ndarray]:
        """The least error of all levels, the task with that one alone, its members [E, m, d] and their aggregate [m, d]."""
        found = _solved(library, theta, task, weights, mask, config.unbias)
        middle = aggregated(np.moveaxis(found, 1, 0), config.policy_aggregate if len(weights) > 1 else "mean")
        error = ((np.clip(np.einsum("sd,kmd->ksm", theta_known, middle), -1, 1) - right) ** 2).mean((1, 2))
        k = int(np.argmin(error))
        return float(error[k]), task._replace(levels=task.levels[k : k + 1]), found[k], middle[k]

    limit = config.distil_clip
    task = Task(np.clip(wanted, -limit, limit), np.ones(wanted.shape, bool), np.array(list(product(LEVELS, LEVELS))))
    if config.distil_passes:
        tried = []
        for _ in range(1 + config.distil_passes):
            error, task, _, coef = fitted(task, every, whole)
            tried.append((error, task))
            free = ~((np.abs(wanted) >= 1) & (theta @ coef.T * np.sign(wanted) >= 1))
            task = task._replace(targets=np.clip(wanted, -1, 1), free=free)
        task = min(tried, key=lambda pair: pair[0])[1]
    _, _, members, coef = fitted(task, bags, mask)
    return SparseModel(jnp.asarray(members, jnp.float32), jnp.asarray(coef, jnp.float32), library)


class Task(NamedTuple):
    """A regression for each of several levels."""

    targets: np.ndarray  # [N, m]
    free: np.ndarray  # bool [N, m]: the rows that count
    levels: np.ndarray  # [K, 2]: ridge and threshold


def _solved(
    library: Dictionary, theta: np.ndarray, task: Task, weights: np.ndarray, mask: np.ndarray, unbias: bool
) -> np.ndarray:
    """Coefficients [K, E, m, d]."""
    alpha, threshold = task.levels[:, 0, None, None], task.levels[:, 1, None, None]
    out = []
    for j, free in enumerate(task.free.T):
        rows, y = theta[free], task.targets[free, j : j + 1]
        if len(weights) == 1:
            gram, moment = (rows.T @ rows)[None], (y.T @ rows)[None]
        else:
            gram, moment = stlsq.moments(rows, y, weights[:, free], library.products)
        out.append(stlsq.stlsq(gram[:, None], moment, alpha, threshold, mask[:, None], unbias=unbias))
    return np.concatenate(out, 2)


CLOCK = Clock(np.int32(0), np.int32(0), np.int32(0))  # numpy's: importing this must not open a device


def step_at(obs: Any) -> Step:
    """As if the interaction stood there."""
    no = jnp.zeros(obs.shape[:-1], bool)
    return Step(obs, jnp.zeros(obs.shape[:-1]), no, no, no, {})
