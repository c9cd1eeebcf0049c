"""`check`: does an environment keep the contract of `rlx.types`?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs import actions
from rlx.envs.base import batch, begin, rollout
from rlx.types import Env, HostEnv, Leaf, Row


@dataclass(frozen=True)
class Report:
    """What was seen. ``exact_resume``: a saved interaction goes on bit for bit."""

    name: str
    rows: int
    episodes: int
    exact_resume: bool
    notes: tuple[str, ...] = ()


def check(env: Env | HostEnv, seed: int = 0, steps: int = 60, streams: int = 2) -> Report:
    """Steps ``env`` with random actions and holds what it emits against the contract.

    Raises:
        ValueError: with all faults found: what was found, what is expected, what to do.
    """
    faults: list[str] = []
    notes: list[str] = []
    vec, jit = batch(env, streams), (lambda f: f) if env.host else jax.jit
    policy = _policy(env)
    roll = lambda loop, key: rollout(vec, vec.params, policy, loop, key, steps // 2)
    begun = jit(lambda key: roll(begin(vec, vec.params, (), key), key))
    go_on = jit(lambda loop, key: roll(loop, jax.random.fold_in(key, 1))[1])

    def play(key: Any) -> tuple[Row, Any, Any]:
        """All rows; the interaction after the first half; the same as saved there."""
        loop, rows, _ = begun(key)
        saved = vec.save(loop.env)
        saved = None if saved is None else jax.tree.map(np.array, saved)
        later = go_on(loop, key)
        return jax.tree.map(lambda a, b: np.concatenate([a, b]), rows, later), loop, saved

    key = jax.random.key(seed)
    rows, loop, saved = play(key)
    _leaves(env, rows, faults)
    _flags(env, rows, faults)
    _bounds(env, faults)
    if not _equal(rows, play(key)[0]):
        faults.append("The same key gave other rows. Take all randomness from the key: no global generator, no hidden state.")
    if _equal(rows, play(jax.random.key(seed + 1))[0]):
        notes.append("another key gave the same rows: nothing in this environment is random")
    exact = saved is not None
    if saved is None:
        notes.append("cannot be saved: runs resume with a marked cut, not bit for bit")
    else:
        loop = loop._replace(env=vec.load(saved if env.host else jax.tree.map(jnp.asarray, saved)))
        back, ahead = jax.tree.map(np.asarray, go_on(loop, key)), jax.tree.map(lambda x: x[steps // 2 :], rows)
        exact = _equal(ahead, back)
        if not exact:
            faults.append("after save and load it went on differently. Save all that decides the future, or return None.")
    vec.close()
    if faults:
        raise ValueError(f"{env.name} does not keep the contract:\n" + "\n".join(f"- {f}" for f in faults))
    return Report(env.name, rows.reward.size, int(rows.first.sum()), exact, tuple(notes))


def _policy(env: Env | HostEnv) -> Any:
    def random(carry: Any, step: Any, key: Any) -> Any:
        if env.host:
            key = jax.random.wrap_key_data(key)
        return actions.sample(env.spec, key, step.reward.shape[0]), carry, {}

    return jax.jit(random) if env.host else random


def _equal(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _leaves(env: Env | HostEnv, rows: Row, faults: list[str]) -> None:
    is_leaf = lambda x: isinstance(x, Leaf)
    for what, spec, given in (("obs", env.spec.obs, rows.obs), ("info", env.spec.info, rows.info)):
        wanted, got = jax.tree_util.tree_leaves_with_path(spec, is_leaf=is_leaf), jax.tree_util.tree_leaves_with_path(given)
        if [p for p, _ in wanted] != [p for p, _ in got]:
            seen, promised = ([jax.tree_util.keystr(p) for p, _ in leaves] for leaves in (got, wanted))
            faults.append(f"{what} has leaves {seen}, Spec.{what} promises {promised}. Make them the same.")
            continue
        for (path, leaf), (_, x) in zip(wanted, got, strict=True):
            name = what + jax.tree_util.keystr(path)
            if x.shape[2:] != tuple(leaf.shape) or x.dtype != np.dtype(leaf.dtype):
                faults.append(f"{name} is {x.dtype}{x.shape[2:]}, Spec says {np.dtype(leaf.dtype)}{tuple(leaf.shape)}.")
            elif np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
                faults.append(f"{name} has values that are not finite. Look for divisions by zero and diverging physics.")
            elif (x < leaf.low - 1e-4).any() or (x > leaf.high + 1e-4).any():
                faults.append(f"{name} leaves its bounds: seen {x.min():.4g} to {x.max():.4g}. Widen low and high, or clip.")
    _action_leaf(env.spec.action, faults)


def _action_leaf(action: Leaf, faults: list[str]) -> None:
    if np.issubdtype(action.dtype, np.integer):
        if action.choices is None or np.dtype(action.dtype) != np.int32 or action.low != 0:
            faults.append(
                f"Spec.action is {action}. One of n choices is Leaf((), np.int32, low=0, high=n - 1); "
                "rlx takes no other integers."
            )
    elif np.dtype(action.dtype) != np.float32 or np.any(action.low != -1) or np.any(action.high != 1):
        faults.append("Spec.action must be float32 from -1 to 1: rescale to the plant's own range inside step.")


def _flags(env: Env | HostEnv, rows: Row, faults: list[str]) -> None:
    last = rows.last
    if not rows.first[0].all():
        faults.append("reset must give first=True.")
    if (rows.terminated & rows.truncated).any():
        faults.append("a row is terminated and truncated. Where the task ends in the last step, it is terminated only.")
    if (rows.first[1:] != last[:-1]).any():
        faults.append("first must be True exactly at the rows after last ones.")
    if rows.reward[rows.first].any():
        faults.append("reward must be 0 at first rows: it belongs to the arrival, and nothing led there.")
    if (rows.first & last).any():
        faults.append("a first row is already last: episodes need at least one decision.")
    limit = env.spec.horizon
    for w in range(rows.first.shape[1]):
        begun = np.flatnonzero(rows.first[:, w])
        for a, b in zip(begun, [*begun[1:], None], strict=True):
            length = (b if b is not None else rows.first.shape[0]) - a - 1
            if limit is not None and length > limit:
                faults.append(f"an episode took {length} decisions, Spec.horizon says at most {limit}.")
            if limit is not None and b is not None and length < limit and rows.truncated[b - 1, w]:
                faults.append(f"an episode was truncated after {length} of {limit} decisions: is it terminated?")


def _bounds(env: Env | HostEnv, faults: list[str]) -> None:
    """Float actions outside [-1, 1] must act like those at the border."""
    if env.spec.action.choices is not None:
        return
    vec, key, outcomes = batch(env, 1), jax.random.key(0), []

    def roll(key: Any, size: Any) -> Row:
        policy: Any = lambda carry, step, key: (size, carry, {})
        return rollout(vec, vec.params, policy, begin(vec, vec.params, (), key), key, 3)[1]

    for size in (1.0, 3.0):
        action = np.full((1, *env.spec.action.shape), size, np.float32)
        rows = (roll if env.host else jax.jit(roll))(key, action)
        outcomes.append(jax.tree.map(np.asarray, (rows.obs, rows.reward)))
    vec.close()
    if not _equal(*outcomes):
        faults.append("an action of 3 acts otherwise than one of 1. Clip actions to [-1, 1] in step.")
