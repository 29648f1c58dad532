"""The contract of a workload, for authors of third-party workloads (and of the built-in ones)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from routerd.interfaces import NEEDS, Example, Workload
from routerd.testing.examples import Sample, contract_outputs, default_works, inputs_kept, output_problems, sample
from routerd.testing.report import Finding, Report
from routerd.workloads.joining import cut, join_problems, joined_task
from routerd.workloads.splitting import split_along

#: Shares that a workload is split by: one part, two unequal ones, several of which some are tiny.
_SHARES = ((1.0,), (0.6, 0.4), (0.02, 0.5, 0.03, 0.45))

#: Joined tasks may differ from each alone by what the order of float64 sums does.
_JOIN_ERROR = 1e-12

#: An example may miss the work it is asked for by this factor: shapes are whole numbers, and calibration measures anyway.
WORK_FACTOR = 4.0


def check_workload(workload: Workload, works: Sequence[float] | None = None) -> Report:
    """Check a workload's declaration and its examples at each of ``works`` on the contract's kernel.

    Examples must bind, have about the work they are asked for, pass the workload's own content check and be the same for
    the same generator. The kernel must give what is declared, twice the same, from inputs it leaves alone; where the
    workload splits, the parts merged must give the whole; where it joins, joined tasks must give what each gives alone.
    Never raises for what the workload does: read ``problems``.
    """
    findings = [_finding(workload, "declaration", None, _declaration_problems(workload))]
    for work in works or default_works(workload):
        try:
            given = sample(workload, work)
        except Exception as error:  # a third party's code: whatever it raises is what the report is about
            findings.append(_finding(workload, "example", work, [_raised(error)]))
            continue
        for name, check in _CHECKS.items():
            try:
                problems = check(workload, work, given)
            except Exception as error:  # as above
                problems = [_raised(error)]
            findings.append(_finding(workload, name, work, problems))
    return Report(subject=workload.name, findings=tuple(findings))


def _declaration_problems(workload: Workload) -> list[str]:
    problems = []
    if not workload.outputs:
        problems.append("it declares no output")
    names = [parameter.name for parameter in workload.parameters] + [array.name for array in workload.inputs]
    names += workload.dim_names
    problems += [f"{name} names two of its parameters, inputs and dimensions" for name in _repeated(names)]
    problems += [f"two outputs are named {name}" for name in _repeated([output.name for output in workload.outputs])]
    if workload.batch_dim is not None and workload.batch_dim not in workload.dim_names:
        problems.append(f"its batch_dim {workload.batch_dim} is no dimension of its inputs")
    if not 0.0 < workload.work_range[0] <= workload.work_range[1]:
        problems.append(f"its work_range {workload.work_range} is not positive and ascending")
    if not workload.tolerance > 0.0:
        problems.append(f"its tolerance {workload.tolerance} is not above 0, so no other precision could serve it")
    problems += [f"its need {need} is none of {', '.join(NEEDS)}" for need in sorted(workload.needs - NEEDS.keys())]
    problems += [
        f"the array {array.name} may hold NaN, and its description does not say what NaN means there"
        for array in (*workload.inputs, *workload.outputs)
        if not array.finite and "NaN" not in array.doc
    ]
    if (workload.split is None) != (workload.merge is None):
        problems.append("it has only one of split and merge")
    return problems + join_problems(workload)


def _example_problems(workload: Workload, work: float, given: Sample) -> list[str]:
    from routerd.workloads.content import check_content

    again = sample(workload, work)
    same = again.task == given.task and all(
        array.tobytes() == again.inputs[name].tobytes() for name, array in given.inputs.items()
    )
    problems = [] if same else ["the same generator gives another example"]
    if not work / WORK_FACTOR <= given.task.work <= work * WORK_FACTOR:
        problems.append(f"the example has work {given.task.work:.3g}, more than a factor {WORK_FACTOR:g} away")
    check_content(workload, given.task.params, given.inputs)
    return problems


def _kernel_problems(workload: Workload, work: float, given: Sample) -> list[str]:
    del work
    problems: list[str] = []
    with inputs_kept(given.inputs, problems):
        outputs = contract_outputs(workload, given)
    problems += output_problems(workload, given.task, outputs)
    again = contract_outputs(workload, given)
    problems += [
        f"the output {name} differs between two runs"
        for name, output in outputs.items()
        if output.tobytes() != again[name].tobytes()
    ]
    return problems


def _split_problems(workload: Workload, work: float, given: Sample) -> list[str]:
    del work
    from routerd.workloads.content import relative_error

    if workload.split is None or workload.merge is None:
        return []
    whole = Example(dict(given.task.params), dict(given.inputs))
    wanted = contract_outputs(workload, given)
    problems = []
    for shares in _SHARES:
        parts = workload.split(whole, shares)
        if not 1 <= len(parts) <= len(shares):
            problems.append(f"{len(shares)} shares made {len(parts)} parts")
            continue
        error = relative_error(workload, workload.merge(whole, [_run(workload, part) for part in parts]), wanted)
        if not error <= workload.tolerance:
            problems.append(
                f"{len(parts)} parts merged differ from the whole by {error:.2g}, tolerance {workload.tolerance:.2g}"
            )
    return problems


def _join_problems(workload: Workload, work: float, given: Sample) -> list[str]:
    """Rows of the example as tasks of several clients, together and alone."""
    del work
    from routerd.workloads.content import relative_error

    join = workload.join
    if join is None or join_problems(workload):
        return []
    whole = Example(dict(given.task.params), dict(given.inputs))
    problems = []
    for shares in _SHARES:
        tasks = split_along(join.inputs)(whole, shares)
        joined = joined_task(workload, join, tasks)
        parts = cut(workload, join, tasks, _run(workload, joined))
        error = max(
            relative_error(workload, part, _run(workload, task)) for part, task in zip(parts, tasks, strict=True)
        )
        if not error <= _JOIN_ERROR:
            problems.append(
                f"{len(tasks)} tasks joined differ from each alone by {error:.2g}, allowed is {_JOIN_ERROR:g}"
            )
    return problems


def _run(workload: Workload, part: Example) -> dict[str, Any]:
    from routerd.namespaces.execution import execute_kernel
    from routerd.namespaces.numpy import NumpyNamespace

    return execute_kernel(NumpyNamespace(), workload, part.params, part.arrays).outputs


_CHECKS: dict[str, Callable[[Workload, float, Sample], list[str]]] = {
    "example": _example_problems,
    "kernel": _kernel_problems,
    "split and merge": _split_problems,
    "join": _join_problems,
}


def _finding(workload: Workload, check: str, work: float | None, problems: list[str]) -> Finding:
    return Finding(check=check, workload=workload.name, work=work, problem="; ".join(problems))


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _raised(error: Exception) -> str:
    return f"it raised {type(error).__name__}: {' '.join(str(error).split())}"
