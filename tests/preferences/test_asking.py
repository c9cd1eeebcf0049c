"""Questions to a person: what is asked, what the file holds after each answer, the page over HTTP, clips, killed servers."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rlx.envs
from rlx import replay
from rlx.preferences import asking, pairs
from rlx.preferences.asking import ANSWERS, Asking
from rlx.preferences.clips import film_of
from rlx.preferences.page import Page, serve
from rlx.replay import datasets
from tests.preferences.browser import Browser

ROOT = Path(__file__).resolve().parents[2]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def rows(lengths=(6, 8, 5), images=False, info=None, channels=6):
    rng = np.random.default_rng(0)
    shape = (8, 10, channels) if images else (3,)
    draw = lambda n: rng.integers(0, 255, (n, *shape)).astype(np.uint8) if images else rng.normal(size=(n, *shape))
    one = lambda n: {
        "obs": draw(n + 1),
        "action": rng.uniform(-1, 1, (n + 1, 2)),
        "reward": np.zeros(n + 1),
        "terminated": np.zeros(n + 1, bool),
    }
    return [one(n) | ({"info": {"physics": info(n + 1)}} if info else {}) for n in lengths]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("asked") / "data.npz"
    datasets.write(path, replay.export(replay.from_episodes(rows())))
    return path


# ------------------------------------------------------------------------------------------------------------- the answers


def test_questions_are_pieces_of_two_episodes():
    lengths = np.array([6, 8, 5, 30])
    asked = asking.questions(lengths, 100, 4, np.random.default_rng(0))
    assert asked.label.shape == (100,) and (asked.steps == 4).all()
    pairs.inside(asked, lengths)
    assert (asked.weight == 0).all() and asked.start.max() > 4
    whole = asking.questions(lengths, 3, None, np.random.default_rng(0))
    assert len(whole.label) == 3 and (whole.start == 0).all() and (whole.steps == lengths[whole.episode].min(0)).all()
    with pytest.raises(ValueError, match="the data hold 1"):
        asking.questions(lengths[:1], 3, None, np.random.default_rng(0))


def every_pair(lengths, steps):
    """What may be asked, counted one by one."""
    size = np.minimum(lengths, steps)
    found = [(e, s) for e, n in enumerate(lengths) for s in range(n - size[e] + 1) if n]
    apart = lambda x, y: x[0] != y[0] or abs(x[1] - y[1]) >= steps
    return {(x, y) for i, x in enumerate(found) for y in found[i + 1 :] if apart(x, y)}


@pytest.mark.parametrize("lengths", [(6, 8, 5, 3, 0), (11,), (2, 3), (4, 4, 9)])
def test_all_pairs_of_pieces_are_asked_once_where_so_many_are_wanted(lengths):
    lengths = np.array(lengths)
    asked = asking.questions(lengths, 10_000, 4, np.random.default_rng(0))
    pairs.inside(asked, lengths)
    places = [tuple(sorted(map(tuple, x))) for x in np.stack([asked.episode, asked.start], -1).swapaxes(0, 1).tolist()]
    assert len(places) == len(set(places)) and set(places) == every_pair(lengths, 4)
    assert (asked.steps == np.minimum(4, lengths[asked.episode].min(0))).all()


@pytest.mark.parametrize("lengths", [(400,) * 3, (400,), (40,), (100_000,) * 20])
def test_as_many_pairs_of_pieces_are_drawn_as_are_wanted(lengths):
    lengths = np.array(lengths)
    asked, again = (asking.questions(lengths, 100, 20, np.random.default_rng(1)) for _ in range(2))
    assert len(asked.label) == (1 if lengths.max() == 40 else 100)
    assert all((x == y).all() for x, y in zip(asked, again, strict=True))
    same = asked.episode[0] == asked.episode[1]
    assert (np.abs(asked.start[0] - asked.start[1]) >= 20)[same].all()
    if len(lengths) > 1:
        assert 0 < same.mean() < 0.6 and 0.3 < (asked.episode[0] < asked.episode[1])[~same].mean() < 0.7
    with pytest.raises(ValueError, match="no two pieces of 20 steps that do not overlap"):
        asking.questions(np.array([39]), 100, 20, np.random.default_rng(0))


def test_each_answer_is_in_the_file_at_once(tmp_path):
    out = tmp_path / "labels.npz"
    asked = pairs.preferences([[0, 1, 0, 2], [1, 2, 1, 0]], np.full(4, 0.5), 3, start=1, weight=0)
    one = Asking(asked, out)
    assert len(one) == 3  # the first is there twice
    for i, what in enumerate(("right", "unsure", "tie")):
        one.answer(i, what)
        told = pairs.read(out)
        assert (told.label[-1], told.weight[-1]) == ANSWERS[what] and len(told.label) == i + 1
        assert Asking(asked, out).current() == (i + 1 if i < 2 else None)  # another start goes on there
    assert told.episode.tolist() == [[0, 1, 2], [1, 2, 0]] and told.start.tolist() == [[1] * 3] * 2
    assert set(told.source) == {pairs.SOURCES.index("human")}
    other = Asking(asked, out, annotator=7)  # somebody else is asked all of it, and cannot take back what is not theirs
    with pytest.raises(ValueError, match="no answer to take back"):
        other.undo()
    other.answer(0, "left")
    assert pairs.read(out).annotator.tolist() == [0, 0, 0, 7] and one.current() is None
    other.undo()
    other.answer(0, "left")  # it stays while the first one's are taken back
    again = Asking(asked, out)
    for left in (2, 1, 0):
        again.undo()
        assert again.current() == left and pairs.read(out).annotator.tolist() == [0] * left + [7]
    other.undo()
    assert not out.exists()
    with pytest.raises(ValueError, match="no answer to take back"):
        again.undo()
    for question, what, words in ((1, "left", "not the one that is asked now"), (0, "best", "'best' is no answer")):
        with pytest.raises(ValueError, match=words):
            again.answer(question, what)
    assert not out.exists()


def answer_all(asked, out, annotator):
    one = Asking(asked, out, annotator)
    while (now := one.current()) is not None:
        one.answer(now, "left")
        if now == 3:
            one.answer(one.current(), "tie")
            one.undo()


def test_two_who_answer_at_once_lose_nothing(tmp_path):
    out, asked = tmp_path / "labels.npz", asking.questions(np.array([60, 60]), 20, 3, np.random.default_rng(0))
    with ThreadPoolExecutor(2) as pool:  # each opens the lock anew, as another process does
        list(pool.map(answer_all, [asked] * 2, [out] * 2, (0, 1)))
    assert np.bincount(pairs.read(out).annotator).tolist() == [20, 20]


def test_where_the_file_system_knows_no_locks_answers_are_taken_all_the_same(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    one = Asking(asking.questions(np.array([6, 8]), 2, 3, np.random.default_rng(0)), tmp_path / "labels.npz")
    with pytest.warns(UserWarning, match="cannot be locked"):
        one.answer(0, "left")
    assert one.current() == 1


# --------------------------------------------------------------------------------------------------------------- the clips


def opened(clip):
    return np.asarray(Image.open(io.BytesIO(clip.strip)))


def test_clips_are_the_rows_of_a_piece():
    data = replay.export(replay.from_episodes(rows((4, 150), images=True)))
    data = datasets.Dataset(*_joined(data))
    kind, film = film_of(data)
    clip = film(0, 1, 2)
    assert kind == "images" and clip.pictures == 3
    np.testing.assert_array_equal(opened(clip).reshape(3, 8, 10, 3), data.rows.obs[1:4, ..., 3:])  # the newest of a stack
    long = film(1, 10, 140)
    assert long.pictures == 47  # every third of 141
    np.testing.assert_array_equal(opened(long).reshape(47, 8, 10, 3)[46], data.rows.obs[5 + 10 + 138, ..., 3:])


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_grey_images_are_shown_by_their_newest(channels):
    data = datasets.Dataset(*_joined(replay.export(replay.from_episodes(rows((4,), images=True, channels=channels)))))
    kind, film = film_of(data)
    assert kind == "images"
    seen = opened(film(0, 1, 2)).reshape(3, 8, 10, 3)
    np.testing.assert_array_equal(seen, np.stack([data.rows.obs[1:4, ..., -1]] * 3, -1))


def _joined(episodes):
    import jax

    joined = jax.tree.map(lambda *xs: np.concatenate(xs), *episodes)
    return joined, np.cumsum([0, *(len(e.reward) for e in episodes)])


def test_stored_physics_is_drawn():
    import jax

    from rlx.envs.stills import still_of

    env = rlx.envs.make("rlx:pendulum", physics=True)
    state, step = env.reset(env.params, jax.random.key(0))
    draw = still_of("rlx:pendulum")
    np.testing.assert_array_equal(draw(np.asarray(step.info["physics"])), env.render(env.params, state))
    data = datasets.Dataset(*_joined(replay.export(replay.from_episodes(rows((3, 3), info=lambda n: np.zeros((n, 2)))))))
    kind, film = film_of(data, draw)
    assert kind == "physics" and opened(film(1, 0, 3)).shape == (4 * 256, 256, 3)
    assert film_of(data)[0] == "traces"
    jumping, fallen = (still_of("gym:Hopper-v5")(np.r_[0, height, np.zeros(10)]) for height in (1.5, 0.5))
    assert jumping.shape == (256, 256, 3) and (jumping != fallen).any()
    how = {
        "repeat": 2,
        "time_limit": 9,
        "info_keys": {"x_position": "last"},
        "workers": 2,
    }  # rlx's own
    np.testing.assert_array_equal(still_of("gym:Hopper-v5", **how)(np.r_[0, 0.5, np.zeros(10)]), fallen)
    with pytest.raises(ValueError, match="physics of 2 numbers"):
        draw(np.zeros(5))
    with pytest.raises(ValueError, match="cannot be drawn from stored physics"):
        still_of("brax:ant")


def test_a_goal_that_is_stored_behind_the_physics_is_drawn():
    from rlx.envs.stills import still_of

    draw = still_of("dmc:reacher-easy")
    near, far = (draw(np.r_[np.zeros(4), place, 0.0]) for place in (0.05, 0.15))
    assert (near != far).any()
    with pytest.raises(ValueError, match=r"physics of 6 numbers, these have the shape \[4\]"):
        draw(np.zeros(4))


def test_numbers_are_drawn_where_there_is_nothing_to_see():
    data = datasets.Dataset(*_joined(replay.export(replay.from_episodes(rows()))))
    kind, film = film_of(data)
    clips = [film(e, 1, 4) for e in (0, 1)]
    assert kind == "traces" and all(c.pictures == 1 for c in clips)
    assert opened(clips[0]).shape == opened(clips[1]).shape and (opened(clips[0]) != opened(clips[1])).any()


# ---------------------------------------------------------------------------------------------------------------- the page


def fetch(url, body=None, **headers):
    """(status, headers, bytes)."""
    sent = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, sent, headers), timeout=30) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def told(url, body=None):
    code, _, got = fetch(url, body)
    assert code == 200, got
    return json.loads(got)


@contextlib.contextmanager
def labelling(data, out, *more, kill=False):
    """The command as a person starts it: gives its process and the address that it prints."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "rlx", "pref", "label", "--data", str(data), "-o", str(out), *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **pipes)
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"open +(http://127\.0\.0\.1:\d+/\S+/)", line):
                break
        else:
            raise AssertionError("".join(said))
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_killed_server_loses_no_answer(data, tmp_path):
    out = tmp_path / "labels.npz"
    asked, given = ("--pairs", "3", "--segment", "4", "--question", "<b>Which?</b>"), ["left", "tie"]
    for i, what in enumerate(given):
        with labelling(data, out, *asked) as (process, url):
            assert told(f"{url}state") == {"question": i, "answered": i, "of": 3, "pictures": [1, 1]}
            now = told(f"{url}answer", {"question": i, "answer": what})
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            assert now["question"] == i + 1 and len(pairs.read(out).label) == i + 1
    with labelling(data, out, *asked) as (process, url):
        code, headers, page = fetch(url)
        assert code == 200 and "<h1>&lt;b&gt;Which?&lt;/b&gt;</h1>" in page.decode()
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        for side in (0, 1):
            code, headers, strip = fetch(f"{url}clip/2/{side}.png")
            assert headers["Content-Type"] == "image/png" and Image.open(io.BytesIO(strip)).height > 100
        assert told(f"{url}undo", {})["question"] == 1  # an answer of the earlier start
        assert told(f"{url}answer", {"question": 1, "answer": "right"})["question"] == 2
        assert told(f"{url}answer", {"question": 2, "answer": "unsure"})["question"] is None
        told(f"{url}finish", {})
        said, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        result = json.loads(said.splitlines()[-1].removeprefix("RESULT "))
        assert result == {"out": str(out), "answered": 3, "of": 3, "left": 1, "right": 1, "tie": 0, "unsure": 1}
    answers = pairs.read(out)
    assert answers.label.tolist() == [0, 1, 0.5] and answers.weight.tolist() == [1, 1, 0]
    pairs.rows_of(answers, pairs.episodes(replay.load(data).replay(False)))


