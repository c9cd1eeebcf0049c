"""What the methods of the family differ in, a short file each: the loss that makes the features."""

from __future__ import annotations

from rlx.agents.td_jepa.features.base import Batch, Features, Given
from rlx.agents.td_jepa.features.byol import Byol, ByolGamma
from rlx.agents.td_jepa.features.fb import ForwardBackward
from rlx.agents.td_jepa.features.hilp import Hilp
from rlx.agents.td_jepa.features.icvf import Icvf
from rlx.agents.td_jepa.features.laplacian import Laplacian
from rlx.agents.td_jepa.features.one_step_fb import OneStepForwardBackward
from rlx.agents.td_jepa.features.random import Random
from rlx.agents.td_jepa.features.rldp import Rldp
from rlx.agents.td_jepa.features.symmetric import Contrastive, Symmetric
from rlx.agents.td_jepa.features.td_jepa import TdJepa

METHODS: dict[str, type[Features]] = {
    "td_jepa": TdJepa,
    "symmetric": Symmetric,
    "contrastive": Contrastive,
    "fb": ForwardBackward,
    "one_step_fb": OneStepForwardBackward,
    "hilp": Hilp,
    "rldp": Rldp,
    "byol": Byol,
    "byol_gamma": ByolGamma,
    "icvf": Icvf,
    "laplacian": Laplacian,
    "random": Random,
}

__all__ = ["METHODS", "Batch", "Features", "Given"]
