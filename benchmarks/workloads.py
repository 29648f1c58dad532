"""Each workload at its real scale against the library that a user would otherwise call, on the same data in the same run.

``python -m benchmarks.workloads [NAME …] [--quick] [--awake] [--json FILE] [--markdown] [--update FILE]``
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from statistics import median
from typing import Any

from benchmarks._harness import MILLISECOND, Options, Subject, interleave, quiet_machine, timed
from benchmarks._report import Comparison, publish
from benchmarks.references import Case, Missing, all_cases
from routerd.interfaces import Namespace, Workload
from routerd.namespaces.execution import execute_kernel, refusal
from routerd.namespaces.numpy import NumpyNamespace
from routerd.types import ArrayRef
from routerd.workloads import builtin_workloads
from routerd.workloads.binding import bind

_BLOCK_SECONDS = 0.15  # a block of calls of one subject takes about this long
_BLOCKS = 7


def main() -> None:
    wanted, arguments = _names(sys.argv[1:])
    options = Options(str(__doc__), arguments)
    namespaces = _namespaces()
    compared: list[Comparison] = []
    notes: dict[str, list[str]] = {}
    with quiet_machine(options) as conditions:
        for case in all_cases(options.quick):
            if wanted and case.workload not in wanted:
                continue
            if isinstance(case, Missing):
                conditions[f"{case.workload} not measured"] = case.reason
                continue
            compared.append(_measure(case, namespaces, options))
            print("  " + "  ".join(filter(None, compared[-1].cells)), file=sys.stderr, flush=True)
            if case.note and case.workload not in notes.setdefault(case.note, []):
                notes[case.note].append(case.workload)
    conditions |= {", ".join(names): note for note, names in notes.items()}
    conditions["blocks"] = "one call" if options.quick else f"{_BLOCKS} of about {_BLOCK_SECONDS:g} s"
    publish("workloads", compared, conditions, options)


def _measure(case: Case, namespaces: Mapping[str, Namespace], options: Options) -> Comparison:
    workload = next(one for one in builtin_workloads() if one.name == case.workload)
    refs = {name: ArrayRef(shape=array.shape, dtype=str(array.dtype)) for name, array in case.arrays.items()}
    params = bind(workload, case.params, refs, need_content=False).params
    subjects: dict[str, Subject] = {}
    for name, namespace in namespaces.items():
        if refusal(workload, namespace) is None:
            subjects[name] = timed(_kernel(namespace, workload, params, case.arrays))
    outputs = execute_kernel(namespaces["cpu.numpy"], workload, params, case.arrays).outputs
    error = case.difference(outputs, case.peer())
    if not error <= case.agreement:
        raise SystemExit(f"{case.workload} and {case.library} differ by {error:.2g}, more than {case.agreement:.2g}")
    subjects[case.library] = timed(case.peer)
    milliseconds = {name: MILLISECOND * seconds for name, seconds in _medians(subjects, options).items()}
    peer = milliseconds.pop(case.library) * case.peer_calls
    return Comparison(case.workload, case.scale, case.library, milliseconds, peer, case.target)


def _kernel(
    namespace: Namespace, workload: Workload, params: Mapping[str, Any], arrays: Mapping[str, Any]
) -> Callable[[], object]:
    return lambda: execute_kernel(namespace, workload, params, arrays)


def _medians(subjects: Mapping[str, Subject], options: Options) -> dict[str, float]:
    """Seconds of one call of each: the median over interleaved blocks of each block's median.

    Quick and slow subjects get as many calls as fill a block, so each is measured in a run of its own kind.
    """
    if options.quick:
        return {name: subject(1)[0] for name, subject in subjects.items()}
    calls = {}
    for name, subject in subjects.items():
        (first,) = subject(1)
        started = time.perf_counter()
        subject(1)
        calls[name] = max(1, round(_BLOCK_SECONDS / max(min(first, time.perf_counter() - started), 1e-6)))
    fixed: dict[str, Subject] = {name: _repeated(subject, calls[name]) for name, subject in subjects.items()}
    found = interleave(fixed, blocks=_BLOCKS, calls=1)
    return {name: median(median(block) for block in samples) for name, samples in found.items()}


def _repeated(subject: Subject, calls: int) -> Subject:
    return lambda count: [median(subject(calls)) for _ in range(count)]


def _namespaces() -> dict[str, Namespace]:
    found: dict[str, Namespace] = {"cpu.numpy": NumpyNamespace()}
    if find_spec("torch") is not None and find_spec("array_api_compat") is not None:
        from routerd.namespaces.torch import TorchNamespace

        found["cpu.torch"] = TorchNamespace("cpu", "float32")
    return found


def _names(arguments: list[str]) -> tuple[set[str], list[str]]:
    """Workload names (they have a dot and stand for themselves), and the rest of the command line."""
    known = {workload.name for workload in builtin_workloads()}
    return {one for one in arguments if one in known}, [one for one in arguments if one not in known]


if __name__ == "__main__":
    main()
