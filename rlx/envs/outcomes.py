"""What environments tell of success and of safety, by the same names everywhere: reports show these of any environment.

======================  ========================================================  ====================================
leaf of ``Spec.info``   of one decision                                           of an episode
======================  ========================================================  ====================================
``success``             bool: the task is done now                                whether it ever was
``solved``              bool: it has been done in `ENOUGH` decisions so far       whether it has
``solved_sticky``       bool: so many decisions, from the first success on        whether it has
``violation``           bool: a limit was passed                                  violations per decision
``contact_force``       the greatest force of a contact, N                        its peak, and its mean over decisions
``saturation``          bool: an actuator gave all it can                         share of decisions
``torque``              the greatest Euclidean norm of what actuators give        its peak, and its mean over decisions
``jerk``                change of acceleration per time, m/s^3                    its peak, and its mean over decisions
======================  ========================================================  ====================================

``solved`` is what is meant by success: of a task that may be undone again it says more than that it was done once.
``solved_sticky`` is what MoDem-V2's authors count: the first success and all decisions after it, even if the task is undone
there. An episode that terminates in success is solved in both ways. With ``repeat``, pushing counts control steps.

The plants of process control count episodes in which a limit was passed. Gymnasium environments tell what their own info has,
both counts where that has a success, and forces of MuJoCo's on request, see `rlx.envs.gym.make` (``info_keys``, ``forces``).
"""

from __future__ import annotations

from typing import Any

from rlx.types import Array, Leaf

SUCCESS = ("success", "is_success")  # leaves that say that the task is done now; the second is that of others' environments
ENOUGH = 5  # decisions with the task done, in a row or not, from which on it counts as solved
LEAVES = {
    "success": Leaf((), bool, reduce="any"),
    "solved": Leaf((), bool, reduce="any"),
    "solved_sticky": Leaf((), bool, reduce="any"),
    "violation": Leaf((), bool, reduce="mean"),
    "contact_force": Leaf((), low=0.0, reduce=("max", "mean")),
    "saturation": Leaf((), bool, reduce="mean"),
    "torque": Leaf((), low=0.0, reduce=("max", "mean")),
    "jerk": Leaf((), low=0.0, reduce=("max", "mean")),
}


def merged(xp: Any, leaf: Leaf, old: Array, new: Array, taken: Any) -> Array:
    """The info ``leaf`` of the ``taken`` first steps of a decision and of the next one, by the first way in which it becomes a
    number of an episode; a mean may be of another dtype."""
    way = next(iter(leaf.reduces.values()), "last")
    if way == "mean":
        return (old * taken + new) / (taken + 1)
    return new if way == "last" else old + new if way == "sum" else xp.maximum(old, new)


def leaves(*names: str) -> dict[str, Leaf]:
    """``Spec.info`` of these names."""
    return {name: LEAVES[name] for name in names}
