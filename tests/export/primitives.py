"""One small law per operation. Run as a program with JAX_ENABLE_X64=1 it writes what JAX gives in float64."""

from __future__ import annotations

import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

N = 6
RNG = np.random.default_rng(7)
A = RNG.standard_normal((N, 5))
CUBE = RNG.standard_normal((4, 3, N))
TABLE = RNG.standard_normal((7, 3, 2))
COUNTS = RNG.integers(-9, 9, (2, N)).astype(np.int32)
WIDE = RNG.standard_normal((N, 40))
LONG = RNG.standard_normal((40, 2))


def states(count: int = 40) -> np.ndarray:
    """Points [count, N], with zeros, ones and a few large numbers among them."""
    x = np.random.default_rng(3).standard_normal((count, N)) * 2
    x[:6] = np.diag([0.0, -0.0, 1.0, -1.0, 50.0, -50.0]) + x[:6] * (1 - np.eye(N))
    return x


def const(x: np.ndarray, like: jax.Array) -> jax.Array:
    return jnp.asarray(x, like.dtype)


def ints(x: jax.Array) -> jax.Array:
    return jnp.floor(3 * x).astype(jnp.int32)


def index(x: jax.Array, n: int) -> jax.Array:
    """[W] from 0 to n - 1, with NaN nowhere."""
    return jnp.abs(ints(x[:, 0])) % n


def floats(y: jax.Array, x: jax.Array) -> jax.Array:
    return y.astype(x.dtype)


def inside(x: jax.Array) -> jax.Array:
    return x / (1 + jnp.abs(x))


