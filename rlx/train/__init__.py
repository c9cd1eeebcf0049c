"""Training: `run` takes an agent through its stages; everything else here is in its service."""

from rlx.train.run import Diverged, Interrupted, Options, run

__all__ = ["Diverged", "Interrupted", "Options", "run"]
