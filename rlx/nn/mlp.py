"""Multi-layer perceptrons, and stacks of networks that share one program.

A module is static: it is made once, in an agent's ``make``, and says what is computed. Its parameters are a plain nested
dictionary in ``learned``, and losses call ``module.apply(params, x)``::

    critics = stack(MLP((256, 256, 1)), 2)
    params = critics.init(key, x)               # {"params": {"Dense_0": {"kernel": [2, n, 256], "bias": [2, 256]}, ...}}
    q = critics.apply(params, x)                # [2, ..., 1]
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlx.types import Array, PyTree

Initializer = Callable[..., Array]  # (key, shape, dtype) -> array
Module = TypeVar("Module", bound=nn.Module)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "elu": jax.nn.elu,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "leaky_relu": jax.nn.leaky_relu,  # 0.01 below 0
}


def orthogonal(scale: float) -> Initializer:
    """One matrix after the other, whoever maps this. XLA's CPU client hands the parts of a batch of QR factorisations to the
    threads that wait for them: as many such batches side by side as there are threads wait for ever."""
    make = jax.nn.initializers.orthogonal(scale)
    return lambda key, shape, dtype: jax.custom_batching.sequential_vmap(lambda k: make(k, shape, dtype))(key)


def within(bound: float) -> Initializer:
    """Uniform in +-``bound``."""
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


_fan_in = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # in +-1/sqrt(inputs)
_half = jax.nn.initializers.variance_scaling(1 / 4, "fan_in", "truncated_normal")  # standard deviation 1/(2 sqrt(inputs))
_glorot = jax.nn.initializers.glorot_uniform()  # in +-sqrt(6 / (inputs + outputs)), Glorot and Bengio 2010
# weights of the hidden layers, and of the last one
INITIALIZERS: dict[str, tuple[Initializer, Initializer]] = {
    "fan_in": (_fan_in, _fan_in),
    "glorot": (_glorot, _glorot),
    "half_normal": (_half, _half),
    "orthogonal": (orthogonal(2.0**0.5), orthogonal(1.0)),
}


class MLP(nn.Module):
    """``x`` [..., n] to [..., widths[-1]]: dense layers, each but the last followed by its activation.

    ``kernel_init`` is a name in `INITIALIZERS`, or an initialiser per layer; ``bias_init`` one for all, or one per layer, or
    "fan_in": in +-1/sqrt(inputs), as PyTorch draws them.
    The last layer's weights are multiplied by ``last_scale``. ``norm`` adds layer normalisation before each activation.
    """

    widths: tuple[int, ...]  # of the hidden layers, then of the output
    activation: str = "relu"
    norm: bool = False
    kernel_init: str | tuple[Initializer, ...] = "fan_in"
    bias_init: Literal["fan_in"] | Initializer | tuple[Initializer, ...] = jax.nn.initializers.zeros
    last_scale: float = 1.0
    last_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        last, activate = len(self.widths) - 1, ACTIVATIONS[self.activation]
        for i, width in enumerate(self.widths):
            bias_init: Any = self.bias_init[i] if isinstance(self.bias_init, tuple) else self.bias_init
            bias_init = within(x.shape[-1] ** -0.5) if bias_init == "fan_in" else bias_init
            use_bias = self.last_bias or i < last
            # param_dtype float: float64 where JAX is told to have it
            x = nn.Dense(width, use_bias, kernel_init=self._kernel_init(i), bias_init=bias_init, param_dtype=float)(x)
            if i < last:
                if self.norm:
                    x = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, param_dtype=float)(x)
                x = activate(x)
        return x

    if TYPE_CHECKING:  # flax's own type allows for pairs, which come where collections are mutable

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...

    def _kernel_init(self, i: int) -> Initializer:
        last = i == len(self.widths) - 1
        make = INITIALIZERS[self.kernel_init][last] if isinstance(self.kernel_init, str) else self.kernel_init[i]
        if not last or self.last_scale == 1.0:
            return make
        return lambda key, shape, dtype: self.last_scale * make(key, shape, dtype)


class LayerNormMLP(nn.Module):
    """``x`` [..., n] to [..., widths[-1]]: dense layers, the first followed by layer normalisation (eps 1e-5) and tanh, which
    bounds what the rest sees, the others by ReLU; the last is linear unless ``activate_last``. A single linear layer is just
    that. The embedding of DrQ-v2 (Yarats et al. 2021) and what followed it.

    Weights are orthogonal with ``gain``, biases 0.
    """

    widths: tuple[int, ...]
    activate_last: bool = False
    gain: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, kernel_init=orthogonal(self.gain), param_dtype=float)(x)
            if i == len(self.widths) - 1 and not self.activate_last:
                continue
            if i == 0:
                x = jnp.tanh(nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, param_dtype=float)(x))
            else:
                x = jax.nn.relu(x)
        return x

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...


def stack(module: Module, n: int) -> Module:
    """``n`` networks like ``module`` with parameters of their own, as one: every parameter and the output get a leading axis
    [n]. All see the same input; one product per layer serves them all."""
    fields = {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name")}
    kind: Any = type(module)
    return _stacked(kind, n)(**fields)


@functools.cache  # so that stacks of equal modules are equal, and share programs
def _stacked(kind: Any, n: int) -> Any:
    every: Any = {True: 0}  # whatever collections there are
    return nn.vmap(kind, variable_axes=every, split_rngs={True: True}, in_axes=None, axis_size=n)


def head(params: PyTree, index: Array | int) -> PyTree:
    """Of a stack's parameters those of one network: what the module that was stacked takes."""
    return jax.tree.map(lambda x: x[index], params)
