"""Planning by sampling in any learned dynamics: model predictive path integral control (Williams et al. 2015,
arXiv:1509.01149) with elites, as in TD-MPC (Hansen, Wang and Su 2022, arXiv:2203.04955, algorithm 1). With a temperature of 0
all elites weigh the same, which is the cross-entropy method.

::

    candidates  sequences of actions: from a Gaussian per step, and from policies that act in the imagination
    value       sum_{t<h} discount^t r_t + discount^h V(z_h), V by several estimates of which min, mean and std are weighed
    elites      the best of them, weighed by exp(temperature (value - best value))
    Gaussian    <- mean and deviation of the elites, the mean by a momentum;  again, ``iterations`` times
    action      the Gaussian's mean at the first step, or the first action of an elite drawn by its weight

All functions are pure, over candidates [N] of one decision: map them over streams. The horizon ``h`` is traced, so a schedule
of it compiles nothing anew, and steps behind it are not computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from rlx.precision import exact
from rlx.types import Array, Key, PyTree

LEAST_WEIGHT = 1e-9  # added to sums of weights


class Imagination(NamedTuple):
    """What plans are tried in. States are any pytree with leaves [N, ...]."""

    step: Callable[[PyTree, Array, Key], tuple[PyTree, Array]]  # (states, actions [N, A], key) -> (next states, rewards [N])
    value: Callable[[PyTree, Key], Array]  # (states, key) -> estimates [E, N] of what is to come
    propose: Callable[[PyTree, Key], Array] | None = None  # (states, key) -> actions [N, A] of policies, noise included


@dataclass(frozen=True)
class Search:
    """Sizes of a search. ``centred``: the first candidates are the policies' alone, ``proposals`` of them, and later ones the
    Gaussian's alone, as narrow as the elites make it; otherwise each round has ``samples`` of a Gaussian that is no narrower
    than the noise, and the same ``proposals``."""

    horizon: int = 5  # the longest
    samples: int = 512  # of the Gaussian
    proposals: int = 25  # of policies
    elites: int = 64
    iterations: int = 6
    centred: bool = False
    pick: Literal["mean", "elite"] = "mean"  # what is done

    def __post_init__(self) -> None:
        count = self.proposals if self.centred else self.samples + self.proposals
        if min(self.horizon, self.elites, self.iterations) < 1 or min(self.samples, self.proposals) < 0:
            raise ValueError(f"a search needs a horizon, elites and iterations of at least 1, got {self}.")
        if self.elites > count:
            raise ValueError(f"a search of {count} candidates has no {self.elites} elites: give at most {count}.")


class Settings(NamedTuple):
    """Of a search, traced."""

    discount: Array | float = 0.99
    temperature: Array | float = 0.5
    momentum: Array | float = 0.1  # share of the old mean
    std_min: Array | float = 0.05
    std_max: Array | float = 2.0
    weights: Any = (1.0, 0.0, 0.0)  # of least, mean and standard deviation of the estimates
    worst: Array | float = (
        0.0  # what a candidate counts for whose value is no number; it becomes an elite where there is no other
    )


class Plan(NamedTuple):
    """What a search found for one decision."""

    action: Array  # [A]
    mean: Array  # [H, A], where the next decision's search begins
    std: Array  # [A], of the first step
    value: Array  # []: of the elites, by their weights
    disagreement: Array  # []: how far the estimates of the elites differ, by their weights


def search(
    imagine: Imagination,
    sizes: Search,
    settings: Settings,
    state: PyTree,
    mean: Array,
    h: Array | int,
    explore: Array,
    key: Key,
) -> Plan:
    """The decision in ``state`` (leaves without a leading axis).

    Args:
        mean: [H, A], of the Gaussian at first: zeros, or `shifted` of the decision before.
        h: steps looked ahead, at most the horizon of ``sizes``.
        explore: [] how much of the Gaussian's deviation is added to the action as noise; 0 for none, 1 in training.
    """
    wide = lambda n: jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), state)
    k_policies, k_rounds, k_pick, k_noise = jax.random.split(key, 4)
    within = settings._replace(std_min=0.0) if sizes.centred else settings
    proposals, ahead = jnp.zeros((mean.shape[0], 0, mean.shape[1])), jnp.zeros((1, 0))
    if sizes.proposals:
        proposals, ahead = proposed(imagine, wide(sizes.proposals), mean.shape[0], h, settings.discount, k_policies)

    def judged(candidates: Array, estimates: Array, mean: Array) -> Round:
        best = elites(weighed(estimates, settings.weights), sizes.elites, settings.temperature, settings.worst)
        mean, std = refit(candidates[:, best.index], best.weight, mean, within)
        return Round(
            mean, std, candidates[0, best.index], best.weight, best.value, jnp.nan_to_num(deviation(estimates)[best.index])
        )

    def again(i: Array | int, last: Round) -> Round:
        k_draw, k_try = jax.random.split(jax.random.fold_in(k_rounds, i))
        drawn = sizes.proposals if sizes.centred else sizes.samples
        noise = jax.random.normal(k_draw, (mean.shape[0], drawn, mean.shape[1]))
        candidates = jnp.clip(last.mean[:, None] + last.std[:, None] * noise, -1.0, 1.0)
        candidates = candidates if sizes.centred else jnp.concatenate([candidates, proposals], 1)
        estimates = returns(imagine, wide(candidates.shape[1]), candidates, h, settings.discount, k_try)
        return judged(candidates, estimates, last.mean)

    if sizes.centred:
        found = judged(proposals, ahead, mean)
    else:
        nothing = jnp.zeros(sizes.elites)
        std = jnp.full_like(mean, settings.std_max)
        found = Round(mean, std, jnp.zeros((sizes.elites, mean.shape[1])), nothing, nothing, nothing)
    if sizes.iterations > sizes.centred:  # else there is no loop to compile
        found = jax.lax.fori_loop(int(sizes.centred), sizes.iterations, again, found)
    action = drawn_elite(found.actions, found.weight, k_pick) if sizes.pick == "elite" else found.mean[0]
    std = jnp.clip(found.std[0], settings.std_min, settings.std_max)
    action = jnp.clip(action + explore * std * jax.random.normal(k_noise, action.shape), -1.0, 1.0)
    means = ((x * found.weight).sum() for x in (found.values, found.disagreements))
    return Plan(action, found.mean, std, *means)


class Round(NamedTuple):
    """What one round of a search found."""

    mean: Array  # [H, A]
    std: Array  # [H, A]
    actions: Array  # [K, A], the first ones of the elites
    weight: Array  # [K]
    values: Array  # [K]
    disagreements: Array  # [K]


def shifted(mean: Array) -> Array:
    """A plan [H, A] one decision later: its last step is 0."""
    return jnp.concatenate([mean[1:], jnp.zeros_like(mean[:1])])


# ------------------------------------------------------------------------------------------------------------- its parts


def proposed(
    imagine: Imagination, states: PyTree, horizon: int, h: Array | int, discount: Array | float, key: Key
) -> tuple[Array, Array]:
    """What the policies do from ``states`` [N, ...] on, [horizon, N, A] and 0 behind ``h``, and its `returns` [E, N]. Raises
    ValueError without policies."""
    if imagine.propose is None:
        raise ValueError("a search with proposals needs policies: give Imagination.propose, or proposals=0.")
    policy = imagine.propose
    like = jax.eval_shape(policy, states, key)

    def one(t: Array, carry: tuple) -> tuple:
        states, total, power, actions = carry
        act, move = jax.random.split(jax.random.fold_in(key, t))
        action = policy(states, act)
        states, reward = imagine.step(states, action, move)
        return states, total + power * reward, power * discount, actions.at[t].set(action)

    begun = states, jnp.zeros(like.shape[0]), jnp.float32(1), jnp.zeros((horizon, *like.shape), like.dtype)
    states, total, power, actions = jax.lax.fori_loop(0, h, one, begun)
    return actions, total + power * imagine.value(states, jax.random.fold_in(key, horizon))


def returns(imagine: Imagination, states: PyTree, actions: Array, h: Array | int, discount: Array | float, key: Key) -> Array:
    """sum_{t<h} discount^t r_t + discount^h V of ``actions`` [H, N, A] from ``states`` [N, ...] on: as many estimates [E, N] as
    there are of V."""

    def one(t: Array, carry: tuple) -> tuple:
        states, total, power = carry
        states, reward = imagine.step(states, actions[t], jax.random.fold_in(key, t))
        return states, total + power * reward, power * discount

    begun = states, jnp.zeros(actions.shape[1]), jnp.float32(1)
    states, total, power = jax.lax.fori_loop(0, h, one, begun)
    return total + power * imagine.value(states, jax.random.fold_in(key, actions.shape[0]))


def deviation(estimates: Array) -> Array:
    """The unbiased standard deviation over estimates [E, N]; 0 for one."""
    off = estimates - estimates.mean(0)
    return jnp.sqrt((off**2).sum(0) / max(estimates.shape[0] - 1, 1))


def weighed(estimates: Array, weights: Any) -> Array:
    """Values [N] of candidates: least, mean and standard deviation of their estimates [E, N], by ``weights`` [3]. A weight of
    -10 for the deviation keeps to what the estimates agree on (MoDem-V2, Lancaster et al. 2024, arXiv:2309.14236)."""
    return weights[0] * estimates.min(0) + weights[1] * estimates.mean(0) + weights[2] * deviation(estimates)


class Elites(NamedTuple):
    """The best candidates."""

    index: Array  # int32 [K]
    weight: Array  # [K], their sum is 1
    value: Array  # [K]


def elites(values: Array, k: int, temperature: Array | float, worst: Array | float = 0.0) -> Elites:
    """The ``k`` largest of ``values`` [N], weighed by exp(temperature (value - largest)). What is not finite counts as
    ``worst`` and is taken only where there is nothing else."""
    sound = jnp.isfinite(values)
    index = jax.lax.top_k(jnp.where(sound, values, -jnp.inf), k)[1]
    best = jnp.where(sound, values, worst)[index]
    weight = jnp.exp(temperature * (best - best.max()))
    return Elites(index, weight / weight.sum(), best)


@exact
def refit(chosen: Array, weight: Array, mean: Array, settings: Settings) -> tuple[Array, Array]:
    """Mean and deviation [H, A] of the ``chosen`` [H, K, A] by ``weight`` [K], the mean by a momentum from ``mean`` on."""
    new = jnp.einsum("k,hka->ha", weight, chosen)
    std = jnp.sqrt(jnp.einsum("k,hka->ha", weight, (chosen - new[:, None]) ** 2))
    return settings.momentum * mean + (1 - settings.momentum) * new, jnp.clip(std, settings.std_min, settings.std_max)


def drawn_elite(actions: Array, weight: Array, key: Key) -> Array:
    """One of ``actions`` [K, A] by ``weight`` [K]."""
    return actions[jax.random.categorical(key, jnp.log(weight + LEAST_WEIGHT))]


def imagined(
    model: Any,
    params: PyTree,
    value: Callable[[Array, Key], Array] | None = None,
    policy: Callable[[Array, Key], Array] | None = None,
    goes_on: Callable[[Array], Array] | None = None,
    leaving: Array | float = 0.0,
) -> Imagination:
    """Plans in a `rlx.dynamics.Model` (an ensemble of networks, sparse equations, a filtered one, a latent one): states are
    triples (what `Model.begin` drew, observation [n], how likely the episode still is in progress), see `imagined_state`.

    Args:
        value: (observations [N, n], key) -> estimates [E, N] of what is behind the horizon; None: 0.
        policy: (observations, key) -> actions [N, A] that it proposes.
        goes_on: observations [N, n] arrived at -> how likely the episode goes on there, [N] in [0, 1]; None: surely. What comes
            after its end counts for nothing.
        leaving: paid where it ends.
    """

    def step(states: PyTree, actions: Array, key: Key) -> tuple[PyTree, Array]:
        episode, obs, alive = states
        keys = jax.random.split(key, obs.shape[0])
        found = jax.vmap(model.predict, (None, 0, 0, 0, 0))(params, episode, obs, actions, keys)
        if goes_on is None:
            return (episode, found.obs, alive), found.reward
        stays = goes_on(found.obs)
        reward = jnp.where(alive > 0, alive * (found.reward + (1 - stays) * leaving), 0.0)
        return (episode, found.obs, alive * stays), reward

    def ahead(states: PyTree, key: Key) -> Array:
        if value is None:
            return jnp.zeros((1, states[1].shape[0]))
        estimates = value(states[1], key)
        return estimates if goes_on is None else jnp.where(states[2] > 0, states[2] * estimates, 0.0)

    return Imagination(step, ahead, None if policy is None else lambda states, key: policy(states[1], key))


def imagined_state(model: Any, params: PyTree, obs: Array, key: Key) -> PyTree:
    """Where a search in ``model`` begins: at ``obs`` [n]."""
    return model.begin(params, key), obs, jnp.float32(1)
