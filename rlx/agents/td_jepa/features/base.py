"""The interface of a method: which networks it adds, which batches it wants, and the one loss that trains everything but the
actor. All else (z, targets, actor, inference, evaluation) is shared."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import replay
from rlx.agents.td_jepa.config import Config
from rlx.agents.td_jepa.losses import reduced, successor_loss
from rlx.agents.td_jepa.networks import Net, Params
from rlx.types import Array, Sampler

SOURCE = "data"  # the name of the dataset in `rlx.types.Problem.data`
ACTIONS = ("action", "following")  # what in `Batch.more` is an action


class Batch(NamedTuple):
    """Transitions [B, ...], and what else the method sampled (``more``)."""

    obs: Array
    action: Array
    next_obs: Array
    discount: Array  # [B]: of the bootstrap, 0 where next_obs is terminal
    more: dict[str, Array] = {}


class Given(NamedTuple):
    """What a loss is told of one update, beside the parameters that it is differentiated by."""

    batch: Batch
    z: Array  # [B, d_psi]
    next_action: Array  # [B, m]: of z's policy at next_obs
    next_phi: Array  # what the two encoders see of next_obs, without gradient
    next_psi: Array
    target: Params
    mean: Array  # [d_psi]: of the features, where they are `Features.centred`, else 0
    hyper: dict[str, Array]

    @property
    def discount(self) -> Array:
        """[B, 1]"""
        return self.batch.discount[:, None]


class Features:
    """A method. The defaults are those of methods whose features have a loss of their own."""

    shared = False  # one encoder for states and tasks
    blind = False  # successor features do not depend on z
    regression = True  # z of a reward: by least squares, or as the mean of reward times features
    scale_goals: bool | None = True  # goals as z: by the inverse second moment of features; None: as the config says
    orthonormal: tuple[str, ...] = ("psi",)  # encoders whose features the loss spreads, by lambda_psi and lambda_phi
    centred = False  # features less their running mean
    targets: tuple[str, ...] = ("phi", "psi", "predictor")  # networks with a moving average
    rates: dict[str, str] = {}  # the step size of each network that the method adds

    def __init__(self, config: Config) -> None:
        self.c = config

    def check(self) -> None:
        """Raises ValueError for settings that cannot be."""

    def sampler(self) -> Sampler:
        return replay.transitions(self.c.batch, source=SOURCE, stack=self.c.frames)

    def view(self, drawn: Any, hyper: dict[str, Array]) -> Batch:
        """What ``sampler`` gave, as a batch."""
        return Batch(drawn.obs, drawn.action, drawn.next_obs, drawn.discount)

    def modules(self, actions: int) -> dict[str, tuple[Any, tuple[Array, ...]]]:
        """Networks that the method adds, or puts in the place of `networks.common`'s, each with an input (() : the same)."""
        return {}

    def loss(self, net: Net, p: Params, x: Given) -> tuple[Array, dict[str, Array]]:
        """The total, and metrics."""
        raise NotImplementedError


def predicted(net: Net, p: Params, x: Given) -> Array:
    """Successor features [H, B, d_psi] of the batch's states and actions."""
    return net.predict(p, net.phi(p, net.see(p, "phi", x.batch.obs)), x.z, x.batch.action)


def predicted_next(net: Net, x: Given) -> Array:
    """Of the targets [B, d_psi], at next states and the policy's actions."""
    heads = net.predict(x.target, net.phi(x.target, x.next_phi), x.z, x.next_action)
    return reduced(heads, x.hyper["pessimism"])


def successor(net: Net, p: Params, x: Given) -> tuple[Array, dict[str, Array]]:
    """The loss of successor features of ``psi`` as it is: no gradient to it. Trains state encoder and predictor."""
    feature = jax.lax.stop_gradient(net.psi(p, x.next_psi, x.mean))
    loss = successor_loss(predicted(net, p, x), feature + x.discount * predicted_next(net, x))
    return loss, {"predictor/loss": loss}


def aimed(net: Net, x: Given, obs: Array, inputs: Array | None = None) -> Array:
    """What the task encoder sees of ``obs`` in a target, without gradient: by the moving average of its trunk where there is
    one, else by the trunk that learns (``inputs``, where that is known already)."""
    again = net.config.target_trunk or inputs is None
    return jax.lax.stop_gradient(net.see(x.target, "psi", obs) if again else inputs)


def windows(drawn: replay.Segments, hyper: dict[str, Array], **more: Array) -> Batch:
    """The first transitions of segments [T, B]."""
    rows = drawn.rows
    obs, following = (jax.tree.map(lambda x, i=i: x[i], rows.obs) for i in (0, 1))
    discount = jnp.where(rows.terminated[1], 0.0, hyper["discount"])
    return Batch(obs, rows.action[0], following, discount, more)
