"""What a client reads from the table: only what can be trusted, at the moment, for this client and this very question."""

from __future__ import annotations

import math
import os
import threading

import numpy as np
import pytest

from routerd.client.table import Table, View, decider
from routerd.errors import BadRequest, InvalidParameter, UnknownParameter
from routerd.protocol import Located
from routerd.routing.slots import BEAT_WORD, sequence_word

GEMM, MONTE_CARLO, PERFORMANCE = "linalg.gemm", "options.monte_carlo_european", "analytics.performance"
OPTION = {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2, "num_simulations": 1000}
SMALL, LARGE = 1e4, 1e7  # on the processor and on the GPU
SECOND = 1_000_000_000


@pytest.fixture
def view(written):
    written.write()
    return written.place(View(written.reader, GEMM))


@pytest.fixture
def table(written):
    return Table(written.reader)


class TestAsking:
    """When a view says nothing, so that the daemon is asked."""

    def answers(self, view):
        return [view.by_work(work) and view.by_work(work).backend for work in (SMALL, LARGE)]

    def test_not_while_all_is_well(self, view):
        assert self.answers(view) == ["cpu.numpy", "metal.mlx"]

    def test_before_it_knows_where_the_entry_is(self, written):
        written.write()
        assert self.answers(View(written.reader, GEMM)) == [None, None]

    def test_where_only_the_daemon_can_answer(self, view):
        view.place(Located(-1, "", "it depends"))
        assert self.answers(view) == [None, None]

    @pytest.mark.parametrize("work", [0.0, -1.0, 1e-9, 1e30, math.inf, -math.inf, math.nan])
    def test_about_work_that_is_far_from_all_that_was_timed_or_cannot_be(self, view, work):
        assert view.by_work(work) is None
        assert decider(view, slow=lambda _work: None, full=None)(work) is None

    def test_once_the_heart_has_not_beaten_for_a_second(self, written, view):
        beat = written.reader.words[BEAT_WORD]
        written.now = beat + SECOND - 1
        assert self.answers(view) == ["cpu.numpy", "metal.mlx"]
        written.now = beat + SECOND
        assert self.answers(view) == [None, None]
        written.writer.beat()
        written.now = written.reader.words[BEAT_WORD]
        assert self.answers(view) == ["cpu.numpy", "metal.mlx"]

    def test_while_the_worker_of_the_winner_has_work(self, written, view):
        written.writer.set_busy(0b01)
        assert self.answers(view) == [None, "metal.mlx"]
        written.writer.set_busy(0b10)
        assert self.answers(view) == ["cpu.numpy", None]
        written.writer.set_busy(0b00)
        assert self.answers(view) == ["cpu.numpy", "metal.mlx"]

    def test_while_the_entry_says_nothing(self, written, view):
        before = self.answers(view)
        written.writer.withdraw(0)
        assert self.answers(view) == [None, None]
        written.write()
        assert self.answers(view) == before

    def test_while_it_is_being_written(self, written, view):
        words = memoryview(written.memory).cast("Q")
        words[sequence_word(0)] += 1
        assert self.answers(view) == [None, None]
        words[sequence_word(0)] += 1  # as if the end were seen, and the payload were not what it was
        assert self.answers(view) == [None, None]

    @pytest.mark.parametrize("other", [{"client_class": "1.1"}, {"workload": MONTE_CARLO}])
    def test_when_the_slot_is_somebody_elses(self, written, view, other):
        written.write(**other)
        assert self.answers(view) == [None, None]
        written.write()  # and then its own again: it does not know that
        assert self.answers(view) == [None, None]
        assert self.answers(written.place(view)) == ["cpu.numpy", "metal.mlx"]

    def test_after_it_was_closed(self, written, table):
        written.write()
        view = written.place(table.view(GEMM))
        fast = decider(view, slow=lambda _work: "asked", full=None)
        kept = view.by_work(SMALL)
        assert (fast(SMALL), fast(LARGE)) == (kept, "asked")
        table.close()
        assert self.answers(view) == [None, None]
        assert (fast(SMALL), fast(LARGE)) == ("asked", "asked")
        for late in (view, table.view(MONTE_CARLO)):  # the daemon had been asked, and answers now
            assert self.answers(written.place(late)) == [None, None]
            assert decider(late, slow=lambda _work: "asked", full=None)(SMALL) == "asked"


