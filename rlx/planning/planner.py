"""Acting by a search in a learned model, as a mode of agents that have one: what `rlx.planning.mppi` finds, from decision to
decision. In a recurrent state-space model this is PlaNet (Hafner et al. 2019, arXiv:1811.04551), with what the agent's own
policy proposes among the candidates, and its own critic behind the horizon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from rlx.config import size
from rlx.planning import mppi
from rlx.types import Array, Key, PyTree

MODE = "planner"


@dataclass(frozen=True)
class Planner:
    """Settings of the mode "planner"."""

    # never: there is no such mode; eval: it is evaluated beside the policy; act: real decisions of the learner are its own too
    use: Literal["never", "eval", "act"] = "never"
    horizon: int = size(12, "actions looked ahead", least=1)
    hold: int = size(1, "decisions for which an action is held", least=1)
    samples: int = size(128, "candidates of the Gaussian", least=0)
    proposals: int = size(8, "and of the agent's policy", least=0)
    value: bool = True  # behind the horizon there is what the agent's critic says; without it nothing
    elites: int = size(16, least=1)
    iterations: int = size(4, least=1)
    temperature: float = size(0.5, "of the elites' weights; 0: all alike, the cross-entropy method", least=0)
    momentum: float = size(0.1, "share of a search's old mean", least=0, most=1)
    std_min: float = size(0.1, "least deviation of the Gaussian; and of the noise, where it explores", least=0)
    std_max: float = size(1.0, "and the largest", above=0)

    @property
    def used(self) -> bool:
        return self.use != "never"

    @property
    def sizes(self) -> mppi.Search:
        """Raises ValueError for sizes that cannot be."""
        return mppi.Search(self.horizon, self.samples, self.proposals, self.elites, self.iterations)


def modes(c: Planner) -> tuple[str, ...]:
    """What an agent's modes have more. Raises ValueError for settings that cannot be."""
    if c.std_min > c.std_max:
        raise ValueError(f"planner: std_min={c.std_min:g} is above std_max={c.std_max:g}.")
    return (MODE,) if c.used and c.sizes else ()


class Plans(NamedTuple):
    """What acting remembers of each stream [W]."""

    mean: Array  # [W, H, A], where the next search begins
    action: Array  # [W, A], the one that is held
    left: Array  # int32 [W], decisions that it is held for yet


def blank(c: Planner, n: int, actions: int) -> Plans | tuple[()]:
    """Where an episode begins; () where there is no such mode, so that nothing is carried for it."""
    return () if not c.used else Plans(jnp.zeros((n, c.horizon, actions)), jnp.zeros((n, actions)), jnp.zeros(n, jnp.int32))


def held(imagine: mppi.Imagination, hold: int, discount: Array | float) -> mppi.Imagination:
    """Actions are held for ``hold`` steps of the model; what these pay counts together, discounted."""
    if hold == 1:
        return imagine

    def step(states: PyTree, action: Array, key: Key) -> tuple[PyTree, Array]:
        def one(states: PyTree, key: Key) -> tuple[PyTree, Array]:
            return imagine.step(states, action, key)

        states, rewards = jax.lax.scan(one, states, jax.random.split(key, hold))
        return states, jnp.tensordot(discount ** jnp.arange(hold), rewards, 1)

    return imagine._replace(step=step)


def decide(
    c: Planner,
    imagine: Callable[[PyTree], mppi.Imagination],
    params: PyTree,
    states: PyTree,
    plans: Plans,
    first: Array,
    discount: Array | float,
    explore: Array | float,
    key: Key,
) -> tuple[Array, Plans]:
    """Actions [W, A] in ``states`` [W, ...], and what is remembered. Nothing is searched where all streams hold their actions.

    Args:
        imagine: given ``params``, all that is learned, one decision of the model a step.
        plans: of the decision before; forgotten where an episode begins, ``first`` [W].
        discount: per decision.
        explore: [] how much of the Gaussian's deviation is noise on the action; 0 for none.
    """
    plans = jax.tree.map(lambda x: jnp.where(first.reshape(-1, *[1] * (x.ndim - 1)), 0, x), plans)
    due = plans.left == 0

    def search(params: PyTree, states: PyTree, mean: Array, discount: Array, explore: Array, keys: Key) -> tuple[Array, Array]:
        settings = mppi.Settings(discount**c.hold, c.temperature, c.momentum, c.std_min, c.std_max)
        inside = held(imagine(params), c.hold, discount)

        def one(state: PyTree, mean: Array, key: Key) -> tuple[Array, Array]:
            found = mppi.search(inside, c.sizes, settings, state, mean, c.horizon, explore, key)
            return found.action, mppi.shifted(found.mean)

        return jax.vmap(one)(states, mean, keys)

    given = params, states, plans.mean, jnp.float32(discount), jnp.float32(explore), jax.random.split(key, due.shape[0])
    kept = plans.action, plans.mean
    action, mean = search(*given) if c.hold == 1 else if_any(due, search, kept, *given)
    action, mean = jnp.where(due[:, None], action, kept[0]), jnp.where(due[:, None, None], mean, kept[1])
    return action, Plans(mean, action, jnp.where(due, c.hold, plans.left) - 1)


def if_any(due: Array, fn: Callable[..., PyTree], otherwise: PyTree, *operands: PyTree) -> PyTree:
    """``fn(*operands)`` where any of ``due`` [W] is true, else ``otherwise``, of the same shapes. Members of a population that
    share the program go together: of a `jax.lax.cond` of each both sides would be computed. ``fn`` sees what it is given, and
    nothing else that is traced."""

    @custom_vmap
    def chosen(due: Array, otherwise: PyTree, *operands: PyTree) -> PyTree:
        return jax.lax.cond(due.any(), lambda: fn(*operands), lambda: otherwise)

    @chosen.def_vmap
    def of_members(size: int, batched: PyTree, *given: PyTree) -> tuple[PyTree, PyTree]:
        each = jax.tree.map(lambda x, own: x if own else jnp.broadcast_to(x, (size, *x.shape)), list(given), list(batched))
        due, otherwise, *operands = each
        found = jax.lax.cond(due.any(), lambda: jax.vmap(fn)(*operands), lambda: otherwise)
        return found, jax.tree.map(lambda _: True, found)

    return chosen(due, otherwise, *operands)
