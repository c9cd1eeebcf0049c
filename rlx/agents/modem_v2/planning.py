"""The two ways in which MoDem-V2 decides: by one step of the cloned policy, and by plans of those that learn."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.dynamics.told import noisy
from rlx.nn.mlp import head
from rlx.planning import mppi
from rlx.types import Array, Key, PyTree


def rivals(members: int) -> np.ndarray:
    """int [M, M - 1]: of each critic the actors whose proposals it values, all but its own; one alone values its own."""
    others = [[j for j in range(members) if j != i] for i in range(members)]
    return np.array(others if members > 1 else [[0]])


def latent_plans(net: Any, params: PyTree, std: Array) -> mppi.Imagination:
    """Plans in the latent model of ``net``, a `rlx.dynamics.told.Told`; a state is a latent [N, Z]. Proposals are shared out
    among the M policies. Behind the horizon there are 2 M estimates: of each critic the best of what its `rivals` propose."""
    policies, critics = params["policies"], jax.tree.map(lambda x: x[net.extra :], params["critics"])
    members = net.count

    def step(z: Array, action: Array, key: Key) -> tuple[Array, Array]:
        return net.move(params["dynamics"], z, action), net.rewards(params["reward"], z, action)

    def propose(z: Array, key: Key) -> Array:
        each = z.reshape(members, -1, z.shape[-1])
        return noisy(net.act_each(policies, each), std, key).reshape(z.shape[0], -1)

    def value(z: Array, key: Key) -> Array:
        proposed = noisy(net.act_each(policies, jnp.broadcast_to(z, (members, *z.shape))), std, key)[rivals(members)]
        q = net.values_each(critics, jnp.broadcast_to(z, (*proposed.shape[:2], *z.shape)), proposed)  # [M, 2, M - 1, N]
        return q.max(2).reshape(-1, z.shape[0])

    return mppi.Imagination(step, value, propose)


def cloned_actions(net: Any, clone: PyTree, critics: PyTree, std: Array) -> mppi.Imagination:
    """One step of the cloned policy with its noise, valued by its own critics. A state is a latent of the cloned encoder, and
    what was done there."""
    own = head(critics, 0)

    def step(state: tuple[Array, Array], action: Array, key: Key) -> tuple[PyTree, Array]:
        return (state[0], action), jnp.zeros(action.shape[0])

    def propose(state: tuple[Array, Array], key: Key) -> Array:
        return noisy(net.act(clone["policy"], state[0]), std, key)

    def value(state: tuple[Array, Array], key: Key) -> Array:
        return net.values(own, *state).min(0, keepdims=True)

    return mppi.Imagination(step, value, propose)
