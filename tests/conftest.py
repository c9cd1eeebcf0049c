"""Tests run on the CPU; MuJoCo's and JAX's threads share two cores with the other test process. All processes, and later runs,
share compiled programs where rlx keeps its own: most of what tests take is compiling, and much of that the same program again.
"""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_home / "rlx" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
