"""The decision table on the client's side: answers to ``decide`` from shared memory, without a system call.

Whenever the table cannot answer (it says nothing, is stale, a worker concerned is busy, or the answer depends on the moment),
the question goes to the daemon.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from time import monotonic, monotonic_ns
from typing import Any, NamedTuple

from msgspec import Struct

from routerd.client import core
from routerd.interfaces import Workload
from routerd.protocol import Ask, Located
from routerd.routing.entry import ASK, Entry, Span, decode
from routerd.routing.ground import decide
from routerd.routing.slots import BEAT_WORD, BUSY_WORD, NO_WORDS, STALE_NANOSECONDS, SlotReader, sequence_word
from routerd.types import Decision

_LOCATE_SECONDS = 0.1  # between two questions for an entry that says nothing
_KEPT_QUESTIONS = 4096
_MOST_UNTOLD = 1 << 20  # decisions that a hot loop takes before it lets the daemon know
_NOWHERE = Located(-1, "")
_NOTHING = -1  # no sequence of the table

Decider = Callable[..., Decision]


class Question(NamedTuple):
    """A checked task, as far as deciding about it needs it."""

    workload: str
    params: Mapping[str, Any]
    work: float
    batch: int | None
    nbytes: int


class Table:
    """What one connection knows of the table. Every method may be called from any thread."""

    def __init__(self, reader: SlotReader) -> None:
        self._reader = reader
        self._views: dict[str, View] = {}
        self._questions: dict[Hashable, Question | None] = {}

    def view(self, workload: str) -> View:
        """The workload's entry as this client sees it."""
        view = self._views.get(workload)
        if view is None:
            view = self._views[workload] = View(self._reader, workload)
        return view

    def close(self) -> None:
        """From now on nothing is answered, and the memory is let go."""
        self._reader.close()
        for view in list(self._views.values()):
            view.close()

    def renew(self, reader: SlotReader) -> None:
        """Answer from the table of the daemon that is there now; views that were handed out do so too."""
        self._reader.follow(reader)
        for view in list(self._views.values()):
            view.renew()

    def question(self, workload: str, arguments: Mapping[str, Any]) -> Question | None:
        """The question that these arguments put, checked as the daemon would; ``None`` if it is for the daemon alone.

        Raises the ``BadRequest`` kinds. A question that was put before is not checked again.
        """
        key = (workload, *arguments, *map(_token, arguments.values()))
        try:
            return self._questions[key]
        except KeyError:
            pass
        except TypeError:  # a list of numbers: it is not remembered
            return _question(core.ask_of(workload, arguments))
        question = _question(core.ask_of(workload, arguments))
        if len(self._questions) >= _KEPT_QUESTIONS:
            self._questions.clear()
        self._questions[key] = question
        return question

    def take_decisions(self) -> int:
        """How many decisions the table gave since this was last asked."""
        return sum(view.take_count() for view in list(self._views.values()))


class _Known(Struct, frozen=True):
    """An entry as it was decoded. It is replaced whole, so that readers in several threads never mix two of them.

    ``starts``, ``masks`` and ``decisions`` are those of tasks known by their work alone; a decision is ``None`` until it is
    made, and where only the daemon can answer. ``made`` are decisions about whole tasks.
    """

    words: memoryview
    slot: int
    word: int
    sequence: int
    starts: Sequence[float]
    masks: Sequence[int]
    decisions: list[Decision | None]
    entry: Entry | None
    made: dict[tuple[float, int | None, int], Decision]

    @property
    def is_current(self) -> bool:
        """Whether it is what the table says, and the daemon keeps that up to date."""
        return self.words[self.word] == self.sequence and _beats(self.words)


_UNKNOWN = _Known(NO_WORDS, _NOWHERE.slot, 0, _NOTHING, (), (), [], None, {})


