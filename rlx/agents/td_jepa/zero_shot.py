"""What is asked of a trained agent: `ZeroShot`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.agents.td_jepa import actor
from rlx.agents.td_jepa import z as zs
from rlx.agents.td_jepa.method import Carry, Method
from rlx.agents.td_jepa.report import Report
from rlx.config import nearest
from rlx.types import Agent, AgentState, Array, Key


class ZeroShot:
    """Any task, from what one agent has learned::

        policy = rlx.load("runs/maze")
        zero_shot = ZeroShot(policy.agent, policy.state)
        z = zero_shot.infer_reward(next_obs, rewards)      # or infer_goal(obs), infer_preferences(pairs, labels)
        action = zero_shot.act(obs, z)
        replace(policy, agent=zero_shot.agent_for(z))      # a policy to evaluate, to film, to export

    Observations are those of the agent's environment, [N, ...]; images have their frames stacked along the last axis.
    """

    def __init__(self, agent: Agent, state: AgentState) -> None:
        """Raises ValueError for an agent of another kind."""
        if not isinstance(agent.report, Report):
            raise ValueError(f"ZeroShot asks td_jepa and its family; this is {agent.name!r}.")
        self.agent, self.state = agent, state
        self.method: Method = agent.report.method
        self._act: dict[str, Any] = {}

    @property
    def tasks(self) -> dict[str, np.ndarray]:
        """The z of each task that the run knows, by name, as of its last inference."""
        return dict(zip(self.method.tasks.names, np.asarray(self.state.learned["tasks"]), strict=True))

    def features(self, obs: Any) -> np.ndarray:
        """psi [N, d] of observations [N, ...].

        Raises:
            ValueError: they have another shape, are not finite, or no whole numbers where pictures are.
        """
        return self.method.encode(self.state.learned, self._as_stored(obs))[0]

    def _as_stored(self, obs: Any) -> np.ndarray:
        obs, own = np.asarray(obs), self.method.spec.obs
        shape = (*own.shape[:-1], own.shape[-1] * self.method.config.frames)
        if obs.shape[1:] != shape or not len(obs):
            raise ValueError(f"observations here are [N, {', '.join(map(str, shape))}]; got {list(obs.shape)}.")
        if not np.isfinite(obs).all():
            raise ValueError(f"observations are not all finite: {int((~np.isfinite(obs)).sum())} numbers are not.")
        stored = obs.astype(own.dtype)
        if np.issubdtype(own.dtype, np.integer) and (stored != obs).any():
            raise ValueError(f"observations here are {np.dtype(own.dtype)}, as stored (pictures 0 to 255); got {obs.dtype}.")
        return stored

    def sample_z(self, key: Key, n: int) -> np.ndarray:
        """z [n, d] of uniform directions."""
        return np.asarray(zs.sample(key, jnp.zeros((n, self.method.config.d_psi)), 0.0))

    def infer_reward(
        self, samples: Any, rewards: Any, *, ridge: float = 0.0, bias: bool = False, weights: Any = None
    ) -> np.ndarray:
        """z [d] of rewards [N] for arriving at observations ``samples`` [N, ...] of the data. The run's ``reward_shift`` is
        added to them first: the presets of OGBench make 1 and 0 of its 0 and -1.

        It is the v with the least sum_i w_i (psi_i' v - r_i)^2 + ``ridge`` ||v||^2. ``weights`` w [N], at least 0, say how much
        each sample counts (None: all 1). With ``bias`` a constant is fitted too and left out, so that rewards may be off by any
        constant. Methods that take the mean of reward times feature instead have ``weights`` alone.

        Raises:
            ValueError: they are not of one length, not finite, or ask for nothing: all 0, with a bias all the same; weights or
                ridge are negative, or no regression is there to have them.
        """
        rewards, n = np.asarray(rewards, np.float64), len(self._as_stored(samples))
        if rewards.shape != (n,):
            raise ValueError(f"infer_reward takes one reward for each of {n} samples; got {list(rewards.shape)}.")
        if not np.isfinite(rewards).all():
            raise ValueError(f"infer_reward: {int((~np.isfinite(rewards)).sum())} of {len(rewards)} rewards are not finite.")
        regression = self._regression(ridge, bias)
        counted = rewards if weights is None else rewards[_checked(weights, n) > 0]
        shift = float(self.state.hyper["reward_shift"])
        all_of = f"all rewards{'' if weights is None else ' of a weight above 0'} are {counted[0]:g}"
        if not counted.any() or not (counted + shift).any():
            after = f", with reward_shift={shift:g} 0" if counted.any() else ""
            raise ValueError(f"infer_reward: {all_of}{after}, which asks for nothing: give samples where some are not.")
        if bias and (counted == counted[0]).all():
            raise ValueError(f"infer_reward: {all_of}, which the bias alone explains: give samples where some are not.")
        return self.method.inferred(self.features(samples), rewards + shift, weights=weights, **regression)

    def _regression(self, ridge: float, bias: bool) -> dict[str, Any]:
        """What was asked of the regression, as `z.regressed` takes it."""
        if not (np.isfinite(ridge) and ridge >= 0):
            raise ValueError(f"infer_reward: ridge={ridge:g} is not a number of at least 0.")
        if self.method.features.regression:
            return {"ridge": float(ridge), "bias": bias}
        if ridge or bias:
            raise ValueError(
                f"infer_reward: features={self.method.config.features!r} takes the mean of reward times feature and has no "
                f"regression for ridge={ridge:g} and bias={bias}: leave them out."
            )
        return {}

    def infer_goal(self, obs: Any, scaled: bool | None = None, samples: Any = None) -> np.ndarray:
        """z [d] of being at an observation. ``scaled``: by the inverse second moment of the features; None: as the method has
        it in training, and where that leaves it open, scaled. The second moment is the mean of psi psi' over observations
        ``samples`` [N, ...]; None: the moving average that training kept.

        Raises:
            ValueError: it is not one observation, or there are samples and nothing is scaled.
        """
        psi = self.features(np.asarray(obs)[None])[0]
        scaled = self.method.features.scale_goals is not False if scaled is None else scaled
        if samples is None:
            return zs.of_goal(psi, self.state.learned["moment"] if scaled else None)
        if not scaled:
            raise ValueError("infer_goal: samples give the second moment that scaled=True divides by: give both or none.")
        among = self.features(samples).astype(np.float64)
        return zs.of_goal(psi, among.T @ among / len(among))

    def infer_preferences(self, pairs: tuple[Any, Any], labels: Sequence[float] | Array) -> np.ndarray:
        """z [d] of preferences between segments: ``pairs`` are two arrays [P, T, ...] of observations; ``labels`` [P]
        say how likely the second is preferred, as all of `rlx.preferences` do. A segment is embedded as its mean feature.

        Raises:
            ValueError: shapes do not fit, labels are something else, or all of them ties.
        """
        first, second = (np.asarray(x) for x in pairs)
        labels = np.asarray(labels, np.float64)
        if first.shape != second.shape or first.ndim < 3 or labels.shape != first.shape[:1] or not len(labels):
            given = f"{list(first.shape)}, {list(second.shape)} and {list(labels.shape)}"
            raise ValueError(f"infer_preferences takes two arrays [P, T, ...] and P labels; got {given}.")
        if not ((labels >= 0) & (labels <= 1)).all():
            raise ValueError("infer_preferences: labels lie in [0, 1]: 0 for the first, 1 for the second, 0.5 for a tie.")
        if (labels == 0.5).all():
            raise ValueError("infer_preferences: all pairs are ties, which asks for nothing: give some where one is preferred.")
        embed = lambda x: self.features(x.reshape(-1, *x.shape[2:])).reshape(*x.shape[:2], -1).mean(1)
        return zs.preferred(embed(first), embed(second), labels)

    def agent_for(self, z: Any) -> Agent:
        """The agent with this z [d] for good, which remembers no task: for films, evaluations and export.

        Raises:
            ValueError: z has another shape.
        """
        agent, one, d = self.agent, jnp.asarray(z, jnp.float32), self.method.config.d_psi
        if one.shape != (d,):
            raise ValueError(f"z here is [{d}]; got {list(one.shape)}.")

        def carry(state: AgentState, n: int, context: Any = None) -> Any:
            return agent.carry(state, n, one).frames

        def act(state: AgentState, clock: Any, frames: Any, step: Any, key: Key, mode: str) -> tuple[Array, Any, dict]:
            whole = Carry(jnp.broadcast_to(one, (step.reward.shape[0], len(one))), frames)
            action, after, extras = agent.act(state, clock, whole, step, key, mode)
            return action, after.frames, extras

        return replace(agent, carry=carry, act=act)

    def act(self, obs: Any, z: Any, key: Key | int = 0, mode: str = "eval") -> np.ndarray:
        """Actions [N, m], or choices [N], at observations [N, ...] for ``z`` [d] or [N, d]; ``key``, another one at each step,
        is for policies that draw theirs: those of mode "explore", and flow actors.

        Raises:
            ValueError: observations or z have another shape, or the mode is unknown.
        """
        if mode not in self.agent.modes:
            raise ValueError(f"{self.agent.name} has no mode {mode!r}.{nearest(mode, self.agent.modes)}")
        net, p = self.method.net, self.state.learned["params"]
        obs, z, d = jnp.asarray(self._as_stored(obs)), jnp.asarray(z, jnp.float32), self.method.config.d_psi
        if z.shape not in ((d,), (len(obs), d)):
            raise ValueError(f"z here is [{d}], or one for each of {len(obs)} observations; got {list(z.shape)}.")
        z = jnp.broadcast_to(z, (len(obs), d))
        key = jax.random.key(key) if isinstance(key, int) else key

        def fn(p: Any, obs: Array, z: Array, key: Key, std: Array) -> Array:
            return actor.taken(net, p, obs, z, key, std, mode == "explore")

        fn = self._act.setdefault(mode, jax.jit(fn))
        return np.asarray(fn(p, obs, z, key, self.state.hyper["actor_std"]))


def _checked(weights: Any, n: int) -> np.ndarray:
    """Weights [n] of samples. Raises ValueError for others."""
    weights = np.asarray(weights, np.float64)
    if weights.shape != (n,):
        raise ValueError(f"infer_reward takes one weight for each of {n} samples; got {list(weights.shape)}.")
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        raise ValueError(f"infer_reward: weights are at least 0 and finite; {int(wrong.sum())} of {n} are not.")
    if not weights.any():
        raise ValueError("infer_reward: all weights are 0, so no sample counts: give some a weight above 0.")
    return weights
