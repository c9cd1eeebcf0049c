"""Trained policies as artefacts that leave the framework: one Python file, C99, or StableHLO.

::

    policy = rlx.load("runs/walker")
    rlx.export.to_numpy(policy, "walker.py")            # act(obs) with numpy alone
    rlx.export.to_c(policy, "firmware", "walker")       # walker.h, walker.c: <math.h> alone
    rlx.export.to_stablehlo(policy, "walker.stablehlo")
    print(rlx.export.cost(policy), rlx.export.measure_c(policy))

The law is traced to a jaxpr and its operations are written one by one: no agent has export code of its own. `Law` wraps any
other pure function from a vector to a vector.
"""

from __future__ import annotations

from rlx.export.c_source import cost, to_c
from rlx.export.cost import Cost
from rlx.export.law import Law, law_of
from rlx.export.measure import Timing, measure_c
from rlx.export.numpy_source import to_numpy
from rlx.export.stablehlo import from_stablehlo, to_stablehlo

__all__ = ["Cost", "Law", "Timing", "cost", "from_stablehlo", "law_of", "measure_c", "to_c", "to_numpy", "to_stablehlo"]
