"""Intention-conditioned value functions (Ghosh et al. 2023, arXiv:2304.04782): how soon g is reached by who means to go to y,
as a multilinear form of features, by expectile regression on the data; then successor features of psi::

    V_j(s, g, y) = A_j(f(s) * T_j(psi(y)))' B_j(psi(g) * T_j(psi(y)));    q_j = 1 on arrival at g, else discount V_j-(s', g, y)
    weights by the advantage of y for y: |expectile - 1[min_j q_j(y, y) - mean_j V_j-(s, y, y) < 0]|

The intent is the outcome with probability ``same_goals``, else the goal of another row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlx import replay
from rlx.agents.td_jepa.features.base import SOURCE, Batch, Features, Given, aimed, successor
from rlx.agents.td_jepa.features.byol import future_goals
from rlx.agents.td_jepa.losses import expectile
from rlx.agents.td_jepa.networks import Encoder, Net, Params
from rlx.nn.mlp import LayerNormMLP, stack
from rlx.types import Array, Sampler


class Multilinear(nn.Module):
    """V [...] of features [..., d] of a state, an outcome and an intent."""

    hidden: int

    @nn.compact
    def __call__(self, state: Array, outcome: Array, intent: Array) -> Array:
        d = state.shape[-1]
        turned = LayerNormMLP((self.hidden, d))(intent)
        return (LayerNormMLP((d,))(state * turned) * LayerNormMLP((d,))(outcome * turned)).sum(-1)

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...


class Icvf(Features):
    orthonormal = ()
    targets = ("phi", "psi", "predictor", "state", "value")
    rates = {"state": "lr_psi", "value": "lr_psi"}

    def sampler(self) -> Sampler:
        share = self.c.random_goals
        return replay.goals(
            self.c.batch, future=1 - share, random=share, discount="future_discount", source=SOURCE, stack=self.c.frames
        )

    def view(self, drawn: Any, hyper: dict[str, Array]) -> Batch:
        return future_goals(drawn, hyper)

    def modules(self, actions: int) -> dict[str, Any]:
        task = jnp.zeros(self.c.d_psi)
        value = stack(Multilinear(self.c.psi_hidden), 2)
        return {
            "state": (Encoder(self.c.psi_hidden, self.c.psi_layers, self.c.d_psi), ()),
            "value": (value, (task, task, task)),
        }

    def loss(self, net: Net, p: Params, x: Given) -> tuple[Array, dict[str, Array]]:
        more, h, still = x.batch.more, x.hyper, jax.lax.stop_gradient
        size = x.z.shape[0]
        same = jnp.arange(size) < round(self.c.same_goals * size)  # rows are independent, so any share of them will do
        inputs, goal = net.see(p, "psi", x.batch.obs), net.see(p, "psi", more["goal"])

        def value(params: Params, inputs: Array, outcome: Array, intent: Array) -> Array:
            """[2, B]"""
            state = net.modules["state"].apply(params["state"], inputs)
            return net.modules["value"].apply(params["value"], state, outcome, intent)

        def goals(params: Params, goal: Array) -> tuple[Array, Array]:
            outcome = net.psi(params, goal)
            return outcome, jnp.where(same[:, None], outcome, jnp.roll(outcome, 1, 0))

        outcome, intent = goals(p, goal)
        outcome_, intent_ = goals(x.target, aimed(net, x, more["goal"], goal))
        at_goal, at_intent = more["reached"], more["reached"] & same
        soon = lambda arrived, v: jnp.where(arrived, 1.0, h["discount"] * v)
        q = soon(at_goal, value(x.target, x.next_psi, outcome_, intent_))
        meant = soon(at_intent, value(x.target, x.next_psi, intent_, intent_)).min(0)
        advantage = meant - value(x.target, aimed(net, x, x.batch.obs, inputs), intent_, intent_).mean(0)
        fit = 2 * expectile(still(advantage), still(q) - value(p, inputs, outcome, intent), h["expectile"])
        forward, metrics = successor(net, p, x)
        return fit + forward, {"features/loss": fit, **metrics}
