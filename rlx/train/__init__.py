"""Training: `run` takes an agent through its stages; everything else here is in its service."""

from rlx.train.options import Diverged, Interrupted, Options
from rlx.train.policy import Policy, load
from rlx.train.run import run

__all__ = ["Diverged", "Interrupted", "Options", "Policy", "load", "run"]
