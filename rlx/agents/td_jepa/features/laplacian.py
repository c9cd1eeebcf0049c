"""Features of the graph Laplacian (Wu et al. 2019, arXiv:1810.04586): alike for states that follow each other, orthonormal
otherwise; then successor features of them. The regulariser is twice R::

    mean ||psi(s) - psi(s')||^2 / d + 2 lambda_psi R(psi(s))
"""

from __future__ import annotations

from rlx.agents.td_jepa.features.base import Features, Given, successor
from rlx.agents.td_jepa.losses import orthonormality
from rlx.agents.td_jepa.networks import Net, Params
from rlx.types import Array


class Laplacian(Features):
    def loss(self, net: Net, p: Params, x: Given) -> tuple[Array, dict[str, Array]]:
        psi, following = (net.psi(p, net.see(p, "psi", obs)) for obs in (x.batch.obs, x.batch.next_obs))
        apart = ((psi - following) ** 2).mean()
        forward, metrics = successor(net, p, x)
        total = apart + 2 * x.hyper["lambda_psi"] * orthonormality(psi).total + forward
        return total, {"features/loss": apart, **metrics}
