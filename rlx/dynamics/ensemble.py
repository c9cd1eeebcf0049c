"""Ensembles of networks: members of one shape that learn the same targets from different rows, so that where they disagree
nobody has taught them (Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles", arXiv:1612.01474). The defaults are those of the networks that SINDy-RL is compared with (Zolman et al. 2024,
arXiv:2403.09110, "Dyna-NN"). With ``gaussian=True`` each member predicts a normal distribution; these are fitted by
`rlx.dynamics.bootstrap`.

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


class Bounds(NamedTuple):
    """Between which the logarithm of a variance is kept, of each output [q]; learned with the weights."""

    high: Array
    low: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ensemble:
    """Members of one shape, float32, and the scale of what they read."""

    params: PyTree  # of `rlx.nn.mlp.stack`: those of `network`, members in front [E, ...]
    mean: Array  # [v], taken from the inputs
    std: Array  # [v], which they are divided by
    network: MLP = dataclasses.field(metadata={"static": True})
    bounds: Bounds | None = None  # where members predict normal distributions: the network gives mean and log-variance [2 q]
    elites: Array | None = None  # int32 [K], the numbers of the members that predict best; None: all

    def __call__(self, z: Array) -> Array:
        """The mean of the members [..., q] for z [..., v]. Raises ValueError for another v than it was fitted on."""
        return self.each(z).mean(0)

    def each(self, z: Array) -> Array:
        """The prediction of each member [E, ..., q], of normal distributions their mean."""
        out = self._outputs(z)
        return out if self.bounds is None else out[..., : self.sizes[-1]]

    def normals(self, z: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of each member [E, ..., q].

        Raises:
            ValueError: members that predict no distribution, or another v than they were fitted on.
        """
        if self.bounds is None:
            raise ValueError("this ensemble predicts no distributions: make it with init(..., gaussian=True).")
        mean, log_variance = normal(self._outputs(z), self.bounds)
        return mean, jnp.exp(0.5 * log_variance)

    @exact  # one decision changes little: less would be lost in rounding
    def _outputs(self, z: Array) -> Array:
        if z.shape[-1:] != self.mean.shape[-1:]:
            raise ValueError(f"the ensemble reads [..., {self.mean.shape[-1]}]; got {list(z.shape)}, not as it was fitted on.")
        return stack(self.network, self.count).apply(self.params, (z - self.mean) / self.std)

    def member(self, index: Array) -> Ensemble:
        """The ensemble of one member."""
        return dataclasses.replace(self, params=jax.tree.map(lambda x: x[None], head(self.params, index)), elites=None)

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
        *hidden, last = self.network.widths
        return (self.mean.shape[0], *hidden, last if self.bounds is None else last // 2)

    @property
    def parameters(self) -> int:
        """Weights and biases of all members."""
        return int(sum(x.size for x in jax.tree.leaves(self.params)))


def normal(out: Array, bounds: Bounds) -> tuple[Array, Array]:
    """Mean and log-variance [..., q] of what a network gives [..., 2 q], the latter softly within ``bounds``: v <- u -
    softplus(u - v), then v <- w + softplus(v - w) (Chua et al. 2018, arXiv:1805.12114, appendix A.1)."""
    mean, log_variance = jnp.split(out, 2, -1)
    log_variance = bounds.high - jax.nn.softplus(bounds.high - log_variance)
    return mean, bounds.low + jax.nn.softplus(log_variance - bounds.low)


def init(
    key: Key, ensemble_size: int, sizes: Sequence[int], activation: str = "tanh", gaussian: bool = False, elites: int = 0
) -> Ensemble:
    """Networks with layers between ``sizes`` = (inputs, hidden..., outputs): weights uniform in +-sqrt(6 / (n + m)) (Glorot and
    Bengio 2010), biases 0, inputs as they come.

    ``gaussian``: each member predicts a normal distribution; weights are then normal with standard deviation 1 / (2 sqrt(n)),
    log-variances within -10 to 0.5 at first. ``elites``: how many members are kept apart as the best; 0: all are.

    Raises:
        ValueError: no member, no layer, more elites than members, or an unknown activation.
    """
    if ensemble_size < 1 or len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(
            f"an ensemble needs ensemble_size >= 1 and at least two sizes >= 1; got {ensemble_size} and {tuple(sizes)}."
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r} is unknown; there are {', '.join(ACTIVATIONS)}.")
    if not 0 <= elites <= ensemble_size:
        raise ValueError(f"elites={elites} of ensemble_size={ensemble_size} members: give as many at most, or 0 for all.")
    *hidden, q = sizes[1:]
    network = MLP((*hidden, q * (1 + gaussian)), activation, kernel_init="half_normal" if gaussian else "glorot")
    params = stack(network, ensemble_size).init(key, jnp.zeros(sizes[0]))
    bounds = Bounds(jnp.full(q, 0.5), jnp.full(q, -10.0)) if gaussian else None
    best = jnp.arange(elites) if elites else None
    return Ensemble(params, jnp.zeros(sizes[0]), jnp.ones(sizes[0]), network, bounds, best)


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
    gain: Array | float = 0.0  # an error counts as better where it is below the least by this share of it
    decay: Array | tuple[float, ...] = ()  # of half the sum of the squared weights of each layer, in the loss; (): none


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


def train(
    model: Ensemble,
    inputs: Array,
    targets: Array,
    own: Split,
    key: Key,
    settings: FitSettings,
    batch: int,
    together: bool = False,
) -> Fitted:
    """`fit` on rows [R, ...] of which each member has its ``own`` [E, ...]. A pure function: the loop ends with the last
    member, and what those that have stopped do meanwhile is not kept. ``together``: none stops before all have, so
    ``patience`` counts passes in which no member got better."""
    z, size = (inputs - model.mean) / model.std, model.count
    counts = own.counts[0]  # the same for all, so that loops over batches have one length
    adam = optimizer(settings.lr, max_grad_norm=settings.max_grad_norm)

    @exact
    def loss(params: PyTree, bounds: Bounds | None, at: Array, weight: Array) -> Array:
        """Of one member, on the rows ``at``."""
        off = misfit(model.network.apply(params, z[at]), targets[at], bounds)
        return (off * weight).sum() / weight.sum() + cost(params, bounds, settings.decay, size)

    @exact
    def error(params: PyTree, mine: Split) -> Array:
        """Of one member, the mean squared error on what it holds out."""
        weight = jnp.arange(mine.held.size) < counts[1]
        off = squared(model.network.apply(params, z[mine.held])[..., : targets.shape[1]], targets[mine.held])
        return (off * weight).sum() / weight.sum()

    def one_pass(now: Now, key: Array) -> Now:
        """Over all batches of each member; the bounds are common to them."""
        mixed = jax.vmap(lambda mine, k: mine.train[permutation(k, mine.train.size, counts[0])])(own, key)

        def step(b: Array, now: Now) -> Now:
            at = jax.lax.dynamic_slice(mixed, (0, b * batch), (size, batch))
            weight = b * batch + jnp.arange(batch) < counts[0]
            grads, slopes = jax.vmap(jax.grad(loss, (0, 1)), (0, None, 0, None))(now.params, now.bounds, at, weight)
            params, opt = jax.vmap(lambda *x: apply_gradients(adam, *x))(now.params, grads, now.opt)
            if now.bounds is None:
                return now._replace(params=params, opt=opt)
            bounds, bounds_opt = apply_gradients(
                optimizer(settings.lr), now.bounds, jax.tree.map(lambda x: x.sum(0), slopes), now.bounds_opt
            )
            return Now(params, opt, bounds, bounds_opt)

        return jax.lax.fori_loop(0, (counts[0] + batch - 1) // batch, step, now)

    def advance(carry: tuple) -> tuple:
        now, best, since, epoch = carry
        now = one_pass(now, jax.random.split(jax.random.fold_in(key, epoch), size))
        found = jax.vmap(error)(now.params, own)
        better = (since < settings.patience) & (found <= best.error * (1 - settings.gain))  # false where it is not a number
        keep = lambda new, old: jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
        best = jax.tree.map(keep, Best(now.params, found, jnp.full(size, epoch + 1)), best)
        return now, best, jnp.where(better.any() if together else better, 0, since + 1), epoch + 1

    none = jnp.zeros(size, jnp.int32)
    bounds_opt = None if model.bounds is None else optimizer(settings.lr).init(model.bounds)
    now = Now(model.params, jax.vmap(adam.init)(model.params), model.bounds, bounds_opt)
    start = now, Best(model.params, jnp.full(size, jnp.inf), none), none, jnp.int32(0)
    more = lambda carry: (carry[2] < settings.patience).any() & (carry[3] < settings.epochs)
    now, best, _, _ = jax.lax.while_loop(more, advance, start)
    return Fitted(dataclasses.replace(model, params=best.params, bounds=now.bounds), best.error, best.epochs)


class Now(NamedTuple):
    """What a fit changes: weights and their optimiser by member [E, ...], bounds and theirs."""

    params: PyTree
    opt: PyTree
    bounds: Bounds | None
    bounds_opt: PyTree


BOUNDS_COST = 0.01  # of the width of the bounds, in the loss: without it a target that never changes has no least loss


def misfit(out: Array, target: Array, bounds: Bounds | None) -> Array:
    """What is least where a network's outputs fit [...]: the squared error, or with ``bounds`` twice the negative
    log-likelihood without its constant, (mu - y)^2 exp(-v) + v; the mean over outputs."""
    if bounds is None:
        return squared(out, target)
    mean, log_variance = normal(out, bounds)
    return ((mean - target) ** 2 * jnp.exp(-log_variance) + log_variance).mean(-1)


def cost(params: PyTree, bounds: Bounds | None, decay: Array | tuple[float, ...], members: int) -> Array:
    """Of one member's weights, and its part of that of the bounds which it shares with the others."""
    layers = params["params"]
    total = sum((0.5 * decay[i] * (layers[f"Dense_{i}"]["kernel"] ** 2).sum() for i in range(len(decay))), jnp.float32(0))
    return total if bounds is None else total + BOUNDS_COST / members * (bounds.high - bounds.low).sum()


def squared(prediction: Array, target: Array) -> Array:
    """The mean squared error of each row [...] of [..., q]."""
    return ((prediction - target) ** 2).mean(-1)
