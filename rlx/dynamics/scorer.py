"""A reward of transitions: how much one looks like the environment's own (Luo et al. 2024, "Reward-Consistent Dynamics Models
are Strongly Generalizable for Offline Reinforcement Learning", arXiv:2310.05422).

Discriminators that were learned against a generator of transitions (`rlx.dynamics.adversary`), from many moments of that
game, say together how likely a transition is real:

    y_k = 2 (clip(d_k, l_k, e_k) - l_k) / (e_k - l_k) - 1,       r = -log(1 - mean_k sigmoid(y_k))                      (eq. 4)

d_k is the logit of the k-th, e_k what it typically is on real transitions, l_k on generated ones. So r is within 0.313 and
1.313, and 0.693 where it cannot tell.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.nn.mlp import ACTIVATIONS, MLP, stack
from rlx.types import Array, Key, PyTree

EDGE = 0.8  # observations of the data lie within +- this
FLAT = 1e-6  # a range below this is none: what has it says nothing


class Ranges(NamedTuple):
    """Least and largest of each entry over the data, and the largest change in one step as a share of it."""

    obs_low: Array  # [n]
    obs_high: Array
    action_low: Array  # [m]
    action_high: Array
    change: Array  # [n], of scaled observations; 1 where changes are taken as they are

    def obs(self, obs: Array) -> Array:
        """Within [-0.8, 0.8] on the data; 0 where the data have one value."""
        return EDGE * between(obs, self.obs_low, self.obs_high)

    def action(self, action: Array) -> Array:
        """Within [-1, 1] on the data."""
        return between(action, self.action_low, self.action_high)


def between(x: Array, low: Array, high: Array) -> Array:
    """-1 at ``low``, 1 at ``high``; 0 where these are the same."""
    size = high - low
    return jnp.where(size < FLAT, 0.0, 2 * (x - low) / jnp.where(size < FLAT, 1.0, size) - 1)


def ranges(obs: np.ndarray, action: np.ndarray, new: np.ndarray, scale_change: bool = True) -> Ranges:
    """Of rows [N, ...]. ``scale_change``: changes count in units of the largest, else in those of the observations."""
    f32 = lambda x: jnp.asarray(x, jnp.float32)
    low, high = obs.min(0), obs.max(0)
    found = Ranges(f32(low), f32(high), f32(action.min(0)), f32(action.max(0)), jnp.ones(obs.shape[1]))
    if not scale_change:
        return found
    size = np.where(high - low < FLAT, np.inf, high - low)
    most = 2 * EDGE * np.abs(new - obs).max(0) / size
    return found._replace(change=jnp.asarray(np.where(most < FLAT, 1.0, most), jnp.float32))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TransitionScorer:
    """Snapshots of a discriminator, the oldest first. What they read is [obs, action, new - obs], scaled, or with ``delta``
    False [obs, action, new]."""

    params: PyTree  # of `rlx.nn.mlp.stack`: those of `network`, snapshots in front [T, ...]
    real: Array  # e [T], mean logit on real transitions
    generated: Array  # l [T], and on generated ones
    there: Array  # bool [T]: this one counts; False where there were fewer
    ranges: Ranges
    network: MLP = dataclasses.field(metadata={"static": True})
    delta: bool = dataclasses.field(default=True, metadata={"static": True})
    calibrated: bool = dataclasses.field(default=True, metadata={"static": True})
    common_range: bool = dataclasses.field(default=False, metadata={"static": True})  # y reaches to the largest |e|, |l| of all
    most: float = dataclasses.field(default=1.0, metadata={"static": True})  # a probability is at most this

    def __call__(self, obs: Array, action: Array, new: Array) -> Array:
        """r [...] of transitions ``obs`` [..., n], ``action`` [..., m], ``new`` [..., n]; leading axes, as many of each,
        broadcast, and what is common to all candidates of one (obs, action) is computed once. Raises ValueError for other
        observations or actions than the scorer's."""
        return reward(self.probabilities(self.logits(obs, action, new)), self.there)

    def logits(self, obs: Array, action: Array, new: Array) -> Array:
        """d [T, ...] of each snapshot. Its first layer is a sum of what (obs, action) and what ``new`` give."""
        same_sizes(self.ranges, obs, action, new)
        given = jnp.concatenate([self.ranges.obs(obs), self.ranges.action(action)], -1)
        layers, n = self.params["params"], given.shape[-1]
        kernel, activate = layers["Dense_0"]["kernel"], ACTIVATIONS[self.network.activation]
        # one product of matrices for each snapshot: what is common to snapshots is repeated, which is cheaper than turning axes
        each = lambda x, w: jnp.matmul(jnp.broadcast_to(x.reshape(-1, x.shape[-1]), (len(w), x[..., 0].size, x.shape[-1])), w)
        wide = lambda x, like: x.reshape(len(x), *like.shape[:-1], x.shape[-1])
        change = self.changed(obs, new)
        fixed = each(given, kernel[:, :n]) + layers["Dense_0"]["bias"][:, None]
        x = activate(wide(fixed, given) + wide(each(change, kernel[:, n:]), change))
        lead, last = x.shape[:-1], len(self.network.widths) - 1
        x = x.reshape(len(x), -1, x.shape[-1])
        for i in range(1, last + 1):
            layer = layers[f"Dense_{i}"]
            x = jnp.matmul(x, layer["kernel"]) + layer["bias"][:, None]
            x = activate(x) if i < last else x
        return x.reshape(lead)

    def inputs(self, obs: Array, action: Array, new: Array) -> Array:
        """What a snapshot's network reads [..., 2 n + m]."""
        return inputs(self.ranges, self.delta, obs, action, new)

    def changed(self, obs: Array, new: Array) -> Array:
        return changed(self.ranges, self.delta, obs, new)

    def probabilities(self, logits: Array) -> Array:
        """That a transition is real [T, ...], after each snapshot."""
        y = logits
        if self.calibrated:
            reach = jnp.float32(1)
            if self.common_range:
                size = jnp.maximum(jnp.abs(self.real), jnp.abs(self.generated))
                reach = jnp.where(self.there, size, 0.0).max()
            y = calibrate(logits, self.generated, self.real, reach)
        return jnp.clip(jax.nn.sigmoid(y), 0.0, self.most)

    @property
    def count(self) -> int:
        """Of snapshots there is room for."""
        return int(self.real.shape[0])


