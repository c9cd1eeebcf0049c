"""One-step forward-backward representations (arXiv:2602.11399): F and B of the policy that made the data, so that F knows no z
and nothing learns from what it makes itself; the actor then takes one step of improvement, up F(s, a)' z. The next action is
the data's, and the policy's where an episode ends before there was one."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from rlx import replay
from rlx.agents.td_jepa.features.base import SOURCE, Batch, Given, windows
from rlx.agents.td_jepa.features.fb import ForwardBackward
from rlx.agents.td_jepa.networks import Net, Params
from rlx.types import Array, Sampler


class OneStepForwardBackward(ForwardBackward):
    blind = True

    def sampler(self) -> Sampler:
        return replay.segments(self.c.batch, 3, source=SOURCE, stack=self.c.frames)

    def view(self, drawn: Any, hyper: dict[str, Array]) -> Batch:
        return windows(drawn, hyper, following=drawn.rows.action[1], known=drawn.mask[2])

    def loss(self, net: Net, p: Params, x: Given) -> tuple[Array, dict[str, Array]]:
        more = x.batch.more
        following = jnp.where(more["known"][:, None], more["following"], x.next_action)
        return super().loss(net, p, x._replace(next_action=following))
