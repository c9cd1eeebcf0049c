"""Tests run on the CPU; MuJoCo's and JAX's threads share two cores with the other test process."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
