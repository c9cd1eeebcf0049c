"""Training: `run` takes an agent through its stages, `population` many at once; everything else here is in their service."""

from rlx.train.options import Diverged, Interrupted, Options, Stop
from rlx.train.policy import Policy, load
from rlx.train.population import Population, pmap, population, tournament
from rlx.train.run import run

__all__ = [
    "Diverged",
    "Interrupted",
    "Options",
    "Policy",
    "Population",
    "Stop",
    "load",
    "pmap",
    "population",
    "run",
    "tournament",
]
