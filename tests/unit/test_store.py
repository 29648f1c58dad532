from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from routerd.database import MIGRATIONS
from routerd.errors import BadRequest, ConfigurationError, StateUnwritable, UnknownDecision
from routerd.store import FILE_NAME, DecisionRecord, Store
from routerd.types import Decision, Timing

DECISION = Decision(
    decision_id="d-0",
    workload="linalg.gemm",
    work=8.0,
    primary_hardware="cpu",
    backend="cpu.numpy",
    confidence=0.9,
    estimated_gain=1.0,
    predicted_seconds=1e-5,
    reasoning="only one backend is ready",
    fallbacks=(),
    rejected=(),
    rule="default (default.yaml:3)",
    policy_digest="abc",
    generation=1,
)


def make_record(number: int, **changes: Any) -> DecisionRecord:
    base = DecisionRecord(
        decision_id=f"d-{number}",
        time=1000.0 + number,
        client="test",
        uid=1000,
        method="decide",
        workload="linalg.gemm",
        params={"alpha": 1.5},
        dims={"M": 2, "K": 2, "N": 2},
        work=8.0,
        nbytes=96,
        tolerance=1e-9,
        facts={"workload.engine": ("risk",), "task.work": 8.0},
        decision=msgspec.structs.replace(DECISION, decision_id=f"d-{number}"),
    )
    return msgspec.structs.replace(base, **changes)


def open_store(directory: Path, **options: int) -> Store:
    return Store(directory, **({"buffer_limit": 1000, "kept": 1000} | options))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = open_store(tmp_path)
    yield made
    made.close()


def test_a_decision_just_made_is_found_with_everything_it_was_recorded_with(store: Store) -> None:
    timing = Timing(queue_seconds=0.1, transfer_seconds=0.2, kernel_seconds=0.3, total_seconds=0.7)
    record = make_record(
        1, method="run", ran_on="cpu.numpy", fallback_reason="crash", timing=timing, error_code="timeout"
    )

    store.record(record)

    found = store.decision("d-1")
    assert found.facts["workload.engine"] == ["risk"]
    assert msgspec.structs.replace(found, facts=record.facts) == record


def test_an_answer_given_again_is_found_under_its_own_id(store: Store) -> None:
    store.record(make_record(2, decision=DECISION))

    assert store.decision("d-2").decision.decision_id == "d-2"


def test_an_unknown_decision_is_named(store: Store) -> None:
    with pytest.raises(UnknownDecision, match="d-77"):
        store.decision("d-77")


def test_decisions_come_newest_first_by_the_time_they_were_made(store: Store) -> None:
    for number in (3, 1, 2):
        store.record(make_record(number))

    assert [record.decision_id for record in store.decisions(limit=2)] == ["d-3", "d-2"]


def test_the_decisions_of_every_model_are_those_of_the_workload_that_runs_them(store: Store) -> None:
    names = ("ml.model", "ml.model/credit@3", "ml.model/credit@30", "ml.model_other", "ml.mlp_inference")
    for number, name in enumerate(names):
        store.record(make_record(number, workload=name))
    assert {one.workload for one in store.decisions(10, workload="ml.model")} == set(names[:3])
    assert {one.workload for one in store.decisions(10, workload="ml.model/credit@3")} == {"ml.model/credit@3"}


def test_decisions_can_be_limited_to_a_workload_and_a_time(store: Store) -> None:
    store.record(make_record(1, workload="risk.var"))
    store.record(make_record(2))
    store.record(make_record(3, workload="risk.var"))

    assert [record.decision_id for record in store.decisions(10, workload="risk.var")] == ["d-3", "d-1"]
    assert [record.decision_id for record in store.decisions(10, since=1002.0)] == ["d-3", "d-2"]
    assert [record.decision_id for record in store.decisions(10, "risk.var", 1002.0)] == ["d-3"]
    assert store.decisions(10, workload="risk.cvar") == []
    assert store.decisions(0) == []