class TestPlaces:
    def test_the_daemon_is_asked_for_one_at_most_ten_times_a_second(self, written):
        view = View(written.reader, GEMM)
        assert view.wants_place()
        assert not view.wants_place()
        written.now += SECOND // 20
        assert not view.wants_place()
        written.now += SECOND // 20 + 1000
        assert view.wants_place()

    def test_and_not_while_there_is_an_entry(self, view):
        assert not view.wants_place()

    def test_an_entry_that_moves_is_followed_to_its_new_place(self, written, view):
        written.writer.withdraw(0)
        written.write(slot=5, rule="new (p.yaml:2)")
        assert view.by_work(SMALL) is None
        assert written.place(view, 5).by_work(SMALL).rule == "new (p.yaml:2)"
        written.writer.write(0, b"somebody else's")
        assert view.by_work(SMALL).rule == "new (p.yaml:2)"


class TestDecisions:
    def test_the_same_object_while_nothing_changes(self, written, view):
        first = view.by_work(SMALL)
        assert view.by_work(SMALL) is first
        assert first.decision_id.startswith("table:0.")
        written.write(rule="new (p.yaml:2)")
        again = view.by_work(SMALL)
        assert again.rule == "new (p.yaml:2)"
        assert again.decision_id != first.decision_id

    def test_by_work_alone_figures_are_those_of_the_middle_of_a_narrow_range(self, view):
        for work in (3e2, 2e3, 9e4, 1.1e5, 5e6, 9e8):
            found = view.by_work(work)
            assert 0.5 <= found.work / work <= 2.0
            assert found.predicted_seconds > 0.0

    def test_of_a_whole_task_they_are_its_own(self, written, table):
        written.write()
        written.place(table.view(GEMM))
        question = table.question(GEMM, {"a": (100, 100), "b": (100, 100)})
        found = table.view(GEMM).by_question(question)
        assert found.work == question.work == pytest.approx(2e6)
        assert found.backend == "metal.mlx"
        assert table.view(GEMM).by_question(question) is found

    def test_each_batch_and_size_has_its_piece(self, written, table, unknown):
        places = [(batch, size) for batch in (unknown, 0, 1) for size in (unknown, 0, 1)]
        written.write(workload=PERFORMANCE, batches=(0.0, 100.0), sizes=(0.0, 1e6), places=places)
        view = written.place(table.view(PERFORMANCE))

        def rule(*shape):
            return view.by_question(table.question(PERFORMANCE, {"returns": shape})).rule.split()[0]

        assert view.by_work(SMALL).rule.split()[0] == f"rule-{places.index((unknown, unknown))}"
        assert rule(500, 99) == f"rule-{places.index((0, 0))}"
        assert rule(500, 100) == f"rule-{places.index((1, 0))}"
        assert rule(50_000, 99) == f"rule-{places.index((0, 1))}"
        assert rule(50_000, 100) == f"rule-{places.index((1, 1))}"

    def test_a_piece_that_the_entry_leaves_out_is_asked_about(self, written, table, unknown):
        places = [(unknown, 0), (0, 0)]
        written.write(workload=PERFORMANCE, batches=(0.0, 100.0), places=places)
        view = written.place(table.view(PERFORMANCE))
        assert view.by_question(table.question(PERFORMANCE, {"returns": (500, 99)})) is not None
        assert view.by_question(table.question(PERFORMANCE, {"returns": (500, 100)})) is None

    def test_they_are_counted(self, written, table):
        written.write()
        view = written.place(table.view(GEMM))
        fast = decider(view, slow=view.by_work, full=None)
        for _ in range(3):
            fast(SMALL)
        view.by_question(table.question(GEMM, {"a": (10, 10), "b": (10, 10)}))
        view.by_work(1e30)
        assert table.take_decisions() == 4
        assert table.take_decisions() == 0

    def test_kept_answers_stay_bounded(self, written, table, monkeypatch):
        monkeypatch.setattr("routerd.client.table._KEPT_QUESTIONS", 10)
        written.write()
        view = written.place(table.view(GEMM))
        for size in range(5, 105):
            assert view.by_question(table.question(GEMM, {"a": (size, 9), "b": (9, 9)})) is not None
        assert len(view.known.made) <= 10
        assert len(table._questions) <= 10


