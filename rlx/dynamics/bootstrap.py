"""Fitting an ensemble of normal distributions by likelihood, each member on a bootstrap of its own (Chua et al. 2018,
arXiv:1805.12114; the recipe is that of MOPO, Yu et al. 2020, arXiv:2005.13239, and those after it).

::

    model = ensemble.init(key, 7, (n + m, 200, 200, 200, 200, n + 1), "silu", gaussian=True, elites=5)
    found = fit(model, inputs, targets, key)      # targets: what changes, and the reward
    mean, std = found.model.normals(z)            # [E, ..., n + 1] each

All passes of all members are one compiled program.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rlx.dynamics.ensemble import Ensemble, FitSettings, Fitted, Split, train
from rlx.types import Array, Key

DECAY = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)  # by layer, for four hidden ones


def fit(
    model: Ensemble,
    inputs: np.ndarray,
    targets: np.ndarray,
    key: Key,
    *,
    holdout: float = 0.2,
    most_held: int = 1000,
    batch: int = 256,
    epochs: int = 200,
    patience: int = 5,
    gain: float = 0.01,
    lr: float = 1e-3,
    decay: tuple[float, ...] | None = None,
) -> Fitted:
    """``model`` after Adam on the negative log-likelihood of rows ``inputs`` [N, v] and ``targets`` [N, q], on the host.

    ``holdout`` of the rows, at most ``most_held``, are held out, the same for all members; each member learns from as many
    draws with replacement of the others as there are, mixed anew in each pass. A member's weights are kept where its mean
    squared error on what is held out falls by ``gain`` of the least so far; after ``patience`` passes in a row in which that
    happened to none, or ``epochs``, it is over. The model reads inputs in units of the rows that were not held out, and its
    elites are the members of least error. ``decay``: as `rlx.dynamics.ensemble.FitSettings`; None: `DECAY` for up to
    five layers, of fewer without those before the last.

    Raises:
        ValueError: a model without distributions, rows that do not fit it, are too few or not finite, settings out of range.
    """
    inputs, targets = np.asarray(inputs, np.float32), np.asarray(targets, np.float32)
    held = min(int(holdout * len(inputs)), most_held)
    layers = len(model.network.widths)
    decay = DECAY[: layers - 1] + DECAY[-1:] if decay is None and layers <= len(DECAY) else (decay or ())
    _check(model, inputs, targets, held, batch, epochs, patience)
    if len(decay) not in (0, layers):
        raise ValueError(f"decay has {len(decay)} numbers, for {layers} layers: give one each, or () for none.")
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, 0), len(inputs)))
    rest = inputs[order[held:]]
    mean, std = rest.mean(0, dtype=np.float64), rest.std(0, dtype=np.float64)
    std = np.where(std < 1e-12, 1.0, std)
    model = dataclasses.replace(model, mean=jnp.asarray(mean, jnp.float32), std=jnp.asarray(std, jnp.float32))
    ends = np.int32(epochs), np.int32(patience), np.float32(gain)
    settings = FitSettings(np.float32(lr), np.float32(np.inf), *ends, np.asarray(decay, np.float32))
    return _fit(model, inputs, targets, order, jax.random.fold_in(key, 1), settings, held=held, batch=batch)


def _check(model: Ensemble, inputs: np.ndarray, targets: np.ndarray, held: int, batch: int, epochs: int, patience: int) -> None:
    v, q = model.sizes[0], model.sizes[-1]
    if model.bounds is None:
        raise ValueError("this ensemble predicts no distributions: make it with init(..., gaussian=True), or fit it otherwise.")
    if inputs.ndim != 2 or targets.ndim != 2 or len(inputs) != len(targets) or (inputs.shape[1], targets.shape[1]) != (v, q):
        raise ValueError(f"fit takes inputs [N, {v}] and targets [N, {q}]; got {list(inputs.shape)} and {list(targets.shape)}.")
    if held < 1 or len(inputs) <= held or min(batch, epochs, patience) < 1:
        raise ValueError(
            f"fit holds out {held} of {len(inputs)} rows, batch={batch}, epochs={epochs}, patience={patience}: all, and the "
            "rows that are left, must be at least 1."
        )
    for name, x in (("inputs", inputs), ("targets", targets)):
        if not np.isfinite(x).all():
            row = int(np.argwhere(~np.isfinite(x))[0, 0])
            raise ValueError(f"{name} have {int((~np.isfinite(x)).sum())} numbers that are not finite, the first in row {row}.")


@partial(jax.jit, static_argnames=("held", "batch"))
def _fit(
    model: Ensemble, inputs: Array, targets: Array, order: Array, key: Key, settings: FitSettings, *, held: int, batch: int
) -> Fitted:
    own = bootstraps(jax.random.fold_in(key, 0), order, held, batch, model.count)
    found = train(model, inputs, targets, own, jax.random.fold_in(key, 1), settings, batch, together=True)
    if model.elites is None:
        return found
    best = jnp.argsort(found.error)[: len(model.elites)].astype(jnp.int32)
    return found._replace(model=dataclasses.replace(found.model, elites=best))


def bootstraps(key: Key, order: Array, held: int, batch: int, members: int) -> Split:
    """Of each of ``members``: as many draws with replacement as there are rows of ``order`` [N] behind the first ``held``,
    filled up to whole batches; these are held out."""
    rest = order[held:]
    room = -(-len(rest) // batch) * batch
    drawn = rest[jax.random.randint(key, (members, room), 0, len(rest))]
    counts = jnp.array([len(rest), held], jnp.int32)
    wide = lambda x: jnp.broadcast_to(x, (members, *x.shape))
    return Split(drawn, wide(order[:held]), wide(counts))
