"""HILP (Park et al. 2024, arXiv:2402.15567): features whose distances are times to a goal, by expectile regression on goals of
the data; then successor features of the first of two encoders, less their mean::

    V_j(s, g) = -||psi_j(s) - psi_j(g)||;   q_j = -1[s is not g] (1 ...) + discount V_j-(s', g), 0 at the goal
    |expectile - 1[min_j q_j - mean_j V_j-(s, g) < 0]| (q_j - V_j(s, g))^2

The implicit reward is that of the state's feature alone, not of a difference. Features are not normalised.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlx import replay
from rlx.agents.td_jepa.features.base import SOURCE, Batch, Features, Given, aimed, successor
from rlx.agents.td_jepa.features.byol import future_goals
from rlx.agents.td_jepa.losses import expectile
from rlx.agents.td_jepa.networks import Encoder, Net, Params
from rlx.nn.mlp import stack
from rlx.types import Array, Sampler


class Hilp(Features):
    centred = True
    orthonormal = ()

    def sampler(self) -> Sampler:
        share = self.c.random_goals
        return replay.goals(
            self.c.batch, future=1 - share, random=share, discount="future_discount", source=SOURCE, stack=self.c.frames
        )

    def view(self, drawn: Any, hyper: dict[str, Array]) -> Batch:
        return future_goals(drawn, hyper)

    def modules(self, actions: int) -> dict[str, Any]:
        return {"psi": (stack(Encoder(self.c.psi_hidden, self.c.psi_layers, self.c.d_psi, normalize=False), 2), ())}

    def loss(self, net: Net, p: Params, x: Given) -> tuple[Array, dict[str, Array]]:
        encoders, more = net.modules["psi"], x.batch.more
        goal = net.see(p, "psi", more["goal"])

        def value(params: Params, inputs: Array, goal: Array) -> Array:
            """[2, B]"""
            away = ((encoders.apply(params["psi"], inputs) - encoders.apply(params["psi"], goal)) ** 2).sum(-1)
            return -jnp.sqrt(jnp.maximum(away, 1e-6))

        here, still = net.see(p, "psi", x.batch.obs), jax.lax.stop_gradient
        goal_, here_ = aimed(net, x, more["goal"], goal), aimed(net, x, x.batch.obs, here)
        going = jnp.where(more["here"], 0.0, 1.0)
        q = going * (-1.0 + x.hyper["discount"] * value(x.target, x.next_psi, goal_))
        advantage = q.min(0) - value(x.target, here_, goal_).mean(0)
        fit = 2 * expectile(still(advantage), still(q) - value(p, here, goal), x.hyper["expectile"])
        forward, metrics = successor(net, p, x)
        return fit + forward, {"features/loss": fit, **metrics}
