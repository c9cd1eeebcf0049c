"""What a run leaves for people, from numbers made up here."""

from __future__ import annotations

import io
import json

import numpy as np
from PIL import Image

from rlx.agents.repo import report


def test_how_well_something_can_be_read_is_measured_on_other_streams():
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 5.0, (200, 6, 4))
    y = x @ rng.normal(size=(4, 2)) + 1.0
    assert report.readable(x, y) > 0.999
    assert report.readable(x, rng.normal(size=(200, 6, 2))) < 0.02
    half = y + y.std((0, 1)) * rng.normal(size=y.shape)
    assert 0.4 < report.readable(x, half) < 0.6
    assert report.readable(x, np.ones((200, 6, 1))) is None


def test_the_constraint_is_drawn_of_one_run_and_of_a_population(tmp_path):
    """A population's metrics are lists; of one whose member has diverged they have holes."""
    assert report.history(tmp_path) == {}
    names = ("dual/beta", "model/kl", "dual/active")
    alone = [{"kind": "train", "updates": 20 * i, **{k: 0.1 * i for k in names}} for i in (1, 2)]
    several = [{**line, "dual/beta": [0.3, None], "model/kl": [1.0, None], "dual/active": [1.0, None]} for line in alone]
    for lines, shape in ((alone, (2, 1)), (several, (2, 2))):
        text = [json.dumps(x) for x in ({"kind": "eval", "updates": 0}, {"kind": "train", "updates": 0}, *lines)]
        (tmp_path / "metrics.jsonl").write_text("\n".join(text))
        found = report.history(tmp_path)
        assert set(found) == {"updates", "beta", "kl", "active"} and {x.shape for x in found.values()} == {shape}
        np.testing.assert_array_equal(found["updates"][:, 0], [20, 40])
        np.testing.assert_allclose(found["beta"][:, 0], [line["dual/beta"] if shape[1] == 1 else 0.3 for line in lines])
        with Image.open(io.BytesIO(report.drawn(found, 1.6))) as picture:
            assert picture.format == "PNG"
