"""The state of MuJoCo behind a Gymnasium environment, told with each observation."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from rlx.envs.options import NoPhysics
from rlx.types import PHYSICS


class Tells(gymnasium.Wrapper, RecordConstructorArgs):
    """An environment whose info is that of ``_extended``."""

    def _extended(self, info: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**options)
        return obs, self._extended(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, self._extended(info)


class TellsPhysics(Tells):
    """``info["physics"]`` is (qpos, qvel, act) of ``env.unwrapped.data``, float32 [nq + nv + na].

    Raises:
        NoPhysics: there is no such data.
    """

    def __init__(self, env: gymnasium.Env, name: str):
        RecordConstructorArgs.__init__(self, name=name)
        super().__init__(env)
        if not all(hasattr(getattr(env.unwrapped, "data", None), field) for field in ("qpos", "qvel", "act")):
            raise NoPhysics(name, "it is no environment on MuJoCo with its data at env.unwrapped.data")

    def _extended(self, info: dict[str, Any]) -> dict[str, Any]:
        data: Any = self.env.unwrapped.data  # type: ignore[attr-defined]  # anew, as a reset may have made another
        return {**info, PHYSICS: np.concatenate([data.qpos, data.qvel, data.act]).astype(np.float32)}
