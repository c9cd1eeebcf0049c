"""What a run says of itself."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from rlx.train.logging import Logger

LINE = {
    "stage": "learn",
    "cycle": 3,
    "env_steps": np.array([40, 40]),
    "updates": np.array([7, 7]),
    "critic/loss": np.array([0.5, np.nan]),
}


def test_lines_are_json_also_where_numbers_are_not_finite(tmp_path):
    logger = Logger(tmp_path)
    logger.write("train", LINE)
    logger.write("eval", {**LINE, "returns": np.ones((2, 3))})
    logger.close()
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["kind"] == "train" and lines[0]["critic/loss"] == [0.5, "nan"] and lines[1]["returns"] == [[1.0] * 3] * 2
    again = Logger(tmp_path)
    again.truncate(1)
    again.write("train", LINE)
    again.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def records(data):
    """The payloads of a TensorBoard event file: length, its checksum, payload, its checksum."""
    while data:
        size = struct.unpack("<Q", data[:8])[0]
        yield data[12 : 12 + size]
        data = data[16 + size :]


def test_tensorboard_gets_each_member(tmp_path):
    pytest.importorskip("tensorboardX")
    logger = Logger(tmp_path, tensorboard=True)
    logger.write("train", LINE)
    logger.write("train", {**LINE, "critic/loss": np.float32(0.25), "env_steps": 40, "updates": 7})
    logger.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    text = list(records(file.read_bytes()))
    assert any(b"train/critic/loss/0" in r for r in text) and any(r.count(b"train/critic/loss") == 1 for r in text)


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = Logger(tmp_path, wandb="rlx-test")
    logger.write("train", LINE)
    logger.close()
    assert list(tmp_path.glob("wandb/offline-run-*"))


def test_sinks_need_a_folder():
    with pytest.raises(ValueError, match="give run_dir"):
        Logger(None, tensorboard=True)
