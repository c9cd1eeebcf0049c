"""Multi-layer perceptrons: parameters are a list of ``{"w": [n, m], "b": [m]}``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rlx.types import Array, Key

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "elu": jax.nn.elu,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
}


def init(key: Key, sizes: Sequence[int], last_scale: float = 1.0, orthogonal: bool = False, norm: bool = False) -> list[Any]:
    """Layers between ``sizes`` = (input, hidden..., output).

    Weights are uniform in +-1/sqrt(n) (a third of LeCun's variance), or orthogonal with gain sqrt(2), 1 in the last layer;
    those of the last layer are multiplied by ``last_scale``. Biases are 0. ``norm`` adds layer normalisation before each
    activation.
    """
    layers: list[Any] = []
    for i, (n, m) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        k, last = jax.random.fold_in(key, i), i == len(sizes) - 2
        if orthogonal:
            w = jax.nn.initializers.orthogonal(1.0 if last else 2.0**0.5)(k, (n, m))
        else:
            w = jax.random.uniform(k, (n, m), minval=-1.0, maxval=1.0) / n**0.5
        layer = {"w": w * (last_scale if last else 1.0), "b": jnp.zeros(m)}
        if norm and not last:
            layer |= {"scale": jnp.ones(m), "shift": jnp.zeros(m)}
        layers.append(layer)
    return layers


def apply(layers: list[Any], x: Array, activation: str = "relu") -> Array:
    """``x`` [..., n] to [..., m]; hidden layers are normalised (where they have a scale), then activated."""
    act = ACTIVATIONS[activation]
    for layer in layers[:-1]:
        x = x @ layer["w"] + layer["b"]
        if "scale" in layer:
            x = jax.nn.standardize(x, axis=-1, epsilon=1e-5) * layer["scale"] + layer["shift"]
        x = act(x)
    return x @ layers[-1]["w"] + layers[-1]["b"]
