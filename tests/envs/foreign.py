"""Gymnasium environments that break its forms, each in one way, and some that are only unusual; registered on import, as
``gym:tests.envs.foreign:NAME-v0``."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

LENGTH = 4


class Plain(gymnasium.Env):
    """Shows the action that arrived and its step; keeps to the form."""

    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space = Box(-1, 1, (2,), np.float32)

    def __init__(self, render_mode=None):
        self.t, self.last = 0, np.zeros(2)

    def see(self):
        return np.array([*self.last, self.t], np.float32)

    def pay(self):
        return 1.0

    def tell(self):
        return {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.last = 0, np.zeros(2)
        return self.see(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t, self.last = self.t + 1, np.asarray(action, np.float64)
        return self.see(), self.pay(), self.t >= LENGTH, False, self.tell()


class BareReset(Plain):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class BareResetOfTwo(BareReset):
    """Whose observation of two numbers could be taken for (observation, info)."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)

    def see(self):
        return np.zeros(2, np.float32)


class Unseeded(Plain):
    def reset(self):
        return super().reset()


class Four(Plain):
    def step(self, action):
        obs, reward, done, _, info = super().step(action)
        return obs, reward, done, info


class NoReward(Plain):
    def pay(self):
        return None


class TwoRewards(Plain):
    def pay(self):
        return np.ones(2)


class NoInfo(Plain):
    def step(self, action):
        return (*super().step(action)[:4], None)


class WordEnd(Plain):
    def step(self, action):
        obs, reward, _, cut, info = super().step(action)
        return obs, reward, "no", cut, info


class Wide(Plain):
    def see(self):
        return np.zeros(4, np.float32)


class Growing(Plain):
    def see(self):
        return np.zeros(3 if self.t < LENGTH - 1 else 5, np.float32)


class Words(Plain):
    def see(self):
        return ["a", "b", "c"]


class Ragged(Plain):
    def see(self):
        return [[1.0], [2.0, 3.0], 4.0]


class Dim(Plain):
    """An image in [0, 1] where the space says whole numbers: as uint8 it would be black."""

    observation_space = Box(0, 255, (2, 2, 3), np.uint8)

    def see(self):
        return np.full((2, 2, 3), 0.5)


class Extra(Plain):
    observation_space = Dict(a=Box(-9, 9, (2,)), b=Box(-9, 9, (1,)))

    def see(self):
        return {"a": np.ones(2, np.float32), "b": np.zeros(1, np.float32), "aa_debug": np.full(1, 7, np.float32)}


class Lacking(Extra):
    def see(self):
        return {"a": np.ones(2, np.float32), "z": np.full(1, 7, np.float32)}


class EmptySight(Plain):
    observation_space = Box(-1, 1, (0,), np.float32)


class EmptyAction(Plain):
    action_space = Box(-1, 1, (0,), np.float32)


class Raises(Plain):
    def step(self, action):
        raise RuntimeError("the simulator has lost its server")


class ArrayReward(Plain):
    """Rewards as arrays of one number and ends as numpy's: what many environments give."""

    def step(self, action):
        obs, _, end, cut, info = super().step(action)
        return obs, np.array([0.5]), np.bool_(end), np.array([cut]), info


class OddSeed(Plain):
    """Its ``seed`` is no way to seed it."""

    def seed(self):
        raise AssertionError("not to be called")


class LateSuccess(Plain):
    """Says ``is_success`` at its end only, and ``solved`` never by itself."""

    def tell(self):
        return {"is_success": True} if self.t >= LENGTH else {}


class UnsureSuccess(Plain):
    """Says None before it knows, then an array of one truth value."""

    def tell(self):
        return {"success": np.array([True]) if self.t >= LENGTH - 1 else None}


class Blinks(Plain):
    """Is in success at these of twenty steps."""

    DONE = (2, 3, 6, 9, 11, 12, 13)

    def tell(self):
        return {"success": self.t in self.DONE}

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, self.t >= 20, info


class Restless(Plain):
    """Each instance, and each of its episodes, is another one, whatever the seed."""

    count = 0

    def see(self):
        return np.array([*self.last, self.t + 100 * self.number], np.float32)

    def reset(self, *, seed=None, options=None):
        Restless.count += 1
        self.number = Restless.count
        return super().reset(seed=seed)


def boxed(low, high, dtype=np.float32):
    """A `Plain` whose actions are two numbers in such a box."""
    return type("Boxed", (Plain,), {"action_space": Box(low, high, (2,), dtype)})


def needs_physics(**options):
    raise gymnasium.error.DependencyNotInstalled("physics is not installed, run `pip install physics`")


def moved_away(**options):
    raise ImportError("this version has moved to another project")


class Needy(Plain):
    def __init__(self, path):
        pass


LARGEST = np.finfo(np.float32).max
BOXES = {
    "Hundredths": (-0.27, 0.14),
    "Wider": (-1.92, 1.5),
    "Widest": (-1.75, 1.92),
    "Bytes": (-128, 127, np.int8),
    "Levels": (0, 4, np.int64),
    "Largest": (-LARGEST, LARGEST),
    "Endless": (-np.inf, np.inf),
    "HalfOpen": (0.0, np.inf),
    "Double": (-1e300, 1e300, np.float64),
}
BROKEN = [
    *(BareReset, BareResetOfTwo, Unseeded, Four, NoReward, TwoRewards, NoInfo, WordEnd, Wide, Growing, Words, Ragged, Dim),
    *(Extra, Lacking, EmptySight, EmptyAction, Raises),
]
USUAL = [LateSuccess, UnsureSuccess, Blinks, Restless]
for made in [Plain, *BROKEN, ArrayReward, OddSeed, *USUAL, Needy, needs_physics, moved_away]:
    gymnasium.register(f"{made.__name__}-v0", made, max_episode_steps=20, disable_env_checker=True)
for title, bounds in BOXES.items():
    gymnasium.register(f"{title}-v0", boxed(*bounds), max_episode_steps=20)
gymnasium.register("Unlimited-v0", Plain)
