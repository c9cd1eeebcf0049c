"""What other people's environments give is held to its form at one border, and what rlx gives them fits their spaces."""

from __future__ import annotations

import warnings
from dataclasses import replace

import jax
import numpy as np
import pytest

import rlx.envs
from rlx.envs import border
from rlx.envs.actions import Native, box
from rlx.envs.base import batch
from rlx.keys import HostKey
from rlx.types import HostEnv, Leaf, Spec, Step
from tests.envs import foreign

HERE = "gym:tests.envs.foreign:"
KEY = HostKey(np.array([[3, 4]], np.uint32), 2)


def play(env, action=0.5, steps=6, n=2):
    """Rows [T + 1, n] of one action."""
    vec = batch(env, n)
    state, step = vec.reset(env.params, KEY)
    rows = [step]
    for t in range(steps):
        state, step = vec.step(env.params, state, np.full((n, *env.spec.action.shape), action, np.float32), KEY.at(t + 1))
        rows.append(step)
    vec.close()
    return jax.tree.map(lambda *x: np.stack(x), *rows)


BROKEN = {
    "BareReset": r"its reset gave float32\[3\]; reset\(seed=..., options=...\) gives two things",
    "BareResetOfTwo": r"its reset gave float32\[2\]; reset\(seed=..., options=...\) gives two things",
    "Unseeded": "its reset raised TypeError: .*'seed'.*gives two things",
    "Four": "its step raised ValueError: not enough values to unpack .* step gives five things",
    "NoReward": "its step gave None as reward; it is one number",
    "TwoRewards": r"its step gave float64\[2\] as reward; it is one number",
    "NoInfo": r"its step gave 5 things \(float32\[3\], float, bool, bool, None\)",
    "WordEnd": "its step gave str as terminated; it is one truth value",
    "Wide": r"its reset gave an observation float32\[4\]; its space declares float32\[3\]",
    "Growing": r"its step gave an observation float32\[5\]; its space declares float32\[3\]",
    "Words": r"its reset gave an observation list; its space declares float32\[3\]",
    "Ragged": r"its reset gave an observation list; its space declares float32\[3\]",
    "Dim": r"its reset gave an observation float64\[2, 2, 3\]; its space declares uint8\[2, 2, 3\]",
    "Extra": r"an observation with the entries \['a', 'aa_debug', 'b'\]; its space declares \['a', 'b'\]",
    "Lacking": r"an observation with the entries \['a', 'z'\]; its space declares \['a', 'b'\]",
    "EmptySight": r"observations of the kind Box float32\[0\]; rlx takes a Box that is not empty",
    "EmptyAction": r"actions float32\[0\], which are no numbers at all",
    "Raises": "its step raised RuntimeError: the simulator has lost its server",
    "needs_physics": "cannot be made: DependencyNotInstalled: physics is not installed.* Install what it names",
    "moved_away": "cannot be made: ImportError: this version has moved to another project. Install what it names",
    "Needy": "cannot be made: TypeError: .*'path'.*--env-option option=value",
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_form_is_one_message_that_names_the_environment(name):
    with pytest.raises(ValueError, match=BROKEN[name]) as caught:
        play(rlx.envs.make(f"{HERE}{name}-v0"))
    assert f"{HERE}{name}-v0" in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("vectorize", ["sync", "async"])
def test_vector_environments_come_in_by_the_same_border(vectorize):
    """Made in one piece by Gymnasium, so that only the batches come to rlx."""
    vec = rlx.envs.make(f"{HERE}Plain-v0", vectorize=vectorize).make(2, "reset")
    state, _ = vec.reset(None, KEY)
    plain = vec._envs.step
    for change, message in (
        (lambda out: out[:4], "its step gave 4 things"),
        (lambda out: (out[0], None, *out[2:]), "its step gave None as reward; it is one number a stream"),
        (lambda out: (out[0], out[1][:1], *out[2:]), r"its step gave float64\[1\] as reward"),
        (lambda out: (out[0][:, :2], *out[1:]), r"an observation float32\[2, 2\]; its space declares float32\[2, 3\]"),
    ):
        vec._envs.step = lambda action, change=change: change(plain(action))
        with pytest.raises(ValueError, match=message):
            vec.step(None, state, np.zeros((2, 2), np.float32), KEY)
    vec.close()


def test_unusual_forms_that_say_what_they_mean_are_taken():
    rows = play(rlx.envs.make(f"{HERE}ArrayReward-v0"))
    assert rows.reward[:6, 0].tolist() == [0, 0.5, 0.5, 0.5, 0.5, 0] and rows.terminated[4].all()
    assert len(play(rlx.envs.make(f"{HERE}OddSeed-v0")).reward) == 7


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("obs", np.zeros((2, 3)), r"obs as float64\[2, 3\]; its Spec promises float32\[2, 3\]"),
        ("obs", np.zeros((2, 4), np.float32), r"obs as float32\[2, 4\]"),
        ("reward", [0.0, 0.0], r"reward as list; its Spec promises float32\[2\]"),
        ("truncated", np.zeros(2, int), r"truncated as int64\[2\]; its Spec promises bool\[2\]"),
        ("info", {"cost": np.zeros(2, np.float32)}, r"info as \{cost: float32\[2\]\}; its Spec promises \{\}"),
    ],
)
def test_a_registered_host_environment_is_held_to_its_spec(field, value, message):
    good = rlx.envs.wrappers.on_host(rlx.envs.make("rlx:pendulum", time_limit=5))

    class Bad(type(good.make(1, "reset"))):
        def step(self, *args):
            state, step = super().step(*args)
            return state, step._replace(**{field: value})

    rlx.envs.register("border:bad", lambda: replace(good, make=lambda n, ends: Bad(good.make(n, ends).env, n, ends)))
    with pytest.raises(ValueError, match=rf"^border:bad: its step gave {message}"):
        play(rlx.envs.make("border:bad"))
    wanted = border.Steps("mine", good.spec, 2)
    with pytest.raises(
        ValueError, match=r"^mine: its reset gave 2 things \(None, None\); it gives a state and an rlx.types.Step"
    ):
        wanted("reset", (None, None))


