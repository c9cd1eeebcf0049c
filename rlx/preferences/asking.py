"""Asking a person which of two pieces of episodes is better, with every answer in the file from the moment it was given.

The file of answers is the one record of pairs (`rlx.preferences.pairs`), in the order in which they were given. What is still
to be asked is what the file does not hold, so the same questions and the same file go on wherever somebody stopped, or was
stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlx.preferences import pairs
from rlx.preferences.labels import some
from rlx.preferences.pairs import SOURCES, Preferences

HUMAN = SOURCES.index("human")
# What may be answered -> (label, the probability that the second is preferred; weight).
ANSWERS = {"left": (0.0, 1.0), "right": (1.0, 1.0), "tie": (0.5, 1.0), "unsure": (0.5, 0.0)}


def questions(lengths: np.ndarray, count: int, steps: int | None, rng: np.random.Generator) -> Preferences:
    """At most ``count`` pairs of episodes of ``lengths`` [E] decisions, each pair once, or of pieces of ``steps`` of them
    (`_pieces`). Nobody has answered them: their weights are 0.

    Raises:
        ValueError: there is not one pair.
    """
    if steps is not None:
        return _pieces(lengths, count, steps, rng)
    if len(lengths) < 2:
        raise ValueError(f"preferences are between two episodes; the data hold {len(lengths)}.")
    chosen = some(len(lengths), max(2 * count, 2), rng)
    episode = chosen[np.stack(pairs.choose(len(chosen), count, "random", rng))]
    return pairs.preferences(episode, np.full(episode.shape[1], 0.5), lengths[episode].min(0), weight=0.0)


def _pieces(lengths: np.ndarray, count: int, steps: int, rng: np.random.Generator) -> Preferences:
    """Pairs of pieces drawn uniformly from all that there are: each once, in random order of its two, which do not overlap. A
    shorter episode is one piece, and what it is compared with is cut to its length.

    Pieces are numbered through all episodes, so those that a piece may be paired with and that come after it are all from one
    number on. Pairs have numbers too, then, and are drawn by these: none twice, however few there are.
    """
    size = np.minimum(lengths, steps)
    room = np.where(size > 0, lengths - size + 1, 0)
    end = np.cumsum(room)
    of = np.repeat(np.arange(len(room)), room)  # [N] the episode of each piece
    number = np.arange(len(of))
    partner = np.minimum(number + size[of], end[of])
    before = np.cumsum(len(of) - partner)  # pairs whose first is this piece or an earlier one
    most = int(before[-1]) if len(of) else 0
    if not most:
        raise ValueError(f"the data hold no two pieces of {steps} steps that do not overlap: {len(lengths)} short episode(s).")
    drawn = rng.choice(most, min(count, most), replace=False)
    first = np.searchsorted(before, drawn, side="right")
    both = np.stack([first, len(of) - (before[first] - drawn)])
    both = np.where(rng.uniform(size=len(drawn)) < 0.5, both, both[::-1])
    episode = of[both]
    start = both - (end - room)[episode]
    return pairs.preferences(episode, np.full(len(drawn), 0.5), size[episode].min(0), start=start, weight=0.0)


class Asking:
    """Questions, and the file ``out`` with the answers of ``annotator`` (and of others). The file is all there is to know: it
    is read anew for each answer. Others may answer into the same file at the same time: it is read and written under a lock.

    Raises:
        ValueError: ``out`` is there and is no file of preferences.
    """

    def __init__(self, asked: Preferences, out: Path, annotator: int = 0):
        self.out, self.annotator = out, annotator
        first = {_place(asked, i): i for i in reversed(range(len(asked.label)))}  # one that is there twice is asked once
        self.asked = _take(asked, sorted(first.values()))
        self.given()

    def __len__(self) -> int:
        return len(self.asked.label)

    def given(self) -> Preferences | None:
        """What the file holds; None where there is none yet."""
        return pairs.read(self.out) if self.out.exists() else None

    def answered(self) -> np.ndarray:
        """bool [P]: which questions this annotator has answered."""
        given = self.given()
        mine = set() if given is None else {_place(given, i) for i in np.flatnonzero(self._mine(given)).tolist()}
        return np.array([_place(self.asked, i) in mine for i in range(len(self))])

    def current(self) -> int | None:
        """The question that is to be asked now; None: all are answered."""
        left = np.flatnonzero(~self.answered())
        return int(left[0]) if len(left) else None

    def answer(self, question: int, what: str) -> None:
        """Appends an answer to the file, which is whole before and after.

        Raises:
            ValueError: it is no answer, or to another question than the current one.
        """
        if what not in ANSWERS:
            raise ValueError(f"{what!r} is no answer: give one of {', '.join(ANSWERS)}.")
        label, weight = ANSWERS[what]
        with _alone(self.out):
            now, given = self.current(), self.given()
            if question != now:
                raise ValueError(f"question {question} is not the one that is asked now, which is {now}.")
            row = _take(self.asked, [question])._replace(
                label=np.array([label], np.float32),
                weight=np.array([weight], np.float32),
                annotator=np.array([self.annotator], np.int32),
                source=np.array([HUMAN], np.int32),
            )
            pairs.write(self.out, row if given is None else pairs.joined(given, row))

    def undo(self) -> None:
        """Takes back this annotator's last answer to one of these questions, also one of an earlier start; what others have
        answered since stays.

        Raises:
            ValueError: there is none.
        """
        known = {_place(self.asked, i) for i in range(len(self))}
        with _alone(self.out):
            given = self.given()
            mine = [] if given is None else [i for i in np.flatnonzero(self._mine(given)).tolist() if _place(given, i) in known]
            if given is None or not mine:
                raise ValueError("there is no answer to take back.")
            left = np.delete(np.arange(len(given.label)), mine[-1])
            if len(left):
                pairs.write(self.out, _take(given, left))
            else:
                self.out.unlink()

    def _mine(self, given: Preferences) -> np.ndarray:
        return (np.asarray(given.source) == HUMAN) & (np.asarray(given.annotator) == self.annotator)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """What stands in the block is done by one thread of one process at a time; the others wait. The lock is a file beside
    ``path``, which itself is replaced by each writing, and it stays: to remove it would let two hold it. Where none can be had,
    a warning says so."""
    file = None
    try:
        try:
            file = _lock_file(path.with_name(f".{path.name}.lock"))
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # Lustre, some NFS and FUSE mounts; a folder that is not ours to write
            warnings.warn(f"{path} cannot be locked ({error.strerror}): see that nobody else answers into it.", stacklevel=4)
        yield
    finally:
        if file is not None:
            os.close(file)


def _lock_file(path: Path) -> int:
    """Open; that of another user, which we may only read, does too."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _take(given: Preferences, which: Any) -> Preferences:
    at = np.asarray(which, np.int64)
    return Preferences(*(np.asarray(x)[..., at] for x in given))


def _place(given: Preferences, i: int) -> tuple[int, ...]:
    """What a question is: two places and a length."""
    return (*map(int, given.episode[:, i]), *map(int, given.start[:, i]), int(given.steps[i]))