def test_a_full_buffer_drops_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routerd.store._INTERVAL_SECONDS", 3600.0)
    store = open_store(tmp_path, buffer_limit=10)

    for number in range(25):
        store.record(make_record(number))

    assert (store.recorded, store.dropped) == (10, 15)
    assert len(store.decisions(100)) == 10
    store.record(make_record(99))
    assert store.decision("d-99").time == 1099.0
    store.close()


def test_the_writer_thread_writes_without_being_asked(store: Store) -> None:
    store.record(make_record(1))

    deadline = time.monotonic() + 10.0
    while stored_ids(store.path) != ["d-1"]:
        assert time.monotonic() < deadline, "the writer thread wrote nothing"
        time.sleep(0.01)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    store = open_store(tmp_path, kept=5)
    for number in range(12):
        store.record(make_record(number))

    assert [record.decision_id for record in store.decisions(100)] == [f"d-{number}" for number in range(11, 6, -1)]
    store.close()


def test_a_flush_writes_more_than_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routerd.store._INTERVAL_SECONDS", 3600.0)
    monkeypatch.setattr("routerd.store._ROWS_PER_BATCH", 7)
    store = open_store(tmp_path)
    for number in range(50):
        store.record(make_record(number))

    assert store.flush()
    assert len(stored_ids(store.path)) == 50
    store.close()


def test_a_record_that_cannot_be_encoded_is_counted_and_stops_no_other(store: Store) -> None:
    store.record(make_record(1, facts={"bad": object()}))
    store.record(make_record(2))

    assert [record.decision_id for record in store.decisions(10)] == ["d-2"]
    assert store.write_errors == 1


def test_writing_goes_on_after_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> sqlite3.Connection:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(store._database, "connect", full)
        store.record(make_record(1))
        assert not store.flush()
        assert store.write_errors >= 1

    store.record(make_record(2))
    assert [record.decision_id for record in store.decisions(10)] == ["d-2", "d-1"]
    assert store.dropped == 0


