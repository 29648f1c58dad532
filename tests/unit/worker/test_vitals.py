"""What the system says of a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from routerd.worker.vitals import vitals


@pytest.fixture
def child():
    code = "import sys; held = bytearray(64 << 20); held[::4096] = bytes(len(held[::4096])); print(flush=True); sys.stdin.read()"
    made = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    made.stdout.readline()
    yield made
    made.kill()
    made.communicate()


def test_the_memory_that_is_its_own(child):
    signs = vitals(psutil.Process(child.pid))
    assert 64 << 20 <= signs.private_bytes < 200 << 20
    assert signs.private_bytes < psutil.Process(child.pid).memory_info().rss
    assert not signs.stopped


def test_whether_it_is_stopped(child):
    process = psutil.Process(child.pid)
    for number, expected in ((signal.SIGSTOP, True), (signal.SIGCONT, False)):
        os.kill(child.pid, number)
        ends_at = time.monotonic() + 10.0
        while vitals(process).stopped is not expected:
            assert time.monotonic() < ends_at
            time.sleep(0.001)


def test_nothing_of_one_that_has_ended(child):
    process = psutil.Process(child.pid)
    child.kill()
    child.wait()
    assert vitals(process) is None


def test_nothing_while_there_is_no_descriptor_left(child, monkeypatch):
    process = psutil.Process(child.pid)

    def scarce(*_arguments):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(psutil.Process, "status", scarce)
    assert vitals(process) is None