ELEMENTWISE: dict[str, Callable] = {
    "add": lambda x: x + 2 * x[:, ::-1],
    "sub": lambda x: x - x[:, ::-1],
    "mul": lambda x: x * x[:, ::-1],
    "div": lambda x: x / (3 + jnp.abs(x[:, ::-1])),
    "div_zero": lambda x: x[:, :2] / jnp.zeros_like(x[:, :2]),
    "neg": lambda x: -x,
    "max": lambda x: jnp.maximum(x, x[:, ::-1]),
    "min": lambda x: jnp.minimum(x, x[:, ::-1]),
    "abs": lambda x: jnp.abs(x),
    "sign": lambda x: jnp.sign(x),
    "floor": lambda x: jnp.floor(x),
    "ceil": lambda x: jnp.ceil(x),
    "round": lambda x: jnp.round(2 * x) + lax.round(2 * x, lax.RoundingMethod.AWAY_FROM_ZERO),
    "rem": lambda x: lax.rem(x, x[:, ::-1] + 0.01),
    "mod": lambda x: jnp.mod(x, 0.7),
    "pow": lambda x: jnp.abs(x) ** 0.7 + (jnp.abs(x) + 1) ** inside(x),
    "pow_int": lambda x: lax.pow(jnp.abs(x) + 0.5, ints(inside(x))),
    "integer_pow": lambda x: x**2 + x**3 - inside(x) ** 7 + (jnp.abs(x) + 1) ** -3,
    "sqrt": lambda x: jnp.sqrt(jnp.abs(x)),
    "rsqrt": lambda x: lax.rsqrt(jnp.abs(x) + 0.1),
    "cbrt": lambda x: jnp.cbrt(x),
    "exp": lambda x: jnp.exp(inside(x)),
    "exp2": lambda x: jnp.exp2(inside(x)),
    "log": lambda x: jnp.log(jnp.abs(x) + 0.1),
    "log1p": lambda x: jnp.log1p(jnp.abs(x)),
    "expm1": lambda x: jnp.expm1(inside(x)),
    "tanh": lambda x: jnp.tanh(x),
    "logistic": lambda x: jax.nn.sigmoid(x),
    "trigonometry": lambda x: jnp.sin(x) + jnp.cos(x) * jnp.tan(inside(x)),
    "inverse": lambda x: jnp.arcsin(inside(x)) + jnp.arccos(inside(x)) + jnp.arctan(x),
    "hyperbolic": lambda x: jnp.sinh(inside(x)) + jnp.cosh(inside(x)) + jnp.arcsinh(x) + jnp.arctanh(inside(x)),
    "acosh": lambda x: jnp.arccosh(1 + jnp.abs(x)),
    "atan2": lambda x: jnp.arctan2(x, x[:, ::-1]),
    "erf": lambda x: jax.scipy.special.erf(x) + jax.scipy.special.erfc(x) * 2,
    "square": lambda x: lax.square(x),
    "compare": lambda x: floats(
        1 * (x < 0.5) + 2 * (x <= 0.0) + 4 * (x > 1) + 8 * (x >= 1) + 16 * (x == 0) + 32 * (x != x[:, ::-1]), x
    ),
    "logic": lambda x: floats(((x > 0) & (x < 1)) | ((x < -1) ^ ~(x > -2)), x),
    "bits": lambda x: floats((ints(x) & 12) + (ints(x) | 3) - (ints(x) ^ 5) + ~ints(x), x),
    "select": lambda x: jnp.where(x > 0, x, 2 * x[:, ::-1]),
    "select_scalar": lambda x: jax.vmap(lambda v: lax.select(v[0] > 0, v, -v))(x),
    "select_three": lambda x: lax.select_n(jnp.abs(ints(x)) % 3, x, 2 * x, 3 * x),
    "clamp": lambda x: lax.clamp(jnp.asarray(-0.5, x.dtype), x, jnp.abs(x[:, ::-1])) + jnp.clip(x, -1, 2),
    "convert": lambda x: floats(ints(x) + (3e9 * x).astype(jnp.int32) // 4 + x.astype(bool), x) + floats(x > 0, x),
    "integers": lambda x: floats(lax.div(ints(x), ints(x[:, ::-1])) + lax.rem(ints(x), COUNTS[:1] * 2 + 1 + 0 * ints(x)), x),
    "integer_rest": lambda x: floats(jnp.abs(ints(x)) * jnp.sign(ints(x)) + jnp.maximum(ints(x), 2) - ints(x) ** 3, x),
    "finite": lambda x: jnp.where(jnp.isfinite(x / x), x, -1) + floats(jnp.isnan(x / x), x),
    "activations": lambda x: jax.nn.silu(x) + jax.nn.gelu(x) + jax.nn.elu(x) + jax.nn.softplus(x) + jax.nn.relu(x),
    "gelu_exact": lambda x: jax.nn.gelu(x, approximate=False),
}

SHAPES: dict[str, Callable] = {
    "reshape": lambda x: jnp.sin(x).reshape(-1, 2, 3).transpose(0, 2, 1).reshape(-1, 6) + x.reshape(-1, 3, 2).sum(2)[:, :1],
    "expand": lambda x: jnp.squeeze(jnp.expand_dims(jnp.exp(inside(x)), 2) * const(CUBE[0].T, x)[None, :, 1:2], 2),
    "broadcast": lambda x: (jnp.tanh(x)[:, :, None] + x[:, None, :]).sum(2) + jnp.broadcast_to(jnp.cos(x[:, :1]), x.shape),
    "transpose": lambda x: jnp.einsum("wij->wji", jnp.outer(x[0], x[0])[None] + x[:, :, None])[:, :, 2],
    "concatenate": lambda x: jnp.concatenate([x[:, 3:], jnp.sin(x[:, 1:2]), jnp.zeros_like(x[:, :2]), x[:, ::2]], 1),
    "slice": lambda x: x[:, 1:6:2] + jnp.exp(inside(x))[:, 2:5],
    "pad": lambda x: lax.pad(jnp.sin(x), jnp.asarray(2.0, x.dtype), ((0, 0, 0), (2, -1, 1))),
    "pad_cut": lambda x: lax.pad(x, x[0, 0], ((0, 0, 0), (-2, 3, 2))),
    "rev": lambda x: jnp.flip(jnp.sin(x), 1) + x,
    "iota": lambda x: x * lax.iota(x.dtype, N) + floats(lax.broadcasted_iota(jnp.int32, (1, N), 1) ** 2, x),
    "split": lambda x: jnp.split(jnp.tanh(x), 3, 1)[1] + jnp.split(x, [2, 4], 1)[2],
    "stack": lambda x: jnp.stack(jnp.unstack(jnp.sin(x), axis=1)[1:4], 1) + jnp.tile(x[:, :1], (1, 3)),
    "tile": lambda x: jnp.tile(jnp.sin(x[:, :2]), (1, 3)) + jnp.repeat(x[:, :3], 2, 1),
    "stop": lambda x: lax.stop_gradient(x) + lax.optimization_barrier(2 * x) + jnp.copy(x),
    "identity": lambda x: x,
    "constant": lambda x: jnp.broadcast_to(const(A[:, 0], x), x.shape) + 0 * x,
    "one_number": lambda x: x[:, 2:3],
}

SUMS: dict[str, Callable] = {
    "dot": lambda x: x @ const(A, x),
    "dot_wide": lambda x: jnp.tanh(x @ const(WIDE, x)) @ const(LONG, x),
    "dot_square": lambda x: jnp.tanh(jnp.tanh(x @ const(WIDE, x)) @ const(WIDE.T @ WIDE, x)) @ const(LONG, x),
    "dot_long": lambda x: jax.nn.relu(x @ const(WIDE, x)) @ const(WIDE.T[:, :3], x),
    "dot_left": lambda x: jnp.einsum("pqn,wn->wpq", const(CUBE, x), x).reshape(-1, 12),
    "dot_two": lambda x: jnp.einsum("pqn,wn,wq->wp", const(CUBE, x), x, x[:, :3]),
    "dot_batch": lambda x: jnp.einsum("pqn,wpn->wpq", const(CUBE, x), jnp.stack([x, x**2, -x, jnp.sin(x)], 1)).reshape(-1, 12),
    "dot_states": lambda x: jnp.einsum("wij,wj->wi", jnp.tanh(x[:, :, None] * x[:, None, :]), x),
    "dot_matrices": lambda x: jnp.einsum("ik,wkj->wij", const(WIDE.T, x), x.reshape(-1, 6, 1) * const(A, x)).sum(2)[:, :9],
    "dot_ints": lambda x: floats(ints(x) @ COUNTS.T, x),
    "outer": lambda x: jnp.einsum("wi,wj->wij", x[:, :2], x[:, 2:]).reshape(-1, 8),
    "reduce": lambda x: jnp.stack([x.sum(1), x.max(1), x.min(1), inside(x).prod(1), x.mean(1), x.std(1)], 1),
    "reduce_middle": lambda x: jnp.max(jnp.sin(const(CUBE, x)[None] * x[:, None, None, :]), 1).sum(2),
    "reduce_outer": lambda x: (const(WIDE, x)[None] + jnp.tanh(x)[:, :, None]).min(1)[:, :30],
    "reduce_ints": lambda x: floats(jnp.stack([ints(x).sum(1), ints(x).max(1), ints(x).min(1), (ints(x) % 3).prod(1)], 1), x),
    "reduce_logic": lambda x: floats(jnp.stack([(x > -1).all(1), (x > 2).any(1)], 1), x),
    "argmax": lambda x: floats(jnp.stack([x.argmax(1), x.argmin(1), (x > 0).argmax(1), jnp.round(x).argmax(1)], 1), x),
    "argmax_ints": lambda x: floats(jnp.stack([ints(x).argmax(1), ints(x).argmin(1)], 1), x),
    "argmax_rows": lambda x: floats(jnp.argmin(const(CUBE, x) * x[:, None, None, :], 2).reshape(-1, 24), x),
    "cumulate": lambda x: jnp.cumsum(x, 1) + jnp.cumprod(inside(x), 1) + lax.cummax(x, 1) + lax.cummin(jnp.sin(x), 1),
    "cumulate_back": lambda x: lax.cumsum(x, 1, reverse=True) + lax.cummax(x, 1, reverse=True),
    "softmax": lambda x: jax.nn.softmax(x) + jax.nn.logsumexp(x, 1, keepdims=True),
    "standardize": lambda x: jax.nn.standardize(x, axis=-1),
    "nan_max": lambda x: jnp.stack([(x / x).max(1), (x / x).argmax(1) + 0 * x[:, 0], jnp.maximum(x / x, 1)[:, 0]], 1),
}

MOVING: dict[str, Callable] = {
    "take_row": lambda x: const(TABLE, x)[index(x, 7)].reshape(-1, 6),
    "take_vmapped": lambda x: jax.vmap(lambda v, i: const(TABLE, x)[i] @ v[:2])(x, index(x, 7)),
    "take_outside": lambda x: jnp.take(const(TABLE, x), ints(x[:, :2]), axis=0, mode="clip").reshape(-1, 12),
    "take_filled": lambda x: jnp.take(const(TABLE, x), ints(x[:, :2]), axis=0, mode="fill", fill_value=-7).reshape(-1, 12),
    "take_nan": lambda x: jnp.take(const(TABLE, x), ints(x[:, 0]), axis=0).reshape(-1, 6),
    "take_inner": lambda x: jnp.take(const(TABLE, x), index(x, 3), axis=1)[:, :, 1].T,
    "take_two": lambda x: const(TABLE, x)[index(x, 7), :, index(x[:, 1:], 2)],
    "take_along": lambda x: jnp.take_along_axis(jnp.sin(x), jnp.abs(COUNTS[:1]) % N + 0 * ints(x), 1),
    "take_state": lambda x: jax.vmap(lambda v: jnp.tanh(v)[jnp.argmax(v)] * v)(x),
    "take_many": lambda x: jax.vmap(lambda v: jnp.tanh(v)[jnp.array([3, 1, 1])])(x),
    "take_bools": lambda x: floats(jnp.asarray(CUBE[0] > 0)[index(x, 3)], x),
    "network_flat": lambda x: jax.vmap(_flat)(x, index(x, 4)),
    "dynamic_slice": lambda x: jax.vmap(lambda v, i: lax.dynamic_slice(v, (i,), (3,)))(x, ints(x[:, 0])),
    "dynamic_slice_table": lambda x: (
        lax.dynamic_slice(const(TABLE, x), (ints(x)[0, 0], np.int32(1), np.int32(0)), (1, 2, 2)).reshape(1, 4) + x[:, :4]
    ),
    "dynamic_update": lambda x: lax.dynamic_update_slice(x, jnp.sin(x[:, :2]), (np.int32(0), ints(x)[0, 0])),
    "of_one": lambda x: jax.vmap(_of_one)(x),
    "gather_whole": lambda x: jax.vmap(lambda v: lax.dynamic_slice(jnp.sin(v), (ints(v)[0],), (N,)) * v)(x),
    "dynamic_whole": lambda x: lax.dynamic_slice(jnp.sin(x), (np.int32(0), ints(x)[0, 0]), x.shape) + x,
    "set": lambda x: x.at[:, 1].set(jnp.arctan2(x[:, 1], x[:, 0])).at[:, 4].add(2.0).at[:, 2].subtract(x[:, 0]),
    "set_moving": lambda x: jax.vmap(lambda v, i: v.at[i].set(9.0).at[(i + 2) % 9].mul(3.0))(x, ints(x[:, 0])),
    "set_most": lambda x: jax.vmap(lambda v: v.at[jnp.array([1, 1, 5])].max(v[:3]).at[jnp.array([2, 9])].min(0.0))(x),
    "look_up": lambda x: (
        jnp.interp(x, jnp.arange(-3.0, 4.0), const(CUBE.reshape(-1)[:7], x)) + jnp.searchsorted(jnp.arange(-3.0, 4.0), x)
    ),
    "cond": lambda x: lax.cond(x[0, 0] > 0, jnp.sin, lambda v: 2 * v, x),
    "switch": lambda x: lax.switch(ints(x)[0, 0], [jnp.sin, jnp.cos, lambda v: 3 * v], x),
    "scan": lambda x: lax.scan(lambda c, t: (c * 0.5 + t, c), x[:, 0], jnp.tanh(x).T)[1].T,
    "scan_back": lambda x: lax.scan(lambda c, t: (c * 0.5 + t, c), x[:, 0], x.T, reverse=True)[1].T,
    "fori": lambda x: lax.fori_loop(0, 5, lambda i, c: jnp.sin(c) + i * 0.1, x),
}


def _flat(v: jax.Array, i: jax.Array) -> jax.Array:
    """A layer whose weights lie flat in a table."""
    return v @ const(WIDE.T.reshape(4, 60), v)[i].reshape(N, 10)


def _of_one(v: jax.Array) -> jax.Array:
    """Arrays of one element that are padded, set and updated, and read more than once."""
    one = jnp.sin(v[:1])
    i = ints(one)[0] % 2
    made = [
        lax.pad(one[:0], v[1], ((0, 1, 0),)),
        one.at[i].set(v[2], mode="drop"),
        one.at[0].add(v[3]),
        lax.dynamic_update_slice(one, v[4:5] + i, (i,)),
    ]
    return jnp.concatenate([v * x + x**2 for x in made])


LAWS: dict[str, Callable] = {**ELEMENTWISE, **SHAPES, **SUMS, **MOVING}


def one_by_one(law: Callable, x: np.ndarray) -> np.ndarray:
    """A law on each row alone: some of them read the first row."""
    act = jax.jit(law)
    return np.concatenate([np.asarray(act(x[i : i + 1])) for i in range(len(x))])


if __name__ == "__main__":
    np.savez(sys.argv[1], **{name: one_by_one(law, states()) for name, law in LAWS.items()})
