"""Asking a person which of two pieces of episodes is better, with every answer in the file from the moment it was given.

The file of answers is the one record of pairs (`rlx.preferences.pairs`), in the order in which they were given. What is still
to be asked is what the file does not hold, so the same questions and the same file go on wherever somebody stopped, or was
stopped.
"""

from __future__ import annotations

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
    """At most ``count`` pairs of different episodes of ``lengths`` [E] decisions, pieces of ``steps`` (None: of all that both
    have) from places drawn uniformly, which nobody has answered: their weights are 0.

    Raises:
        ValueError: fewer than two episodes.
    """
    if len(lengths) < 2:
        raise ValueError(f"preferences are between two episodes; the data hold {len(lengths)}.")
    chosen = some(len(lengths), max(2 * count, 2), rng)
    episode = chosen[np.stack(pairs.choose(len(chosen), count, "random", rng))]
    length = lengths[episode].min(0) if steps is None else np.minimum(lengths[episode].min(0), steps)
    start = 0 * episode if steps is None else rng.integers(0, lengths[episode] - length + 1)
    return pairs.preferences(episode, np.full(episode.shape[1], 0.5), length, start=start, weight=0.0)


class Asking:
    """Questions, and the file ``out`` with the answers of ``annotator`` (and of others). The file is all there is to know: it
    is read anew for each answer.

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
        now, given = self.current(), self.given()
        if question != now:
            raise ValueError(f"question {question} is not the one that is asked now, which is {now}.")
        label, weight = ANSWERS[what]
        row = _take(self.asked, [question])._replace(
            label=np.array([label], np.float32),
            weight=np.array([weight], np.float32),
            annotator=np.array([self.annotator], np.int32),
            source=np.array([HUMAN], np.int32),
        )
        if given is not None:
            row = Preferences(*(np.concatenate(both, -1) for both in zip(given, row, strict=True)))
        pairs.write(self.out, row)

    def undo(self) -> None:
        """Takes back the last answer of the file, also one of an earlier start.

        Raises:
            ValueError: the last one is no answer of this annotator to one of these questions.
        """
        given = self.given()
        last = -1 if given is None else len(given.label) - 1
        known = {_place(self.asked, i) for i in range(len(self))}
        if given is None or not self._mine(given)[last] or _place(given, last) not in known:
            raise ValueError("there is no answer to take back.")
        if last:
            pairs.write(self.out, _take(given, range(last)))
        else:
            self.out.unlink()

    def _mine(self, given: Preferences) -> np.ndarray:
        return (np.asarray(given.source) == HUMAN) & (np.asarray(given.annotator) == self.annotator)


def _take(given: Preferences, which: Any) -> Preferences:
    at = np.asarray(which, np.int64)
    return Preferences(*(np.asarray(x)[..., at] for x in given))


def _place(given: Preferences, i: int) -> tuple[int, ...]:
    """What a question is: two places and a length."""
    return (*map(int, given.episode[:, i]), *map(int, given.start[:, i]), int(given.steps[i]))
