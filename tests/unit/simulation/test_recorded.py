"""The recorded Linux machine: says where it is from, and routing on it is as good as it should be."""

from __future__ import annotations

import pytest

from routerd.resources import shipped
from routerd.scoring.metrics import score
from routerd.simulation.simulator import score_world
from routerd.simulation.world import World


@pytest.fixture(scope="module")
def recorded() -> World:
    return World.load(shipped("config", "worlds", "linux_xeon_recorded.json"))


def test_it_says_where_it_is_from(recorded):
    assert (recorded.name, recorded.label) == ("linux_xeon_recorded", "recorded")
    assert "Linux x86_64" in recorded.source
    assert {backend.device_kind for backend in recorded.backends} == {"cpu"}


@pytest.mark.parametrize("seed", [0, 1])
def test_routing_is_right_and_knows_how_sure_it_is(recorded, seed):
    found = score(score_world(recorded, 12, seed).trials)
    assert found.choices.right_rate >= 0.97
    assert found.choices.mean_regret <= 0.01
    assert found.calibration_error <= 0.05
