"""Files: whole or not at all, leftovers, JSON as people write it, words for errors."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from rlx import files


def test_a_write_is_whole_or_not_at_all_and_takes_leftovers_along(tmp_path):
    path = tmp_path / "a.json"
    files.write_text(path, "old")
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    ).stdout.strip()
    left = tmp_path / f".a.{files._machine()}-{gone}.part.json"
    old, new = tmp_path / ".a.elsewhere-7.part.json", tmp_path / ".a.elsewhere-8.part.json"
    other = tmp_path / ".a.part"
    for file in (left, old, new, other):
        file.write_text("half")
    os.utime(old, (0, 0))
    with pytest.raises(KeyError), files.replacing(path) as part:
        part.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    files.write_text(path, "new")
    assert path.read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, new.name, other.name])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_in_the_encodings_of_editors(tmp_path, encoding):
    (tmp_path / "a.json").write_bytes(json.dumps({"name": "\u00fc"}, ensure_ascii=False).encode(encoding))
    assert files.read_json(tmp_path / "a.json") == {"name": "\u00fc"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[]", "is to hold a JSON object, it holds list"),
        (b"null", "holds NoneType"),
        (b"{", "cannot be read: Expecting"),
        (b"\xff\xff", "cannot be read"),
        (b'{"a": "\xff"}', "cannot be read"),
        (b"", "cannot be read"),
        (b"[" * 100_000, "nested without end"),
        (b'{"a": %s}' % (b"9" * 5_000), "cannot be read"),
        (None, "does not exist"),
    ],
)
def test_json_that_is_none_is_refused_by_file(tmp_path, data, message):
    path = tmp_path / "a.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.json .*{message}"):
        files.read_json(path)
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        files.read_json(tmp_path)


def test_what_was_read_from_files_counts_as_free_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 450\nfile 420\nshmem 20\ninactive_file 300\nactive_file 100\n")
    assert files.free_memory() == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert (files.free_memory() or 10**9) > 1000


def test_errors_of_the_system_are_told_apart(tmp_path, monkeypatch):
    said = lambda number: " ".join(files.what_and_remedy(OSError(number, os.strerror(number)), tmp_path))
    assert "disk is full" in said(errno.ENOSPC) and "ulimit -n" in said(errno.EMFILE) and "quota" in said(errno.EDQUOT)
    assert "Read-only file system" in said(errno.EROFS) and "yours to write" in said(errno.EROFS)
    full = os.statvfs_result((4096, 4096, 100, 50, 50, 10, 0, 0, 0, 255))  # 50 blocks free, no inode
    monkeypatch.setattr(os, "statvfs", lambda place: full)
    assert "inodes" in said(errno.ENOSPC)
