"""bounds=data: one scale for all that is read, whatever the layout, which actions that lead nowhere do not widen."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from rlx import replay
from rlx.replay import datasets
from tests.replay.test_readers import d4rl, exorl, minari, robomimic
from tests.replay.test_readers_demos import hdf5 as traces
from tests.replay.test_readers_demos import row, trial

RNG = np.random.default_rng(0)


def positive(steps, width, least):
    """In [least, least + 2]: neither 0, which stands at last rows, nor the range of another episode lies within."""
    return RNG.uniform(least, least + 2, (steps, width)).astype("f4")


def robohive(folder):
    one, two = (trial(n, actions=np.append(positive(n - 1, 7, low), np.full((1, 7), 99), 0)) for n, low in ((4, 2), (5, 3)))
    drop = lambda x: {k: v for k, v in x.items() if "visual" not in k}
    return traces(folder / "trace.h5", Trial0=drop(one), Trial1=drop(two))


def changed(path, names, low):
    with h5py.File(path, "a") as file:
        for i, name in enumerate(names):
            file[name][...] = positive(*file[name].shape, low + i)
    return path


def demos(folder):
    datasets.write_demos(folder / "demos.h5", [row(), row()])
    return changed(folder / "demos.h5", ["ep_00000/action", "ep_00001/action"], 2)


def several(folder):
    for i, name in enumerate("ab"):
        np.savez(folder / f"{name}.npz", **d4rl(actions=positive(9, 2, 2 + i)))
    return [folder / "b.npz", folder / "a.npz"]


def episodes(folder):
    (folder / "exorl").mkdir()
    for i in (0, 1):
        first = np.full((1, 3), 99, "f4")  # of an ExoRL file the first action led nowhere
        exorl(folder / "exorl" / f"episode_{i}_5.npz", i, action=np.append(first, positive(5, 3, 2 + i), 0))
    return folder / "exorl"


MADE = {
    "RoboHive": robohive,
    "robomimic": lambda folder: changed(
        robomimic(folder / "low_dim.hdf5", after=False), [f"data/demo_{i}/actions" for i in (0, 1, 10)], 2
    ),
    "demonstrations": demos,
    "Minari": lambda folder: changed(minari(folder / "main_data.hdf5"), ["episode_2/actions", "episode_10/actions"], 2),
    "ExoRL": episodes,
    "D4RL": several,
}
MORE = {"robomimic": {"dones": "truncated"}}


@pytest.mark.parametrize("layout", MADE)
def test_all_episodes_of_all_files_have_one_scale(layout, tmp_path):
    path, more = MADE[layout](tmp_path), MORE.get(layout, {})
    known = replay.load(path, bounds=(-8, 8), **more)
    last = np.roll(known.rows.first, -1)
    raw = 8 * known.rows.action.astype(float)  # what the files hold
    low, high = raw[~last].min(0), raw[~last].max(0)
    assert len(known) > 1 and known.format == layout and (low > 1.9).all() and (high < 6).all()
    found = replay.load(path, bounds="data", **more)
    np.testing.assert_allclose(found.rows.action[~last], 2 * (raw[~last] - low) / (high - low) - 1, atol=1e-5)
    assert not found.rows.action[last].any() and found.rows.action.dtype == np.float32
    each = [found[i].action[:-1, 0].min() for i in range(len(found))]
    assert min(each) == -1 and max(each) > -1  # an episode's own least is not that of all


def test_explicit_bounds_are_not_asked_of_what_stands_at_last_rows(tmp_path):
    path = MADE["Minari"](tmp_path)
    assert np.abs(replay.load(path, bounds=(2, 5)).rows.action).max() <= 1
    with pytest.raises(ValueError, match=r"episode_\d+: actions goes to .*bounds=LOW,HIGH"):
        replay.load(path)


def test_choices_and_components_that_never_move_stay(tmp_path):
    choices = datasets.from_d4rl(d4rl(actions=np.arange(9) % 3), bounds="data")
    assert choices.rows.action.dtype.kind == "i" and choices.rows.action.max() == 2
    still = datasets.from_d4rl(d4rl(actions=np.full((9, 1), 7.0)), bounds="data")
    assert not still.rows.action.any()