@contextlib.contextmanager
def serving(page):
    thread = threading.Thread(target=serve, args=(page,), daemon=True)
    thread.start()
    yield page
    page.finished.set()
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def page(data, tmp_path):
    found = replay.load(data)
    asked = asking.questions(found.lengths, 2, 3, np.random.default_rng(0))
    with serving(Page(Asking(asked, tmp_path / "labels.npz"), film_of(found)[1], "a <title>", "Which?")) as page:
        yield page


def test_other_sites_are_refused(page, tmp_path):
    body = {"question": 0, "answer": "left"}
    port = page.server_port
    wrong = [
        (f"http://127.0.0.1:{port}/state", {}),
        (f"http://127.0.0.1:{port}/guess/answer", {}),
        (f"{page.url}answer", {"Origin": "https://example.org"}),
        (f"{page.url}answer", {"Origin": "null"}),
        (f"{page.url}answer", {"Host": f"evil.example:{port}"}),
    ]
    for url, headers in wrong:
        assert fetch(url, body, **headers)[0] == 403
    assert not (tmp_path / "labels.npz").exists()
    assert fetch(f"{page.url}answer", body, Origin=f"http://127.0.0.1:{port}")[0] == 200
    assert page.server_address[0] == "127.0.0.1"


def test_odd_requests_are_answered_with_words(page):
    cases = [
        ("answer", {"question": 1, "answer": "left"}, 409, "not the one that is asked now"),
        ("answer", {"question": 0, "answer": "best"}, 409, "no answer"),
        ("answer", {"question": 0}, 400, "give"),
        ("answer", [1], 400, "give"),
        ("answer", {"question": 0, "answer": ["left"]}, 400, "give"),
        ("answer", {"answer": "x" * 9000}, 413, "bytes"),
        ("undo", {}, 409, "no answer to take back"),
        ("delete", {}, 404, "no such page"),
        ("clip/9/0.png", None, 404, "no such page"),
        ("clip/0/2.png", None, 404, "no such page"),
        ("../etc/passwd", None, 404, "no such page"),
    ]
    for path, body, code, words in cases:
        got, _, said = fetch(f"{page.url}{path}", body)
        assert (got, words in json.loads(said)["error"]) == (code, True), path
    assert told(f"{page.url}state")["answered"] == 0


