"""TD-JEPA (Bagatella et al. 2025, arXiv:2510.00739): state features predict the discounted sum of future task features under
z's policy, and task features that of state features::

    y_phi = psi-(s') + discount T_phi-(phi-(s'), z, a');    J_phi = ||T_phi(phi(s), z, a) - y_phi||^2    and so for psi
    J_phi + J_psi + lambda_phi R(phi(s)) + lambda_psi R(psi(s))

Sums start with the next state, undiscounted. As its authors' code has it there is no factor of 1/2, to which the paper's
lambdas would belong.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from rlx.agents.td_jepa.features.base import Features, Given, predicted, predicted_next
from rlx.agents.td_jepa.losses import orthonormality, reduced, squared_error
from rlx.agents.td_jepa.networks import Net, Params, predictor
from rlx.types import Array


class TdJepa(Features):
    scale_goals = None
    orthonormal = ("psi", "phi")
    targets = ("phi", "psi", "predictor", "back")
    rates = {"back": "lr_predictor"}

    def check(self) -> None:
        if not self.c.state_encoder:
            raise ValueError("td_jepa: features='td_jepa' predicts state features: state_encoder=False is for other methods.")

    def modules(self, actions: int) -> dict[str, Any]:
        task = jnp.zeros(self.c.d_psi)
        return {"back": (predictor(self.c, self.c.d_phi), (task, task, jnp.zeros(actions)))}

    def loss(self, net: Net, p: Params, x: Given) -> tuple[Array, dict[str, Array]]:
        h, t = x.hyper, x.target
        phi, psi = net.phi(p, net.see(p, "phi", x.batch.obs)), net.psi(p, net.see(p, "psi", x.batch.obs))
        next_phi, next_psi = net.phi(t, x.next_phi), net.psi(t, x.next_psi)
        back = lambda params, *of: net.modules["back"].apply(params["back"], *of)
        y_phi = next_psi + x.discount * predicted_next(net, x)
        y_psi = next_phi + x.discount * reduced(back(t, next_psi, x.z, x.next_action), h["pessimism"])
        j_phi = squared_error(predicted(net, p, x), y_phi)
        j_psi = squared_error(back(p, psi, x.z, x.batch.action), y_psi)
        total = j_phi + j_psi + h["lambda_phi"] * orthonormality(phi).total + h["lambda_psi"] * orthonormality(psi).total
        return total, {"predictor/loss": j_phi, "back/loss": j_psi}
