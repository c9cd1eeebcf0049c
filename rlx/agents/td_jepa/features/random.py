"""Successor features of random ones, which nothing trains: what is due to the back-end alone."""

from __future__ import annotations

from rlx.agents.td_jepa.features.base import Features, Given, successor
from rlx.agents.td_jepa.networks import Net, Params
from rlx.types import Array


class Random(Features):
    orthonormal = ()

    def loss(self, net: Net, p: Params, x: Given) -> tuple[Array, dict[str, Array]]:
        return successor(net, p, x)
