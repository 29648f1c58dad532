"""What was asked and what was answered, over all clients of a storm; and the verdict on it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from routerd.errors import BY_CODE, DaemonUnreachable, RouterdError

#: Outcomes that are neither a result nor an error: the client itself no longer wanted an answer.
WITHDRAWN = "withdrawn"


class Answer(NamedTuple):
    """One answer to a request. ``at`` is monotonic seconds, which all processes of a machine share."""

    at: float
    outcome: str
    why: str = ""
    decision: str = ""
    ran_on: str = ""
    fallback: str | None = None

    @property
    def by_client(self) -> bool:
        """Whether the client computed it itself, as the decision table told it; such decisions have ids for a range of tasks."""
        return self.decision.startswith("table:")


class Request(NamedTuple):
    """One request and every answer it got."""

    client: str
    number: int
    kind: str
    may: tuple[str, ...]
    order: str
    at: float
    answers: list[Answer]

    def __str__(self) -> str:
        ordered = f" ordered to {self.order}" if self.order else ""
        return f"{self.client}#{self.number} ({self.kind}{ordered})"


@dataclass(slots=True)
class Account:
    """One client process: its requests, what it saw that must not be, and whether it ended in order."""

    client: str
    requests: dict[int, Request] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    done: bool = False

    @property
    def open(self) -> list[Request]:
        """Requests without an answer."""
        return [request for request in self.requests.values() if not request.answers]


def read(path: Path) -> Account:
    """The account that a client's journal gives."""
    account = Account(path.stem)
    for line in path.read_text().splitlines():
        entry: dict[str, Any] = json.loads(line)
        at = entry["at"]
        if "asked" in entry:
            number = entry["asked"]
            account.requests[number] = Request(
                account.client, number, entry["kind"], tuple(entry["may"]), entry["order"], at, []
            )
        elif "answered" in entry:
            facts = {name: entry[name] for name in ("why", "decision", "ran_on", "fallback") if name in entry}
            account.requests[entry["answered"]].answers.append(Answer(at, entry["outcome"], **facts))
        elif "problem" in entry:
            account.problems.append(entry["problem"])
        else:
            account.done = True
    return account


class Terms(NamedTuple):
    """What a storm allows.

    ``may``: error codes that any request may end with. ``vanished``: clients that were killed, which may leave
    ``concurrency`` requests open. ``patience_seconds``: the longest wait for any answer. ``excused`` says, of a request
    and the error it got, whether the state of the machine at that moment was reason enough.
    """

    may: frozenset[str] = frozenset()
    vanished: frozenset[str] = frozenset()
    concurrency: int = 1
    patience_seconds: float = 20.0
    excused: Callable[[Request, Answer], bool] = lambda _request, _answer: False


def judge(accounts: Iterable[Account], terms: Terms) -> list[str]:
    """Every breach of the promise: each request is answered once, rightly or with a clear error of the tree."""
    accounts = list(accounts)
    problems = [problem for account in accounts for problem in _of_account(account, terms)]
    answered = Counter(
        answer.decision
        for account in accounts
        for request in account.requests.values()
        for answer in request.answers
        if answer.decision and not answer.by_client
    )
    problems += [f"decision {one} answered {count} requests" for one, count in answered.items() if count > 1]
    return problems


def _of_account(account: Account, terms: Terms) -> list[str]:
    problems = [f"{account.client}: {problem}" for problem in account.problems]
    if account.client in terms.vanished:
        if len(account.open) > terms.concurrency:
            problems.append(
                f"{account.client} was killed with {len(account.open)} requests open: some were lost before"
            )
    else:
        problems += [f"{request} was never answered" for request in account.open]
        if not account.done:
            problems.append(f"{account.client} did not end in order")
    for request in account.requests.values():
        problems += _of_request(request, terms)
    return problems


def _of_request(request: Request, terms: Terms) -> list[str]:
    if len(request.answers) > 1:
        outcomes = ", ".join(answer.outcome for answer in request.answers)
        return [f"{request} was answered {len(request.answers)} times: {outcomes}"]
    problems = []
    for answer in request.answers:
        waited = answer.at - request.at
        if waited > terms.patience_seconds:
            problems.append(f"{request} waited {waited:.1f} s, at most {terms.patience_seconds:g} are allowed")
        objection = _objection(request, answer, terms)
        if objection:
            problems.append(f"{request} {objection}")
    return problems


def _objection(request: Request, answer: Answer, terms: Terms) -> str:
    if answer.outcome in ("right", WITHDRAWN):
        return ""
    if answer.outcome not in BY_CODE:
        return f"got what is neither right nor an error of the tree: {answer.outcome}: {answer.why}"
    if answer.outcome == RouterdError.code or len(answer.why.split()) < 3:
        return f"got an error that says nothing: {answer.outcome}: {answer.why}"
    if answer.outcome in (*terms.may, *request.may) or terms.excused(request, answer):
        return ""
    return f"got {answer.outcome}, for which there was no reason: {answer.why}"


def executions(accounts: Iterable[Account]) -> tuple[int, int]:
    """How many executions the daemon must have counted for these clients, at least and at most.

    Every right or wrong result that it made is one; a request that was withdrawn, whose client vanished or whose
    connection broke may have been executed or not.
    """
    least = most = 0
    for account in accounts:
        for request in account.requests.values():
            (answer,) = request.answers or (Answer(0.0, WITHDRAWN),)
            if answer.outcome in ("right", "wrong"):
                least += not answer.by_client
                most += not answer.by_client
            elif answer.outcome in (WITHDRAWN, DaemonUnreachable.code):
                most += 1
    return least, most


def summary(accounts: Sequence[Account]) -> str:
    """How the requests of a storm ended, in one line."""
    requests = [request for account in accounts for request in account.requests.values()]
    outcomes = Counter(answer.outcome for request in requests for answer in request.answers)
    moved = sum(bool(answer.fallback) for request in requests for answer in request.answers)
    longest = max((answer.at - request.at for request in requests for answer in request.answers), default=0.0)
    told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    return f"{len(requests)} requests of {len(accounts)} clients: {told}; {moved} moved, longest wait {longest:.2f} s"
