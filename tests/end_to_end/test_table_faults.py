"""The decision table when something dies, stops, or was left half done: clients ask, fail clearly, and never guess."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from routerd import errors
from routerd.client.table import View, decider
from routerd.costs.choice import Preference
from routerd.costs.curve import curve_through
from routerd.memory import create_published, map_segment
from routerd.protocol import Located
from routerd.routing.entry import ASK, Entry, Plane, Span, encode
from routerd.routing.ground import Ground, Offer
from routerd.routing.slots import SIZE, SlotReader, SlotWriter, sequence_word
from tests.end_to_end.conftest import Wire

GEMM = "linalg.gemm"
MEMORY_FILES = pytest.mark.skipif(sys.platform != "linux", reason="looks at descriptors as Linux shows them")


def from_table(decision):
    return decision.decision_id.startswith("table:")


@pytest.fixture
def timed(private_daemon, moody_knowledge):
    """A daemon whose table has answers about linalg.gemm."""
    process = private_daemon()
    shutil.copytree(moody_knowledge, process.state)
    with process.start().connect(name="setup") as router:
        router.call("calibrate", {"workloads": [GEMM]})
    return process


class TestDaemon:
    def test_one_that_is_killed_is_missed_within_two_seconds(self, timed):
        with timed.connect(reconnect=0.0) as router:
            decide = router.decider(GEMM)
            assert from_table(decide(1e6))
            timed.stop(signal.SIGKILL)
            died = time.monotonic()
            with pytest.raises(errors.DaemonUnreachable):
                while time.monotonic() - died < 5.0:
                    decide(1e6)
            assert time.monotonic() - died < 3.0
            for call in (
                lambda: decide(1e6),
                lambda: decide(m=9, k=9, n=9),
                lambda: router.decide(GEMM, m=9, k=9, n=9),
            ):
                with pytest.raises(errors.DaemonUnreachable, match="connect again"):
                    call()

    def test_one_that_is_stopped_is_asked_and_answers_when_it_goes_on(self, timed, until):
        heard = []

        def loop(decide, done):
            while not done.is_set():
                heard[:] = [time.monotonic(), decide(1e6)]

        with timed.connect() as router:
            done = threading.Event()
            expected = router.decider(GEMM)(1e6)
            thread = threading.Thread(target=loop, args=(router.decider(GEMM), done))
            thread.start()
            try:
                until(lambda: heard and from_table(heard[1]))
                os.kill(timed.pid, signal.SIGSTOP)
                until(lambda: time.monotonic() - heard[0] > 0.5)  # the heart has not beaten for a second: it asks
                assert thread.is_alive()
                os.kill(timed.pid, signal.SIGCONT)
                resumed = time.monotonic()
                until(lambda: heard[0] > resumed and from_table(heard[1]))
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(timed.pid, signal.SIGCONT)
                done.set()
                thread.join()
            assert heard[1].backend == expected.backend
            assert heard[1].generation == expected.generation

    def test_closing_does_not_wait_for_one_that_is_stopped(self, timed):
        router = timed.connect()
        assert from_table(router.decider(GEMM)(1e6))  # which would be reported
        os.kill(timed.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            router.close()
            assert time.monotonic() - started < 1.0
        finally:
            os.kill(timed.pid, signal.SIGCONT)

    @MEMORY_FILES
    def test_two_never_share_a_table_nor_one_with_its_successor(self, timed, private_daemon, until):
        other = private_daemon().start()
        other.connect().close()
        first, again, second = (identity(process) for process in (timed, timed, other))
        assert first == again != second
        before = timed.pid
        timed.stop(signal.SIGKILL)
        timed.start()
        with timed.connect() as router:
            assert router.call("status")["pid"] != before
            assert identity(timed) not in (first, second)
            decide = router.decider(GEMM)
            until(lambda: from_table(decide(1e6)))  # what was timed is known, so it soon has a table again

    @MEMORY_FILES
    def test_nobody_else_can_write_to_it(self, timed):
        with published_by(timed) as (descriptor, size):
            with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as readable:
                assert readable[:8] != bytes(8)
            reopened = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
            try:
                for attempt in (
                    lambda: mmap.mmap(descriptor, size),
                    lambda: mmap.mmap(reopened, size),
                    lambda: os.pwrite(reopened, b"x", 0),
                    lambda: os.ftruncate(reopened, 0),
                ):
                    with pytest.raises(PermissionError):
                        attempt()
            finally:
                os.close(reopened)


@contextlib.contextmanager
def published_by(process):
    """The descriptor that comes with hello, and its size."""
    with contextlib.closing(Wire(process.socket)) as raw:
        answer = raw.ask("hello", {"protocols": [1], "client": "wire", "table": True})
        (descriptor,) = raw.descriptors
        yield descriptor, answer["result"]["table"]


def identity(process):
    with published_by(process) as (descriptor, _size):
        found = os.fstat(descriptor)
        return found.st_dev, found.st_ino


CLIENT = """
import sys
from routerd import connect
decide = connect(sys.argv[1], name="victim").decider("linalg.gemm")
print(decide(1e6).decision_id, flush=True)
while True:
    decide(1e6)
