"""Rewards as text: what they say in numbers, and what is refused in which words."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import rlx.envs
from rlx.envs.expressions import parse, quantities

SPEC = rlx.envs.make("rlx:pointmass-maze").spec
KNOWN = quantities(SPEC)
RNG = np.random.default_rng(0)
OBS, ACTION = RNG.normal(size=(5, 3, 4)), RNG.normal(size=(5, 3, 2))
X, Y, VX, VY = np.moveaxis(OBS, -1, 0)


def test_quantities_are_those_of_the_task():
    assert {k: q.size for k, q in KNOWN.items()} == {
        **{"obs": 4, "action": 2, "pos": 2, "vel": 2},
        **dict.fromkeys(("x", "y", "vx", "vy", "ux", "uy")),
    }
    np.testing.assert_array_equal(KNOWN["uy"].of(np, OBS, ACTION), ACTION[..., 1])
    with pytest.raises(ValueError, match="observations that are vectors"):
        quantities(rlx.types.Spec(rlx.types.Leaf((8, 8, 3), np.uint8), rlx.types.Leaf((2,))))


def test_a_choice_is_its_number():
    leaf = rlx.types.Leaf
    known = quantities(
        rlx.types.Spec(leaf((2,)), leaf((), np.int32, low=0, high=2), task=rlx.types.Task(names=("x", "v", "push")))
    )
    obs, choice = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), np.array([0, 2], np.int32)
    for text in ("x * v - 0.5 * action", "obs[0] * obs[1] - push / 2"):
        np.testing.assert_array_equal(parse(text, known)(np, obs, choice), [2, 11])


@pytest.mark.parametrize("domain", ["walker", "cheetah"])
def test_quantities_of_a_domain_are_those_of_mujoco(domain):
    """Of dm_control's own environment, after some steps at random: every entry has a name, and that of what it is."""
    suite = pytest.importorskip("dm_control.suite")
    theirs, rng = suite.load(domain, "run", task_kwargs={"random": 0}), np.random.default_rng(1)
    step = theirs.reset()
    for _ in range(25):
        action = rng.uniform(-1, 1, theirs.action_spec().shape)
        step = theirs.step(action)
    mujoco.mj_forward(theirs.physics.model.ptr, theirs.physics.data.ptr)
    obs, held, motion = np.concatenate([np.ravel(x) for x in step.observation.values()]), theirs.physics.named.data, np.zeros(6)
    torso = theirs.physics.model.name2id("torso", "body")
    mujoco.mj_objectVelocity(
        theirs.physics.model.ptr, theirs.physics.data.ptr, mujoco.mjtObj.mjOBJ_XBODY, torso, motion, 0
    )  # turning, then moving, in world axes
    known = quantities(rlx.envs.make(f"dmc:{domain}-run").spec)
    said = lambda text: float(parse(text, known)(np, obs, action))
    joints = [theirs.physics.model.id2name(i, "actuator") for i in range(len(action))]
    wanted = {"vx": motion[3], "vz": motion[5], "pitch_rate": motion[1], "norm(vel)": np.hypot(motion[3], motion[5])}
    wanted |= {f"{joint}_rate": held.qvel[joint] for joint in joints}
    wanted |= {f"u_{joint}": value for joint, value in zip(joints, action, strict=True)}
    if domain == "walker":
        wanted |= {"height": theirs.physics.torso_height(), "upright": theirs.physics.torso_upright()}
        wanted["lean"] = held.xmat["torso", "xz"]
        limbs = [theirs.physics.model.id2name(b, "body") for b in range(torso + 1, theirs.physics.model.nbody)]
        wanted |= {f"{limb}_{k}": held.xmat[limb, f"x{axis}"] for limb in limbs for k, axis in (("cos", "x"), ("sin", "z"))}
    else:
        wanted |= {"rootz + 0.7": held.xpos["torso", "z"], "cos(pitch)": held.xmat["torso", "zz"], "pitch": held.qpos["rooty"]}
        wanted |= {joint: held.qpos[joint] for joint in joints}
    named = set(known) - {"obs", "action", "vel"}
    assert len(named) == len(obs) + len(action) and named - {"rootz"} <= set(wanted)
    assert {text: said(text) for text in wanted} == {text: pytest.approx(value, abs=1e-6) for text, value in wanted.items()}
    assert abs(motion[3]) > 1e-3 and said("max(vx, 0) - 0.1 * norm(action) ** 2") == pytest.approx(
        max(motion[3], 0) - 0.1 * (action**2).sum(), abs=1e-6
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", np.ones((5, 3))),
        ("exp(-norm(pos - [0.1, 0.1]) / 0.05)", np.exp(-np.hypot(X - 0.1, Y - 0.1) / 0.05)),
        ("x * vy - y * vx", X * VY - Y * VX),
        ("dot(pos, vel) + sum(action) - mean(obs)", X * VX + Y * VY + ACTION.sum(-1) - OBS.mean(-1)),
        ("norm(2 * pos) ** 2 - 4 * (x ** 2 + y ** 2)", np.zeros((5, 3))),
        ("pos[1] + 3 * obs[2]", Y + 3 * VX),
        ("x if x > 0 and not y < 0 else -1", np.where((X > 0) & (Y >= 0), X, -1)),
        ("-1 < x <= 0.5", ((-1 < X) & (X <= 0.5)) * 1.0),
        ("1 if x > 0.5 or y > 0.5 else 0", ((X > 0.5) | (Y > 0.5)) * 1.0),
        ("norm([x, 0] - [0, y])", np.hypot(X, Y)),
        ("clip(x, -0.5, 0.5) + min(y, 0) * max(abs(x), 1)", np.clip(X, -0.5, 0.5) + np.minimum(Y, 0) * np.maximum(abs(X), 1)),
        (
            "sqrt(abs(x)) + log(1 + y ** 2) + tanh(vx) * sin(vy) / cos(0)",
            np.sqrt(abs(X)) + np.log1p(Y**2) + np.tanh(VX) * np.sin(VY),
        ),
        ("x ** -2", X**-2.0),
    ],
)
def test_values(text, value):
    fn = parse(text, KNOWN)
    found = fn(np, OBS, ACTION)
    assert found.shape == (5, 3)
    np.testing.assert_allclose(found, value, atol=1e-12)
    compiled = jax.jit(lambda o, a: fn(jnp, o, a))(jnp.float32(OBS), jnp.float32(ACTION))
    np.testing.assert_allclose(compiled, value, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16])
