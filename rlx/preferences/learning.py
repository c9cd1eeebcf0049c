"""Learning a reward from preferences, and giving it to the rows of a dataset.

The probability that the second of two segments is preferred is sigmoid(g_2 - g_1), with g a segment's score (Bradley-Terry;
`rlx.preferences.tastes` has others), and labels y in [0, 1] are soft. Robust reward learning (PEARL, arXiv:2306.03615) has a
Gaussian for each step's reward::

    CE(y, d) = (1 - y) softplus(-d) + y softplus(d),    d = g_1 - g_2
    L_m = mean w CE(y, d(m))                                          of the means m
    L_s = mean w 1/K sum_k CE(y, d(m + std xi_k)),   xi ~ N(0, 1)     of samples; alone it would send std to 0
    L_v = mean max(0, entropy - (log std + log(2 pi e) / 2))          keeps the entropy of each up
    L   = L_m + L_s + 0.1 L_v

With ``constant`` every std is the one that L_v asks for, which tells what learning it is good for.

That the paper has these kinds of terms is known, their exact sum and constants are not: all are settings (`Coefs`, `Training`).

Pairs that nobody labelled can be learned from too, by what the model itself is sure of (the code of the Preference Transformer,
Kim et al. 2023, arXiv:2303.00957; SURF, Park et al. 2022, arXiv:2203.10050)::

    L + pseudo_coef mean of CE(y', d) over unlabelled pairs with max(P, 1 - P) > pseudo_least,     y' = 1[P > 1/2]
"""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import pearsonr, spearmanr

from rlx import keys
from rlx.nn.optim import apply_gradients, optimizer
from rlx.preferences.models import Judged, Opinion, PreferenceModel
from rlx.preferences.pairs import Episodes, Preferences, counting, joined, rows_of
from rlx.preferences.tastes import MOST_OPPONENTS, GeneralPreference, win_rate
from rlx.types import Array, Key, PyTree

HALF_LOG_2PIE = 0.5 * math.log(2 * math.pi * math.e)  # the entropy of N(0, 1)
MOST_HELD = 256  # pairs on which a model is judged while it learns


class Coefs(NamedTuple):
    """Numbers of the loss and of Adam; they may be traced. Without a Gaussian head only the first term is there."""

    mean: Array | float = 1.0
    sample: Array | float = 1.0
    variance: Array | float = 0.1
    entropy: Array | float = 0.0  # 0: that of std = 0.242
    lr: Array | float = 3e-4
    weight_decay: Array | float = 0.0
    pseudo: Array | float = 1.0  # of pairs without a label
    pseudo_least: Array | float = 0.95  # how sure the model must be of such a pair


@dataclass(frozen=True)
class Training:
    """Sizes and switches of a fit. ``schedule``: step sizes from a tenth of ``lr`` up to it in the first tenth of all steps and
    back as a cosine, as the Preference Transformer has it (with ``weight_decay`` 1e-4); else ``lr`` throughout."""

    steps: int = 20_000
    batch: int = 16  # pairs
    segment: int = 25  # steps of the windows that are compared
    samples: int = 4
    noise: Literal["per_segment", "per_step"] = "per_segment"  # independent noise of many steps all but cancels in their mean
    variance: Literal["hinge", "target"] = "hinge"  # at least that entropy, or that one
    constant: bool = False  # a model without a Gaussian is taken for one, with the std of that entropy throughout
    schedule: bool = False
    held_out: float = 0.1  # share of the pairs, drawn before training; what is kept is the model that judged these best
    checks: int = 20  # how often these are looked at


class Fit(NamedTuple):
    """What came of it. Curves are over ``checks``."""

    params: PyTree
    train_loss: Array  # [checks], or of as many as there are updates
    held_loss: Array  # [checks] cross-entropy of the held-out pairs; NaN where there are none
    best: Array  # int32: the check whose parameters are kept


