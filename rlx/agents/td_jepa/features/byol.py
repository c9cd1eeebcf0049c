"""Self-prediction without a policy: features that predict those of what the data did next (BYOL: one step; BYOL-gamma, Lawson
et al. 2025: a geometric number of steps), and are orthonormal; then successor features of them. It is TD-JEPA with the policy's
future switched off::

    ||P(psi(s), a) - psi-(s_{t+k})||^2 + lambda_psi R(psi(s)),    k = 1, or geometric with 1 - future_discount
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from rlx import replay
from rlx.agents.td_jepa.features.base import SOURCE, Batch, Features, Given, aimed, successor
from rlx.agents.td_jepa.losses import orthonormality, squared_error
from rlx.agents.td_jepa.networks import Net, Params, predictor
from rlx.types import Array, Sampler


class Byol(Features):
    rates = {"dynamics": "lr_predictor"}

    def modules(self, actions: int) -> dict[str, Any]:
        return {"dynamics": (predictor(self.c, self.c.d_psi), (jnp.zeros(self.c.d_psi), jnp.zeros(0), jnp.zeros(actions)))}

    def future(self, net: Net, x: Given) -> Array:
        """What the task encoder sees of what is predicted."""
        return x.next_psi

    def loss(self, net: Net, p: Params, x: Given) -> tuple[Array, dict[str, Array]]:
        psi = net.psi(p, net.see(p, "psi", x.batch.obs))
        there = net.psi(x.target, self.future(net, x))
        fit = squared_error(net.modules["dynamics"].apply(p["dynamics"], psi, psi[..., :0], x.batch.action), there)
        forward, metrics = successor(net, p, x)
        total = fit + x.hyper["lambda_psi"] * orthonormality(psi).total + forward
        return total, {"features/loss": fit, **metrics}


class ByolGamma(Byol):
    def sampler(self) -> Sampler:
        return replay.goals(self.c.batch, discount="future_discount", source=SOURCE, stack=self.c.frames)

    def view(self, drawn: Any, hyper: dict[str, Array]) -> Batch:
        return future_goals(drawn, hyper)

    def future(self, net: Net, x: Given) -> Array:
        return aimed(net, x, x.batch.more["goal"])


def future_goals(drawn: replay.Goals, hyper: dict[str, Array]) -> Batch:
    """Transitions with goals: their own ``discount`` is that of the time until the goal."""
    discount = jnp.where(drawn.terminated, 0.0, hyper["discount"])
    return Batch(
        drawn.obs, drawn.action, drawn.next_obs, discount, {"goal": drawn.goal, "here": drawn.here, "reached": drawn.reached}
    )
