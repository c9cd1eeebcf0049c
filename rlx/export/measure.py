"""How long one decision takes in C, state by state."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlx import keys
from rlx.export import c_source, law
from rlx.types import Leaf

FLAGS = ("-O3", "-march=native")
COMPILERS = ("cc", "gcc", "clang")

# Reads states; writes for each the shortest and the longest of some calls in nanoseconds, and its action.
HARNESS = """\
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "NAME.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

int main(int argc, char **argv)
{
    const int states = argc > 1 ? atoi(argv[1]) : 0, calls = argc > 2 ? atoi(argv[2]) : 0;
    REAL obs[N], action[M];
    double idle = 1e9;
    for (int i = 0; i < 1000; i++) {
        const double start = now(), took = now() - start;
        idle = took < idle ? took : idle;
    }
    for (int s = 0; s < states; s++) {
        double least = 1e300, most = 0;
        if (fread(obs, sizeof(REAL), N, stdin) != N)
            return 1;
        for (int c = 0; c < calls; c++) {
            const double start = now();
            NAME_act(obs, action);
            const double took = now() - start - idle;
            least = took < least ? took : least;
            most = took > most ? took : most;
        }
        fwrite(&least, sizeof(double), 1, stdout);
        fwrite(&most, sizeof(double), 1, stdout);
        fwrite(action, sizeof(REAL), M, stdout);
    }
    return 0;
}
"""


@dataclass(frozen=True)
class Timing:
    """Nanoseconds of one decision, the clock's own time taken off. Per state the shortest of some calls counts, so that what
    else the machine does drops out; ``median`` and ``worst`` are over states."""

    median: float
    worst: float
    slowest_call: float  # of all calls, whatever else the machine did meanwhile
    states: int
    calls: int
    compiler: str
    flags: tuple[str, ...]
    actions: np.ndarray  # [states, m] what the compiled law gave

    def rows(self) -> list[tuple[str, str]]:
        """Two columns of text."""
        return [
            ("median", f"{self.median:,.0f} ns"),
            ("worst state", f"{self.worst:,.0f} ns"),
            ("slowest call", f"{self.slowest_call:,.0f} ns"),
            ("measured on", f"{self.states:,} states x {self.calls} calls, {' '.join((self.compiler, *self.flags))}"),
        ]


def measure_c(
    policy: Any,
    obs: np.ndarray | None = None,
    dtype: str = "float32",
    states: int = 2_000,
    calls: int = 20,
    seed: int = 0,
    compiler: str | None = None,
    flags: Sequence[str] = FLAGS,
) -> Timing:
    """Compiles the C of ``policy`` with the system's compiler and times single decisions.

    ``obs`` [S, n] are the states; without them ``states`` are drawn within the observation's bounds, and from a normal
    distribution where there are none.

    Raises:
        ValueError: as `to_c`; there is no C compiler, it fails, or ``obs`` has another shape.
    """
    found = compiler_of(compiler)
    made = c_source.code(policy, "law", dtype)
    n, m = made.sizes
    real = np.dtype(dtype)
    given = draw(policy, n, states, seed) if obs is None else np.asarray(obs)
    if given.ndim != 2 or given.shape[1] != n or not len(given):
        raise ValueError(f"obs has shape [S, {n}], one row per state; got {list(given.shape)}.")
    if calls < 1:
        raise ValueError(f"calls must be at least 1, got {calls}.")
    text = HARNESS
    for word, what in (("NAME", "law"), ("REAL", made.real), ("[N]", f"[{n}]"), ("[M]", f"[{m}]")):
        text = text.replace(word, what)
    text = text.replace(", N, stdin) != N", f", {n}, stdin) != {n}").replace(", M, stdout", f", {m}, stdout")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, written in (("law.h", made.header), ("law.c", made.source), ("main.c", text)):
            (folder / name).write_text(written)
        compile_c(found, ["-std=c99", *flags, "law.c", "main.c", "-o", "main", "-lm"], folder)
        command = [str(folder / "main"), str(len(given)), str(calls)]
        done = subprocess.run(command, input=given.astype(real).tobytes(), capture_output=True, check=False)
    kind = np.dtype([("least", "f8"), ("most", "f8"), ("action", real, (m,))])
    if done.returncode or len(done.stdout) != kind.itemsize * len(given):
        raise ValueError(f"the compiled law stopped with exit code {done.returncode}.")
    rows = np.frombuffer(done.stdout, kind)
    least = np.maximum(rows["least"], 0)
    times = float(np.median(least)), float(least.max()), float(rows["most"].max())
    return Timing(*times, len(given), calls, found, tuple(flags), rows["action"])


def compiler_of(name: str | None) -> str:
    """A C compiler: ``name``, or $CC, or the first of `COMPILERS` that is there.

    Raises:
        ValueError: there is none.
    """
    wanted = [name] if name else [*([os.environ["CC"]] if os.environ.get("CC") else []), *COMPILERS]
    for each in wanted:
        if shutil.which(each):
            return each
    raise ValueError(f"no C compiler found ({', '.join(wanted)}): install one, as in `apt-get install gcc`, or name it.")


def compile_c(compiler: str, arguments: Sequence[str], folder: Path) -> None:
    """Runs the compiler in ``folder``.

    Raises:
        ValueError: it fails.
    """
    done = subprocess.run([compiler, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{compiler} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")


def draw(policy: Any, n: int, states: int, seed: int) -> np.ndarray:
    """States [S, n] within the bounds of the observation."""
    rng = np.random.default_rng(keys.checked(seed))
    normal = rng.standard_normal((states, n))
    if isinstance(policy, law.Law) or not isinstance(policy.spec.obs, Leaf):
        return normal
    low, high = (np.broadcast_to(np.asarray(x, float), (n,)) for x in (policy.spec.obs.low, policy.spec.obs.high))
    bounded = np.isfinite(low) & np.isfinite(high) & (high - low < 1e6)
    low, high = np.where(bounded, low, 0), np.where(bounded, high, 1)
    return np.where(bounded, low + (high - low) * rng.random((states, n)), normal)
