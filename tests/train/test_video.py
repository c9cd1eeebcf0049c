"""Films as files: what was drawn can be read back."""

from __future__ import annotations

import imageio.v3 as imageio
import numpy as np
import pytest

from rlx.train import video


@pytest.mark.parametrize(("suffix", "plugin"), [(".mp4", "FFMPEG"), (".gif", "pillow")])
def test_a_film_shows_what_was_drawn(suffix, plugin, tmp_path, monkeypatch):
    """As MP4, and as GIF where there is no ffmpeg. Sides are odd; a bar moves to the right."""
    if suffix == ".gif":
        monkeypatch.setattr(video, "ffmpeg", lambda: None)
    drawn = np.zeros((6, 33, 65, 3), np.uint8)
    for k, picture in enumerate(drawn):
        picture[:, 10 * k : 10 * k + 10] = (200, 100, 0)
    path = video.write(tmp_path / "film", list(drawn), fps=10)
    assert path.suffix == suffix and [p.name for p in tmp_path.iterdir()] == [path.name]
    film = np.stack([np.asarray(x)[:33, :65, :3] for x in imageio.imiter(path, plugin=plugin)]).astype(int)
    assert film.shape == drawn.shape
    for k in range(6):  # compression blurs the edges
        np.testing.assert_allclose(film[k][4:28, 10 * k + 3 : 10 * k + 7].mean((0, 1)), (200, 100, 0), atol=12)
        assert film[k][4:28, 10 * (k + 1) % 60 + 3].mean() < 25


def test_what_ffmpeg_refuses_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "ffmpeg", lambda: "false")  # a program that always fails
    with pytest.raises(OSError, match="ffmpeg could not write"):
        video.write(tmp_path / "film", [np.zeros((8, 8, 3), np.uint8)])
    assert not list(tmp_path.iterdir())
