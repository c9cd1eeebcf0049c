"""Tests run on the CPU; MuJoCo's and JAX's threads share two cores with the other test process. All processes of all runs share
compiled programs: most of what tests take is compiling, and much of that the same program again."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
