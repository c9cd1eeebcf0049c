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
        (["pointmass", "byol_gamma"], {"lambda_psi": 0.01, "future_discount": 0.98, "discount": 0.99}),
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


@pytest.mark.parametrize(
    ("name", "walker", "pixels", "ogbench", "ogbench_pixels"),
    [
        ("updates", 3_000_000, 2_000_000, 1_000_000, 1_000_000),
        ("batch", 1024, 512, 256, 256),
        ("discount", 0.98, 0.98, 0.99, 0.99),
        ("d_phi", 256, 256, 50, 256),
        ("d_psi", 50, 50, 50, 50),
        ("phi_hidden", 256, 256, 512, 512),
        ("phi_layers", 0, 0, 4, 0),
        ("psi_hidden", 256, 256, 512, 512),
        ("psi_layers", 2, 2, 4, 4),
        ("predictor_hidden", 1024, 1024, 512, 512),
        ("predictor_layers", 1, 1, 2, 2),
        ("actor", "gaussian", "gaussian", "flow", "flow"),
        ("actor_input", "phi", "phi", "obs", "obs"),
        ("actor_hidden", 1024, 1024, 512, 512),
        ("actor_layers", 1, 1, 2, 2),
        ("flow_hidden", 512, 512, 512, 512),
        ("flow_layers", 4, 4, 4, 4),
        ("lr_predictor", 1e-4, 1e-4, 1e-4, 1e-4),
        ("lr_actor", 1e-4, 1e-4, 1e-4, 1e-4),
        ("lr_flow", 3e-4, 3e-4, 3e-4, 3e-4),
        ("lambda_phi", 0.1, 0.1, 1.0, 1.0),
        ("lambda_psi", 0.1, 0.1, 1.0, 1.0),
        ("tau", 0.001, 0.001, 0.005, 0.005),
        ("goal_share", 0.5, 0.5, 0.5, 0.5),
        ("scale_goals", False, False, True, True),
        ("bc", 0.0, 0.0, 3.0, 3.0),
        ("frames", 1, 3, 1, 3),
        ("reward_shift", 0.0, 0.0, 1.0, 1.0),
    ],
)
def test_the_table_of_settings(name, walker, pixels, ogbench, ogbench_pixels):
    found = [getattr(config.apply(OWN, ALL, [p]), name) for p in ("walker", "pixels", "ogbench", "ogbench_pixels")]
    assert found == [walker, pixels, ogbench, ogbench_pixels]
