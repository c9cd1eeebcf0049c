"""Gymnasium's vector environments: three autoreset modes, one sequence of rows."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import rlx.envs
from rlx.envs.gym_vector import GymVectorVec
from rlx.keys import HostKey
from rlx.types import HostEnv, Leaf, Spec


class Counter(gymnasium.Env):
    """Counts its steps; ends after 2 to 4, even streams terminated, odd ones truncated."""

    observation_space = gymnasium.spaces.Dict(
        {"who": gymnasium.spaces.Box(0, 9, (1,)), "x_steps": gymnasium.spaces.Box(0, 9, (1,))}
    )
    action_space = gymnasium.spaces.Box(-2, 2, (1,))

    def __init__(self, stream):
        self.stream = stream

    def see(self):
        return {"who": np.array([self.stream], np.float32), "x_steps": np.array([self.n], np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n = 0
        return self.see(), {}

    def step(self, action):
        self.n += 1
        end = self.n >= 2 + self.stream
        return self.see(), float(action[0]), end and self.stream % 2 == 0, end and self.stream % 2 == 1, {"success": end}


SPEC = Spec(
    {"who": Leaf((1,)), "x_steps": Leaf((1,))},
    Leaf((1,), low=-1, high=1),
    {"success": Leaf((), reduce="any")},
    4,
    native_action=Leaf((1,), np.float32, low=-2, high=2),
)


def vec(mode, ends, kind=SyncVectorEnv):
    build = lambda: kind([lambda i=i: Counter(i) for i in range(3)], autoreset_mode=mode)
    return GymVectorVec("counter", SPEC, 3, ends, build)


def rows(env, steps=15):
    key = HostKey(np.array([[0, 1]], np.uint32), 3, 0)
    state, step = env.reset(None, key)
    out = [step]
    for t in range(steps):
        action = np.where(step.last, 0.7, 0.5)[:, None]
        state, step = env.step(None, state, action, key.at(t + 1))
        out.append(step)
    env.close()
    return out


def seen(step, w):
    return [*step.obs["who"][w], *step.obs["x_steps"][w]]


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_rows_are_the_same_in_every_mode(mode, kind):
    for t, step in enumerate(rows(vec(mode, "reset", kind))):
        for w in range(3):
            length = 2 + w  # steps of an episode: the row after its last is the next one's first
            n = t % (length + 1)
            assert seen(step, w) == [w, n] and step.first[w] == (n == 0)
            assert step.reward[w] == (0 if n == 0 else 1.0)  # 0.5 of [-2, 2]
            assert step.terminated[w] == (n == length and w % 2 == 0) and step.truncated[w] == (n == length and w % 2 == 1)
            assert step.info["success"][w] == (n == length)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_streams_stay_at_their_end(mode):
    for t, step in enumerate(rows(vec(mode, "stop"), 8)):
        for w in range(3):
            assert seen(step, w) == [w, min(t, 2 + w)] and step.last[w] == (t >= 2 + w) and step.first[w] == (t == 0)


def test_unknown_modes_are_refused():
    envs = SyncVectorEnv([lambda: Counter(0)])
    envs.metadata = {**envs.metadata, "autoreset_mode": "whenever"}
    env = GymVectorVec("counter", SPEC, 1, "reset", lambda: envs)
    key = HostKey(np.array([[0, 1]], np.uint32), 1, 0)
    state, _ = env.reset(None, key)
    with pytest.raises(ValueError, match="declares the autoreset mode 'whenever'; rlx knows AutoresetMode.NEXT_STEP"):
        env.step(None, state, np.zeros((1, 1)), key)
    with pytest.raises(ValueError, match="vectorize is one of sync, async, native"):
        rlx.envs.make("gym:Pendulum-v1", vectorize="threads")


def test_vectorize_makes_the_same_episodes():
    key = HostKey(np.array([[3, 4]], np.uint32), 2, 0)
    steps = []
    for vectorize in (None, "sync"):
        env = rlx.envs.make("gym:Pendulum-v1", time_limit=5, vectorize=vectorize)
        assert isinstance(env, HostEnv)
        made = env.make(2, "reset")
        state, first = made.reset(None, key)
        state, second = made.step(None, state, np.full((2, 1), 0.3, np.float32), key.at(1))
        steps.append((first, second))
    for a, b in zip(*steps, strict=True):
        for x, y in zip(a[:5], b[:5], strict=True):
            np.testing.assert_array_equal(x, y)
