"""Other ways to answer what a decision begins with: which devices may take this task, and which rule ranks them.

Each peer evaluates the same policy (``policy.yaml`` and its translations) and gets and gives plain Python values. None of
them predicts, ranks or explains anything.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from benchmarks.peers.question import Answer, Question


@dataclass(frozen=True)
class Peer:
    """Somebody who can be asked. ``software`` says what is behind the name, with versions."""

    name: str
    answer: Callable[[Question], Answer]
    software: str = ""


@dataclass(frozen=True)
class Missing:
    """A peer that cannot be asked here, and why."""

    name: str
    reason: str


def missing(name: str, *modules: str, extra: str = "peers") -> Missing | None:
    """The peer as missing if any of the modules that it needs is not installed; ``extra`` of routerd installs them."""
    absent = [module for module in modules if find_spec(module) is None]
    return Missing(name, f"{', '.join(absent)} not installed; pip install 'routerd[{extra}]'") if absent else None


def versions(*packages: str) -> str:
    """The packages with the versions that are installed."""
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)


@contextlib.contextmanager
def all_peers() -> Iterator[list[Peer | Missing]]:
    """Every peer; one that has a process of its own runs meanwhile."""
    from benchmarks.peers import cedar, fastapi_route, rego

    with fastapi_route.peer() as route:
        yield [cedar.peer(), rego.peer(), route]


def agree(peers: Sequence[Peer], expected: Callable[[Question], Answer], questions: Sequence[Question]) -> None:
    """Raises ``SystemExit`` unless every peer answers every question as expected: then they are not asked the same."""
    for peer in peers:
        for question in questions:
            found, wanted = peer.answer(question), expected(question)
            if found != wanted:
                raise SystemExit(f"{peer.name} answers {question} with {found}, routerd with {wanted}")
