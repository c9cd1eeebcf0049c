"""One trainer per run folder."""

from __future__ import annotations

import errno
import fcntl
import os
import threading

import pytest

from rlx.train import run
from rlx.train.lock import held
from tests.train.toys import QUIET, toy


def in_a_thread(fn):
    """What ``fn`` raises in another thread, or None."""
    found = []

    def body():
        try:
            fn()
        except ValueError as error:
            found.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return found[0] if found else None


def test_who_holds_a_folder_enters_again_and_others_wait(tmp_path):
    def enter():
        with held(tmp_path):
            pass

    with held(tmp_path):
        enter()
        assert "somebody else trains" in str(in_a_thread(enter))
    assert in_a_thread(enter) is None


def test_two_runs_of_one_folder_from_python_are_refused(tmp_path):
    agent, problem = toy()
    refused = []

    def callback(line, state):
        refused.append(in_a_thread(lambda: run(agent, problem, 1, tmp_path, options=QUIET)))

    run(agent, problem, 0, tmp_path, options=QUIET, callback=callback)
    assert all("somebody else trains" in str(error) for error in refused) and refused


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_the_file_system_knows_no_locks_a_warning_says_so(number, tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="cannot be locked"), held(tmp_path):
        pass