def cross_entropy(label: Array, gap: Array) -> Array:
    """CE(y, d) of labels (second preferred) and gaps d = g_1 - g_2."""
    return (1 - label) * jax.nn.softplus(-gap) + label * jax.nn.softplus(gap)


def surprise(first: Opinion, second: Opinion, label: Array) -> Array:
    """CE of labels [B] under what a model says of both segments: minus the expected log of the probability."""
    this, that = first.against(second)
    return -(1 - label) * this - label * that


def loss(first: Opinion, second: Opinion, label: Array, weight: Array, key: Key, coef: Coefs, how: Training) -> Array:
    """L of a batch [B]."""
    total = coef.mean * (weight * surprise(first, second, label)).mean()
    if how.constant:
        std = jnp.exp(coef.entropy - HALF_LOG_2PIE)
        first, second = (j._replace(std=jnp.full_like(j.mean, std)) for j in (first, second))  # type: ignore[attr-defined]
    if not isinstance(first, Judged) or not isinstance(second, Judged) or first.std is None or second.std is None:
        return total
    pair = jax.random.normal(key, (2, how.samples, *label.shape, 1 if how.noise == "per_segment" else first.mean.shape[-1]))
    scores = [j.score(j.mean + j.std * xi) for j, xi in zip((first, second), pair, strict=True)]
    sampled = (weight * cross_entropy(label, scores[0] - scores[1])).mean()
    return (
        total + coef.sample * sampled + coef.variance * (entropy_loss(first, coef, how) + entropy_loss(second, coef, how)) / 2
    )


def pseudo_loss(first: Opinion, second: Opinion, least: Array | float) -> Array:
    """Minus the mean log probability of what the model prefers, over those of B pairs of which it is surer than ``least``; 0
    where there are none."""
    log_p = jnp.maximum(*first.against(second))
    sure = log_p > jnp.log(least)
    return jnp.where(sure, -log_p, 0.0).sum() / jnp.maximum(sure.sum(), 1)


def entropy_loss(judged: Judged, coef: Coefs, how: Training) -> Array:
    """L_v: of the steps that count, of a Gaussian model."""
    assert judged.std is not None
    entropy = jnp.log(judged.std) + HALF_LOG_2PIE
    each = jnp.maximum(coef.entropy - entropy, 0.0) if how.variance == "hinge" else (entropy - coef.entropy) ** 2
    there = judged.share > 0
    return (each * there).sum() / jnp.maximum(there.sum(), 1)


# --------------------------------------------------------------------------------------------------------------- the fit


class Windows(NamedTuple):
    """Rows on the device and where the pieces of pairs begin in them: windows are gathered when they are looked at."""

    obs: Array  # [N, n]
    action: Array  # [N, m]
    row: Array  # int32 [2, P]
    count: Array  # int32 [P]: decisions of a piece
    label: Array  # [P]
    weight: Array  # [P]
    annotator: Array  # int32 [P]

    def room(self, pair: Array, steps: int) -> Array:
        """[B]: a window of ``steps`` may begin at this many later rows; of shorter pieces it is all there is."""
        return jnp.maximum(self.count[pair] - steps, 0)

    def read(self, pair: Array, offset: Array, steps: int) -> tuple[Array, Array, Array]:
        """Both windows of pairs [B]: observations [2 B, H, n], actions, masks; all first ones come first. What lies behind a
        piece that is shorter is 0 and masked."""
        there = jnp.tile(jnp.arange(steps) < self.count[pair][:, None], (2, 1))
        at = jnp.where(there, (self.row[:, pair] + offset).reshape(-1, 1) + jnp.arange(steps), 0)
        return self.obs[at] * there[..., None], self.action[at] * there[..., None], there.astype(jnp.float32)


