"""An agent and an environment for rlx that live outside its tree: ``rlx train crossq --import acrobatics``."""

from acrobatics import acrobot  # registers acrobatics:acrobot
from rlx import agents

agents.register("crossq", "acrobatics.crossq")  # imported when it is first used

__all__ = ["acrobot"]
