"""Tests run on the CPU; MuJoCo's and JAX's threads share two cores with the other test process. All processes, and later runs,
share compiled programs where rlx keeps its own: most of what tests take is compiling, and much of that the same program again.

LLVM optimises at level 1 instead of 3, which takes a fifth less and leaves XLA's own passes, such as fusion, as they are:
``RLX_TEST_OPT=3`` tests at the level that users have.
"""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_home / "rlx" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
_level = f"--xla_backend_optimization_level={os.environ.get('RLX_TEST_OPT', '1')}"
os.environ["XLA_FLAGS"] = f"{_level} {os.environ.get('XLA_FLAGS', '')}".strip()
