"""What the card says about itself, as facts for policies."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from routerd.errors import Unavailable
from routerd.types import Scalar
from routerd_cuda.driver import load_nvml, visible_card
from routerd_cuda.nvml import Card, Nvml, NvmlError

#: A reading older than this is of another time: a card that has stopped answering leaves facts missing, not frozen.
_FRESH_SECONDS = 10.0


class _Reading(NamedTuple):
    facts: Mapping[str, Scalar]
    at: float


class NvmlSensor:
    """Memory free, load, power and heat of the first visible card.

    A thread of its own talks to the card, because the library's start can take seconds and a card that fails may not answer
    at all. It reads when it is asked to: :meth:`read` asks for the next reading and gives the one before, so the first call
    after a long pause knows nothing yet.
    """

    name = "cuda.nvml"

    def __init__(
        self,
        load: Callable[[], Any] = load_nvml,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._environ = environ
        self._clock = clock
        self._asked = threading.Event()
        self._thread: threading.Thread | None = None
        self._latest: _Reading | None = None
        self._problem: str | None = None

    def read(self) -> Mapping[str, Scalar]:
        """The facts as of the last time that somebody asked. Raises ``Unavailable`` once it is known that there are none."""
        if self._problem is not None:
            raise Unavailable(self._problem)
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self.name, daemon=True)
            self._thread.start()
        latest = self._latest
        self._asked.set()
        return latest.facts if latest is not None and self._clock() - latest.at <= _FRESH_SECONDS else {}

    def _serve(self) -> None:
        """Read whenever asked, until the card or its library is at an end."""
        try:
            which = visible_card(self._environ)
            nvml = Nvml(self._load())
            card = nvml.card(which)
            while True:
                self._asked.wait()
                self._asked.clear()
                facts = _facts(nvml, card)
                self._latest = _Reading(facts, self._clock())
        except Unavailable as reason:
            self._problem = reason.message
        except NvmlError as error:
            self._problem = f"NVIDIA's management library does not answer: {error}"


def _facts(nvml: Nvml, card: Card) -> dict[str, Scalar]:
    """What this card can tell; what it cannot is left out.

    Heat is a fact of the machine and not of the card: it is told only while the card slows down for it, since a cool card
    says nothing about the rest.
    """
    asked: dict[str, Callable[[Card], Scalar]] = {
        "hardware.cuda_gpu.free_bytes": nvml.free_bytes,
        "hardware.cuda_gpu.utilisation": nvml.utilisation,
        "hardware.cuda_gpu.watts": nvml.watts,
        "hardware.thermal": nvml.slowed_by_heat,
    }
    told: dict[str, Scalar] = {}
    for name, ask in asked.items():
        try:
            told[name] = ask(card)
        except NvmlError as error:
            if not error.cannot_tell:
                raise
    if told.pop("hardware.thermal", False):
        told["hardware.thermal"] = "serious"
    return told
