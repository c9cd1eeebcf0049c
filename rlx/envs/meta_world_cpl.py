"""Meta-World as the code of contrastive preference learning has it (Hejna et al. 2024, arXiv:2310.13639): without what the
hand did in the frame before, a tenth of the reward, episodes of 250 steps. Importing this registers ``MetaWorldCPL-v0``::

    rlx train iql --env gym:rlx.envs.meta_world_cpl:MetaWorldCPL-v0 --env-option env_name=drawer-open-v3 --data drawer.npz
"""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import TransformObservation, TransformReward

ID = "MetaWorldCPL-v0"
HORIZON = 250
REWARD_SCALE = 0.1
_BEFORE = slice(18, 22)  # of the 39 numbers: position and opening of the hand in the frame before


def shortened(obs: np.ndarray) -> np.ndarray:
    """[..., 35] of Meta-World's observations [..., 39]."""
    return np.concatenate([obs[..., : _BEFORE.start], obs[..., _BEFORE.stop :]], -1)


def make(env_name: str, seed: int = 0, **options: Any) -> gymnasium.Env:
    """The environment, for `gymnasium.make`. ``seed`` decides the list of goals that resets draw from."""
    importlib.import_module("metaworld")
    env = gymnasium.make("Meta-World/MT1", env_name=env_name, seed=seed, disable_env_checker=True, **options)
    env = TransformObservation(env, shortened, Box(-np.inf, np.inf, (35,), np.float64))
    return TransformReward(env, lambda reward: REWARD_SCALE * float(reward))


if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point=f"{__name__}:make", max_episode_steps=HORIZON, disable_env_checker=True)
