"""The worker process: jobs come over a socket pair, one at a time, until the daemon closes it.

Run as ``python -m routerd.worker.process`` with the socket as an inherited descriptor; never forked from the daemon.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence

from routerd.interfaces import Workload
from routerd.memory import Arrivals, receive, send
from routerd.protocol import FrameBuffer, SegmentInfo, encode_frame
from routerd.worker import messages
from routerd.worker.host import Host
from routerd.worker.housekeeping import Housekeeping
from routerd.workloads import builtin_workloads

_CHUNK = 1 << 16  # the allocator maps larger buffers afresh for every call, which costs more than the call
_MAX_FRAME = 1 << 28  # the daemon is trusted; its own limit for clients is far lower
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve jobs until end of stream."""
    arguments = _parser().parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group; the daemon decides when a worker ends
        signal.signal(number, signal.SIG_IGN)
    _die_with_daemon(arguments.daemon)
    _limit_memory(arguments.memory_bytes)
    workloads = _workloads(arguments.workload_module)
    host = Host(workloads, incarnation=arguments.incarnation, inline_bytes=arguments.inline_bytes)
    connection = socket.socket(fileno=arguments.fd)
    housekeeping = Housekeeping()
    housekeeping.settle()
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the daemon is gone: nobody wants the answer
            _serve(connection, host, housekeeping)
    finally:
        host.close()


def _serve(connection: socket.socket, host: Host, housekeeping: Housekeeping) -> None:
    frames = FrameBuffer(_MAX_FRAME)
    arrivals = Arrivals()
    while True:
        data, received = receive(connection, _CHUNK)
        if not data:
            return
        arrivals.add(received)
        for body in frames.feed(data):
            job = messages.job_decoder.decode(body)
            _attach(host, getattr(job, "attach", ()), arrivals)
            outcome = host.handle(job)
            if outcome is not None:
                _answer(connection, host, outcome)
            if isinstance(job, messages.Load):
                housekeeping.settle()
            del job, outcome  # they keep arrays
        housekeeping.between_jobs()


def _attach(host: Host, segments: Sequence[SegmentInfo], arrivals: Arrivals) -> None:
    try:
        descriptors = arrivals.take(len(segments))
    except OSError as error:
        for info in segments:
            host.miss(info, error)
        return
    for info, descriptor in zip(segments, descriptors, strict=True):
        host.attach(info, descriptor)
        os.close(descriptor)


def _answer(connection: socket.socket, host: Host, outcome: messages.Outcome) -> None:
    created, host.created = host.created, []
    frame = encode_frame(outcome)
    sent = send(connection, frame, [segment.descriptor for segment in created])
    while sent < len(frame):
        sent += connection.send(frame[sent:])
    for segment in created:
        segment.close_descriptor()


def _workloads(modules: list[str]) -> dict[str, Workload]:
    """The catalogue, and what third-party plugins add to it."""
    workloads = {workload.name: workload for workload in builtin_workloads()}
    for module in modules:
        for workload in importlib.import_module(module).routerd_workloads():
            workloads.setdefault(workload.name, workload)
    return workloads


def _die_with_daemon(daemon: int) -> None:
    """A daemon killed by SIGKILL leaves no worker behind, not even one that computes."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # without it the worker still ends at its next read
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != daemon:
        sys.exit("the daemon ended before its worker started")


def _limit_memory(size: int) -> None:
    """Let an allocation beyond the limit fail, so that only the task fails; 0: none.

    Shared memory does not count. macOS does not enforce such limits: there the daemon alone looks at what a worker holds.
    """
    if size and sys.platform == "linux":
        _soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        size = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (size, hard))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="routerd-worker", description="a worker process of routerd")
    parser.add_argument("--fd", type=int, required=True, help="the inherited socket")
    parser.add_argument("--daemon", type=int, required=True, help="process id of the daemon")
    parser.add_argument("--incarnation", type=int, required=True, help="makes segment numbers unique")
    parser.add_argument("--inline-bytes", type=int, default=8192, help="outputs up to this size travel in the message")
    parser.add_argument("--memory-bytes", type=int, default=0, help="most private memory; 0: no limit")
    parser.add_argument("--workload-module", action="append", default=[], help="plugin module with routerd_workloads")
    return parser


if __name__ == "__main__":
    main()
