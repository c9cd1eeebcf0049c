"""TD-JEPA with one encoder for states and tasks (equation 7 of the paper), and its contrastive form (Algorithm 2), where inner
products with the features of other rows take the place of the squared distance::

    y = psi-(s') + discount T-(psi-(s'), z, a');    J = ||T(psi(s), z, a) - y||^2
    M_ij = T(psi(s_i), z_i, a_i)' psi(s'_j);        J = 1/2 mean_{i != j} (M_ij - discount M-_ij)^2 - mean_i M_ii

and ``lambda_psi`` R(psi(s)) with either. Sizes and step size of the one encoder are those of the task encoder.
"""

from __future__ import annotations

import jax.numpy as jnp

from rlx.agents.td_jepa.features.base import Features, Given, predicted, predicted_next
from rlx.agents.td_jepa.losses import measure_loss, orthonormality, squared_error
from rlx.agents.td_jepa.networks import Net, Params
from rlx.types import Array


class Symmetric(Features):
    shared = True
    scale_goals = None
    targets = ("psi", "predictor")

    def check(self) -> None:
        if not self.c.state_encoder:
            raise ValueError(f"td_jepa: features={self.c.features!r} has no other encoder: leave out state_encoder=False.")

    def fit(self, net: Net, p: Params, x: Given) -> Array:
        y = net.psi(x.target, x.next_psi) + x.discount * predicted_next(net, x)
        return squared_error(predicted(net, p, x), y)

    def loss(self, net: Net, p: Params, x: Given) -> tuple[Array, dict[str, Array]]:
        fit = self.fit(net, p, x)
        psi = net.psi(p, net.see(p, "psi", x.batch.obs))
        return fit + x.hyper["lambda_psi"] * orthonormality(psi).total, {"predictor/loss": fit}


class Contrastive(Symmetric):
    def fit(self, net: Net, p: Params, x: Given) -> Array:
        return measure_loss(*measures(net, p, x, net.psi(p, net.see(p, "psi", x.batch.next_obs))))


def measures(net: Net, p: Params, x: Given, following: Array) -> tuple[Array, Array]:
    """M [H, B, B] with the features ``following`` [B, d] of next states, and discount times its target [B, B]."""
    there = net.psi(x.target, x.next_psi)
    return predicted(net, p, x) @ following.T, x.discount * (predicted_next(net, x) @ jnp.swapaxes(there, -1, -2))
