"""What environments tell of success and of safety, by the same names everywhere: reports show these of any environment.

======================  ========================================================  ====================================
leaf of ``Spec.info``   of one decision                                           of an episode
======================  ========================================================  ====================================
``success``             bool: the task is done now                                whether it ever was
``solved``              bool: it has been done in enough decisions                whether it has
``violation``           bool: a limit was passed                                  violations per decision
``contact_force``       the greatest force of a contact, N                        its peak, and its mean over decisions
``saturation``          bool: an actuator gave all it can                         share of decisions
``torque``              the greatest Euclidean norm of what actuators give        its peak, and its mean over decisions
``jerk``                change of acceleration per time, m/s^3                    its peak, and its mean over decisions
======================  ========================================================  ====================================

The plants of process control count episodes in which a limit was passed. Gymnasium environments tell what their own info has,
see `rlx.envs.gym.make` (``info_keys``).
"""

from __future__ import annotations

from rlx.types import Leaf

SUCCESS = ("success", "is_success")  # leaves that say that the task is done now; the second is that of others' environments
LEAVES = {
    "success": Leaf((), bool, reduce="any"),
    "solved": Leaf((), bool, reduce="any"),
    "violation": Leaf((), bool, reduce="mean"),
    "contact_force": Leaf((), low=0.0, reduce=("max", "mean")),
    "saturation": Leaf((), bool, reduce="mean"),
    "torque": Leaf((), low=0.0, reduce=("max", "mean")),
    "jerk": Leaf((), low=0.0, reduce=("max", "mean")),
}


def leaves(*names: str) -> dict[str, Leaf]:
    """``Spec.info`` of these names."""
    return {name: LEAVES[name] for name in names}
