"""Datasets as files: rlx's own, and readers of the public ones.

::

    data = replay.load("hopper_medium-v2.hdf5")       # a file, a folder, a glob or a list of them, by what is in it
    print(replay.describe(data))
    state = data.replay()                             # what agents take as Problem.data["data"]
    datasets.write("hopper.npz", data)                # or a name without .npz: a folder of shards

A reader is a file here and a `found.Layout` in `loading.LAYOUTS`. What a format leaves open is asked for (`Reading`), never
guessed.
"""

from __future__ import annotations

from rlx.replay.dataset import Dataset, join
from rlx.replay.datasets.d4rl import from_d4rl
from rlx.replay.datasets.demonstrations import write_demos
from rlx.replay.datasets.found import Reading
from rlx.replay.datasets.loading import LAYOUTS, load
from rlx.replay.datasets.minari import from_minari
from rlx.replay.datasets.native import Writer, mapped, read, verify, write
from rlx.replay.datasets.ogbench import from_ogbench
from rlx.replay.datasets.placing import Where, nbytes, replay_of
from rlx.replay.datasets.preferences import Pairs, load_pairs
from rlx.replay.datasets.repo import write_repo

__all__ = [
    "LAYOUTS",
    "Dataset",
    "Pairs",
    "Reading",
    "Where",
    "Writer",
    "from_d4rl",
    "from_minari",
    "from_ogbench",
    "join",
    "load",
    "load_pairs",
    "mapped",
    "nbytes",
    "read",
    "replay_of",
    "verify",
    "write",
    "write_demos",
    "write_repo",
]
