"""`check`: does an environment keep the contract of `rlx.types`?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx.envs import actions
from rlx.envs.base import HostVec, Policy, batch, begin, rollout
from rlx.envs.check_types import faults_of_types
from rlx.types import Array, Env, HostEnv, Key, Leaf, PyTree, RolloutState, Row, Step, VecEnv


@dataclass(frozen=True)
class Report:
    """What was seen. ``exact_resume``: a saved interaction goes on bit for bit."""

    name: str
    rows: int
    episodes: int
    exact_resume: bool
    notes: tuple[str, ...] = ()


def check(env: Env | HostEnv, seed: int = 0, steps: int = 60, streams: int = 2, episodes: int = 2) -> Report:
    """Steps ``env`` with random actions and holds what it emits against the contract.

    ``steps`` rows of each stream are looked at; where there is a horizon, as many more as it takes until each stream has ended
    ``episodes`` whole episodes (0: no more, where a horizon is long and steps are slow).

    Raises:
        ValueError: with all faults found: what was found, what is expected, what to do.
    """
    vec = batch(env, streams)
    with contextlib.closing(vec):
        faults = faults_of_types(env, vec.made if isinstance(vec, HostVec) else vec)  # which would stop at the first fault
        if not faults:  # otherwise it would not run
            report = _run(env, vec, seed, max(steps // 2, 1), episodes, faults)
    if faults:
        raise ValueError(f"{env.name} does not keep the contract:\n" + "\n".join(f"- {f}" for f in faults))
    return report


def _run(env: Env | HostEnv, vec: VecEnv, seed: int, half: int, episodes: int, faults: list[str]) -> Report:
    """The checks of what the environment emits, in blocks of ``half`` rows."""
    jit, policy = (lambda f: f) if env.host else jax.jit, _policy(env)
    roll = lambda loop, key: rollout(vec, vec.params, policy, loop, key, half)[:2]
    start = jit(lambda key: begin(vec, vec.params, (), key))
    go_on = jit(lambda loop, key, block: roll(loop, jax.random.fold_in(key, block)))
    most = 2 if env.spec.horizon is None else -(-episodes * (env.spec.horizon + 1) // half)

    def play(key: Key, episodes: int) -> tuple[Row, RolloutState, PyTree]:
        """All rows; the interaction after the first block; what was saved there."""
        loop, rows = go_on(start(key), key, 0)
        saved = vec.save(loop.env)
        saved = None if saved is None else jax.tree.map(np.array, saved)
        now, blocks = loop, [rows]
        while len(blocks) < 2 or (len(blocks) < most and sum(np.asarray(r.last).sum(0) for r in blocks).min() < episodes):
            now, rows = go_on(now, key, len(blocks))
            blocks.append(rows)
        return jax.tree.map(lambda *x: np.concatenate(x), *blocks), loop, saved

    key, notes = keys.root(seed), []
    rows, loop, saved = play(key, episodes)
    begun = jax.tree.map(lambda x: x[: 2 * half], rows)
    _leaves(env, rows, faults)
    _flags(env, rows, faults)
    _bounds(env, faults)
    if not _equal(begun, play(key, 0)[0]):
        faults.append("The same key gave other rows. Take all randomness from the key: no global generator, no hidden state.")
    if _equal(jax.tree.map(lambda x: x[0], rows.obs), start(keys.root((seed + 1) % 2**64)).step.obs):
        notes.append("another key gave the same first observations: episodes begin alike")
    if not rows.last.any():
        notes.append(f"no episode ended in {len(rows.reward)} decisions, so ends were not looked at: give more steps")
    if saved is None:
        notes.append("cannot be saved: runs resume with a marked cut, not bit for bit")
    else:
        loop = loop._replace(env=vec.load(saved if env.host else jax.tree.map(jnp.asarray, saved)))
        back, ahead = jax.tree.map(np.asarray, go_on(loop, key, 1)[1]), jax.tree.map(lambda x: x[half:], begun)
        if not _equal(ahead, back):
            faults.append("after save and load it went on differently. Save all that decides the future, or return None.")
    return Report(env.name, rows.reward.size, int(rows.first.sum()), saved is not None, tuple(notes))


def _policy(env: Env | HostEnv) -> Policy:
    """Uniformly random actions."""

    def random(carry: PyTree, step: Step, key: Array) -> tuple[Array, PyTree, dict[str, Array]]:
        if env.host:
            key = jax.random.wrap_key_data(key)
        return actions.sample(env.spec, key, step.reward.shape[0]), carry, {}

    return jax.jit(random) if env.host else random


def _equal(a: PyTree, b: PyTree) -> bool:
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# -------------------------------------------------------------------------------------------------------- what rows must be


def _leaves(env: Env | HostEnv, rows: Row, faults: list[str]) -> None:
    _finite("reward", rows.reward, rows, faults)
    is_leaf = lambda x: isinstance(x, Leaf)
    for what, spec, given in (("obs", env.spec.obs, rows.obs), ("info", env.spec.info, rows.info)):
        wanted, got = jax.tree_util.tree_leaves_with_path(spec, is_leaf=is_leaf), jax.tree_util.tree_leaves_with_path(given)
        if [p for p, _ in wanted] != [p for p, _ in got]:
            found, promised = ([jax.tree_util.keystr(p) for p, _ in leaves] for leaves in (got, wanted))
            faults.append(f"{what} has leaves {found}, Spec.{what} promises {promised}. Make them the same.")
            continue
        for (path, leaf), (_, x) in zip(wanted, got, strict=True):
            name = what + jax.tree_util.keystr(path)
            if x.shape[2:] != tuple(leaf.shape) or x.dtype != np.dtype(leaf.dtype):
                faults.append(f"{name} is {x.dtype}{x.shape[2:]}, Spec promises {np.dtype(leaf.dtype)}{tuple(leaf.shape)}.")
            elif not _finite(name, x, rows, faults):
                continue
            elif (x < leaf.low - 1e-4).any() or (x > leaf.high + 1e-4).any():
                faults.append(f"{name} leaves its bounds: seen {x.min():.4g} to {x.max():.4g}. Widen low and high, or clip.")


def _finite(name: str, x: np.ndarray, rows: Row, faults: list[str]) -> bool:
    """Whether all of ``x`` [T, W, ...] is finite; else a fault that gives the decision of the first value that is not."""
    if not np.issubdtype(x.dtype, np.floating) or np.isfinite(x).all():
        return True
    t, w = np.argwhere(~np.isfinite(x))[0][:2]
    taken = t - max(np.flatnonzero(rows.first[: t + 1, w]), default=0)
    faults.append(
        f"{name} has values that are not finite, first after {taken} decisions of an episode. "
        "Look for divisions by zero and diverging physics."
    )
    return False


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
    if limit is None:
        return
    lengths = list(_lengths(rows))
    longest = max((length for length, _ in lengths), default=0)
    if longest > limit:
        faults.append(f"an episode took {longest} decisions, Spec.horizon promises at most {limit}.")
    early = [length for length, truncated in lengths if truncated and length < limit]
    if early:
        faults.append(f"an episode was truncated after {early[0]} of {limit} decisions: is it terminated?")


def _lengths(rows: Row) -> Iterator[tuple[int, bool]]:
    """Decisions of each episode so far, and whether it was truncated then."""
    for w in range(rows.first.shape[1]):
        begins = np.flatnonzero(rows.first[:, w]).tolist()
        for a, b in pairwise([*begins, len(rows.first)]):
            yield b - a - 1, bool(rows.truncated[b - 1, w])


def _bounds(env: Env | HostEnv, faults: list[str]) -> None:
    """Float actions outside [-1, 1] must act like those at the border."""
    if env.spec.action.choices is not None:
        return
    vec, key = batch(env, 1), jax.random.key(0)

    def roll(action: Array) -> tuple[PyTree, Array]:
        policy: Policy = lambda carry, step, key: (action, carry, {})
        rows = rollout(vec, vec.params, policy, begin(vec, vec.params, (), key), key, 3)[1]
        return rows.obs, rows.reward

    roll = roll if env.host else jax.jit(roll)
    with contextlib.closing(vec):
        at, beyond = (jax.tree.map(np.array, roll(np.full((1, *env.spec.action.shape), x, np.float32))) for x in (1.0, 3.0))
    if not _equal(at, beyond):
        faults.append("an action of 3 acts otherwise than one of 1. Clip actions to [-1, 1] in step.")
