"""`rlx data gen-pref`: both recipes, and what transport makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from rlx import replay
from rlx.cli import main
from rlx.preferences import pairs, stand_ins

from .test_commands import result_of


def test_paths_are_moved_and_pay_what_they_are_worth():
    source, target = stand_ins.toy(8, 5, 3)
    again = stand_ins.toy(8, 5, 3)[1]
    assert all((a["obs"] == b["obs"]).all() for a, b in zip(target, again, strict=True))
    found = pairs.episodes(replay.from_episodes(source))
    assert found.steps.tolist() == [5] * 8 and np.ptp(found.returns) > 0
    np.testing.assert_allclose(np.mean([x["obs"][0] for x in target], 0), stand_ins.SHIFT, atol=1.0)


def test_pushes_go_along_their_axis():
    source, target = (pairs.episodes(replay.from_episodes(x)) for x in stand_ins.point_mass(10, 30, 0))
    for axis, found in enumerate((source, target)):
        last = found.obs[found.begin + found.steps]
        pushed = np.arange(10) % 5 < 2  # much more push than noise
        assert last[pushed, axis].min() > 0.1 > abs(last[pushed, 1 - axis]).max()
        moved = np.diff(found.obs[:31, axis])  # semi-implicit: the new velocity times 0.02 s
        np.testing.assert_allclose(moved, 0.02 * found.reward[1:31], atol=1e-5)
        assert found.returns[pushed].mean() > found.returns[4::5].mean()


@pytest.mark.parametrize("recipe", stand_ins.RECIPES)
def test_labels_move_from_one_to_the_other(recipe, tmp_path, capsys):
    out = tmp_path / "pair"
    command = ["data", "gen-pref", "--recipe", recipe, "--steps", "20", "--episodes", "24", "-o", str(out)]
    assert main([*command, "--flips", "0.1"]) == 0
    told = result_of(capsys.readouterr().out)
    assert told["pairs"] == 276 and 10 < told["turned"] < 50
    given = [f"--{name}={out}/{name}.npz" for name in ("source", "target")]
    more = ["--source-labels", str(out / "labels.npz"), "--out", str(tmp_path / "labels.npz"), "--features", "flat_s"]
    assert main(["pref", "transfer", *given, *more]) == 0
    assert result_of(capsys.readouterr().out)["accuracy"] > 0.6
    assert main(command) == 2 and "is there already" in capsys.readouterr().err