def same_sizes(ranges: Ranges, obs: Array, action: Array, new: Array) -> None:
    """Raises ValueError for transitions [..., n], [..., m], [..., n] of other sizes, which might broadcast and mean nothing."""
    n, m = ranges.obs_low.shape[-1], ranges.action_low.shape[-1]
    if tuple(x.shape[-1:] for x in (obs, action, new)) != ((n,), (m,), (n,)):
        raise ValueError(
            f"the scorer is of observations [{n}] and actions [{m}]; got {list(obs.shape)}, {list(action.shape)}, "
            f"{list(new.shape)}: give transitions of the environment that it was learned on."
        )


def changed(ranges: Ranges, delta: bool, obs: Array, new: Array) -> Array:
    scaled = ranges.obs(new)
    return (scaled - ranges.obs(obs)) / ranges.change if delta else scaled


def inputs(ranges: Ranges, delta: bool, obs: Array, action: Array, new: Array) -> Array:
    return jnp.concatenate([ranges.obs(obs), ranges.action(action), changed(ranges, delta, obs, new)], -1)


def calibrate(logits: Array, low: Array, high: Array, reach: Array | float = 1.0) -> Array:
    """Logits [T, ...] clipped to ``low`` to ``high`` [T], which become -``reach`` to ``reach``."""
    low, high = (x.reshape(-1, *[1] * (logits.ndim - 1)) for x in (low, high))
    return 2 * (jnp.clip(logits, low, high) - low) / (high - low + 1e-7) * reach - reach


def reward(probabilities: Array, there: Array) -> Array:
    """-log(1 - the mean over snapshots) [...] of [T, ...]. It is the mean of probabilities, not of logarithms."""
    weight = there.astype(probabilities.dtype)
    mean = jnp.tensordot(weight, probabilities, 1) / weight.sum()
    return -jnp.log(1 - mean + 1e-9)  # in this order: in float32 1 - 1e-9 is 1, and a mean of 1 would be worth inf


def blank(
    key: Key, observations: int, actions: int, snapshots: int, hidden: tuple[int, ...], delta: bool = True, **how: bool | float
) -> TransitionScorer:
    """A scorer before it is learned. ``how``: ``calibrated``, ``common_range``, ``most``."""
    network = MLP((*hidden, 1))
    params = stack(network, snapshots).init(key, jnp.zeros(2 * observations + actions))
    one = jnp.ones(observations)
    own = Ranges(-one, one, -jnp.ones(actions), jnp.ones(actions), one)
    there = jnp.ones(snapshots, bool)
    return TransitionScorer(params, jnp.ones(snapshots), -jnp.ones(snapshots), there, own, network, delta, **how)  # type: ignore[arg-type]