def test_a_batch_that_fails_half_way_is_written_whole_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with store._writing:
        store._writer = store._database.connect()
        store._writer.execute(
            "CREATE TEMP TRIGGER full BEFORE INSERT ON main.decisions WHEN NEW.decision_id = 'd-3' "
            "BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
        for number in range(6):
            store.record(make_record(number))
        assert not store._write_batch()
        assert stored_ids(store.path) == []

    assert [record.decision_id for record in store.decisions(10)] == [f"d-{number}" for number in range(5, -1, -1)]


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    first = open_store(tmp_path)
    first.record(make_record(1))
    first.save_calibration("machine", "cpu.numpy", "linalg.gemm", b"model")
    generation = first.add_policy("abc", 1000, "{}", "start")
    first.close()

    second = open_store(tmp_path)
    assert second.decision("d-1").client == "test"
    assert second.load_calibrations("machine") == {("cpu.numpy", "linalg.gemm"): b"model"}
    assert second.policy_history(1)[0].generation == generation == 1
    second.close()
    second.close()


def test_calibrations_are_replaced_by_pair_and_kept_apart_by_fingerprint(store: Store) -> None:
    store.save_calibrations("one", {("cpu.numpy", "a"): b"1", ("cpu.torch", "a"): b"2"})
    store.save_calibration("one", "cpu.numpy", "a", b"3")
    store.save_calibration("two", "cpu.numpy", "a", b"4")

    assert store.load_calibrations("one") == {("cpu.numpy", "a"): b"3", ("cpu.torch", "a"): b"2"}
    assert store.load_calibrations("two") == {("cpu.numpy", "a"): b"4"}
    assert store.load_calibrations("three") == {}


def test_policy_generations_grow_and_tell_who_and_why(store: Store) -> None:
    assert store.policy_history(1) == []

    generations = [store.add_policy(f"digest-{n}", 500 + n, f'{{"n": {n}}}', "apply") for n in range(3)]

    assert generations == [1, 2, 3]
    assert [record.generation for record in store.policy_history(2)] == [3, 2]
    second = store.policy(2)
    assert (second.digest, second.author_uid, second.content, second.reason) == ("digest-1", 501, '{"n": 1}', "apply")
    with pytest.raises(BadRequest, match="generation 9"):
        store.policy(9)


def test_a_state_directory_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    in_the_way = tmp_path / "state"
    in_the_way.write_text("a file")

    with pytest.raises(StateUnwritable, match=r"state/routerd.sqlite3.*ROUTERD_STATE_DIR"):
        open_store(in_the_way)


def test_a_database_that_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()

    with pytest.raises(StateUnwritable, match="directory"):
        open_store(tmp_path)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_says_what_to_do(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(StateUnwritable, match="Permission denied"):
        open_store(tmp_path)


def test_the_state_is_private(tmp_path: Path) -> None:
    store = open_store(tmp_path / "made" / "here")

    assert store.path.parent.stat().st_mode & 0o777 == 0o700
    assert store.path.stat().st_mode & 0o777 == 0o600
    store.close()


def test_a_corrupt_file_is_moved_aside_at_start(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"this is no database" * 100)

    store = open_store(tmp_path)

    assert store.add_policy("abc", 0, "{}", "start") == 1
    store.close()
    (aside,) = tmp_path.glob(f"{FILE_NAME}.corrupt-*")
    assert aside.read_bytes().startswith(b"this is no database")


def test_a_file_that_becomes_corrupt_is_replaced_and_writing_goes_on(tmp_path: Path) -> None:
    first = open_store(tmp_path)
    for number in range(200):
        first.record(make_record(number))
    first.close()
    path = tmp_path / FILE_NAME
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)  # the header and the schema survive, every table is lost
    path.write_bytes(content)

    second = open_store(tmp_path)
    second.record(make_record(500))
    second.flush()

    assert [record.decision_id for record in second.decisions(10)] == ["d-500"]
    second.close()
    assert len(list(tmp_path.glob(f"{FILE_NAME}.corrupt-*"))) == 1


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    database.close()

    with pytest.raises(ConfigurationError, match="newer routerd"):
        open_store(tmp_path)
    assert list(tmp_path.glob("*.corrupt-*")) == []


def test_records_of_another_version_are_left_out_of_lists(store: Store) -> None:
    store.record(make_record(1))
    store.flush()
    with sqlite3.connect(store.path) as database:
        database.execute("INSERT INTO decisions (decision_id, time, workload, record) VALUES ('old', 1, 'a', x'80')")
    database.close()

    assert [record.decision_id for record in store.decisions(10)] == ["d-1"]
    with pytest.raises(UnknownDecision, match="another version"):
        store.decision("old")


def test_readers_and_the_writer_do_not_disturb_each_other(tmp_path: Path) -> None:
    store = open_store(tmp_path, buffer_limit=100_000, kept=100_000)
    failures: list[BaseException] = []
    done = threading.Event()

    def use(work: Any) -> None:
        try:
            while not done.is_set():
                work()
        except BaseException as error:  # told to the main thread below
            failures.append(error)

    jobs = [
        lambda: store.decisions(5),
        lambda: store.save_calibration("machine", "cpu.numpy", "linalg.gemm", b"x" * 100),
        lambda: store.add_policy("abc", 0, "{}", "apply"),
    ]
    threads = [threading.Thread(target=use, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for number in range(3000):
        store.record(make_record(number))
    store.flush()
    done.set()
    for thread in threads:
        thread.join(20.0)

    assert failures == []
    assert store.flush()
    assert len(stored_ids(store.path)) == 3000
    assert store.policy_history(1)[0].generation == len(store.policy_history(100_000))
    store.close()


_WRITES_THEN_WAITS = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store import make_record, open_store
store = open_store(Path(sys.argv[1]))
for number in range(20):
    store.record(make_record(number))
assert store.flush()
print("flushed", flush=True)
time.sleep(60)
"""


def test_what_was_flushed_survives_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITES_THEN_WAITS, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "flushed\n"
        child.send_signal(signal.SIGKILL)
        child.wait(10.0)

    store = open_store(tmp_path)
    assert len(store.decisions(100)) == 20
    store.close()


def stored_ids(path: Path) -> list[str]:
    """What another process would find in the file."""
    database = sqlite3.connect(path)
    try:
        return [row[0] for row in database.execute("SELECT decision_id FROM decisions ORDER BY seq")]
    finally:
        database.close()
