"""Laws, values and critics in float64, all of them measured in one process (`double`)."""

from __future__ import annotations

import pytest

from .double import results

pytestmark = pytest.mark.slow


def test_laws_and_the_values_of_their_programs():
    found = results()
    assert found["scalar law"] < 1e-12 and found["scalar law, named points"] < 1e-12
    values = [error for name, error in found.items() if name.startswith("value of the program")]
    jumps = [error for name, error in found.items() if name.startswith("jump of the value")]
    assert len(values) == len(jumps) == 2 and max(values) < 1e-10 and max(jumps) < 1e-8
    assert found["pendulum's value"] == pytest.approx(0.0196012, abs=1e-6)


def test_the_gather_and_the_big_m_layers_are_equal():
    """Laws alone, and with residuals of each kind."""
    errors = {name: error for name, error in results().items() if name.startswith("gated against big-M")}
    assert len(errors) >= 5 and max(errors.values()) <= 1e-9, errors


def test_the_critic_is_what_it_was_made_of():
    found = results()
    assert found["action value against x'Wx"] < 1e-10
    assert found["least action value against s'Ps"] < 1e-10
    assert found["mpqp critic"] < 1e-9
    assert found["Bellman residual, discount 1.0"] < 1e-9
    assert found["Bellman residual, greedy, discount 0.99"] < 1e-9
    assert found["Bellman residual, discount 0.99"] < 1e-5  # of the undiscounted regulator, which is not its greedy policy
