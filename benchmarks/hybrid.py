"""Whether sharing a task between backends is chosen exactly where it is faster: every workload that splits, in several sizes.

Each task is run on every backend alone and on all that share it, in turn; then the daemon is asked where it would run it.

``python -m benchmarks.hybrid [WORKLOAD …] [--quick] [--awake] [--json FILE] [--markdown] [--update FILE]``
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from benchmarks._harness import MILLISECOND, Options, PrivateDaemon, interleave, over_blocks, quiet_machine
from benchmarks._report import publish
from routerd.client import Router
from routerd.errors import RouterdError
from routerd.interfaces import HYBRID_BACKEND, Workload
from routerd.workloads import builtin_workloads

#: Closer than this, neither choice is wrong: two runs of the same task differ by as much.
NOISE = 0.1

_SIZES = 4
_SECONDS = (200e-6, 1.0)  # shorter tasks are not worth sharing, longer ones not the time here
_ANYWHERE = "anywhere"
_SINGLES = ("cpu.numpy", "cpu.torch")
_POLICY = """
apiVersion: routerd/v1
kind: Policy
metadata: {{name: hybrid-benchmark}}
rules:
{rules}
default: {{objective: {{latency: 1.0}}, split: auto}}
"""


@dataclass(frozen=True)
class Choice:
    """One task: milliseconds of the best backend alone and of all together, and where the daemon would run it."""

    workload: str
    work: float
    best: str
    best_milliseconds: float
    hybrid_milliseconds: float
    chosen: str

    HEADINGS: ClassVar = ("workload", "work", "best alone", "ms", "shared, ms", "shared is faster", "chosen", "verdict")

    @property
    def value(self) -> float:
        """How many times faster the task is when it is shared."""
        return self.best_milliseconds / self.hybrid_milliseconds

    @property
    def verdict(self) -> str:
        if 1.0 / (1.0 + NOISE) <= self.value <= 1.0 + NOISE:
            return "either"
        return "right" if (self.chosen == HYBRID_BACKEND) == (self.value > 1.0) else "wrong"

    @property
    def cells(self) -> tuple[str, ...]:
        return (
            self.workload,
            f"{self.work:.3g}",
            self.best,
            f"{self.best_milliseconds:.3g}",
            f"{self.hybrid_milliseconds:.3g}",
            f"{self.value:.2f}×",
            self.chosen,
            self.verdict,
        )


def main() -> None:
    options = Options(str(__doc__), add=_arguments)
    workloads = [one for one in builtin_workloads() if one.split is not None and _asked(one, options)]
    blocks, calls = (1, 2) if options.quick else (5, 3)
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(PrivateDaemon())
        policy = daemon.directory / "policy.yaml"
        policy.write_text(_policy())
        daemon.set("policy_paths", policy)
        daemon.start()
        clients = {name: stack.enter_context(daemon.connect(name, table=False)) for name in (_ANYWHERE, *_ways())}
        _wait_until_ready(clients[_ANYWHERE])
        daemon.calibrate(*(workload.name for workload in workloads))
        conditions = stack.enter_context(quiet_machine(options))
        refusals: set[str] = set()
        choices = [choice for workload in workloads for choice in _choices(workload, clients, refusals, blocks, calls)]
    conditions["noise"] = f"within {100 * NOISE:.0f} % neither choice is wrong"
    conditions["blocks"] = f"{blocks} of {calls} runs"
    if not choices:
        raise SystemExit("\n".join(["no task was shared here", *sorted(refusals)]))
    if refusals:
        conditions["not measured"] = "; ".join(sorted(refusals))
    wrong = sum(choice.verdict == "wrong" for choice in choices)
    conditions["wrong choices"] = f"{wrong} of {len(choices)}"
    publish("hybrid", choices, conditions, options)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help="only these (all that split)")


def _asked(workload: Workload, options: Options) -> bool:
    return not options.own.workloads or workload.name in options.own.workloads


def _ways() -> tuple[str, ...]:
    return (*_SINGLES, HYBRID_BACKEND)


def _policy() -> str:
    """A client's name says where its tasks run; the one called anywhere leaves that to the daemon."""
    rules = [
        f"  - {{id: only-{name.replace('.', '-')}, when: {{client.name: {name}}}, prefer: [{name}], split: auto}}"
        for name in _ways()
    ]
    return _POLICY.format(rules="\n".join(rules))


def _wait_until_ready(router: Router) -> None:
    deadline = time.monotonic() + 60.0
    while "starting" in router.call("status")["backends"].values():
        if time.monotonic() > deadline:
            raise SystemExit("a backend does not start within a minute")
        time.sleep(0.05)


def _choices(
    workload: Workload, clients: Mapping[str, Router], refusals: set[str], blocks: int, calls: int
) -> Iterator[Choice]:
    """Its sizes that take neither too short nor too long; why one was not run somewhere is added to ``refusals``."""
    low, high = workload.work_range
    for work in np.geomspace(low, high, _SIZES):
        example = workload.example(float(work), np.random.default_rng(0))
        arguments = {**example.params, **example.arrays}
        decision = clients[_ANYWHERE].decide(workload.name, **arguments)
        if not _SECONDS[0] <= decision.predicted_seconds <= _SECONDS[1]:
            continue
        found = _timed_everywhere(workload.name, arguments, clients, refusals, blocks, calls)
        if HYBRID_BACKEND not in found or len(found) < 2:
            continue
        shared = found.pop(HYBRID_BACKEND)
        best = min(found, key=lambda name: found[name])
        again = clients[_ANYWHERE].decide(workload.name, **arguments)  # after its models have learnt from the runs
        yield Choice(workload.name, decision.work, best, found[best] * MILLISECOND, shared * MILLISECOND, again.backend)


def _timed_everywhere(
    workload: str,
    arguments: Mapping[str, Any],
    clients: Mapping[str, Router],
    refusals: set[str],
    blocks: int,
    calls: int,
) -> dict[str, float]:
    """Median seconds in the daemon by where the task ran; without those that may not take it."""
    ways = []
    for way in _ways():
        try:
            ran_on = clients[way].run(workload, **arguments).ran_on.backend
        except RouterdError as error:
            refusals.add(f"{workload} on {way}: {error.message}")
            continue
        if ran_on == way:
            ways.append(way)
        else:
            refusals.add(f"{workload} on {way}: ran on {ran_on} instead")

    def subject(way: str) -> Any:
        def measure(count: int) -> list[float]:
            return [clients[way].run(workload, **arguments).timing.total_seconds for _ in range(count)]

        return measure

    found = interleave({way: subject(way) for way in ways}, blocks=blocks, calls=calls)
    return {way: over_blocks(samples, 0.5) for way, samples in found.items()}


if __name__ == "__main__":
    main()