def windows(pairs: Preferences, found: Episodes, segment: int) -> tuple[Windows, int]:
    """Of pairs of episodes, and the length of a window: ``segment``, or the longest piece that was compared.

    Raises:
        ValueError: a pair points outside of the episodes.
    """
    row, steps = rows_of(pairs, found), window_length(pairs, segment)
    parts = (found.obs, found.action, row, pairs.steps, pairs.label, pairs.weight, pairs.annotator)
    kinds = (np.float32, np.float32, np.int32, np.int32, np.float32, np.float32, np.int32)
    return Windows(*(jnp.asarray(x, kind) for x, kind in zip(parts, kinds, strict=True))), steps


def window_length(pairs: Preferences, segment: int) -> int:
    """Of the windows that a model is fitted on, and therefore judges by."""
    return min(segment, int(np.max(pairs.steps)))


def init(model: PreferenceModel, key: Key, n: int, m: int) -> PyTree:
    return model.init(key, jnp.zeros((1, 1, n)), jnp.zeros((1, 1, m)), jnp.ones((1, 1)))


def split(weight: np.ndarray, share: float, key: Key) -> tuple[np.ndarray, np.ndarray]:
    """Pairs to learn from and pairs held out, before anything is learned; at least one of the former. How many that are depends
    on how many there are in all; of those that count (``weight`` [P] > 0) a share is held out, and one at least is not."""
    count, order = len(weight), np.asarray(jax.random.permutation(key, len(weight)))
    held = min(int(round(share * count)), MOST_HELD, count - 1)
    counts = np.asarray(weight)[order] > 0
    some, none = order[counts], order[~counts]
    mine = min(max(int(round(share * len(some))), held - len(none), 1), held, max(len(some) - 1, 0))
    out = np.isin(order, np.concatenate([some[:mine], none[: held - mine]]))
    return order[~out], order[out]


def fit(
    model: PreferenceModel,
    params: PyTree,
    pairs: Preferences,
    found: Episodes,
    key: Key,
    training: Training | None = None,
    coefs: Coefs | None = None,
    unlabelled: Preferences | None = None,
) -> Fit:
    """``params`` learned from ``pairs``, as one compiled program; and from ``unlabelled`` ones, whose labels and weights nobody
    looks at, by what the model is sure of: as many in each update as with a label.

    Raises:
        ValueError: as `windows`, or no pair counts.
    """
    how, count = training or Training(), len(pairs.label)
    every = pairs if unlabelled is None else joined(pairs, unlabelled)
    data, steps = windows(every, found, how.segment)
    counting(pairs)
    learn, held = split(pairs.weight, how.held_out, keys.fold(key, "held out"))
    run = functools.partial(fitted, model=model, steps=steps, how=how)
    guess = jnp.arange(count, len(every.label))
    return run(params, data, jnp.asarray(learn), jnp.asarray(held), guess, key, coefs or Coefs())


def parted(both: Any, half: int) -> tuple[Any, Any]:
    """The first and the second segments of an `Opinion` on [2 B]; what is one number for all stays."""
    cut = lambda part: jax.tree.map(lambda x: x[part] if jnp.ndim(x) else x, both)
    return cut(slice(half)), cut(slice(half, None))


def step_share(done: Array) -> Array:
    """Of the largest step size, when a share ``done`` of all steps is."""
    return jnp.where(done < 0.1, 0.1 + 9 * done, 0.55 + 0.45 * jnp.cos(jnp.pi * (done - 0.1) / 0.9))