def test_what_a_registered_maker_raises_names_the_environment():
    def make():
        raise ImportError("no module named fluid")

    rlx.envs.register("border:none", make)
    with pytest.raises(ValueError, match="^border:none cannot be made: ImportError: no module named fluid. Install"):
        rlx.envs.make("border:none")


# ------------------------------------------------------------------------------------------------------------------ actions


@pytest.mark.parametrize("how", [{}, {"vectorize": "sync"}])
@pytest.mark.parametrize("name", ["Hundredths", "Wider", "Widest", "Bytes", "Levels"])
def test_the_ends_of_the_range_arrive_exactly(name, how):
    """`foreign.Plain` asserts that its box contains what arrives, dtype included."""
    low, high, *_ = foreign.BOXES[name]
    env = rlx.envs.make(f"{HERE}{name}-v0", **how)
    for action, native in ((1.0, high), (5.0, high), (-1.0, low), (-5.0, low)):
        assert (play(env, action, 1, 1).obs[1, 0, :2] == np.float32(native)).all()


def test_all_bounds_of_two_decimals_are_kept():
    """By float32 arithmetic, 18% of them are left."""
    cents = np.arange(-200, 201) / 100
    low, high = (x.ravel().astype(np.float32) for x in np.meshgrid(cents, cents, indexing="ij"))
    keep = low < high
    spec = Spec(Leaf(), *(lambda a, b: (a, {}, None, 1))(*box("x", (keep.sum(),), np.float32, low[keep], high[keep])))
    spec = replace(spec, native_action=Leaf((keep.sum(),), np.float32, low[keep], high[keep]))
    native = Native.of(spec)
    for a, wanted in ((1, high[keep]), (-1, low[keep])):
        np.testing.assert_array_equal(native(np.full(keep.sum(), a, np.float32)), wanted)
    drawn = np.random.default_rng(0).uniform(-1, 1, (20, keep.sum())).astype(np.float32)
    out = native(drawn)
    assert out.dtype == np.float32 and (out >= low[keep]).all() and (out <= high[keep]).all()
    np.testing.assert_allclose(out, (low[keep] + (drawn + 1.0) / 2 * (high[keep] - low[keep])), atol=3e-7)
    traced = np.asarray(jax.jit(native.traced)(drawn))
    assert (traced >= low[keep]).all() and (traced <= high[keep]).all() and np.abs(traced - out).max() < 3e-7


def test_bounds_of_float64_are_rounded_inwards_for_float32():
    leaf = Leaf((2,), np.float64, np.array([-0.1, -0.3]), np.array([0.1, 0.7]))
    low, high = Native.of(Spec(Leaf(), Leaf((2,), low=-1, high=1), native_action=leaf)).within(np.float32)
    assert low.dtype == np.float32 and (low >= leaf.low).all() and (high <= leaf.high).all()
    np.testing.assert_allclose([low, high], [leaf.low, leaf.high], rtol=2e-7)


def test_whole_numbers_are_rounded_to_the_nearest():
    levels = Leaf((5,), np.int64, 0, 4)
    native = Native.of(Spec(Leaf(), Leaf((5,), low=-1, high=1), native_action=levels))
    given = native(np.array([-1, -0.76, -0.74, 0.3, 0.9], np.float32))
    assert given.dtype == np.int64 and given.tolist() == [0, 0, 1, 3, 4]