class TestAnotherDaemon:
    """The same views after the connection was made again: what the last daemon said is never given again."""

    @pytest.fixture
    def successor(self, written):
        made = type(written)()
        yield made
        os.close(made.descriptor)

    def test_views_that_were_handed_out_follow(self, written, table, successor):
        written.write(rule="old (p.yaml:1)")
        view = written.place(table.view(GEMM))
        fast = decider(view, slow=view.by_work, full=None)
        question = table.question(GEMM, {"a": (10, 10), "b": (10, 10)})
        assert fast(SMALL).rule == view.by_question(question).rule == "old (p.yaml:1)"
        successor.write(rule="new (p.yaml:1)")  # in the same slot, under the same sequence
        table.close()
        assert fast(SMALL) is None
        table.renew(successor.reader)
        assert fast(SMALL) is None
        assert view.wants_place()  # at once, however lately it was asked for
        successor.place(view)
        assert fast(SMALL).rule == view.by_question(question).rule == "new (p.yaml:1)"
        assert table.view(GEMM) is view

    def test_a_slot_that_was_somebody_elses_there_is_not_read(self, written, table, successor):
        written.write()
        view = written.place(table.view(GEMM))
        assert view.by_work(SMALL) is not None
        successor.write(workload="stats.correlation")
        table.renew(successor.reader)
        assert view.by_work(SMALL) is None


class TestDecider:
    @pytest.fixture
    def slow(self, view):
        asked = []

        def slow(work):
            asked.append(work)
            return view.by_work(work)

        slow.asked = asked
        return slow

    def test_what_was_decided_once_is_read_without_help(self, view, slow):
        fast = decider(view, slow, None)
        first = fast(LARGE)
        assert fast(LARGE) is first is view.by_work(LARGE)
        assert slow.asked == [LARGE]

    def test_help_is_needed_when_the_table_moves_is_stale_or_busy(self, written, view, slow):
        fast = decider(view, slow, None)
        fast(LARGE)
        for disturb in (
            lambda: written.write(rule="new (p.yaml:2)"),
            lambda: written.writer.set_busy(0b10),
            lambda: written.writer.withdraw(0),
            lambda: setattr(written, "now", written.now + 2 * SECOND),
        ):
            before = len(slow.asked)
            disturb()
            fast(LARGE)
            assert len(slow.asked) == before + 1

    def test_another_rule_is_never_answered_with_the_old_one(self, written, view, slow):
        fast = decider(view, slow, None)
        for number in range(20):
            written.write(rule=f"rule-{number} (p.yaml:1)")
            assert fast(SMALL).rule.startswith(f"rule-{number} ")

    def test_whole_tasks_are_passed_on(self, view, slow):
        fast = decider(view, slow, full=lambda work, **parameters: (work, parameters))
        assert fast(num_simulations=5) == (None, {"num_simulations": 5})
        assert fast() == (None, {})
        assert fast(1e5, tolerance=0.1) == (1e5, {"tolerance": 0.1})
        assert slow.asked == []

    def test_threads_that_read_while_the_table_changes_get_whole_answers(self, written, view):
        """Each rule of this table goes with one backend; no answer mixes them."""
        done, wrong = threading.Event(), []
        fast = decider(view, slow=view.by_work, full=None)

        def read():
            while not done.is_set():
                for work, backend in ((SMALL, "cpu.numpy"), (LARGE, "metal.mlx")):
                    found = fast(work)
                    if found is not None and found.backend != backend:
                        wrong.append(found)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(60):
            written.write(rule=f"rule-{number} (p.yaml:1)")
        done.set()
        for thread in threads:
            thread.join()
        assert wrong == []


