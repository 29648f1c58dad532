"""A decision table in shared memory, written by hand: ``cpu.numpy`` up to work of 1e5, ``metal.mlx`` beyond."""

from __future__ import annotations

import os

import pytest

from routerd.costs.choice import Preference
from routerd.costs.curve import curve_through
from routerd.interfaces import IN_PROCESS_BACKEND
from routerd.memory import create_published, map_segment
from routerd.protocol import Located
from routerd.routing.entry import NOT_KNOWN, Entry, Plane, encode, spans_of
from routerd.routing.ground import NO_WORKER, Ground, Offer
from routerd.routing.slots import BEAT_WORD, SIZE, SlotReader, SlotWriter

WORKS = tuple(10.0**power for power in range(2, 10))
CPU, GPU = 0, 1


def offer(backend, kind, launch, rate, worker, limit=float("inf")):
    curve = curve_through(WORKS, [launch + rate * work for work in WORKS], [0.05] * len(WORKS))
    return Offer(backend, kind, curve, 60e-6 if worker >= 0 else 15e-6, 1e-7, worker, limit_seconds=limit)


class WrittenTable:
    """The daemon's side. ``now`` is the clock of clients, in nanoseconds."""

    def __init__(self):
        self.memory, self.descriptor = create_published(SIZE)
        self.writer = SlotWriter(self.memory)
        self.reader = SlotReader(map_segment(self.descriptor, SIZE, writable=False))
        self.now = self.reader.words[BEAT_WORD]

    def write(self, slot=0, workload="linalg.gemm", client_class="1.0", *, rule="default (p.yaml:1)", in_process=False,
              batches=(), sizes=(), places=((0, 0),)):  # fmt: skip
        """An entry; each of ``places`` (batch and bytes) has a ground whose rule ends in its number."""
        offers = [offer("cpu.numpy", "cpu", 1e-5, 1e-9, CPU), offer("metal.mlx", "metal_gpu", 1.0e-4, 1e-10, GPU)]
        contract = offers[0]
        if in_process:
            offers.append(offer(IN_PROCESS_BACKEND, "in_process", 1e-5, 1e-9, NO_WORKER, limit=200e-6))
        rules = [rule] if len(places) == 1 else [f"rule-{number} (p.yaml:1)" for number in range(len(places))]
        grounds = [Ground(workload, 1e-5, tuple(offers), (), contract, Preference(), one, "digest", 1) for one in rules]
        planes = tuple(
            Plane(batch, nbytes, spans_of([(0.0, index)], grounds)) for index, (batch, nbytes) in enumerate(places)
        )
        entry = Entry(client_class, workload, 1e-5, 1, tuple(batches), tuple(sizes), planes, tuple(grounds))
        assert self.writer.write(slot, encode(entry))
        return entry

    def place(self, view, slot=0, client_class="1.0"):
        view.place(Located(slot, client_class))
        return view


@pytest.fixture
def written(monkeypatch):
    made = WrittenTable()
    monkeypatch.setattr("routerd.client.table.monotonic_ns", lambda: made.now)
    monkeypatch.setattr("routerd.client.table.monotonic", lambda: made.now / 1e9)
    yield made
    os.close(made.descriptor)


@pytest.fixture
def unknown():
    """The piece of tasks whose batch or bytes are not known."""
    return NOT_KNOWN