"""


def test_a_client_that_is_killed_while_it_reads_disturbs_nobody(timed, until):
    with timed.connect(name="bystander") as router:
        decide = router.decider(GEMM)
        expected = decide(1e6)
        for _ in range(2):
            with subprocess.Popen([sys.executable, "-c", CLIENT, str(timed.socket)], stdout=subprocess.PIPE) as victim:
                assert victim.stdout.readline().startswith(b"table:")
                assert router.call("status")["traffic"]["clients"] == 2
                victim.kill()
            until(lambda: router.call("status")["traffic"]["clients"] == 1)
            assert decide(1e6) == expected
        assert router.run(GEMM, a=[[2.0]], b=[[3.0]])["c"][0, 0] == 6.0
        assert {worker["restarts"] for worker in router.call("status")["workers"]} == {0}
        assert timed.segments(timed.pid).descriptors <= 4
    assert "error" not in {line.split('"level":"')[-1].split('"')[0] for line in timed.log.read_text().splitlines()}


class TestHalfWritten:
    """A table of this process's own, which the tests can leave in any state."""

    @pytest.fixture
    def memory(self):
        mapped, descriptor = create_published(SIZE)
        SlotWriter(mapped)
        yield mapped, SlotReader(map_segment(descriptor, SIZE, writable=False))
        os.close(descriptor)

    @staticmethod
    def entry(generation, count):
        """One span for each ten of work, up to ``count``, each with a backend of its own."""
        curve = curve_through([1.0, 10.0, 100.0], [1.0, 2.0, 3.0], [0.1, 0.1, 0.1])
        names = [f"{generation}.{number}" for number in range(count)]
        grounds = tuple(
            Ground(GEMM, 0.0, (Offer(name, "cpu", curve, 0.0, 0.0, 0),), (), None, Preference(), "r", "d", generation)
            for name in names
        )
        spans = [Span(10.0 * number, number, 0, 10.0 * number + 5.0, name) for number, name in enumerate(names)]
        spans.append(Span(10.0 * count, ASK, 0, 0.0, ""))
        return encode(Entry("one", GEMM, 0.0, generation, (), (), (Plane(0, 0, tuple(spans)),), grounds))

    def test_a_slot_left_odd_is_asked_about(self, memory):
        mapped, reader = memory
        writer, words = SlotWriter(mapped), memoryview(mapped).cast("Q")
        writer.write(3, self.entry(1, 2))
        view = View(reader, GEMM)
        view.place(Located(3, "one"))
        decide = decider(view, slow=lambda work: view.by_work(work) or "asked", full=None)
        assert [decide(15.0).backend, decide(15.0).backend, decide(25.0)] == ["1.1", "1.1", "asked"]
        words[sequence_word(3)] += 1  # its writer begins, and dies
        assert decide(15.0) == "asked"
        SlotWriter(mapped).write(3, self.entry(2, 2))  # another one goes on where it stopped
        assert decide(15.0).backend == "2.1"

    @pytest.mark.parametrize("damage", [b"", b"\x93", b"\xff" * 40])
    def test_a_payload_that_is_not_what_was_written_is_asked_about(self, memory, damage):
        mapped, reader = memory
        writer = SlotWriter(mapped)
        writer.write(0, self.entry(1, 2))
        view = View(reader, GEMM)
        payload = bytearray(self.entry(2, 2))
        start = sequence_word(0) * 8 + 16
        payload[len(payload) // 2 : len(payload) // 2 + len(damage)] = damage
        mapped[start : start + len(payload)] = bytes(payload)  # under the checksum of the first
        view.place(Located(0, "one"))
        assert view.by_work(15.0) is None

    def test_threads_that_share_a_decider_never_mix_two_entries(self, memory):
        mapped, reader = memory
        writer, entries = SlotWriter(mapped), [self.entry(0, 9), self.entry(1, 3)]
        writer.write(0, entries[0])
        view = View(reader, GEMM)
        view.place(Located(0, "one"))
        decide = decider(view, slow=view.by_work, full=None)
        done, wrong, counts = threading.Event(), [], []

        def read():
            heard = 0
            while not done.is_set():
                for work in (15.0, 25.0, 85.0):
                    try:
                        decision = decide(work)
                    except Exception as error:
                        wrong.append(error)
                        return
                    heard += decision is not None
                    if decision is not None and int(decision.backend.split(".")[1]) != work // 10:
                        wrong.append(decision)
            counts.append(heard)

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [threading.Thread(target=read) for _ in range(3)]
            for thread in threads:
                thread.start()
            until = time.monotonic() + 0.7
            while time.monotonic() < until:
                for entry in reversed(entries):
                    writer.write(0, entry)
            done.set()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert wrong == []
        assert min(counts) > 100


class TestStore:
    """What was measured is lost or unreadable: the daemon starts all the same, says so, and measures again."""

    @staticmethod
    def known(router):
        (workload,) = router.call("workloads", {"name": GEMM})
        return {name: (pair["state"], pair["points"]) for name, pair in workload["backends"].items()}

    @pytest.mark.parametrize("kept", [0.5, 0.02])
    def test_a_database_cut_short(self, timed, kept, until):
        assert timed.stop() == 0
        path = timed.state / "routerd.sqlite3"
        with path.open("r+b") as file:
            file.truncate(int(path.stat().st_size * kept))
        timed.start()
        with timed.connect() as router:
            assert router.decide(GEMM, m=9, k=9, n=9).backend == "cpu.numpy"
            router.call("calibrate", {"workloads": [GEMM]})
            assert self.known(router)["cpu.numpy"][0] == "calibrated"
            decide = router.decider(GEMM)
            until(lambda: from_table(decide(1e6)))
        assert "the database was corrupt" in timed.log.read_text()
        assert [one.name for one in timed.state.glob("*.corrupt-*")]
        assert timed.stop() == 0
        assert timed.log.read_text().count("Traceback") == 0

    @pytest.mark.parametrize("payload", [b"", bytes(range(200))])
    def test_one_pair_that_cannot_be_read_is_measured_again_and_the_others_are_kept(self, timed_moody_daemon, payload):
        process = timed_moody_daemon()
        with process.connect() as router:
            before = self.known(router)
        assert process.stop() == 0
        with contextlib.closing(sqlite3.connect(process.state / "routerd.sqlite3")) as database, database:
            changed = database.execute(
                "UPDATE calibrations SET payload = ? WHERE backend = 'moody.one' AND workload = ?", (payload, GEMM)
            )
            assert changed.rowcount == 1
        process.start()
        process.wait_ready("moody.one")
        with process.connect() as router:
            found = self.known(router)
            assert found["cpu.numpy"] == before["cpu.numpy"]
            assert found["moody.one"] == ("unproved", [])
            router.call("calibrate", {"workloads": [GEMM]})
            found = self.known(router)
            assert found["cpu.numpy"] == before["cpu.numpy"]
            assert found["moody.one"][0] == "calibrated"
            assert len(found["moody.one"][1]) > 1
        assert process.stop() == 0
        log = process.log.read_text()
        assert log.count("kept calibration not usable") == 1
        assert "internal error" not in log
