"""Networks in float64 numpy, and gradients by central differences: what the agents' losses are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

ACTIVATIONS = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}


def double(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def forward(params: Any, x: np.ndarray, activation: str = "relu") -> np.ndarray:
    """What `rlx.nn.mlp.MLP` does with its parameters."""
    *hidden, last = (params["params"][f"Dense_{i}"] for i in range(len(params["params"])))
    for layer in hidden:
        x = ACTIVATIONS[activation](np.einsum("bi,ij->bj", x, layer["kernel"]) + layer["bias"])
    return np.einsum("bi,ij->bj", x, last["kernel"]) + last["bias"]


def heads(params: Any) -> list[Any]:
    """The networks of a stack, as views."""
    count = len(jax.tree.leaves(params)[0])
    return [jax.tree.map(lambda x, i=i: x[i], params) for i in range(count)]


def dense(*layers: tuple[Any, Any]) -> Any:
    """Parameters of an `rlx.nn.mlp.MLP` with these (kernel, bias)."""
    return {"params": {f"Dense_{i}": {"kernel": w, "bias": b} for i, (w, b) in enumerate(layers)}}


def slopes(loss: Callable[[Any], float], params: Any, grads: Any, every: int = 7, h: float = 1e-6) -> None:
    """Each ``every``-th entry of ``grads`` equals the slope of ``loss`` at ``params`` (float64 arrays, put back in place)."""
    leaves, number = jax.tree.leaves(params), 0
    for leaf, grad in zip(leaves, jax.tree.leaves(grads), strict=True):
        for at in np.ndindex(leaf.shape):
            number += 1
            if number % every:
                continue
            was = leaf[at]
            leaf[at] = was + h
            above = loss(params)
            leaf[at] = was - h
            below = loss(params)
            leaf[at] = was
            np.testing.assert_allclose(np.asarray(grad)[at], (above - below) / (2 * h), rtol=2e-3, atol=2e-5)
    assert number > every
