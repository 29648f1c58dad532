"""What is refused at once instead of being queued, and what it is told."""

from __future__ import annotations

import pytest

from routerd.errors import DeadlineUnmeetable, LimitExceeded, Overloaded
from routerd.protocol import Ask
from routerd.session import Session
from routerd.types import ArrayRef
from tests.unit.mishaps import MONTE_CARLO, run, with_deadline


@pytest.fixture
def tasks(session):
    """Sets how many requests of the client are in flight."""

    def tasks(count):
        session.tasks.update(dict.fromkeys(range(count)))

    yield tasks
    session.tasks.clear()


@pytest.fixture
def untouched(fleet):
    yield
    assert not any(backend.worker.made for backend in fleet.backends.values())


@pytest.mark.usefixtures("untouched")
class TestRefused:
    def test_a_deadline_that_no_backend_can_meet(self, make_router, session):
        router = make_router()
        fastest = router.plan(MONTE_CARLO, session).decision.predicted_seconds
        with pytest.raises(DeadlineUnmeetable, match=r"is predicted to take 1\.\d* ms on metal\.mlx") as caught:
            run(router, session, with_deadline(0.5))
        assert caught.value.detail["deadline_seconds"] == pytest.approx(0.5e-3)
        assert caught.value.detail["predicted_seconds"] == pytest.approx(fastest)
        assert "give it more time" in caught.value.message

    def test_a_deadline_that_the_queues_leave_no_time_for(self, make_router, session, fleet):
        for backend in fleet.backends.values():
            backend.worker.load(1.0)
        with pytest.raises(DeadlineUnmeetable) as caught:
            run(make_router(), session, with_deadline(500.0))
        assert caught.value.detail["predicted_seconds"] > 1.0

    def test_a_queue_that_is_longer_than_the_policy_admits(self, make_router, session, fleet):
        for backend in fleet.backends.values():
            backend.worker.load(1.0)
        with pytest.raises(
            Overloaded, match=r"has 1 s of work queued, the policy admits 0\.2 s; retry later"
        ) as caught:
            run(make_router("admission: {max_queue_ms: 200}"), session)
        assert caught.value.detail["retry_after_seconds"] == pytest.approx(0.8)

    def test_more_requests_of_a_client_than_the_policy_admits(self, make_router, session, tasks):
        tasks(4)
        with pytest.raises(Overloaded, match=r"4 requests of this client are in flight, the policy admits 3") as caught:
            run(make_router("admission: {max_in_flight_per_client: 3}"), session)
        assert caught.value.detail["retry_after_seconds"] > 0.0

    def test_results_that_the_client_has_no_room_for(self, make_router, session, parts):
        session.alloc(parts.LIMITS.max_segment_bytes)
        session.segment_bytes = parts.LIMITS.max_segment_bytes_per_client
        small = ArrayRef((8, 8), "float64", data=bytes(512))
        with pytest.raises(LimitExceeded, match="max_segment_bytes_per_client"):
            run(make_router(), session, Ask("linalg.gemm", {}, {"a": small, "b": small}))

    def test_and_each_counts_as_failed_nowhere(self, make_router, session, fleet):
        """A refusal is no execution: no backend is blamed, nothing is recorded as run."""
        router = make_router()
        with pytest.raises(DeadlineUnmeetable):
            run(router, session, with_deadline(0.5))
        assert [(one.planned, one.ran, one.failed) for one in fleet.backends.values()] == [(0, 0, 0)] * 3
        assert router.executed == 0


class TestAdmitted:
    def test_as_many_as_the_policy_says(self, make_router, session, tasks):
        tasks(3)
        run(make_router("admission: {max_in_flight_per_client: 3}"), session)

    def test_another_client_is_not_held_to_it(self, make_router, session, parts, tasks):
        tasks(100)
        other = Session("another", 1000, 1000, 1, "execute", parts.LIMITS)
        run(make_router("admission: {max_in_flight_per_client: 3}"), other)

    def test_a_deadline_that_another_backend_can_meet(self, make_router, session, fleet):
        fleet.backends["metal.mlx"].worker.load(1.0)
        result = run(make_router("exploration: {budget: 0}"), session, with_deadline(50.0)).result
        assert result.ran_on.backend == "ane.coreml"

    def test_a_deadline_that_is_only_unlikely_to_be_met(self, make_router, session):
        router = make_router()
        predicted = router.plan(MONTE_CARLO, session).decision.predicted_seconds
        plan = router.plan(with_deadline(0.97 * predicted * 1e3), session)
        assert 0.05 < plan.decision.in_time < 0.5
        run(router, session, with_deadline(0.97 * predicted * 1e3))

    def test_any_wait_without_a_deadline_up_to_the_policys_limit(self, make_router, session, fleet):
        for backend in fleet.backends.values():
            backend.worker.load(29.0)
        run(make_router(), session)
