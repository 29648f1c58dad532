"""What a client process asked and was answered, written line by line, so that a killed one leaves all but the last word."""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any


class Journal:
    """Appends one JSON object per line; each line is one write, which a SIGKILL cannot cut in two."""

    def __init__(self, path: Path, client: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._numbers = itertools.count(1)
        self._client = client

    def asked(self, kind: str, may: tuple[str, ...] = (), order: str = "") -> int:
        """Note a request that is about to be sent; returns its number."""
        number = next(self._numbers)
        self._write(asked=number, kind=kind, may=may, order=order)
        return number

    def answered(self, number: int, outcome: str, **facts: Any) -> None:
        """Note its answer: ``right``, ``wrong``, ``withdrawn``, ``untyped`` or the code of an error."""
        self._write(answered=number, outcome=outcome, **facts)

    def noted(self, problem: str) -> None:
        """Note something that must not be."""
        self._write(problem=problem)

    def done(self) -> None:
        """The client ended in order."""
        self._write(done=True)

    def _write(self, **facts: Any) -> None:
        line = json.dumps({"at": time.monotonic(), "client": self._client, **facts}) + "\n"
        os.write(self._descriptor, line.encode())