def test_what_cannot_be_drawn_is_said(tmp_path):
    def film(episode, start, steps):
        raise ValueError("physics of 2 numbers, these have the shape [5]: another's?")

    asked = asking.questions(np.array([6, 8]), 1, 3, np.random.default_rng(0))
    with serving(Page(Asking(asked, tmp_path / "labels.npz"), film, "a <title>", "Which?")) as page:
        code, _, said = fetch(f"{page.url}state")
    assert (code, json.loads(said)["error"]) == (409, "physics of 2 numbers, these have the shape [5]: another's?")


@pytest.fixture
def browser(tmp_path):
    if BROWSER is None:
        pytest.skip("no chromium or google-chrome is installed")
    with Browser(BROWSER, tmp_path / "profile") as browser:
        yield browser


PICTURE = "document.getElementById('clip0').toDataURL()"


@pytest.mark.slow
def test_a_browser_plays_two_clips_and_takes_keys_and_buttons(browser, tmp_path):
    images = datasets.Dataset(*_joined(replay.export(replay.from_episodes(rows(images=True)))))
    kind, film = film_of(images)
    asked = asking.questions(images.lengths, 3, 3, np.random.default_rng(0))
    with serving(Page(Asking(asked, tmp_path / "labels.npz"), film, "a <title>", "Which?")) as page:
        browser.open(page.url)
        browser.wait("document.body.dataset.question === '0'")
        sizes = "[0, 1].map((i) => document.getElementById('clip' + i)).map((c) => [c.width, c.height])"
        assert (kind, browser.value(sizes)) == ("images", [[10, 8], [10, 8]])
        assert browser.value("document.getElementById('clip1').toDataURL()") != browser.value(PICTURE)
        first = browser.value(PICTURE)
        browser.wait(f"{PICTURE} !== '{first}'")  # it plays
        browser.key("ArrowRight")
        browser.wait("document.body.dataset.question === '1'")
        browser.key("u")
        browser.wait("document.body.dataset.question === '0'")
        browser.key("ArrowDown")
        browser.wait("document.body.dataset.question === '1'")
        browser.value("document.getElementById('left').click()")
        browser.wait("document.body.dataset.question === '2'")
        browser.value("document.getElementById('undo').click()")
        browser.wait("document.body.dataset.question === '1'")
        browser.value("document.getElementById('clip1').click()")
        browser.wait("document.body.dataset.question === '2'")
        browser.value("document.getElementById('unsure').click()")
        browser.wait("document.body.dataset.question === 'none'")
        assert browser.value("document.getElementById('said').textContent").startswith("All is answered")
    answers = pairs.read(page.asking.out)
    assert answers.label.tolist() == [0.5, 1, 0.5] and answers.weight.tolist() == [1, 1, 0]


@pytest.mark.slow
def test_a_browser_says_that_the_server_was_killed_and_goes_on_with_the_next(browser, data, tmp_path):
    out, asked = tmp_path / "labels.npz", ("--pairs", "3", "--segment", "4")
    with labelling(data, out, *asked) as (process, url):
        browser.open(url)
        browser.wait("document.body.dataset.question === '0'")
        browser.key("ArrowLeft")
        browser.wait("document.body.dataset.question === '1'")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        browser.key("ArrowRight")
        browser.wait("document.getElementById('said').textContent.startsWith('The server is gone. Answers are kept')")
    with labelling(data, out, *asked) as (process, url):
        browser.open(url)
        browser.wait("document.body.dataset.question === '1'")
        browser.key("ArrowRight")
        browser.wait("document.body.dataset.question === '2'")
        browser.value("document.getElementById('finish').click()")
        assert process.wait(30) == 0
    assert pairs.read(out).label.tolist() == [0, 1]
