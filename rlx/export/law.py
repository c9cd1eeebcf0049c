"""What can be exported: a pure function from an observation to an action, on its own or inside a trained policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.actions import Native
from rlx.export import build, ir
from rlx.types import Array, Leaf, Step


@dataclass(frozen=True)
class Law:
    """``act(obs [W, size]) -> action [W, m]``, pure and without memory; ``dtype`` is that of both where it is traced. ``low``
    and ``high`` [m], where they are known, bound what it gives."""

    act: Callable[[Array], Array]
    size: int
    name: str = "law"
    dtype: Any = np.float32
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    def range(self) -> str:
        """For the head of a file: what its actions mean."""
        if self.low is None or self.high is None:
            return "actions as the law gives them, without bounds"
        return f"actions in the environment's own units, range {min(self.low):.6g} to {max(self.high):.6g}"


def law_of(policy: Any, mode: str = "eval") -> Law:
    """The deterministic law of an `rlx.train.Policy` in ``mode``, from the observation to the action in the environment's own
    units (`Spec.native_action`), within their bounds; a `Law` is given back as it is.

    Raises:
        ValueError: observations or actions are not vectors of floats, the policy reads what it remembers from decision to
            decision, draws random numbers, or reads rewards or flags.
    """
    if isinstance(policy, Law):
        return policy
    if not all(hasattr(policy, name) for name in ("agent", "spec", "actor", "carry")):
        raise ValueError(f"what is exported is a policy of rlx.load, or an rlx.export.Law; got {type(policy).__name__}.")
    name, obs, action = policy.agent.name, policy.spec.obs, policy.spec.action
    for what, leaf in (("observation", obs), ("action", action)):
        if not isinstance(leaf, Leaf) or len(leaf.shape) != 1 or np.dtype(leaf.dtype).kind != "f":
            written = f"shape {leaf.shape} of {np.dtype(leaf.dtype)}" if isinstance(leaf, Leaf) else f"{type(leaf).__name__}"
            raise ValueError(f"export needs an {what} that is one vector of floats; that of {name} here is {written}.")
    if mode not in policy.agent.modes:
        raise ValueError(f"{name} has no mode {mode!r}; it has {', '.join(policy.agent.modes)}.")
    act, native = policy.actor(mode), Native.of(policy.spec)
    memory, tree = jax.tree.flatten(policy.carry(1))

    def full(obs: Array, reward: Array, terminated: Array, truncated: Array, first: Array, key: Any, *memory: Array) -> Array:
        carry = jax.tree.unflatten(tree, memory)
        return native.traced(act(carry, Step(obs, reward, terminated, truncated, first, {}), key)[0])

    def alone(obs: Array) -> Array:
        n = obs.shape[0]
        no = jnp.zeros(n, bool)
        carry = jax.tree.leaves(policy.carry(n))
        return full(obs, jnp.zeros(n, jnp.float32), no, no, no, jax.random.key(0), *carry)

    law = Law(alone, obs.shape[0], name, np.float32, *native.within(np.float32))
    _reads_only_obs(law, full, memory)
    return law


def _reads_only_obs(law: Law, full: Callable[..., Array], memory: list[Array]) -> None:
    flag, key = jax.ShapeDtypeStruct((1,), bool), jax.eval_shape(lambda: jax.random.key(0))
    inputs = {
        "the observation": jax.ShapeDtypeStruct((1, law.size), np.float32),
        "its reward": jax.ShapeDtypeStruct((1,), np.float32),
        "terminated": flag,
        "truncated": flag,
        "first": flag,
        "a random key: it draws its actions": key,
    }
    for i, x in enumerate(memory):
        inputs[f"memory from decision to decision, of shape {np.shape(x)}, number {i + 1}"] = jax.typeof(x)
    program = build.program(full, tuple(inputs.values()), law.name, "float32", supported=())
    read = {id(a) for node in program.nodes for a in node.args} | {id(program.action)}
    for what, value in reversed(list(zip(inputs, program.inputs, strict=True))[1:]):
        if id(value) in read:
            raise ValueError(f"the action of {law.name} depends on {what}; an exported law sees the observation alone.")


def traced(policy: Any, dtype: str, supported: Any, batch: Any = 1) -> ir.Program:
    """The program of ``policy`` for ``batch`` observations (a number, or a symbolic size), computing in ``dtype``.

    Raises:
        ValueError: as `law_of`; it cannot be traced; an operation is not in ``supported``.
    """
    ir.real_dtype(dtype)
    law = law_of(policy)
    spec = jax.ShapeDtypeStruct((batch, law.size), np.dtype(law.dtype))
    return build.program(law.act, (spec,), law.name, dtype, supported)
