"""What is kept of decisions: of those that end well, of those that do not, and less what the policy redacts."""

from __future__ import annotations

import pytest

from routerd.errors import ExecutionError, RouterdError, TaskTimeout
from routerd.recorder import record_of
from tests.unit.mishaps import MONTE_CARLO, ONLY_GPU, crash, run


@pytest.fixture
def records(store, monkeypatch):
    """All that is given to the store."""
    given = []
    monkeypatch.setattr(store, "record", given.append)
    return given


def test_a_task_that_moved_is_kept_with_where_it_ran_and_why(make_router, session, fleet, records):
    fleet.backends["metal.mlx"].worker.script = [crash()]
    result = run(make_router(), session).result
    (record,) = records
    assert (record.decision.backend, record.ran_on) == ("metal.mlx", "ane.coreml")
    assert record.fallback_reason == "metal.mlx: worker metal_gpu/main was ended by SIGSEGV"
    assert (record.error_code, record.timing) == (None, result.timing)
    assert (record.method, record.client, record.params["spot_price"]) == ("run", "tester", 100.0)


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (ExecutionError("it raised"), "execution_failed"),
        (TaskTimeout("slow"), "timeout"),
        (crash(), "task_quarantined"),
    ],
)
def test_one_that_failed_is_kept_with_its_code(make_router, session, fleet, records, outcome, code):
    fleet.backends["metal.mlx"].worker.outcome = outcome
    with pytest.raises(RouterdError):
        run(make_router(ONLY_GPU), session)
    (record,) = records
    assert (record.error_code, record.ran_on, record.timing) == (code, None, None)


def test_whatever_the_policy_redacts_is_not_in_it(make_router, session):
    router = make_router(
        "record: {redact: [client.name, client.uid, task.params]}\nrules: [{id: r, when: {client.uid: {exists: true}}, prefer: [cpu]}]"
    )
    plan = router.plan(MONTE_CARLO, session)
    record = record_of(plan, session, router.active.policy.record, "decide")
    assert (record.client, record.uid, record.params, record.method) == ("", -1, {}, "decide")
    assert "client.uid" in plan.facts
    assert "client.uid" not in record.facts