def test_numbers_of_few_bits_are_widened(dtype):
    obs, action = np.array([[1, 200, 3, 0]], dtype), np.zeros((1, 2), np.float32)
    fn = parse("x - y - norm(obs) ** 2", KNOWN)
    for xp in (np, jnp):
        found = fn(xp, xp.asarray(obs), xp.asarray(action))
        np.testing.assert_allclose(found, [-199 - (1 + 200**2 + 9)], rtol=1e-6)


@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_is_no_warning():
    assert np.isnan(parse("(-1) ** 0.5", KNOWN)(np, OBS, ACTION)).all()
    assert np.isinf(parse("1 / (0 * x ** 2)", KNOWN)(np, OBS, ACTION)).all()


def test_one_observation_has_one_reward():
    for text in ("x", "1", "norm([x, 1]) if vel[0] > 0 else dot(pos, 2)", "sum(-action) <= x < 2 and not y"):
        each = [[parse(text, KNOWN)(np, o, a) for o, a in zip(*pair, strict=True)] for pair in zip(OBS, ACTION, strict=True)]
        np.testing.assert_array_equal(each, parse(text, KNOWN)(np, OBS, ACTION))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pos.__class__", "attributes are not allowed"),
        ("norm(pos).real", "attributes are not allowed"),
        ("(1).__class__.__bases__[0]", "only a vector has entries|attributes are not allowed"),
        ("__import__('os')", "no function '__import__' here"),
        ("eval('1')", "no function 'eval' here"),
        ("open", "no such quantity"),
        ("nrm(pos)", "Did you mean 'norm'"),
        ("norm", "norm is a function: call it"),
        ("velo", "no such quantity.*'vel'"),
        ("x ** 99", "a power is a number of at most 8"),
        ("9 ** x", "a power is a number of at most 8"),
        ("9**9**9", "a power is a number of at most 8"),
        ("1e300", "numbers of at most 1e"),
        ("'x'", "numbers of at most"),
        ("True", "numbers of at most"),
        ("1e999", "numbers of at most"),
        ("pos", "is a vector of 2; a reward is one number"),
        ("pos + [1, 2, 3]", "vectors of 2 and 3 do not go together"),
        ("norm(x)", "norm is of a vector"),
        ("norm(pos, pos)", "norm takes 1 argument"),
        ("norm(x=pos)", "norm takes 1 argument"),
        ("pos[2]", "the vector has 2 entries"),
        ("pos[x]", "by a whole number"),
        ("pos[True]", "by a whole number"),
        ("x[0]", "only a vector has entries"),
        ("[y for y in pos]", "not allowed in a reward"),
        ("lambda: 1", "functions of one's own"),
        ("(y := 3)", "not allowed"),
        ("x // 2", "operators are"),
        ("x == 1", "comparisons are"),
        ("[]", "a vector is a list of numbers"),
        ("x +", "no expression"),
        ("x; y", "no expression"),
        ("x" * 501, "at most 500 characters"),
        ("+".join(["x"] * 150), "more than 200 parts"),
        ("(" * 300 + "x" + ")" * 150, "no expression|parts"),
        ("\0", "no expression"),
    ],
)
def test_what_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parse(text, KNOWN)
