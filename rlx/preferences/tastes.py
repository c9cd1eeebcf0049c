"""Models of tastes that no one number for each segment explains: those that go in circles, and those of several people.

- `GeneralPreference` (GPM, Zhang et al. 2024, arXiv:2410.02197): a segment is a unit vector v in R^2k, and

      P(first is preferred) = sigmoid(<R v_1, v_2> / tau),    R of k blocks [[0, -1], [1, 0]]

  R is skew-symmetric, so is the score: rock may beat scissors, scissors paper, and paper rock. What a single step is worth is
  how often it is preferred to others of the data (`win_rate`).
- `MixtureOfTastes` (MiCRo, Shen et al. 2025, arXiv:2505.24846): K rewards on one trunk, each a Bradley-Terry model, mixed by
  weights that depend on who answers; K = 1 is Bradley-Terry:

      P(first is preferred) = sum_k w_k(annotator) sigmoid(g_1k - g_2k)

  The paper's context is a text; ours is the annotator. Of somebody new `routed` finds the weights by a few answers.

Both see one step at a time, as `rlx.preferences.models.RewardMLP` does, and are called and fitted as that is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rlx.preferences.models import dense
from rlx.types import Array

MOST_OPPONENTS = 512  # of the data, that a step is compared with


def _trunk(hidden: tuple[int, ...], obs: Array, action: Array) -> Array:
    x = jnp.concatenate([obs, action], -1)
    for i, width in enumerate(hidden):
        x = jax.nn.relu(dense(width, f"hidden_{i}")(x))
    return x


def _share(mask: Array, agg: Literal["sum", "mean"]) -> Array:
    return mask / (jnp.maximum(mask.sum(-1, keepdims=True), 1.0) if agg == "mean" else 1.0)


# --------------------------------------------------------------------------------------------------------- tastes in circles


def turned(v: Array) -> Array:
    """R v of vectors [..., 2k]: each pair (x, y) becomes (-y, x)."""
    x, y = v[..., ::2], v[..., 1::2]
    return jnp.stack([-y, x], -1).reshape(v.shape)


class Placed(NamedTuple):
    """Segments as unit vectors v [B, 2k], and the temperature."""

    v: Array
    tau: Array

    def against(self, other: Placed) -> tuple[Array, Array]:
        """log P(self is preferred), log P(other is): [B] each."""
        score = (turned(self.v) * other.v).sum(-1) / self.tau
        return jax.nn.log_sigmoid(score), jax.nn.log_sigmoid(-score)

    def last(self, kappa: Array) -> Array:
        """What the last step's reward is made of: where it is, [B, 2k]."""
        return self.v


class GeneralPreference(nn.Module):
    """A vector for each step, averaged over a segment and brought to length 1; ``blocks`` is k. One block can hold circles too,
    but a start with all vectors within a half circle, where tastes are ranked, is often not left: two have no such trap."""

    hidden: tuple[int, ...] = (256, 256)
    blocks: int = 2
    tau: float = 0.1

    one_step: ClassVar[bool] = True
    gaussian: ClassVar[bool] = False

    @nn.compact
    def __call__(self, obs: Array, action: Array, mask: Array, train: bool = False, who: Array | None = None) -> Placed:
        each = dense(2 * self.blocks, "place")(_trunk(self.hidden, obs, action))
        v = (_share(mask, "mean")[..., None] * each).sum(-2)
        return Placed(v / jnp.sqrt((v**2).sum(-1, keepdims=True) + 1e-12), jnp.float32(self.tau))

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...


def win_rate(v: np.ndarray, opponents: np.ndarray, tau: float) -> np.ndarray:
    """float64 [N]: the mean probability that vectors [N, 2k] are preferred to ``opponents`` [M, 2k]."""
    r = np.stack([-v[:, 1::2], v[:, ::2]], -1).reshape(v.shape)
    score = np.clip(r @ opponents.T / tau, -500, 500)
    return (1 / (1 + np.exp(-score))).mean(1)


# --------------------------------------------------------------------------------------------------- tastes of several people


class Mixed(NamedTuple):
    """K rewards of each step [B, H, K], the logarithms of the heads' weights [B, K], and shares of steps in a score [B, H]."""

    reward: Array
    log_weight: Array
    share: Array

    def heads(self, other: Mixed) -> tuple[Array, Array]:
        """log P(self is preferred) and log P(other is) of each head, [B, K]."""
        score = lambda x: (x.share[..., None] * x.reward).sum(-2)
        gap = score(self) - score(other)
        return jax.nn.log_sigmoid(gap), jax.nn.log_sigmoid(-gap)

    def against(self, other: Mixed) -> tuple[Array, Array]:
        """log P(self is preferred), log P(other is): [B] each."""
        first, second = (jax.nn.logsumexp(self.log_weight + x, -1) for x in self.heads(other))
        return first, second

    def last(self, kappa: Array) -> Array:
        """The last step's reward [B] for whom the weights are of."""
        return (jnp.exp(self.log_weight) * self.reward[:, -1]).sum(-1)


class MixtureOfTastes(nn.Module):
    """``heads`` rewards, and weights of these for each of ``annotators``; ``of`` is whose taste is meant if nobody is named."""

    hidden: tuple[int, ...] = (256, 256)
    heads: int = 2
    annotators: int = 2
    agg: Literal["sum", "mean"] = "sum"
    of: int = 0

    one_step: ClassVar[bool] = True
    gaussian: ClassVar[bool] = False

    @nn.compact
    def __call__(self, obs: Array, action: Array, mask: Array, train: bool = False, who: Array | None = None) -> Mixed:
        small = nn.initializers.variance_scaling(1e-2, "fan_in", "uniform")
        reward = dense(self.heads, "mean", kernel_init=small)(_trunk(self.hidden, obs, action))
        table = self.param("weights", nn.initializers.normal(0.1), (self.annotators, self.heads))
        who = jnp.full(len(obs), self.of) if who is None else who
        return Mixed(reward, jax.nn.log_softmax(table, -1)[who], _share(mask, self.agg))

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...


def routed(log_first: np.ndarray, log_second: np.ndarray, label: np.ndarray, rate: float = 1.0) -> np.ndarray:
    """Weights [K] of the heads for somebody new, by their answers ``label`` [P] and what each head says of these pairs
    (`Mixed.heads`, [P, K] each): w_k ~ exp(-rate sum CE_k), the multiplicative weights of Hedge; a rate of 1 is Bayes' rule."""
    y = np.asarray(label, np.float64)[:, None]
    total = rate * ((1 - y) * np.asarray(log_first, np.float64) + y * np.asarray(log_second, np.float64)).sum(0)
    weight = np.exp(total - total.max())
    return weight / weight.sum()
