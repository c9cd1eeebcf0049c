"""Dictionaries of monomials: ``theta_j(z) = prod_i z_i ^ P_ji``, as data.

The exponents are static, so one function evaluates all of them, prints their names and counts their terms. Products are of the
variables themselves, never powers of floats: those are not a number for negative bases and have no gradient at 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations_with_replacement
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlx.types import Array


@dataclass(frozen=True)
class Dictionary:
    """Monomials in order. ``factors`` holds for each the indices of its variables, ascending: ``(0, 0, 2)`` is z0^2 z2."""

    variables: int
    factors: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.factors:
            raise ValueError("a dictionary needs at least one term.")
        if any(i not in range(self.variables) for term in self.factors for i in term):
            raise ValueError(f"a term of {self.factors} names a variable that is none of the {self.variables}.")
        if len(set(self.factors)) < len(self.factors):
            raise ValueError("a dictionary has each term once; this one repeats some.")

    def __len__(self) -> int:
        return len(self.factors)

    @cached_property
    def exponents(self) -> np.ndarray:
        """P, int [d, v]."""
        return np.array([[term.count(i) for i in range(self.variables)] for term in self.factors])

    @cached_property
    def products(self) -> np.ndarray:
        """Which products theta_i theta_j are the same monomial: int [d, d], the same number where they are."""
        powers = self.exponents[:, None] + self.exponents
        return np.unique(powers.reshape(-1, self.variables), axis=0, return_inverse=True)[1].reshape(powers.shape[:2])

    def __call__(self, z: Array) -> Array:
        """theta(z) [..., d] for z [..., v], numpy or JAX as it comes."""
        if z.shape[-1] != self.variables:
            raise ValueError(f"this dictionary is of {self.variables} variables, got {z.shape[-1]} in an array {z.shape}.")
        xp: Any = np if isinstance(z, np.ndarray) else jnp
        one = xp.ones_like(z[..., 0])
        known: dict[tuple[int, ...], Array] = {(): one, **{(i,): z[..., i] for i in range(self.variables)}}

        def product(term: tuple[int, ...]) -> Array:
            if term not in known:
                known[term] = product(term[:-1]) * known[term[-1:]]
            return known[term]

        return xp.stack([product(term) for term in self.factors], -1)

    def names(self, variables: Sequence[str] | None = None, power: str = "{}^{}", times: str = " ") -> list[str]:
        """The terms in words: ``["x", "x y^2"]``.

        Raises:
            ValueError: another number of names than of variables.
        """
        given = list(variables) if variables is not None else [f"z{i}" for i in range(self.variables)]
        if len(given) != self.variables:
            raise ValueError(f"this dictionary is of {self.variables} variables; {len(given)} names were given: {given}.")
        word = lambda i, k: given[i] if k == 1 else power.format(given[i], k)
        texts = [times.join(word(i, k) for i, k in enumerate(row) if k) for row in self.exponents.tolist()]
        return [text or "1" for text in texts]


@cache  # one object for each, so that its exponents and products are found once, not at every refit
def poly(variables: int, degree: int, bias: bool = False, interact: bool = True) -> Dictionary:
    """All monomials up to a total ``degree`` by degree, then by variable; or, without ``interact``, pure powers alone.

    Raises:
        ValueError: no variables, or a degree below 1.
    """
    _positive(variables=variables, degree=degree)
    constant: list[tuple[int, ...]] = [()] if bias else []
    return Dictionary(variables, (*constant, *_monomials(range(variables), degree, interact)))


@cache
def affine(states: int, inputs: int, degree: int, interact: bool = True, tensor: bool = True) -> Dictionary:
    """Affine in the inputs: monomials of the states, the inputs, and with ``tensor`` each product of one of either. The
    variables are z = [states, inputs]; there is no constant.

    Raises:
        ValueError: no states or inputs, or a degree below 1.
    """
    _positive(states=states, inputs=inputs, degree=degree)
    alone = _monomials(range(states), degree, interact)
    acting = [(states + j,) for j in range(inputs)]
    products = [(*term, *u) for term in alone for u in acting] if tensor else []
    return Dictionary(states + inputs, (*alone, *acting, *products))


def _monomials(variables: Iterable[int], degree: int, interact: bool) -> list[tuple[int, ...]]:
    own = list(variables)
    if not interact:
        return [(i,) * k for k in range(1, degree + 1) for i in own]
    return [term for k in range(1, degree + 1) for term in combinations_with_replacement(own, k)]


def _positive(**given: int) -> None:
    for name, value in given.items():
        if value < 1:
            raise ValueError(f"a dictionary needs {name} of at least 1, got {value}.")
