"""The account itself: every breach of the promise is found, and nothing else is called one."""

from __future__ import annotations

import json

import pytest

from tests.faults.journal import Journal
from tests.faults.ledger import Terms, executions, judge, read
from tests.faults.levels import DATABASE_SLACK, MEMORY_SLACK_BYTES, Levels, above
from tests.faults.watch import Fault, Probe, Sample, lies

LEVELS = Levels(20, 4, 2, 1, 50 << 20, 3, 0, 0, 0, 4)
CLEAR = "worker hybrid/fickle was ended by SIGKILL"


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "load-sync-1.jsonl", "load-sync-1")


@pytest.fixture
def judged(tmp_path, journal):
    """The verdict on what was written so far."""

    def judge_it(terms=Terms(), *, done=True):  # noqa: B008 - a frozen value
        if done:
            journal.done()
        return judge([read(tmp_path / "load-sync-1.jsonl")], terms)

    return judge_it


class TestLedger:
    def test_right_answers_and_withdrawn_requests_are_in_order(self, journal, judged):
        journal.answered(journal.asked("price"), "right", decision="1", ran_on="cpu.numpy")
        journal.answered(journal.asked("price"), "withdrawn")
        assert judged() == []

    def test_a_lost_request(self, journal, judged):
        journal.asked("price")
        assert judged() == ["load-sync-1#1 (price) was never answered"]

    def test_one_answered_twice(self, journal, judged):
        number = journal.asked("loss", (), "nan")
        journal.answered(number, "right")
        journal.answered(number, "timeout", why=CLEAR)
        assert judged() == ["load-sync-1#1 (loss ordered to nan) was answered 2 times: right, timeout"]

    def test_one_decision_for_two_requests(self, journal, judged):
        for _ in range(2):
            journal.answered(journal.asked("price"), "right", decision="7", ran_on="cpu.numpy")
        assert judged() == ["decision 7 answered 2 requests"]

    @pytest.mark.parametrize(
        ("outcome", "why", "words"),
        [
            ("wrong", "relative error 1", "neither right nor an error of the tree"),
            ("untyped", "KeyError()", "neither right nor an error of the tree"),
            ("internal", "internal error: KeyError: 3", "an error that says nothing"),
            ("worker_crashed", "crashed", "an error that says nothing"),
            ("worker_crashed", CLEAR, "for which there was no reason"),
        ],
    )
    def test_an_answer_that_is_none(self, journal, judged, outcome, why, words):
        journal.answered(journal.asked("price"), outcome, why=why)
        (problem,) = judged()
        assert words in problem

    def test_errors_that_the_request_the_storm_or_the_moment_allow(self, journal, judged):
        for may in (("timeout",), (), ()):
            number = journal.asked("price", may)
            journal.answered(number, "timeout" if may else ("overloaded", "no_candidate")[number - 2], why=CLEAR)
        excused = lambda request, answer: answer.outcome == "no_candidate" and request.number == 3  # noqa: E731
        assert judged(Terms(may=frozenset({"overloaded"}), excused=excused)) == []

    def test_a_client_that_was_killed_may_leave_what_was_in_flight(self, journal, judged):
        for _ in range(3):
            journal.asked("price")
        vanished = frozenset({"load-sync-1"})
        assert judged(Terms(vanished=vanished, concurrency=3), done=False) == []
        (problem,) = judged(Terms(vanished=vanished, concurrency=2), done=False)
        assert "was killed with 3 requests open" in problem

    def test_a_client_that_ended_otherwise(self, judged):
        assert judged(done=False) == ["load-sync-1 did not end in order"]

    def test_an_answer_that_came_too_late(self, tmp_path, journal, judged):
        journal.answered(journal.asked("price"), "right")
        path = tmp_path / "load-sync-1.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[1]["at"] += 30.0
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        (problem,) = judged(Terms(patience_seconds=20.0))
        assert "waited 30.0 s" in problem

    def test_how_often_the_daemon_must_have_computed(self, tmp_path, journal):
        for outcome, facts in (
            ("right", {"decision": "1", "ran_on": "cpu.numpy"}),
            ("right", {"decision": "table:1.2", "ran_on": "in_process"}),
            ("withdrawn", {}),
            ("timeout", {"why": CLEAR}),
        ):
            journal.answered(journal.asked("price"), outcome, **facts)
        journal.asked("price")
        assert executions([read(tmp_path / "load-sync-1.jsonl")]) == (1, 3)


class TestLevels:
    def test_the_same_and_lower_are_in_order(self):
        assert above(LEVELS, LEVELS) == []
        assert above(LEVELS, LEVELS._replace(descriptors=19, memory_bytes=(50 << 20) + MEMORY_SLACK_BYTES)) == []

    @pytest.mark.parametrize("name", Levels._fields)
    def test_each_that_is_higher_is_named(self, name):
        slack = {"memory_bytes": MEMORY_SLACK_BYTES, "database_descriptors": DATABASE_SLACK}.get(name, 0)
        raised = getattr(LEVELS, name) + 1 + slack
        (problem,) = above(LEVELS, LEVELS._replace(**{name: raised}))
        assert problem.startswith(f"{name} were ")

    def test_a_worker_that_is_missing(self):
        assert above(LEVELS, LEVELS._replace(workers=2)) == ["workers were 3 before and are 2 now"]


class TestTruth:
    KILLED = Fault("SIGKILL", 10.0, 10.0, pid=77, window_seconds=1.0)

    @staticmethod
    def says(at, pid, state="up"):
        workers = {"hybrid/fickle": (pid, state), "cluster/steady_one": (1, "up"), "cpu/numpy": (2, "up")}
        backends = {"fickle.one": "ready" if state == "up" else "down", "steady.one": "ready", "cpu.numpy": "ready"}
        return Sample(at, 1, at, backends, workers, 0)

    def test_within_the_window_and_of_others_nothing_is_a_lie(self):
        samples = [self.says(9.0, 77), self.says(10.9, 77), self.says(15.0, 78), self.says(16.0, 77, "down")]
        probes = [Probe(9.9, 10.1, CLEAR), Probe(10.9, 11.5, CLEAR), Probe(20.0, 20.1, "")]
        assert lies(samples, probes, [self.KILLED]) == []

    def test_a_dead_worker_that_is_called_up(self):
        (problem,) = lies([self.says(12.0, 77)], [], [self.KILLED])
        assert "called worker process 77 up still 2.00 s after SIGKILL of 77" in problem

    @pytest.mark.parametrize("probe", [Probe(9.0, 9.5, CLEAR), Probe(11.5, 11.6, CLEAR)])
    def test_ready_and_then_not(self, probe):
        (problem,) = lies([], [probe], [self.KILLED])
        assert problem == f"status called fickle.one ready, the next request met: {CLEAR}"

    def test_a_fault_of_another_worker_is_no_reason(self):
        elsewhere = self.KILLED._replace(worker="cpu/numpy")
        assert lies([], [Probe(10.1, 10.2, CLEAR)], [elsewhere])
        assert not lies([], [Probe(10.1, 10.2, CLEAR)], [elsewhere._replace(worker="hybrid/fickle")])

    def test_a_status_that_contradicts_itself(self):
        sample = self.says(1.0, None, "down")
        absurd = sample._replace(backends={**sample.backends, "fickle.one": "ready"})
        assert lies([absurd], [], [self.KILLED._replace(begin=0.9, end=0.9, worker="hybrid/fickle")]) == []
        assert lies([absurd, absurd], [], []) == ["status calls fickle.one ready and its worker hybrid/fickle down"]
