"""A whole daemon under a storm of generated clients: it answers each, loses nobody, and is afterwards what it was before."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from routerd.client import Router
from tests.fuzz.daemons import Fuzzed, running_daemon, standing
from tests.fuzz.documents import documents
from tests.fuzz.inputs import METHODS, WORKLOADS, streams
from tests.fuzz.targets import targets
from tests.fuzz.tasks import is_affordable, tasks_of
from tests.processes import Wire, wait_until

_ROUNDS, _STREAMS = 3, 200  # of the storm, after one round to warm up; a stream holds some six frames
_TASKS = 30  # of each workload
_GROWTH_BYTES = 16 << 20  # what a process may have more after all rounds: its allocator's fragments
_OPTION = {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2, "num_simulations": 1000, "tolerance": 0.0}
_OPTION_NAME = "options.monte_carlo_european"

#: What the reply to a task may say: the task is wrong, or impossible here. Not that routerd is at a loss.
_REFUSALS = {
    "invalid_array", "invalid_parameter", "unknown_parameter", "unknown_segment", "malformed_frame", "limit_exceeded",
    "no_candidate", "execution_failed", "out_of_memory", "timeout", "deadline_unmeetable", "unknown_model",
}  # fmt: skip


class Level(NamedTuple):
    """What the daemon and its workers hold, but for the database, which keeps a connection for each thread that reads it."""

    descriptors: int
    segments: int
    mappings: int


def level(daemon: Fuzzed) -> Level:
    process = daemon.process
    pids = [process.pid, *(worker.pid for worker in process.workers())]
    opened = [name for pid in pids for name in open_files(pid) if not name.startswith(str(process.state))]
    held = [process.segments(pid) for pid in pids]
    return Level(len(opened), sum(one.descriptors for one in held), sum(one.mappings for one in held))


def open_files(pid: int) -> Iterator[str]:
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            yield str(path.readlink())


def resident_bytes(daemon: Fuzzed) -> int:
    return sum(one.memory_info().rss for one in (psutil.Process(daemon.process.pid), *daemon.process.workers()))


def each(inputs: st.SearchStrategy[Any], count: int, check: Callable[[Any], None], number: int = 0) -> None:
    """Check ``count`` inputs, the same in every run; another ``number`` gives others."""

    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @seed(number)
    @given(inputs)
    def examine(value: Any) -> None:
        check(value)

    examine()


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Fuzzed]:
    with running_daemon() as daemon:
        yield daemon


@pytest.fixture
def bystander(fuzzed: Fuzzed) -> Iterator[Router]:
    """Somebody else, who is served before and after by the same processes."""
    with fuzzed.process.connect(name="bystander", table=False) as router:
        before = standing(router)
        yield router
        assert standing(router) == before


@contextlib.contextmanager
def served_throughout(router: Router) -> Iterator[list[float]]:
    """A thread that has its tasks run, and checks each result, until the block ends."""
    results: list[float] = []
    problems: list[Exception] = []
    done = threading.Event()

    def work() -> None:
        try:
            while not done.is_set():
                results.append(router.run(_OPTION_NAME, **_OPTION)["price"])
                assert router.decide(_OPTION_NAME, **_OPTION).backend
                done.wait(0.005)
        except Exception as error:  # told in the test's own thread
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield results
    finally:
        done.set()
        thread.join(30.0)
    assert not problems, problems
    assert len(set(results)) == 1


def test_a_storm_of_clients_leaves_the_daemon_as_it_was(fuzzed, bystander):
    with fuzzed.process.connect(name="worker", table=False) as worker, served_throughout(worker) as results:
        for kept in targets()["daemon"].seeds():
            fuzzed.check(kept.read_bytes())
        levels, memory = [], []
        for number in range(_ROUNDS + 1):
            each(streams, _STREAMS, fuzzed.check, number=number)
            each(streams, _STREAMS // 6, fuzzed.vanish, number=100 + number)
            wait_until(lambda: bystander.call("status")["traffic"]["clients"] == 2)
            wait_until(lambda: level(fuzzed) == (levels or [level(fuzzed)])[0])
            levels.append(level(fuzzed))
            memory.append(resident_bytes(fuzzed))
    assert len(results) > 20
    assert fuzzed.answered > 1000
    assert levels[1:] == levels[:1] * _ROUNDS
    assert memory[-1] - memory[0] < _GROWTH_BYTES, memory


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_task_has_a_result_or_a_reason(fuzzed, bystander, name):
    def check(task: dict[str, Any]) -> None:
        for method in ("decide", "run") if is_affordable(task) else ("decide",):
            reply = fuzzed.ask(task, method)
            assert "result" in reply or reply["error"]["code"] in _REFUSALS, (method, task, reply)
            assert "raised" not in reply.get("error", {}).get("message", ""), (method, task, reply)

    each(tasks_of(name), _TASKS, check)


def test_policy_files_are_put_in_force_or_refused_with_the_place(fuzzed, bystander):
    path = fuzzed.process.directory / "policy.yaml"

    def check(document: bytes) -> None:
        path.write_bytes(document)
        reply = fuzzed.ask({"paths": [str(path)]}, "policy.apply")
        assert "result" in reply or (
            reply["error"]["code"] == "invalid_policy" and str(path) in reply["error"]["message"]
        )

    try:
        each(documents, 40, check)
    finally:
        assert fuzzed.ask({"paths": []}, "policy.apply")["result"]["files"]


def test_an_unknown_field_is_refused_by_every_method(fuzzed):
    client = Wire(fuzzed.process.socket)
    try:
        client.hello("fuzz")
        for method in sorted(METHODS.keys() - {"hello"}):
            error = client.error(method, {"no such field": 1})
            assert error["code"] == "malformed_frame"
            assert error["message"].startswith(f"params of {method} is not valid: ")
    finally:
        client.close()
