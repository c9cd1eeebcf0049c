"""Actions as agents give them, and as environments take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.types import Array, Key, Leaf, Spec

BOUNDLESS = 1e10  # bounds of that size stand for none: infinities, the largest float, what MuJoCo says of a free actuator


@dataclass(frozen=True)
class Native:
    """The one map from `Spec.action` to the environment's own units, those of `Spec.native_action`.

    Floats go by ``middle + half * a`` in float64, then into [``low``, ``high``], for ``a`` beyond [-1, 1] too. Those bounds are
    numbers of the native dtype, so rounding to it cannot leave them; whole numbers are rounded to the nearest. Choices are
    counted from the native ``low``.
    """

    leaf: Leaf  # the native one
    choice: bool
    low: np.ndarray  # float64, of the action's shape; of a choice: its first number
    high: np.ndarray
    middle: np.ndarray
    half: np.ndarray

    @staticmethod
    def of(spec: Spec) -> Native:
        leaf, choice = spec.native_action or spec.action, spec.action.choices is not None
        low, high = (np.broadcast_to(np.asarray(x, leaf.dtype).astype(np.float64), leaf.shape) for x in (leaf.low, leaf.high))
        return Native(leaf, choice, low, high, low / 2 + high / 2, high / 2 - low / 2)

    def __call__(self, action: Array) -> Any:
        """``action`` [..., *shape] in the native units and dtype."""
        if self.choice:
            return np.asarray(self.leaf.low + np.asarray(action), self.leaf.dtype)[()]  # a number, which may be a dict's key
        out = np.empty(np.shape(action))
        np.multiply(action, self.half, out=out)
        out += self.middle
        np.minimum(out, self.high, out=out)
        np.maximum(out, self.low, out=out)
        if np.issubdtype(self.leaf.dtype, np.integer):
            np.rint(out, out=out)
        return out.astype(self.leaf.dtype)

    def traced(self, action: Array) -> Array:
        """The same for JAX in ``action``'s own dtype, whole numbers as floats. Bounds that this dtype does not have are rounded
        inwards."""
        dtype = action.dtype
        low, high = self.within(dtype)
        alike = not self.middle.any() and (self.half == 1).all()
        out = jnp.clip(action if alike else self.middle.astype(dtype) + self.half.astype(dtype) * action, low, high)
        return jnp.round(out) if np.issubdtype(self.leaf.dtype, np.integer) else out

    def within(self, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        """``low`` and ``high`` in ``dtype``, rounded inwards."""
        low, high = self.low.astype(dtype), self.high.astype(dtype)
        up, down = np.asarray(np.inf, dtype), np.asarray(-np.inf, dtype)
        return np.where(low < self.low, np.nextafter(low, up), low), np.where(high > self.high, np.nextafter(high, down), high)


def to_native(spec: Spec, action: Array) -> Any:
    """``action`` [..., *shape] of `Spec.action` in the environment's own units and dtype (see `Native`, made anew here)."""
    return Native.of(spec)(action)


def box(name: str, shape: tuple[int, ...], dtype: Any, low: Any, high: Any, instead: Any = None) -> tuple[Leaf, Leaf]:
    """`Spec.action` and `Spec.native_action` of actions between ``low`` and ``high``, numbers or arrays. ``instead``: a pair
    (low, high) that takes the place of both.

    Raises:
        ValueError: no numbers at all, bounds that are none, or the wrong way round.
    """
    of = f"{name} has actions {np.dtype(dtype)}{list(shape)}"
    if 0 in shape:
        raise ValueError(f"{of}, which are no numbers at all: there is nothing to decide.")
    if instead is not None:
        low, high = _pair(name, instead)
    try:
        low, high = (np.broadcast_to(np.asarray(x, dtype), shape) for x in (low, high))
    except (ValueError, TypeError, OverflowError) as e:
        raise ValueError(f"{of}, whose bounds {low} and {high} are of another kind or shape: {e}.") from e
    wide = [np.asarray(x, np.float64) for x in (low, high)]
    if not all((np.abs(x) < BOUNDLESS).all() for x in wide):  # NaN too
        raise ValueError(
            f"{of} without real bounds ({least(low)} to {most(high)}), and rlx scales actions from [-1, 1] to the bounds. "
            "Give some that make sense for the task, action_bounds=(low, high) (in a command: "
            "--env-option action_bounds=[-1,1]), or declare them in its action space."
        )
    if (wide[0] > wide[1]).any():
        raise ValueError(f"{of} with a lower bound above the upper one.")
    return Leaf(shape, low=-1, high=1), Leaf(shape, dtype, low, high)


def _pair(name: str, given: Any) -> tuple[Any, Any]:
    try:
        low, high = given
    except (TypeError, ValueError):
        raise ValueError(f"{name}: action_bounds={given!r}; give a pair (low, high), of numbers or of lists of them.") from None
    return low, high


def least(x: Any) -> str:
    return f"{np.min(x):.4g}"


def most(x: Any) -> str:
    return f"{np.max(x):.4g}"


def sample(spec: Spec, key: Key, *lead: int) -> Array:
    """Uniformly random actions [*lead, *shape] in the dtype of `Spec.action`."""
    leaf = spec.action
    shape = (*lead, *leaf.shape)
    if leaf.choices is not None:
        return jax.random.randint(key, shape, int(leaf.low), int(leaf.high) + 1, leaf.dtype)
    return jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)
