"""Forward-backward representations (Touati and Ollivier 2021, arXiv:2103.07945; Touati et al. 2023, arXiv:2209.14935): the
density of z's successor measure as F(s, z, a)' B(s'), by temporal differences, with B of orthonormal features. F is the
predictor, B is psi. The z of a reward is E[r(s') B(s')], no least squares; a goal's is B of it. The loss sums over heads.
"""

from __future__ import annotations

from rlx.agents.td_jepa.features.base import Features, Given
from rlx.agents.td_jepa.features.symmetric import measures
from rlx.agents.td_jepa.losses import measure_loss, orthonormality
from rlx.agents.td_jepa.networks import Net, Params
from rlx.types import Array


class ForwardBackward(Features):
    regression = False
    scale_goals = False

    def loss(self, net: Net, p: Params, x: Given) -> tuple[Array, dict[str, Array]]:
        backward = net.psi(p, net.see(p, "psi", x.batch.next_obs))
        measure, target = measures(net, p, x, backward)
        fit = measure.shape[0] * measure_loss(measure, target)
        return fit + x.hyper["lambda_psi"] * orthonormality(backward).total, {"predictor/loss": fit}
