"""Reward models: what each step of a segment is worth, how sure that is, and what the segment is worth as a whole.

All are called as ``model.apply(params, obs [B, H, n], action [B, H, m], mask [B, H], train, who [B])`` (`PreferenceModel`; who
answers matters to mixtures alone) and give an `Opinion`. Those here give `Judged`: a segment's score is linear in its rewards,
``sum_t share_t r_t``, so rewards may be replaced by samples of them, as robust learning does.

- `RewardMLP` sees one step at a time.
- `PreferenceTransformer` (Kim et al. 2023, arXiv:2303.00957) sees all steps up to one, and weighs them against each other.
- Those of `rlx.preferences.tastes` are for tastes that go in circles, or of several people.

With ``gaussian`` a layer more says how sure each reward is (PEARL, arXiv:2306.03615). It is a layer of its own, so all other
parameters begin as those of the model without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlx.nn.transformer import MASKED, Block, interleaved, layer_norm, visible
from rlx.types import Array

LEAST_STD = 1e-3


class Opinion(Protocol):
    """What a model says of segments."""

    def against(self, other: Any) -> tuple[Array, Array]:
        """Of as many others: log P(these are preferred), log P(the others are), [B] each."""

    def last(self, kappa: Array) -> Array:
        """[B]: what the last step is worth, less ``kappa`` standard deviations."""


class PreferenceModel(Protocol):
    """See the top of this file; all are `flax.linen` modules."""

    one_step: ClassVar[bool]  # it sees each step alone

    @property
    def gaussian(self) -> bool:
        """It says how sure it is."""

    def init(self, *args: Any, **kwargs: Any) -> Any: ...
    def apply(self, *args: Any, **kwargs: Any) -> Any: ...


class Judged(NamedTuple):
    """Of each step, [B, H]."""

    mean: Array
    std: Array | None  # None: the model says nothing about it
    share: Array  # of the step's reward in the segment's score; 0 where masked

    def score(self, reward: Array) -> Array:
        """Of segments with these rewards [..., B, H]: [..., B]."""
        return (self.share * reward).sum(-1)

    def against(self, other: Judged) -> tuple[Array, Array]:
        """Bradley and Terry: log sigmoid of the gap of scores, and of minus that."""
        gap = self.score(self.mean) - other.score(other.mean)
        return jax.nn.log_sigmoid(gap), jax.nn.log_sigmoid(-gap)

    def last(self, kappa: Array) -> Array:
        return self.mean[:, -1] if self.std is None else self.mean[:, -1] - kappa * self.std[:, -1]


def dense(width: int, name: str | None = None, **how: Any) -> nn.Dense:
    return nn.Dense(width, param_dtype=float, name=name, **how)


def _std(rho: Array) -> Array:
    return jax.nn.softplus(rho[..., 0]) + LEAST_STD


class RewardMLP(nn.Module):
    """r(s, a) by dense layers with ReLU; the last begins near 0. ``agg``: a segment is worth the sum of its steps (inverse
    preference learning's code), or their mean (the Preference Transformer's)."""

    hidden: tuple[int, ...] = (256, 256)
    gaussian: bool = False
    agg: Literal["sum", "mean"] = "sum"

    one_step: ClassVar[bool] = True

    @nn.compact
    def __call__(self, obs: Array, action: Array, mask: Array, train: bool = False, who: Array | None = None) -> Judged:
        x = jnp.concatenate([obs, action], -1)
        for i, width in enumerate(self.hidden):
            x = jax.nn.relu(dense(width, f"hidden_{i}")(x))
        small = nn.initializers.variance_scaling(1e-2, "fan_in", "uniform")
        mean = dense(1, "mean", kernel_init=small)(x)[..., 0]
        std = _std(dense(1, "rho", kernel_init=small)(x)) if self.gaussian else None
        count = mask.sum(-1, keepdims=True) if self.agg == "mean" else 1.0
        return Judged(mean, std, mask / jnp.maximum(count, 1.0))

    if TYPE_CHECKING:  # flax's own type allows for pairs, which come where collections are mutable

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...


class PreferenceTransformer(nn.Module):
    """Steps become two tokens, action and then state; ``layers`` causal blocks with normalisation first (GPT-2's, with ReLU);
    the state's token gives the reward of its step. Where ``weighted``, each step attends to all of them, and the score is the
    mean over steps of what they attend to: the weights are those of the paper's preference attention. Time counts from 1 within
    the segment and is 0 where masked, so padding in front changes nothing.
    """

    width: int = 256
    layers: int = 1
    heads: int = 4
    max_steps: int = 1000
    weighted: bool = True
    gaussian: bool = False
    dropout: float = 0.1

    one_step: ClassVar[bool] = False

    @nn.compact
    def __call__(self, obs: Array, action: Array, mask: Array, train: bool = False, who: Array | None = None) -> Judged:
        mask = mask.astype(bool)
        time = jnp.cumsum(mask, -1) * mask
        e_t = nn.Embed(self.max_steps + 1, self.width, param_dtype=float, name="time")(time)
        x = interleaved(dense(self.width, "action")(action) + e_t, dense(self.width, "state")(obs) + e_t)
        x = nn.Dropout(self.dropout, deterministic=not train)(layer_norm("norm_in")(x))
        allowed = visible(mask, 2, causal=True)
        for i in range(self.layers):
            x = Block(self.heads, self.dropout, name=f"block_{i}")(x, allowed, train)
        x = layer_norm("norm_out")(x)[..., 1::2, :]
        count = jnp.maximum(mask.sum(-1, keepdims=True), 1)
        if not self.weighted:
            h = jax.nn.relu(dense(self.width // 2, "head")(x))
            mean, share = dense(1, "mean")(h)[..., 0], mask / count
        else:
            q, k, value = jnp.split(dense(2 * self.width + 1, "preference")(x), [self.width, 2 * self.width], -1)
            scores = jnp.where(mask[..., None, :], q @ jnp.swapaxes(k, -1, -2) / self.width**0.5, MASKED)
            mean, weights = value[..., 0], jax.nn.softmax(scores, -1) * mask[..., None]
            share = weights.sum(-2) / count * mask
        std = _std(dense(1, "rho")(x)) if self.gaussian else None
        return Judged(mean, std, share)

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...
