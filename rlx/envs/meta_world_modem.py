"""Meta-World as MoDem sees it (Hansen et al. 2022, arXiv:2212.05698): ``corner2`` nearer to the table, and a step of nothing
after each reset, so that the hand is where it is held when the first picture is taken. Importing this registers
``MetaWorldMoDem-v0``, whose episodes have 200 simulation steps::

    rlx train modem_v2 --env gym:rlx.envs.meta_world_modem:MetaWorldMoDem-v0 --env-option env_name=drawer-open-v3 --repeat 2 \\
        --env-option pixels=gl --env-option camera=corner2 --preset v1_metaworld --data drawer.npz

Meta-World's camera looks at the table upside down, for a renderer that once drew so; here up is up.
"""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import RecordConstructorArgs

ID = "MetaWorldMoDem-v0"
STEPS = 200  # of the simulation
CAMERA, PLACE = "corner2", (0.75, 0.075, 0.7)  # m


class MoDem(gymnasium.Wrapper, RecordConstructorArgs):
    """Meta-World's environment with that camera and that first step, which counts in no limit."""

    def __init__(self, env: gymnasium.Env):
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        shape = env.observation_space.shape
        self.observation_space = Box(-np.inf, np.inf, shape, np.float64)  # they leave the space that Meta-World declares
        camera = self._own.model.camera(CAMERA)
        w, x, y, z = camera.quat
        camera.pos[:], camera.quat[:] = PLACE, (-z, y, -x, w)  # half a turn about where it looks

    @property
    def _own(self) -> Any:
        return self.env.unwrapped

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        _, info = self.env.reset(**options)
        obs, *_ = self._own.step(np.zeros(4, np.float32))
        self._own.curr_path_length = 0
        return obs, info


def make(env_name: str, seed: int = 0, **options: Any) -> gymnasium.Env:
    """The environment, for `gymnasium.make`. ``seed`` decides the list of goals that resets draw from."""
    importlib.import_module("metaworld")
    return MoDem(gymnasium.make("Meta-World/MT1", env_name=env_name, seed=seed, disable_env_checker=True, **options))


if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point=f"{__name__}:make", max_episode_steps=STEPS, disable_env_checker=True)
