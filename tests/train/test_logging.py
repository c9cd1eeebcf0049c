"""What a run says of itself."""

from __future__ import annotations

import json
import re
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from rlx.train import logging
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


EVAL = {"kind": "eval", "eval": "main", "env_steps": 10, "updates": 1, "wall_s": 1.0, "return_mean": -1.0, "returns": [-1.0]}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"5", "no object with a kind"),
        (b"null", "no object with a kind"),
        (b"{}", "no object with a kind"),
        (b'{"kind": "train"}', "no time"),
        (b'{"kind": "train", "wall_s": "later"}', "no time"),
        (b"[" * 100_000, "no JSON"),
        (b'{"kind": "train", "wall_s": 1.0, "note": "\xff"}', "no JSON"),
        (b'{"kind": "eval", "wall_s": 1}', "no evaluation"),
        (json.dumps({**EVAL, "returns": "many"}).encode(), "no evaluation"),
        (json.dumps({**EVAL, "return_mean": {"x": 1}}).encode(), "no evaluation"),
        (json.dumps({**EVAL, "updates": [1, 1]}).encode(), "no evaluation"),
        (json.dumps({**EVAL, "env_steps": [1, 1], "updates": [1, 1], "return_mean": [1, 1]}).encode(), "other members"),
    ],
)
def test_a_line_that_is_none_is_left_out_and_said(tmp_path, text, fault):
    good = json.dumps(EVAL).encode()
    (tmp_path / "metrics.jsonl").write_bytes(good + b"\n" + text + b"\n" + good + b'\n{"kind": "ev')
    with pytest.warns(UserWarning, match=rf"metrics.jsonl: left out.* 2 \({fault}"):
        assert logging.read(tmp_path) == [EVAL, EVAL]


def test_a_half_written_last_line_is_left_out_without_a_word(tmp_path, recwarn):
    (tmp_path / "metrics.jsonl").write_bytes(json.dumps(EVAL).encode() + b'\n{"kind": "ev')
    assert logging.read(tmp_path) == [EVAL] and not recwarn
    with pytest.raises(ValueError, match="metrics.jsonl cannot be read: No such file"):
        logging.read(tmp_path / "nowhere")


def test_a_byte_that_is_no_text_stops_no_run(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"a": 1}\n\xff\xfe\n{"b": 2}\n{"half')
    logger = Logger(tmp_path)
    logger.truncate(3)
    logger.write("train", LINE)
    logger.close()
    kept = (tmp_path / "metrics.jsonl").read_bytes().split(b"\n")
    assert kept[:3] == [b'{"a": 1}', b"\xff\xfe", b'{"b": 2}'] and json.loads(kept[3])["kind"] == "train"


def test_each_run_has_an_id_of_its_own_at_wandb(tmp_path, monkeypatch):
    ids = []
    run = SimpleNamespace(log=lambda values: None, finish=lambda: None)
    stub = SimpleNamespace(init=lambda **given: ids.append(given["id"]) or run)
    monkeypatch.setitem(sys.modules, "wandb", stub)
    folders = [tmp_path / name for name in ("a/rlx-pendulum/seed0", "b/rlx-pendulum/seed0", "odd/na:me#?%/seed0")]
    for folder in folders:
        folder.mkdir(parents=True)
        Logger(folder, wandb="p").close()
    assert len(set(ids)) == 3 and all(re.fullmatch("[0-9a-f]{16}", i) for i in ids)
    moved = folders[0].rename(tmp_path / "moved")
    Logger(moved, wandb="p").close()
    (folders[1] / "wandb-id").write_bytes(b"\xff/../")
    Logger(folders[1], wandb="p").close()
    assert ids[3] == ids[0] and len(set(ids)) == 4


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
