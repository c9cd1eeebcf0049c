"""The model that the policy learns in: dynamics that are sparse or networks, a reward that is known or sparse, and how they are
fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.agents.sindy_rl.config import Config
from rlx.agents.sindy_rl.config import Library as Settings
from rlx.dynamics import Prediction, ensemble, sparse
from rlx.dynamics.ensemble import Ensemble
from rlx.dynamics.env import total_std
from rlx.dynamics.sparse import Dictionary, SparseModel, affine, poly
from rlx.types import Array, Key, PyTree, Row, Spec

Box = tuple[np.ndarray, np.ndarray]  # least and largest observations, [n] each
HORIZON = 20  # decisions over which models are compared
LARGEST = float(np.finfo(np.float32).max)


class Data(NamedTuple):
    """What one model is fitted to, float64."""

    inputs: np.ndarray  # [N, v]
    targets: np.ndarray  # [N, q]
    names: Sequence[str]  # of the targets
    trajectory: np.ndarray  # int [N]: rows of one number follow each other


class Sparse(NamedTuple):
    """How one target is learned by sparse regressions; `Networks` answers to the same calls."""

    config: Config
    library: Dictionary
    settings: Settings
    outputs: int

    def blank(self) -> SparseModel:
        """The model before the first fit."""
        members = jnp.zeros((self.config.ensemble_size, self.outputs, len(self.library)))
        return SparseModel(members, members[0], self.library)

    def check(self, name: str) -> None:
        """Raises ValueError for settings that no data could fit."""
        c, terms = self.config, len(self.library)
        if (c.drop or 0) >= terms:
            raise ValueError(f"sindy_rl: drop={c.drop} of {terms} terms of the {name} leaves none; give less.")
        rows = int((c.bag or 1.0) * c.seed_steps)
        if not self.settings.alpha and rows < terms:
            raise ValueError(
                f"sindy_rl: {rows} rows for each member (of seed_steps={c.seed_steps}) are too few for {terms} terms of the "
                f"{name} without a ridge: give more, a ridge (alpha), or a smaller dictionary."
            )

    def fitted(self, data: Data, rng: np.random.Generator, old: Any) -> SparseModel:
        """From ``data``; ``old`` makes no difference: a regression has no memory. Raises ValueError as
        `rlx.dynamics.sparse.fit` does."""
        c, own = self.config, self.settings
        bag = c.bag * min(1.0, c.seed_steps / len(data.inputs)) if c.bag_frozen else c.bag
        how: dict[str, Any] = {"rng": rng, "ensemble_size": c.ensemble_size, "bag": bag, "unbias": c.unbias}
        how |= {"backend": c.backend, "aggregate": "median" if c.aggregate == "sample" else c.aggregate}
        how |= {"alpha": own.alpha, "threshold": own.threshold, "drop": c.drop, "names": data.names}
        groups = data.trajectory if c.bag_by == "trajectories" else None
        return sparse.fit(self.library, data.inputs, data.targets, groups=groups, **how)

    def predictor(self, model: SparseModel) -> Callable[[np.ndarray], np.ndarray]:
        """The model as a function of float64 on the host."""
        coef = np.asarray(model.coef, np.float64)
        return lambda z: model.library(z) @ coef.T


class Networks(NamedTuple):
    """How the dynamics are learned by networks."""

    config: Config
    inputs: int
    outputs: int

    def blank(self) -> Ensemble:
        return self.drawn(jax.random.key(0))

    def drawn(self, key: Key) -> Ensemble:
        own = self.config.network
        return ensemble.init(key, self.config.ensemble_size, (self.inputs, *own.hidden, self.outputs), own.activation)

    def check(self, name: str) -> None:
        """Raises ValueError for settings that no data could fit."""
        c, holdout = self.config, self.config.network.holdout
        if min(ensemble.parts(c.seed_steps, c.bag, holdout)) < 1:
            raise ValueError(
                f"sindy_rl: of seed_steps={c.seed_steps} rows a network has bag={c.bag:g}, of which "
                f"network.holdout={holdout:g} and the rest must be at least one each; give more."
            )
        if not isinstance(c.aggregate, str):
            raise ValueError(f"sindy_rl: aggregate={c.aggregate} is of equations; networks have their mean, or 'sample'.")

    def fitted(self, data: Data, rng: np.random.Generator, old: Any) -> Ensemble:
        """From the weights of ``old``, or where that is None from new ones. Raises ValueError as `rlx.dynamics.ensemble.fit`
        does."""
        c, own = self.config, self.config.network
        start, learn = jax.random.split(jax.random.key(int(rng.integers(2**31))))
        fields = ("normalize", "lr", "max_grad_norm", "batch", "epochs", "patience", "holdout")
        how: dict[str, Any] = {k: getattr(own, k) for k in fields}
        how["capacity"] = c.seed_steps + c.online + c.n_envs * (c.seed_episode + 2)  # whole episodes may be a little more
        model = self.drawn(start) if old is None else old
        return ensemble.fit(model, data.inputs, data.targets, learn, share=c.bag, **how).model

    def predictor(self, model: Ensemble) -> Callable[[np.ndarray], np.ndarray]:
        return lambda z: np.asarray(_mean(model, z.astype(np.float32)), np.float64)


_mean = jax.jit(Ensemble.__call__)


class World(NamedTuple):
    """`rlx.dynamics.Model` with params ``{"dynamics": SparseModel | Ensemble, "reward": SparseModel}``, the latter where it is
    learned."""

    config: Config
    observations: int
    actions: int
    project: Callable[[Any, Array], Array] | None  # of observations
    score: Callable[[Any, Array, Array], Array] | None  # the known reward of arriving at an observation

    def begin(self, params: PyTree, key: Key) -> PyTree:
        return jax.random.randint(key, (), 0, self.config.ensemble_size) if self.config.aggregate == "sample" else ()

    def predict(self, params: PyTree, episode: PyTree, obs: Array, action: Array, key: Key) -> Prediction:
        z = jnp.concatenate([obs, action])
        dynamics = params["dynamics"]
        new = self.projected(dynamics.each(z)[episode] if self.config.aggregate == "sample" else dynamics(z))
        return Prediction(new, self.rewarded(params, new, action))

    def candidates(self, params: PyTree, episode: PyTree, obs: Array, action: Array, key: Key, draws: int) -> Prediction:
        """What each member predicts, [E, n] and [E]."""
        new = self.projected(params["dynamics"].each(jnp.concatenate([obs, action])))
        return Prediction(new, jax.vmap(lambda x: self.rewarded(params, x, action))(new))

    def rewarded(self, params: PyTree, new: Array, action: Array) -> Array:
        """Of arriving at ``new`` [n]."""
        if self.score is not None:
            return self.score(jnp, new, action)
        return params["reward"](jnp.concatenate([new, action]) if self.config.reward_input else new)[0]

    def disagreement(self, params: PyTree, obs: Array, action: Array) -> Array:
        return total_std(params["dynamics"].variance(jnp.concatenate([obs, action])))

    def projected(self, obs: Array) -> Array:
        xp: Any = np if isinstance(obs, np.ndarray) else jnp
        return obs if self.project is None else self.project(xp, obs)

    @property
    def parts(self) -> dict[str, Any]:
        """How each model is learned."""
        c, n, m = self.config, self.observations, self.actions
        if c.model == "mlp":
            out: dict[str, Any] = {"dynamics": Networks(c, n + m, n)}
        else:
            out = {"dynamics": Sparse(c, affine(n, m, c.dynamics.degree, c.dynamics.interact, c.tensor), c.dynamics, n)}
        if self.score is None:
            library = poly(n + m if c.reward_input else n, c.rewards.degree, c.rewards.bias, c.rewards.interact)
            out["reward"] = Sparse(c, library, c.rewards, 1)
        return out

    def blank(self) -> dict[str, Any]:
        """Models before the first fit."""
        return {k: part.blank() for k, part in self.parts.items()}

    def attempts(
        self, rows: Rows, rng: np.random.Generator, names: Sequence[str], old: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """All models, each for itself: sparse ones from scratch, networks from those of ``old`` where it is given. In the place
        of one whose fit fails stands the ValueError."""
        states = rows.new if self.config.reward_pairing == "next" else rows.obs
        arrived = np.concatenate([states, rows.action], 1) if self.config.reward_input else states
        number = np.cumsum(rows.first)
        data = {
            "dynamics": Data(np.concatenate([rows.obs, rows.action], 1), rows.new, names, number),
            "reward": Data(arrived, rows.reward[:, None], ("reward",), number),
        }
        out: dict[str, Any] = {}
        for k, part in self.parts.items():
            try:
                out[k] = part.fitted(data[k], rng, None if old is None else old[k])
            except ValueError as error:
                out[k] = error
        return out

    def fitted(self, rows: Rows, rng: np.random.Generator, names: Sequence[str]) -> dict[str, Any]:
        """All models, from scratch. Raises ValueError as the fits do."""
        found = self.attempts(rows, rng, names)
        for error in found.values():
            if isinstance(error, ValueError):
                raise error
        return found

    def error(self, models: dict[str, Any], rows: Rows, rng: np.random.Generator, runs: int = 256) -> float:
        """Root mean square of the error after `HORIZON` decisions from recorded states, in standard deviations of the data; inf
        where it is not finite. On the host."""
        begin = np.flatnonzero(rows.follows(HORIZON))
        if not len(begin):
            begin, steps = np.arange(len(rows.obs)), 1
        else:
            steps = HORIZON
        begin = begin[rng.integers(len(begin), size=min(runs, len(begin)))]
        predict, x = self.parts["dynamics"].predictor(models["dynamics"]), rows.obs[begin]
        with np.errstate(all="ignore"):
            for t in range(steps):
                x = self.projected(predict(np.concatenate([x, rows.action[begin + t]], 1)))
            off = (x - rows.new[begin + steps - 1]) / (rows.new.std(0) + 1e-12)
            size = float(np.sqrt(np.mean(off**2)))
        return size if size < LARGEST else np.inf


class Rows(NamedTuple):
    """Transitions one after another, float64."""

    obs: np.ndarray  # [N, n]
    action: np.ndarray  # [N, m]
    new: np.ndarray  # [N, n]
    reward: np.ndarray  # [N]
    first: np.ndarray  # bool [N]: the one before is of another trajectory

    def follows(self, steps: int) -> np.ndarray:
        """bool [N - steps + 1 or 0]: whether ``steps`` transitions from here on are of one trajectory."""
        if len(self.first) < steps:
            return np.zeros(0, bool)
        windows = np.lib.stride_tricks.sliding_window_view(self.first, steps)
        return np.asarray(~windows[:, 1:].any(1))


def sound(episodes: Sequence[Row]) -> tuple[list[Row], int]:
    """Episodes [T, ...] cut where an observation, an action or a reward is not finite, and how many rows were left out."""
    kept, lost = [], 0
    for e in episodes:
        fine = np.isfinite(e.obs).all(1) & np.isfinite(e.action).all(1) & np.isfinite(e.reward)
        lost += int((~fine).sum())
        for piece in np.split(np.arange(len(fine)), np.flatnonzero(fine[1:] != fine[:-1]) + 1):
            if fine[piece[0]]:
                kept.append(jax.tree.map(lambda x, piece=piece: x[piece], e))
    return kept, lost


def transitions(episodes: Sequence[Row], low: np.ndarray | None = None, high: np.ndarray | None = None) -> Rows:
    """Of all episodes [T, ...], none across a border; those that begin outside the box are left out.

    Raises:
        ValueError: there are none.
    """
    parts = []
    for e in episodes:
        inside = np.ones(len(e.obs) - 1, bool)
        if low is not None and high is not None:
            inside = ((e.obs[:-1] > low) & (e.obs[:-1] < high)).all(1)
        first = np.r_[True, ~inside[:-1]] if len(inside) else np.zeros(0, bool)
        own = (e.obs[:-1], e.action[:-1], e.obs[1:], e.reward[1:], first)
        parts.append([x[inside] for x in own])
    if not parts or not sum(len(p[0]) for p in parts):
        raise ValueError("there are no transitions inside the box: widen it, or collect more.")
    obs, action, new, reward, first = (np.concatenate(x) for x in zip(*parts, strict=True))
    double = lambda x: x.astype(np.float64)
    return Rows(double(obs), double(action), double(new), double(reward), first)


def known_of(config: Config, spec: Spec) -> tuple[Any, Any]:
    """How observations are projected, and the reward of arriving at one; None where that is not known.

    Raises:
        ValueError: the reward is to be the environment's, which has no formula of observations.
    """
    plain = not config.modes
    score = spec.task.score if config.reward != "sparse" and plain and spec.repeat == 1 else None
    if config.reward == "task" and score is None:
        raise ValueError(
            "sindy_rl: reward='task' needs an environment that can score observations (Task.score), without modes and with "
            "repeat=1; this one cannot. Give reward='sparse'."
        )
    return spec.task.project if config.project and plain else None, score


def box_of(config: Config, spec: Spec, n: int) -> Box | None:
    """The box that settings or environment name; None: it comes from the data."""
    if config.box:
        if len(config.box) != n:
            raise ValueError(f"sindy_rl: box has {len(config.box)} entries; there are {n} observations.")
        return -np.asarray(config.box), np.asarray(config.box)
    return spec.task.box if not config.modes else None


def names_of(config: Config, spec: Spec, n: int, m: int) -> tuple[str, ...]:
    """Of observations, then actions."""
    given = config.names or (spec.task.names if not config.modes else ())
    if not given:
        letter = "a" if config.modes else "x"
        return tuple([f"{letter}{i + 1}" for i in range(n)] + ([f"u{i + 1}" for i in range(m)] if m > 1 else ["u"]))
    if len(given) != n + m:
        raise ValueError(f"sindy_rl: names has {len(given)} entries; there are {n} observations and {m} actions.")
    return tuple(given)


def around(obs: np.ndarray, factor: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """A box of ``factor`` times the extent of the data [N, n] about its middle."""
    low, high = obs.min(0), obs.max(0)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-3)
    return middle - factor * half, middle + factor * half


def refitted(
    world: World, old: dict[str, Any], rows: Rows, rng: np.random.Generator, names: tuple[str, ...], first: bool
) -> tuple[dict[str, Any], float, dict[str, str]]:
    """The models to go on with, the error of the dynamics on the rows, and which refits were refused, and why. The first fit
    has nothing to fall back on: what is wrong with it is raised."""
    error = lambda models: world.error(models, rows, np.random.default_rng(0))
    if first:
        new = world.fitted(rows, rng, names)
        return new, error(new), {}
    found, guard = world.attempts(rows, rng, names, old), world.config.guard
    refused = {k: str(model) for k, model in found.items() if isinstance(model, ValueError)}
    after, before = (np.inf if "dynamics" in refused else error(found)), error(old)
    if "dynamics" not in refused and guard and not (np.isfinite(after) and after <= guard * before):
        refused["dynamics"] = f"its error over {HORIZON} decisions is {after:.3g}, that of the one before {before:.3g}."
    new = {k: old[k] if k in refused else found[k] for k in found}
    return new, before if "dynamics" in refused else after, refused