@pytest.mark.parametrize("name", ["Largest", "Endless", "HalfOpen", "Double"])
def test_actions_without_bounds_are_refused_and_bounds_may_be_given(name):
    with pytest.raises(ValueError, match=rf"^{HERE}{name}-v0 has actions .* without real bounds .*action_bounds=\(low, high\)"):
        rlx.envs.make(f"{HERE}{name}-v0")
    if name != "HalfOpen":
        env = rlx.envs.make(f"{HERE}{name}-v0", action_bounds=[-3, [3, 5]])
        assert play(env, 1.0, 1, 1).obs[1, 0, :2].tolist() == [3, 5]


@pytest.mark.parametrize(
    ("low", "high", "dtype", "message"),
    [
        (1, -1, np.float32, "with a lower bound above the upper one"),
        (np.nan, 1, np.float32, "without real bounds"),
        (-(2**62), 2**62, np.int64, "without real bounds"),
        ([0, 0, 0], 1, np.float32, "of another kind or shape"),
    ],
)
def test_boxes_that_make_no_sense_are_refused(low, high, dtype, message):
    with pytest.raises(ValueError, match=f"^mine has actions .*{message}"):
        box("mine", (2,), dtype, low, high)


def test_dm_control_tasks_without_limits_and_bounds():
    """dm_control's LQR has neither."""
    pytest.importorskip("dm_control")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"^dmc:lqr-lqr_2_1 has actions float64\[1\] without real bounds"):
            rlx.envs.make("dmc:lqr-lqr_2_1")
        env = rlx.envs.make("dmc:lqr-lqr_2_1", action_bounds=(-2, 2))
        assert env.spec.horizon is None and isinstance(env, HostEnv)
        rows = play(env, 0.5, 4)
        assert not rows.last.any() and rows.obs.shape == (5, 2, 4)
        assert play(rlx.envs.make("dmc:lqr-lqr_2_1", action_bounds=(-2, 2), time_limit=3), 0.5, 4).truncated[3].all()


# ---------------------------------------------------------------------------------------------------------------- successes


def test_a_success_that_is_told_at_the_end_only_is_counted():
    env = rlx.envs.make(f"{HERE}LateSuccess-v0")
    rows = play(env, steps=foreign.LENGTH + 1)
    assert env.spec.info["is_success"].reduce == "any"
    assert rows.info["is_success"][:, 0].tolist() == [0] * foreign.LENGTH + [1, 0]


def test_a_success_that_is_none_at_first_and_an_array_later_is_counted():
    rows = play(rlx.envs.make(f"{HERE}UnsureSuccess-v0"), steps=foreign.LENGTH)
    assert rows.info["success"][:, 0].tolist() == [0] * (foreign.LENGTH - 1) + [1, 1]


def test_flags_that_no_step_has_shown_yet_may_be_declared():
    env = rlx.envs.make(f"{HERE}LateSuccess-v0", info_keys={"solved": "any"})
    assert env.spec.info == {"is_success": Leaf((), reduce="any"), "solved": Leaf((), reduce="any")}
    with pytest.raises(ValueError, match="asks for 'solved'.* with the reduction \"any\""):
        rlx.envs.make(f"{HERE}LateSuccess-v0", info_keys={"solved": "max"})
    assert rlx.envs.make(f"{HERE}LateSuccess-v0", info_keys={}).spec.info == {}


# ------------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("workers", [None, pytest.param(1, marks=pytest.mark.slow)])
def test_an_environment_that_does_not_repeat_says_so_when_loaded(workers):
    for name, same in (("Plain", True), ("Restless", False)):
        vec = rlx.envs.make(f"{HERE}{name}-v0", **({"workers": workers} if workers else {})).make(2, "reset")
        state, _ = vec.reset(None, KEY)
        state, step = vec.step(None, state, np.full((2, 2), 0.25, np.float32), KEY.at(1))
        saved = vec.save(state)
        if same:
            again = vec.step(None, vec.load(saved), np.zeros((2, 2), np.float32), KEY.at(2))[1]
            assert again.obs[:, 2].tolist() == [2, 2]
        else:
            with pytest.raises(border.NotRepeated, match="an episode, played again, did not come to where it was"):
                vec.load(saved)
        vec.close()


def test_a_leaf_is_written_in_one_short_line():
    image = Leaf((64, 64, 3), np.uint8, np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8))
    assert repr(image) == "Leaf(uint8[64, 64, 3], 0 to 255, by 'last')"
    assert repr(Leaf()) == "Leaf(float32[], -inf to inf, by 'last')"
    assert isinstance(play(rlx.envs.make(f"{HERE}Plain-v0")), Step)
