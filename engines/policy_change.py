"""A change of policy, made the way an operator makes it: add a file, apply, look, take the file away, apply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from engines.jobs.job import Job
from routerd.client import Router, TaskResult
from routerd.routing.reasoning import duration
from routerd.types import Decision


class NothingToBar(Exception):
    """Only one backend can take the task, so barring it would leave none."""


class Unchanged(Exception):
    """The new policy did not do what it says."""


def show_policy_change(router: Router, policies: Path, job: Job, console: Console) -> None:
    """Bar the backend that ``job``'s task goes to, show where it goes instead, and restore the policy.

    Raises ``NothingToBar`` on a machine without an alternative, ``Unchanged`` if the decision did not follow.
    """
    [arguments] = job.tasks.values()
    before = router.decide(job.workload, **arguments)
    if not before.fallbacks:
        others = "; ".join(f"{rejection.backend}: {rejection.reason}" for rejection in before.rejected)
        raise NothingToBar(
            f"{before.backend} alone can take {job.workload} here, so there is nothing to change ({others})"
        )
    say = console.print
    say(f"before   {_words(before)}")
    with _extra_file(policies / f"bar-{before.backend}.yaml", _constraint(before.backend)) as file:
        say(f"write    {file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}")
        for line in file.read_text().splitlines():
            say(f"           {line}", style="dim")
        applied = router.call("policy.apply", {"paths": []})
        say(f"apply    {_change(applied)}")
        after = router.decide(job.workload, **arguments)
        result = router.run(job.workload, **arguments)
        _check(before, after, result)
        say(f"after    {_words(after)}")
        reason = next(rejection.reason for rejection in after.rejected if rejection.backend == before.backend)
        say(f"         {before.backend} rejected: {reason}")
        say(f"         ran on {result.ran_on.backend} in {duration(result.timing.total_seconds)}")
    restored = router.call("policy.apply", {"paths": []})
    say(f"restore  {_change(restored)}")
    if restored["digest"] != before.policy_digest:
        raise Unchanged(
            f"the policy has digest {restored['digest']} after its file was taken away, it was {before.policy_digest}"
        )


def _constraint(backend: str) -> str:
    return f"""\
apiVersion: routerd/v1
kind: Policy
constraints:
  - id: bar-{backend}
    deny: [{backend}]
"""


@contextmanager
def _extra_file(path: Path, text: str) -> Iterator[Path]:
    path.write_text(text)
    try:
        yield path
    finally:
        path.unlink()


def _check(before: Decision, after: Decision, result: TaskResult) -> None:
    barred = before.backend
    if barred in (after.backend, result.ran_on.backend):
        raise Unchanged(
            f"the policy bars {barred}, yet the task was decided for {after.backend} and ran on {result.ran_on.backend}"
        )
    if barred not in {rejection.backend for rejection in after.rejected}:
        raise Unchanged(f"the policy bars {barred}, yet the decision does not list it as rejected")


def _words(decision: Decision) -> str:
    return (
        f"{decision.workload} goes to {decision.backend} ({decision.primary_hardware}), {duration(decision.predicted_seconds)} "
        f"predicted, gain {decision.estimated_gain:.2f}×, confidence {decision.confidence:.2f}"
    )


def _change(applied: Mapping[str, Any]) -> str:
    return f"generation {applied['generation']}, digest {applied['previous_digest'][:12]} → {applied['digest'][:12]}"
