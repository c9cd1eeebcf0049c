"""Ensembles of networks: members of one shape that learn the same targets from different rows, so that where they disagree
nobody has taught them (Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles", arXiv:1612.01474). The defaults are those of the networks that SINDy-RL is compared with (Zolman et al. 2024,
arXiv:2403.09110, "Dyna-NN").

::

    model = init(jax.random.key(0), ensemble_size=5, sizes=(6, 64, 64, 5))
    model = fit(model, inputs, targets, jax.random.key(1)).model     # goes on from the weights that it is given
    model(z)                                                          # the mean of the members, in any compiled code

Fitting is one compiled program: rows are padded to a capacity, and how many count is traced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.keys import permutation
from rlx.nn.mlp import ACTIVATIONS, MLP, head, stack
from rlx.nn.optim import apply_gradients, optimizer
from rlx.precision import exact
from rlx.types import Array, Key, PyTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ensemble:
    """Members of one shape, float32, and the scale of what they read."""

    params: PyTree  # of `rlx.nn.mlp.stack`: those of `network`, members in front [E, ...]
    mean: Array  # [v], taken from the inputs
    std: Array  # [v], which they are divided by
    network: MLP = dataclasses.field(metadata={"static": True})

    def __call__(self, z: Array) -> Array:
        """The mean of the members [..., q] for z [..., v]."""
        return self.each(z).mean(0)

    @exact  # one decision changes little: less would be lost in rounding
    def each(self, z: Array) -> Array:
        """The prediction of each member [E, ..., q]."""
        return stack(self.network, self.count).apply(self.params, (z - self.mean) / self.std)

    def member(self, index: Array) -> Ensemble:
        """The ensemble of one member."""
        return dataclasses.replace(self, params=jax.tree.map(lambda x: x[None], head(self.params, index)))

    def variance(self, z: Array) -> Array:
        """Over the members, of each output [..., q]."""
        return self.each(z).var(0)

    @property
    def count(self) -> int:
        """Of members."""
        return int(jax.tree.leaves(self.params)[0].shape[0])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Inputs, hidden layers, outputs."""
        return (self.mean.shape[0], *self.network.widths)

    @property
    def parameters(self) -> int:
        """Weights and biases of all members."""
        return int(sum(x.size for x in jax.tree.leaves(self.params)))


def init(key: Key, ensemble_size: int, sizes: Sequence[int], activation: str = "tanh") -> Ensemble:
    """Networks with layers between ``sizes`` = (inputs, hidden..., outputs): weights uniform in +-sqrt(6 / (n + m)) (Glorot and
    Bengio 2010), biases 0, inputs as they come.

    Raises:
        ValueError: no member, no layer, or an unknown activation.
    """
    if ensemble_size < 1 or len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(
            f"an ensemble needs ensemble_size >= 1 and at least two sizes >= 1; got {ensemble_size} and {tuple(sizes)}."
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r} is unknown; there are {', '.join(ACTIVATIONS)}.")
    network = MLP(tuple(sizes[1:]), activation, kernel_init="glorot")
    params = stack(network, ensemble_size).init(key, jnp.zeros(sizes[0]))
    return Ensemble(params, jnp.zeros(sizes[0]), jnp.ones(sizes[0]), network)


class Fitted(NamedTuple):
    model: Ensemble
    error: Array  # [E], least mean squared error on the rows that the member held out
    epochs: Array  # int32 [E], passes that led to it


