"""The filter of imagined episodes: a dynamics reward of the real data chooses among the members' predictions, or only stops
(MOREC, Luo et al. 2024, arXiv:2310.05422; `rlx.dynamics.filtered`)."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np

from rlx.agents.sindy_rl.config import Config
from rlx.agents.sindy_rl.world import Rows, World
from rlx.dynamics import Model, TransitionScorer, adversary, filtered, penalised, scorer
from rlx.dynamics.filtered import by_reward
from rlx.types import Array, Key, PyTree


def filters(config: Config) -> bool:
    return config.filter.selection != "none"


def blank(world: World) -> TransitionScorer:
    """The scorer before the first fit."""
    own = world.config.filter
    shapes = jax.eval_shape(
        lambda k: scorer.blank(k, world.observations, world.actions, own.snapshots, own.hidden), jax.random.key(0)
    )
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def learned(config: Config, old: TransitionScorer, rows: Rows, key: Key, first: bool) -> TransitionScorer:
    """The scorer after a game on ``rows``. Where no discriminator can tell them from a generator's, ``old`` stays, unless this
    is the ``first``: ValueError then."""
    try:
        return adversary.learn(old, rows.obs, rows.action, rows.new, key, config.filter.game).scorer
    except ValueError as why:
        if first:
            raise
        warnings.warn(f"sindy_rl: the dynamics reward stays the one before: {why}", stacklevel=2)
        return old


def around(world: World) -> Model:
    """What predicts in imagined episodes and in plans, with its price for uncertainty."""
    selection = world.config.filter.selection
    return penalised(world if selection == "none" else filtered(world, by_reward, selection))


def params(config: Config, models: PyTree, scorer: Any, h: dict[str, Array]) -> PyTree:
    """Of what `around` prices, with what is traced in ``h``."""
    if not filters(config):
        return models
    return {"model": models, "scorer": scorer, "r_min": h["filter.r_min"], "filter_temperature": h["filter.temperature"]}
