"""What each method of the family has for itself, behind the settings of a benchmark."""

from __future__ import annotations

import pytest

from rlx import agents, config

OWN, ALL = agents.config("td_jepa"), agents.presets("td_jepa")


@pytest.mark.parametrize(
    ("presets", "settings"),
    [
        (["walker", "fb"], {"lambda_psi": 1.0, "discount": 0.98}),
        (["ogbench", "fb_ogbench"], {"features": "fb", "lambda_psi": 100.0, "discount": 0.99, "batch": 256, "bc": 3.0}),
        (["walker", "rldp"], {"lambda_psi": 0.01, "horizon": 5}),
        (["ogbench", "byol"], {"lambda_psi": 0.01, "d_phi": 50}),
        (["walker", "byol_gamma"], {"lambda_psi": 0.01, "future_discount": 0.98}),
        (["ogbench_pixels", "byol_gamma"], {"lambda_psi": 0.01, "future_discount": 0.99, "frames": 3}),
        (["walker", "hilp"], {"expectile": 0.5, "random_goals": 0.375, "future_discount": 0.99, "discount": 0.98}),
        (["walker", "icvf"], {"expectile": 0.9, "random_goals": 0.375, "same_goals": 0.5, "d_phi": 50, "d_psi": 50}),
    ],
)
def test_baselines_have_their_own_settings(presets, settings):
    found = config.apply(OWN, ALL, presets)
    # one row of the table is one method's
    assert found.features == settings.get("features", presets[1])
    assert {name: getattr(found, name) for name in settings} == settings


def test_a_flag_wins_over_a_baselines_own_setting():
    found = config.parse(OWN, ["--preset", "walker", "--preset", "icvf", "--expectile", "0.7"], ALL)
    assert (found.features, found.expectile, found.d_phi) == ("icvf", 0.7, 50)