def fit(
    model: Ensemble,
    inputs: np.ndarray,
    targets: np.ndarray,
    key: Key,
    *,
    share: float = 0.6,
    holdout: float = 0.2,
    batch: int = 500,
    epochs: int = 50,
    patience: int = 1,
    lr: float = 1e-3,
    max_grad_norm: float = 1.0,
    normalize: bool = False,
    capacity: int = 0,
) -> Fitted:
    """``model`` after Adam on the mean squared error of rows ``inputs`` [N, v] and ``targets`` [N, q], on the host.

    Each member has a ``share`` of the rows to itself, drawn without replacement, and holds out ``holdout`` of these. It passes
    at most ``epochs`` times over the others in batches of ``batch``, gradients clipped to a norm of ``max_grad_norm``. Where
    ``patience`` passes in a row have left the error on what is held out above its least, it stops; its weights are those of
    the least. ``normalize``: inputs are taken to mean 0 and standard deviation 1 of these rows; otherwise the model's scale
    stays. ``capacity``: rows that the program is compiled for; 0: the next power of two.

    Raises:
        ValueError: rows that do not fit the model or the capacity, are too few or not finite, or settings out of range.
    """
    inputs, targets = np.asarray(inputs, np.float32), np.asarray(targets, np.float32)
    _check(model, inputs, targets, capacity, share=share, holdout=holdout, batch=batch, epochs=epochs, patience=patience)
    rows = len(inputs)
    room = capacity or 1 << (rows - 1).bit_length()
    counts, most = parts(rows, share, holdout), parts(room, share, holdout)
    if normalize:
        mean, std = inputs.mean(0, dtype=np.float64), inputs.std(0, dtype=np.float64)
        std = np.where(std < 1e-12, 1.0, std)
        model = dataclasses.replace(model, mean=jnp.asarray(mean, jnp.float32), std=jnp.asarray(std, jnp.float32))
    padded = [np.concatenate([x, np.zeros((room - rows, x.shape[1]), np.float32)]) for x in (inputs, targets)]
    sizes = (-(-most[0] // batch) * batch, most[1])
    settings = FitSettings(np.float32(lr), np.float32(max_grad_norm), np.int32(epochs), np.int32(patience))
    return _fit(model, *padded, key, np.int32(rows), np.array(counts, np.int32), settings, sizes=sizes, batch=batch)


def parts(rows: int, share: float, holdout: float) -> tuple[int, int]:
    """How many of ``rows`` a member learns from, and how many it holds out. Neither falls as ``rows`` grow."""
    kept = int(share * rows + 1e-6)  # as if 0.6 x 5 were exact
    learned = int((1 - holdout) * kept + 1e-6)
    return learned, kept - learned


def _check(model: Ensemble, inputs: np.ndarray, targets: np.ndarray, capacity: int, **how: Any) -> None:
    v, q = model.sizes[0], model.sizes[-1]
    if inputs.ndim != 2 or targets.ndim != 2 or len(inputs) != len(targets) or (inputs.shape[1], targets.shape[1]) != (v, q):
        raise ValueError(f"fit takes inputs [N, {v}] and targets [N, {q}]; got {list(inputs.shape)} and {list(targets.shape)}.")
    if not (0 < how["share"] <= 1 and 0 < how["holdout"] < 1 and min(how["batch"], how["epochs"], how["patience"]) >= 1):
        raise ValueError(
            "fit needs share within (0, 1], holdout within (0, 1), batch, epochs and patience >= 1; got "
            + ", ".join(f"{k}={x}" for k, x in how.items())
            + "."
        )
    if min(parts(len(inputs), how["share"], how["holdout"])) < 1:
        raise ValueError(
            f"{len(inputs)} rows are too few: a member has share={how['share']:g} of them, of which holdout={how['holdout']:g} "
            "and the rest must be at least one each."
        )
    if capacity and len(inputs) > capacity:
        raise ValueError(f"{len(inputs)} rows are more than capacity={capacity}: give more, or 0.")
    for name, x in (("inputs", inputs), ("targets", targets)):
        if not np.isfinite(x).all():
            row = int(np.argwhere(~np.isfinite(x))[0, 0])
            raise ValueError(f"{name} have {int((~np.isfinite(x)).sum())} numbers that are not finite, the first in row {row}.")


class FitSettings(NamedTuple):
    """Of `fit`, traced."""

    lr: Array
    max_grad_norm: Array
    epochs: Array
    patience: Array


@partial(jax.jit, static_argnames=("sizes", "batch"))
def _fit(
    model: Ensemble,
    inputs: Array,
    targets: Array,
    key: Key,
    rows: Array,
    counts: Array,
    settings: FitSettings,
    *,
    sizes: tuple[int, int],
    batch: int,
) -> Fitted:
    drawn, learn = jax.random.split(key)
    own = jax.vmap(lambda k: split(k, len(inputs), rows, counts, sizes))(jax.random.split(drawn, model.count))
    return train(model, inputs, targets, own, learn, settings, batch)


class Split(NamedTuple):
    """The rows of one member, by number. The first ``counts`` of each count, the others fill up."""

    train: Array  # int32 [a multiple of the batch]
    held: Array  # int32 [H]
    counts: Array  # int32 [2]


def split(key: Key, room: int, rows: Array, counts: Array, sizes: tuple[int, int]) -> Split:
    """``counts`` of the first ``rows`` of ``room``, drawn without replacement, so none of them in both parts, filled up to
    ``sizes``."""
    drawn = permutation(key, room, rows)
    take = lambda start, n: drawn[jnp.minimum(start + jnp.arange(n), room - 1)]
    return Split(take(0, sizes[0]), take(counts[0], sizes[1]), counts)


class Best(NamedTuple):
    """Of each member [E, ...]: where its error on the rows held out was least."""

    params: PyTree
    error: Array
    epochs: Array


def train(model: Ensemble, inputs: Array, targets: Array, own: Split, key: Key, settings: FitSettings, batch: int) -> Fitted:
    """`fit` on rows [R, ...] of which each member has its ``own`` [E, ...]. A pure function: the loop ends with the last
    member, and what those that have stopped do meanwhile is not kept."""
    z, size = (inputs - model.mean) / model.std, model.count
    counts = own.counts[0]  # the same for all, so that loops over batches have one length
    adam = optimizer(settings.lr, max_grad_norm=settings.max_grad_norm)

    @exact
    def error(params: PyTree, at: Array, weight: Array) -> Array:
        """Of one member, on the rows ``at``."""
        off = squared(model.network.apply(params, z[at]), targets[at])
        return (off * weight).sum() / weight.sum()

    def one_pass(now: tuple, mine: Split, key: Key) -> tuple:
        """Over all batches of one member; ``now``: its parameters and the optimiser's state."""
        mixed = mine.train[permutation(key, mine.train.size, counts[0])]

        def step(b: Array, carry: tuple) -> tuple:
            at = jax.lax.dynamic_slice(mixed, (b * batch,), (batch,))
            grads = jax.grad(error)(carry[0], at, b * batch + jnp.arange(batch) < counts[0])
            return apply_gradients(adam, carry[0], grads, carry[1])

        return jax.lax.fori_loop(0, (counts[0] + batch - 1) // batch, step, now)

    def advance(carry: tuple) -> tuple:
        now, best, since, epoch = carry
        now = jax.vmap(one_pass)(now, own, jax.random.split(jax.random.fold_in(key, epoch), size))
        found = jax.vmap(lambda net, mine: error(net, mine.held, jnp.arange(mine.held.size) < counts[1]))(now[0], own)
        better = (since < settings.patience) & (found <= best.error)  # false where it is not a number
        keep = lambda new, old: jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
        best = jax.tree.map(keep, Best(now[0], found, jnp.full(size, epoch + 1)), best)
        return now, best, jnp.where(better, 0, since + 1), epoch + 1

    none = jnp.zeros(size, jnp.int32)
    start = (model.params, jax.vmap(adam.init)(model.params)), Best(model.params, jnp.full(size, jnp.inf), none)
    more = lambda carry: (carry[2] < settings.patience).any() & (carry[3] < settings.epochs)
    _, best, _, _ = jax.lax.while_loop(more, advance, (*start, none, jnp.int32(0)))
    return Fitted(dataclasses.replace(model, params=best.params), best.error, best.epochs)


def squared(prediction: Array, target: Array) -> Array:
    """The mean squared error of each row [...] of [..., q]."""
    return ((prediction - target) ** 2).mean(-1)
