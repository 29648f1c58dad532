"""Every target but the daemon of its own: the seeds that are kept, and some inputs that hypothesis makes up."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.targets import targets

#: Inputs of each target here; ``make fuzz`` tries others, and many more.
EXAMPLES = {"frames": 200, "replies": 120, "jobs": 200, "outcomes": 120, "tasks": 300, "policies": 150, "server": 300}

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # NumPy says so of sums that overflow, as they must here


@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_kept_in_the_corpus_does_harm(name):
    target = targets()[name]
    with target.open() as check:
        for seed in target.seeds():
            check(seed.read_bytes())


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_input_does_harm(name):
    target = targets()[name]
    with target.open() as check:

        @settings(
            max_examples=EXAMPLES[name],
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        )
        @given(target.inputs)
        def examine(data):
            check(data)

        examine()
