"""One network in the place of a whole `TransitionScorer`: what tens of discriminators say together is regressed on what a model
proposes, which is where a filter asks. Scoring is nearly all that a filtered step costs, so a step becomes cheaper by about as
many times as there were snapshots.

A filter only needs the order of candidates of one (s, a). So it is that which is held to a least agreement, on (s, a) that the
regression has not seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.dynamics.scorer import Ranges, TransitionScorer, inputs, same_sizes
from rlx.nn.mlp import MLP
from rlx.nn.optim import apply_gradients, optimizer
from rlx.types import Array, Key, PyTree

HELD, MOST_HELD = 0.1, 1_000  # share, and number, of rows that the regression does not see
TIE = 1e-2  # scores nearer than this have no order

Candidates = Callable[[Any, Array, Array, Key], Array]  # (model, obs [n], action [m], key) -> new [K, n]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DistilledScorer:
    """Reads what a snapshot of the scorer reads."""

    params: PyTree
    ranges: Ranges
    network: MLP = dataclasses.field(metadata={"static": True})
    delta: bool = dataclasses.field(default=True, metadata={"static": True})

    def __call__(self, obs: Array, action: Array, new: Array) -> Array:
        """r [...] of transitions ``obs`` [..., n], ``action`` [..., m], ``new`` [..., n]; leading axes broadcast. Raises
        ValueError for other observations or actions than the scorer's."""
        same_sizes(self.ranges, obs, action, new)
        lead = jnp.broadcast_shapes(obs.shape[:-1], action.shape[:-1], new.shape[:-1])
        wide = (jnp.broadcast_to(x, (*lead, x.shape[-1])) for x in (obs, action, new))
        return self.network.apply(self.params, inputs(self.ranges, self.delta, *wide))[..., 0]


class Distilled(NamedTuple):
    scorer: DistilledScorer
    agreement: float  # share of pairs of candidates that both order alike, on rows held out
    error: float  # root mean square on them


def blank(key: Key, scorer: TransitionScorer, hidden: tuple[int, ...]) -> DistilledScorer:
    """Before it has learned. Its ranges are the scorer's."""
    network = MLP((*hidden, 1))
    n, m = (x.shape[0] for x in (scorer.ranges.obs_low, scorer.ranges.action_low))
    return DistilledScorer(network.init(key, jnp.zeros(2 * n + m)), scorer.ranges, network, scorer.delta)


def distil(
    own: DistilledScorer,
    scorer: TransitionScorer,
    candidates: Candidates,
    model: PyTree,
    obs: np.ndarray,
    action: np.ndarray,
    key: Key,
    *,
    steps: int = 20_000,
    batch: int = 64,
    lr: float = 1e-3,
    least: float = 0.95,
) -> Distilled:
    """``own`` (`blank`) after ``steps`` of Adam, falling to 0 by a cosine, on squared differences from ``scorer`` over the
    candidates of ``model`` at ``batch`` rows of ``obs`` [N, n] and ``action`` [N, m], on the host.

    Raises:
        ValueError: on rows held out it orders fewer than ``least`` of the pairs of candidates as the scorer does.
    """
    k_split, k_fit, k_look = jax.random.split(key, 3)
    order = np.random.default_rng(np.asarray(jax.random.key_data(k_split))).permutation(len(obs))
    held = min(max(1, int(HELD * len(obs))), MOST_HELD)
    rows = lambda at: (jnp.asarray(obs[at], jnp.float32), jnp.asarray(action[at], jnp.float32))
    own = dataclasses.replace(own, ranges=scorer.ranges)
    learned = _fit(own, scorer, model, *rows(order[held:]), k_fit, candidates, steps, batch, lr)
    truth, prediction = (np.asarray(x) for x in _scores(learned, scorer, model, *rows(order[:held]), k_look, candidates))
    found = Distilled(learned, agreement(truth, prediction), float(np.sqrt(np.mean((truth - prediction) ** 2))))
    if found.agreement < least:
        raise ValueError(
            f"the distilled scorer orders {found.agreement:.1%} of pairs of candidates as the scorer does, and {least:.0%} are "
            "asked for (scorer.distilled_agreement): give it more steps or width (distilled_steps, distilled_hidden), or do "
            "without it."
        )
    return found


def agreement(truth: np.ndarray, prediction: np.ndarray) -> float:
    """The share of pairs of candidates, of ``truth`` and ``prediction`` [N, K], that both order alike. Pairs that the truth
    puts within `TIE` of one another do not count; 1 where there is no other."""
    apart = truth[:, :, None] - truth[:, None]
    counts = np.abs(apart) > TIE
    if not counts.any():
        return 1.0
    return float((np.sign(prediction[:, :, None] - prediction[:, None]) == np.sign(apart))[counts].mean())


@partial(jax.jit, static_argnames=("candidates",))
def _scores(own: Any, scorer: Any, model: Any, obs: Array, action: Array, key: Key, candidates: Any) -> tuple[Array, Array]:
    """What the scorer and ``own`` say of candidates [N, K]."""
    new = jax.vmap(candidates, (None, 0, 0, 0))(model, obs, action, jax.random.split(key, obs.shape[0]))
    given = obs[:, None], action[:, None], new
    return scorer(*given), own(*given)


@partial(jax.jit, static_argnames=("candidates", "steps", "batch"))
def _fit(
    own: Any, scorer: Any, model: Any, obs: Array, action: Array, key: Key, candidates: Any, steps: int, batch: int, lr: float
) -> Any:
    def step(i: Array, carry: tuple) -> tuple:
        params, opt = carry
        draw, look = jax.random.split(jax.random.fold_in(key, i))
        at = jax.random.randint(draw, (batch,), 0, obs.shape[0])

        def loss(params: PyTree) -> Array:
            new = dataclasses.replace(own, params=params)
            truth, prediction = _scores(new, scorer, model, obs[at], action[at], look, candidates)
            return ((jax.lax.stop_gradient(truth) - prediction) ** 2).mean()

        rate = 0.5 * lr * (1 + jnp.cos(jnp.pi * i / steps))
        return apply_gradients(optimizer(rate), params, jax.grad(loss)(params), opt)

    params, _ = jax.lax.fori_loop(0, steps, step, (own.params, optimizer(0.0).init(own.params)))
    return dataclasses.replace(own, params=params)