class View:
    """One entry, decoded when its sequence has moved. Every method may be called from any thread, and none waits."""

    __slots__ = ("_located_at", "_place", "_reader", "count", "known", "workload")

    def __init__(self, reader: SlotReader, workload: str) -> None:
        self.workload = workload
        self.known = _UNKNOWN
        self.count = 0
        self._reader = reader
        self._place = _NOWHERE
        self._located_at = float("-inf")

    def wants_place(self) -> bool:
        """Whether the daemon should be asked where the entry is; at most a few times a second."""
        if self.refresh() or monotonic() - self._located_at < _LOCATE_SECONDS:
            return False
        self._located_at = monotonic()
        return True

    def place(self, located: Located) -> None:
        """What the daemon said."""
        self.known, self._place = _UNKNOWN, located
        self.refresh()

    def close(self) -> None:
        """Know nothing, and let go of the memory."""
        self.known, self._place = _UNKNOWN, _NOWHERE

    def renew(self) -> None:
        """Know nothing, and ask for the place as if for the first time: the reader follows another daemon."""
        self.close()
        self._located_at = float("-inf")

    def refresh(self) -> bool:
        """Decode the entry if it has changed; whether there is one that can be trusted."""
        return self._latest() is not None

    def by_work(self, work: float) -> Decision | None:
        """The decision for work alone: that of the middle of its span. ``None``: ask the daemon."""
        known = self._latest()
        if known is None or known.entry is None:
            return None
        index = bisect_right(known.starts, work) - 1
        span = known.entry.spans()[index] if index >= 0 else None
        if span is None or not _answers(known, span):
            return None
        decision = known.decisions[index]
        if decision is None:
            decision = known.decisions[index] = _decide(known, span, span.work)
        self.count += 1
        return decision

    def by_question(self, question: Question) -> Decision | None:
        """The decision for a whole task, with its own figures. ``None``: ask the daemon."""
        known = self._latest()
        if known is None or known.entry is None:
            return None
        spans = known.entry.spans(question.batch, question.nbytes)
        index = bisect_right(spans, question.work, key=_start) - 1
        if index < 0 or not _answers(known, spans[index]):
            return None
        self.count += 1
        key = question[2:]
        decision = known.made.get(key)
        if decision is None:
            if len(known.made) >= _KEPT_QUESTIONS:
                known.made.clear()
            decision = known.made[key] = _decide(known, spans[index], question.work)
        return decision

    def take_count(self) -> int:
        taken, self.count = self.count, 0
        return taken

    def _latest(self) -> _Known | None:
        known = self.known
        if known.is_current:
            return known
        words, place = self._reader.words, self._place
        found = self._reader.read(place.slot) if _beats(words) else None  # nothing is read from nowhere
        if found is None:
            return None
        sequence, payload = found
        entry = decode(payload)
        if (entry.client_class, entry.workload) != (place.client_class, self.workload):
            self.known, self._place = _UNKNOWN, _NOWHERE  # the slot is somebody else's now
            return None
        spans = entry.spans()
        self.known = known = _Known(
            words,
            place.slot,
            sequence_word(place.slot),
            sequence,
            [span.start for span in spans],
            [span.workers for span in spans],
            [None] * max(len(spans), 1),  # work below the first span finds the last one, which is asked about
            entry,
            {},
        )
        if self._reader.words is not words:  # closed, or another daemon's meanwhile
            self.close()
            return None
        return known


def decider(view: View, slow: Callable[[float], Decision], full: Callable[..., Decision]) -> Decider:
    """The callable for hot loops.

    ``slow(work)`` answers whatever the decoded spans do not, and tells the daemon how many were answered; ``full(**parameters)``
    answers a whole task.
    """
    bisect, now = bisect_right, monotonic_ns

    def decide_work(work: float | None = None, /, **parameters: Any) -> Decision:
        if work is None or parameters:
            return full(work, **parameters)
        known = view.known
        words = known.words
        if words[known.word] == known.sequence and now() - words[BEAT_WORD] < STALE_NANOSECONDS:
            try:
                index = bisect(known.starts, work) - 1
            except TypeError:
                return slow(work)  # it is no number: there is an error for that
            decision = known.decisions[index]
            if decision is not None and not words[BUSY_WORD] & known.masks[index]:
                view.count = count = view.count + 1
                if count < _MOST_UNTOLD:
                    return decision
        return slow(work)

    return decide_work


def _decide(known: _Known, span: Span, work: float) -> Decision:
    assert known.entry is not None
    decision_id = f"table:{known.slot}.{known.sequence}"
    return decide(known.entry.grounds[span.ground], work, decision_id)[0]


def _answers(known: _Known, span: Span) -> bool:
    return span.ground != ASK and not known.words[BUSY_WORD] & span.workers


def _beats(words: memoryview) -> bool:
    return monotonic_ns() - words[BEAT_WORD] < STALE_NANOSECONDS


@cache
def catalogue() -> dict[str, Workload]:
    """The workloads that client and daemon of one version share."""
    from routerd.workloads import builtin_workloads  # only needed once a whole task is asked about

    return {workload.name: workload for workload in builtin_workloads()}


def _question(ask: Ask) -> Question | None:
    from routerd.workloads.binding import bind, has_own_options
    from routerd.workloads.ml import MODEL

    workload = catalogue().get(ask.workload)
    if workload is None or workload.name == MODEL:
        return None
    task = bind(workload, ask.params, ask.arrays, need_content=False)
    return (
        None
        if has_own_options(workload, task)
        else Question(workload.name, task.params, task.work, task.batch, task.nbytes)
    )


def _token(value: Any) -> Hashable:
    """What stands for an argument among remembered questions: 1, 1.0 and True are not the same, nor is an array its values."""
    if hasattr(value, "shape") and hasattr(value, "dtype") and value.shape:
        return (value.shape, str(value.dtype))
    if isinstance(value, tuple):  # a shape, or an array where one of its numbers is not whole
        return (tuple, *map(_token, value))
    return (type(value), value)


def _start(span: Span) -> float:
    return span.start