class TestQuestions:
    def test_a_question_is_what_the_daemon_would_make_of_it(self, table):
        question = table.question(MONTE_CARLO, OPTION)
        assert (question.workload, question.work, question.batch) == (MONTE_CARLO, 1000.0, None)
        assert question.nbytes > 0
        assert question.params["num_simulations"] == 1000
        batch = table.question(PERFORMANCE, {"returns": (500, 7)})
        assert (batch.batch, batch.work, batch.nbytes) == (7, 3500.0, (500 * 7 + 7 * 5) * 8)

    def test_one_that_was_put_before_is_not_checked_again(self, table):
        first = table.question(MONTE_CARLO, OPTION)
        assert table.question(MONTE_CARLO, dict(OPTION)) is first

    def test_arrays_are_told_apart_by_shape_and_dtype_and_not_by_content(self, table):
        random_ = np.random.default_rng(1)
        first = table.question(PERFORMANCE, {"returns": random_.normal(size=(50, 4))})
        assert table.question(PERFORMANCE, {"returns": random_.normal(size=(50, 4))}) is first
        assert table.question(PERFORMANCE, {"returns": random_.normal(size=(4, 50))}).batch == 50
        half = table.question(PERFORMANCE, {"returns": random_.normal(size=(50, 4)).astype("float32")})
        assert half is not first

    @pytest.mark.parametrize(
        ("workload", "name", "values"),
        [
            (MONTE_CARLO, "num_simulations", (1000, 1000.0, True, "1000", np.int64(1000), np.float64(1000.0))),
            (MONTE_CARLO, "volatility", (1, 1.0, True, np.float32(1.0))),
            (PERFORMANCE, "returns", ((50, 4), (50.0, 4.0), np.zeros((50, 4)), np.zeros((50, 4), "int64"))),
            (PERFORMANCE, "returns", ((1, 4), (True, 4), (1.0, 4), ((0.1, 0.4), (0.2, 0.3)), ((0, 1), (1, 0)))),
        ],
    )
    def test_what_was_put_before_never_changes_the_answer(self, written, workload, name, values):
        """1, 1.0 and True are equal in Python, and so are a shape and an array of its lengths."""
        others = OPTION if workload == MONTE_CARLO else {}

        def put(table, value):
            try:
                return table.question(workload, {**others, name: value})
            except BadRequest as error:
                return error.message

        for first in values:
            for second in values:
                table = Table(written.reader)
                put(table, first)
                assert repr(put(table, second)) == repr(put(Table(written.reader), second))

    @pytest.mark.parametrize(
        ("workload", "arguments"),
        [
            ("ml.model", {"model": "demo", "x": (5, 8)}),
            ("ml.model/credit@1", {"x": (5, 8)}),
            ("third.party", {"x": 1.0}),
            (MONTE_CARLO, {**OPTION, "tolerance": 0.5}),
            (MONTE_CARLO, {**OPTION, "deadline_ms": 5.0}),
            (MONTE_CARLO, {**OPTION, "priority": 1}),
        ],
    )
    def test_what_is_for_the_daemon_alone(self, table, workload, arguments):
        assert table.question(workload, arguments) is None
        assert table.question(workload, arguments) is None

    def test_options_that_say_what_is_usual_are_usual(self, table):
        usual = {**OPTION, "priority": 0, "tolerance": table_tolerance()}
        assert table.question(MONTE_CARLO, usual) is not None

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({**OPTION, "volatility": -1.0}, InvalidParameter),
            ({**OPTION, "volatilty": 0.2}, UnknownParameter),
            ({"spot_price": 100.0}, InvalidParameter),
            ({**OPTION, "volatility": [0.1, 0.2]}, InvalidParameter),
        ],
    )
    def test_what_is_wrong_is_said_each_time(self, table, arguments, error):
        for _ in range(2):
            with pytest.raises(error):
                table.question(MONTE_CARLO, arguments)

    def test_arguments_that_cannot_be_remembered_are_checked_each_time(self, table):
        rows = [[0.01, -0.02], [0.03, 0.0], [0.01, 0.01]]
        assert table.question(PERFORMANCE, {"returns": rows}).work == 6.0
        rows.append([0.0, 0.1])
        assert table.question(PERFORMANCE, {"returns": rows}).work == 8.0


def table_tolerance():
    from routerd.workloads import builtin_workloads

    return next(one.tolerance for one in builtin_workloads() if one.name == MONTE_CARLO)
