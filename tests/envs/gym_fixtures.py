"""Gymnasium environments that are registered when this module is imported: ``gym:tests.envs.gym_fixtures:RlxArm-v0``."""

from __future__ import annotations

import uuid
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

LENGTH = 5


class Arm(gymnasium.Env):
    """Positions and velocities in a dict, with ``camera`` an image too. Its state moves by the action, in units of +-2."""

    action_space = Box(-2, 2, (2,), np.float32)

    def __init__(self, camera=False):
        inside = {"velocity": Box(-9, 9, (2,), np.float64), "position": Box(-99, 99, (2,), np.float32)}
        parts = {"goal": Box(-1, 1, (1,), np.float32), "arm": Dict(inside)}
        self.camera = camera
        self.observation_space = Dict({**parts, "camera": Box(0, 255, (4, 6, 3), np.uint8)} if camera else parts)

    def see(self, velocity):
        arm = {"velocity": np.asarray(velocity, np.float64), "position": self.x.astype(np.float32)}
        picture = np.full((4, 6, 3), 200 + self.t, np.uint8)
        return {"goal": self.goal.copy(), "arm": arm} | ({"camera": picture} if self.camera else {})

    def info(self, action):
        return {"effort": float(np.sum(np.abs(action))), "place": self.x.copy(), "word": "arm", "success": self.t == LENGTH}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x = 0, self.np_random.uniform(-1, 1, 2)
        self.goal = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.see(np.zeros(2)), {"place": self.x.copy()}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t, self.x = self.t + 1, self.x + action
        return self.see(action), -float(np.abs(self.x).sum()), False, self.t == LENGTH, self.info(action)


class Shifty(Arm):
    """Its info changes shape after two steps."""

    def info(self, action):
        return {"place": np.zeros(2 if self.t < 3 else 3)}


class Drawn(Arm):
    """Its picture is its place, 48 bytes."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 9}

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode

    def render(self):
        return np.tile(np.frombuffer(self.x.tobytes(), np.uint8), 3).reshape(1, 16, 3)


class Leaves(Arm):
    """Puts a file into ``folder`` when it is closed."""

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)

    def close(self):
        (self.folder / uuid.uuid4().hex).touch()


gymnasium.register("RlxArm-v0", Arm)
gymnasium.register("RlxCamera-v0", lambda **options: Arm(camera=True, **options))
gymnasium.register("RlxShifty-v0", Shifty)
gymnasium.register("RlxLeaves-v0", Leaves)
gymnasium.register("RlxDrawn-v0", Drawn)