@functools.partial(jax.jit, static_argnames=("model", "steps", "how"))
def fitted(
    params: PyTree,
    data: Windows,
    learn: Array,
    held: Array,
    guess: Array,
    key: Key,
    coef: Coefs,
    *,
    model: PreferenceModel,
    steps: int,
    how: Training,
) -> Fit:
    """`fit`, of parameters and windows as they are: pairs ``learn`` [L], ``held`` [M], and ``guess`` [U] without a label. It
    may be mapped over seeds."""
    checks = min(how.checks, how.steps)
    begins = jnp.asarray([how.steps * i // checks for i in range(checks + 1)])
    chain = lambda lr: optimizer(lr, weight_decay=coef.weight_decay)

    def judge(params: PyTree, pair: Array, offset: Array, dropout: Key | None) -> tuple[Any, Any]:
        rngs = {} if dropout is None else {"rngs": {"dropout": dropout}}
        who = jnp.tile(data.annotator[pair], 2)
        both = model.apply(params, *data.read(pair, offset, steps), dropout is not None, who, **rngs)
        half = len(pair)
        return parted(both, half)

    def drawn(some: Array, draw: Key, shift: Key) -> tuple[Array, Array]:
        pair = some[jax.random.randint(draw, (how.batch,), 0, len(some))]
        return pair, jax.random.randint(shift, (how.batch,), 0, data.room(pair, steps) + 1)

    def value(params: PyTree, key: Key) -> Array:
        draw, shift, noise, dropout = jax.random.split(key, 4)
        pair, offset = drawn(learn, draw, shift)
        total = loss(*judge(params, pair, offset, dropout), data.label[pair], data.weight[pair], noise, coef, how)
        if not len(guess):
            return total
        draw, shift, dropout = jax.random.split(keys.fold(key, "unlabelled"), 3)
        return total + coef.pseudo * pseudo_loss(*judge(params, *drawn(guess, draw, shift), dropout), coef.pseudo_least)

    def update(t: Array, carry: tuple[PyTree, PyTree, Array]) -> tuple[PyTree, PyTree, Array]:
        params, opt, total = carry
        got, grads = jax.value_and_grad(value)(params, keys.fold(key, "step", t))
        scale = step_share(t / how.steps) if how.schedule else 1.0
        return *apply_gradients(chain(coef.lr * scale), params, grads, opt), total + got

    def held_loss(params: PyTree) -> Array:
        if not len(held):
            return jnp.float32(jnp.nan)
        first, second = judge(params, held, data.room(held, steps) // 2, None)
        each = surprise(first, second, data.label[held])
        return (data.weight[held] * each).sum() / data.weight[held].sum()  # NaN where none of them counts

    def check(carry: tuple, i: Array) -> tuple[tuple, tuple[Array, Array]]:
        (params, opt), best, least, which = carry
        params, opt, total = jax.lax.fori_loop(begins[i], begins[i + 1], update, (params, opt, jnp.float32(0)))
        now = held_loss(params)
        better = ~(now >= least)  # without held-out pairs that count the last is kept
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, best)
        return ((params, opt), best, jnp.where(better, now, least), jnp.where(better, i, which)), (
            total / (begins[i + 1] - begins[i]),
            now,
        )

    start = ((params, chain(0.0).init(params)), params, jnp.float32(jnp.inf), jnp.int32(0))
    (_, best, _, which), curves = jax.lax.scan(check, start, jnp.arange(checks))
    return Fit(best, *curves, which)


# ------------------------------------------------------------------------------------------------------------- relabelling


def window(row: Array, first: Array, steps: int) -> tuple[Array, Array]:
    """Rows [..., H] that lead up to ``row`` within its episode, which begins at ``first``, and which of them are there; those
    in front of the episode are row 0 and masked."""
    at = row[..., None] - steps + 1 + jnp.arange(steps)
    mask = at >= first[..., None]
    return jnp.where(mask, at, 0), mask


@functools.partial(jax.jit, static_argnames=("model", "steps", "chunk"))
def _rewards(
    params: PyTree, obs: Array, action: Array, first: Array, kappa: Array, *, model: PreferenceModel, steps: int, chunk: int
) -> Array:
    def some(row: Array) -> Array:
        at, mask = window(row, first[row], steps)
        prediction = model.apply(params, obs[at] * mask[..., None], action[at] * mask[..., None], mask.astype(jnp.float32))
        return prediction.last(kappa)

    rows = jnp.arange(-(-len(obs) // chunk) * chunk) % len(obs)
    each = jax.lax.map(some, rows.reshape(-1, chunk))
    return each.reshape(-1, *each.shape[2:])[: len(obs)]


def rewards(
    model: PreferenceModel, params: PyTree, found: Episodes, segment: int, kappa: float = 0.0, chunk: int | None = None
) -> np.ndarray:
    """float64 [N]: what the decision at each row is worth, by the last step of the ``segment`` steps that lead up to it (the
    step's own reward, not the weighted score), less ``kappa`` standard deviations. At last rows nothing was done: NaN. Of a
    `GeneralPreference`: how often it is preferred to other steps of the data. ``chunk`` windows go together; None: few on a
    CPU, whose cache is to hold what is computed of them, many on other devices."""
    steps = 1 if model.one_step else segment
    chunk = chunk or (16 if jax.default_backend() == "cpu" and not model.one_step else 256)
    arrays = (jnp.asarray(found.obs, jnp.float32), jnp.asarray(found.action, jnp.float32), jnp.asarray(found.first, jnp.int32))
    each = _rewards(params, *arrays, jnp.float32(kappa), model=model, steps=steps, chunk=min(chunk, len(found.obs)))
    out, over = np.asarray(each, np.float64), found.begin + found.steps
    if isinstance(model, GeneralPreference):
        others = np.delete(out, over, axis=0)
        out = win_rate(out, others[:: -(-len(others) // MOST_OPPONENTS)], model.tau)
    out[over] = np.nan
    return out


Rescale = Literal["range", "from_worst", "none"]


def scaled(reward: np.ndarray, found: Episodes, horizon: int, how: Rescale = "range") -> tuple[np.ndarray, float]:
    """Rewards [N] as agents are paid them, and the factor that was applied::

        range        r horizon / (largest - smallest return R of an episode)
        from_worst   (r - R_least / steps of its episode) horizon / (largest - smallest)       as for AntMaze, less 1 there
        none         r

    The first two are those of the Preference Transformer's code. Where all episodes are worth the same it is 1, with a warning.
    """
    if how == "none":
        return reward, 1.0
    returns = np.add.reduceat(np.nan_to_num(reward), found.begin)
    span = float(np.ptp(returns))
    if span < 1e-8:
        warnings.warn(
            "by the learned reward all episodes are worth the same: it says nothing, and is not scaled.", stacklevel=2
        )
        return reward, 1.0
    share = returns.min() / np.repeat(found.steps, found.steps + 1) if how == "from_worst" else 0.0
    return (reward - share) * (horizon / span), horizon / span


def correlations(reward: np.ndarray, found: Episodes) -> dict[str, float]:
    """Of the episodes' returns by rewards [N] and by true ones, by ranks (Spearman) and as they are (Pearson); NaN where either
    are all the same."""
    returns = np.add.reduceat(np.nan_to_num(reward), found.begin)
    apart = np.ptp(returns) > 0 and np.ptp(found.returns) > 0
    of = {"rank_correlation": spearmanr, "correlation": pearsonr}
    return {name: float(by(returns, found.returns)[0]) if apart else float("nan") for name, by in of.items()}


def agreement(label: np.ndarray, prediction: np.ndarray) -> float:
    """Share of pairs with a preference (no tie) on which probabilities ``prediction`` [P] side with ``label`` [P]."""
    decided = label != 0.5
    return float(((prediction > 0.5) == (label > 0.5))[decided].mean()) if decided.any() else float("nan")


def predictions(model: PreferenceModel, params: PyTree, pairs: Preferences, found: Episodes, segment: int) -> np.ndarray:
    """float64 [P]: the probability that the second is preferred, from the windows in the middle of the pieces."""
    data, steps = windows(pairs, found, segment)
    every: Any = jnp.arange(len(pairs.label))
    prediction = model.apply(params, *data.read(every, data.room(every, steps) // 2, steps), False, jnp.tile(data.annotator, 2))
    first, second = parted(prediction, len(every))
    return np.exp(np.asarray(first.against(second)[1], np.float64))
