"""Regularised latent dynamics prediction (Jajoo et al. 2025): features that predict themselves ``horizon`` steps ahead, each
from the prediction before it, and are orthonormal; F by the loss of forward-backward representations with these features as B,
held fixed::

    x_0 = psi(s_t);  x_{k+1} = P(x_k, a_{t+k});    mean_k ||x_k - psi-(s_{t+k})||^2 + lambda_psi R(psi(s))

As F is the density of a measure against B, the z of a reward is E[r B], as there. Steps behind the end of an episode do not
count.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlx import replay
from rlx.agents.td_jepa.features.base import SOURCE, Batch, Features, Given, aimed, windows
from rlx.agents.td_jepa.features.symmetric import measures
from rlx.agents.td_jepa.losses import measure_loss, orthonormality
from rlx.agents.td_jepa.networks import Net, Params, Predictor
from rlx.types import Array, Sampler


class Rldp(Features):
    regression = False
    scale_goals = False
    rates = {"dynamics": "lr_predictor"}

    def sampler(self) -> Sampler:
        return replay.segments(self.c.batch, self.c.horizon + 1, source=SOURCE, stack=self.c.frames)

    def view(self, drawn: Any, hyper: dict[str, Array]) -> Batch:
        return windows(drawn, hyper, obs=drawn.rows.obs, action=drawn.rows.action, mask=drawn.mask)

    def modules(self, actions: int) -> dict[str, Any]:
        dynamics = Predictor(self.c.predictor_hidden, self.c.predictor_layers, self.c.d_psi, gain=1.0)
        return {"dynamics": (dynamics, (jnp.zeros(self.c.d_psi), jnp.zeros(0), jnp.zeros(actions)))}

    def loss(self, net: Net, p: Params, x: Given) -> tuple[Array, dict[str, Array]]:
        more = x.batch.more
        psi = net.psi(p, net.see(p, "psi", x.batch.obs))
        true, there = net.psi(x.target, aimed(net, x, more["obs"])), more["mask"]
        fit, now = jnp.float32(0), psi
        for k in range(true.shape[0] - 1):
            now = net.modules["dynamics"].apply(p["dynamics"], now, now[..., :0], more["action"][k])
            fit += jnp.where(there[k + 1], ((now - jax.lax.stop_gradient(true[k + 1])) ** 2).sum(-1), 0.0).sum()
        fit = fit / there[1:].sum()
        measure, target = measures(net, p, x, jax.lax.stop_gradient(net.psi(p, x.next_psi)))
        forward = measure.shape[0] * measure_loss(measure, target)
        total = fit + x.hyper["lambda_psi"] * orthonormality(psi).total + forward
        return total, {"features/loss": fit, "predictor/loss": forward}
