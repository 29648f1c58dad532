"""What a decision costs: read from the shared table, asked over the socket, and beside other ways to decide.

``python -m benchmarks.decide [--quick] [--awake] [--json FILE] [--markdown] [--update FILE]``
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median

from benchmarks import _frames as frames
from benchmarks._harness import (
    MICROSECOND,
    Options,
    PrivateDaemon,
    Subject,
    interleave,
    over_blocks,
    quiet_machine,
    timed,
    timed_batches,
    timed_each,
)
from benchmarks._peers import echo
from benchmarks._report import Figure, publish
from benchmarks.peers import Missing, Peer, agree, all_peers, own, python_rules
from benchmarks.peers.question import question_of, random_questions
from routerd.client import Router, core
from routerd.protocol import Ask

# Design, section 14.
DECIDER_MICROSECONDS, TABLE_MICROSECONDS = 0.5, 5.0
MEDIAN_MICROSECONDS, TAIL_MICROSECONDS, RATE = 15.0, 60.0, 200_000.0

_WORKLOAD, _SIDE = "linalg.gemm", 64
_REPEATED = {"m": _SIDE, "k": _SIDE, "n": _SIDE}
# No other workload is asked about: the daemon would begin to prove and time it.
_TASKS = [_REPEATED, {"m": 256, "k": 256, "n": 256}]
_ASK = Ask(_WORKLOAD, dict(_REPEATED), {})
_BATCH = 1000  # calls between two readings of the clock, where one call takes about as long as reading it
_WORKS = [10.0 ** (3.0 + 6.0 * number / _BATCH) for number in range(_BATCH)]  # a thousand to a thousand million
_TABLE_SECONDS = 10.0
_TOGETHER = [(_WORKLOAD, _REPEATED)] * 2 * frames.WINDOW

_Blocks = Sequence[Sequence[float]]


def main() -> None:
    options = Options(str(__doc__))
    seconds = 0.002 if options.quick else 0.05
    with PrivateDaemon(policy_paths=own.POLICY, calibration_run_seconds=seconds) as daemon, all_peers() as asked:
        daemon.start()
        daemon.calibrate(_WORKLOAD)  # the table says nothing of what nobody has timed
        judges = [own.peer(), Peer("peer: the same rules as Python conditions, in process", python_rules.answer)]
        judges += [replace(one, name=f"peer: {one.name}") for one in asked if isinstance(one, Peer)]
        with quiet_machine(options) as conditions:
            figures = _measure(daemon, judges, options, conditions)
    conditions["peers"] = ", ".join(filter(None, (judge.software for judge in judges))) or "none installed"
    conditions |= {f"{one.name} not measured": one.reason for one in asked if isinstance(one, Missing)}
    publish("decide", figures, conditions, options)


def _measure(
    daemon: PrivateDaemon, judges: Sequence[Peer], options: Options, conditions: dict[str, str]
) -> list[Figure]:
    """All figures; what has to be known beside them is added to ``conditions``."""
    blocks, calls, windows = (2, 20, 4) if options.quick else (20, 250, 24)
    frame = frames.decide_frame(_ASK)
    with (
        daemon.connect() as reader,
        daemon.connect(table=False) as router,
        frames.open_raw(daemon) as raw,
    ):
        _check(router, judges)
        works = _works_in_table(reader)
        size = frames.round_trip(raw, frame)
        with echo("echo", len(frame), size) as blocking, echo("uvloop", len(frame), size) as looped:
            new = itertools.count(1)
            single = interleave(
                {
                    **_table_subjects(reader, works, new),
                    **_judge_subjects(judges),
                    "repeated": timed(lambda: router.decide(_WORKLOAD, **_REPEATED)),
                    "new": timed_each(partial(_ask_new, router), new),
                    "raw": timed(lambda: frames.round_trip(raw, frame)),
                    "blocking": timed(lambda: frames.round_trip(blocking, frame)),
                    "uvloop": timed(lambda: frames.round_trip(looped, frame)),
                },
                blocks=blocks,
                calls=calls,
            )
            together = interleave(
                {
                    "raw": timed(lambda: frames.pipeline(raw, _ASK, windows)),
                    "uvloop": timed(lambda: frames.pipeline(looped, _ASK, windows)),
                    "library": timed(lambda: router.decide_many(_TOGETHER)),
                },
                blocks=max(blocks // 4, 1),
                calls=4,
            )
    conditions |= {
        "frames": f"{len(frame)} bytes there, {size} bytes back",
        "blocks": f"{blocks} of {calls} calls",
        "answered by the table": f"{len(works):,} of {_BATCH:,} works",
        "p50 of decider(work)": f"the share of one call in {_BATCH:,} between two readings of the clock",
        "reading the clock twice": f"{_micro(single['clock'], 0.5) * 1e3:.0f} ns, part of every other latency",
    }
    return [
        *_table_figures(single),
        *_socket_figures(single, together, windows * frames.WINDOW),
        *itertools.chain.from_iterable(_latency(judge.name, single[judge.name]) for judge in judges),
    ]


def _table_subjects(router: Router, works: Sequence[float], new: Iterator[int]) -> dict[str, Subject]:
    """Everything that is answered from the table, and what calling and looking at the clock cost by themselves."""
    decide = router.decider(_WORKLOAD)
    same = [works[len(works) // 2]] * _BATCH

    def nothing(_work: float) -> None:
        return None

    return {
        "call": timed_batches(nothing, works),
        "clock": timed_each(nothing, itertools.cycle(works)),
        "same in batches": timed_batches(decide, same),
        "same alone": timed_each(decide, itertools.cycle(same)),
        "other in batches": timed_batches(decide, works),
        "other alone": timed_each(decide, itertools.cycle(works)),
        "named": timed_each(lambda number: decide(m=_SIDE, k=_SIDE, n=number), new),
        "table repeated": timed(lambda: router.decide(_WORKLOAD, **_REPEATED)),
        "table new": timed_each(partial(_ask_new, router), new),
    }


def _judge_subjects(judges: Sequence[Peer]) -> dict[str, Subject]:
    questions = random_questions(256, seed=2)
    return {judge.name: timed_each(judge.answer, itertools.cycle(questions)) for judge in judges}


def _ask_new(router: Router, number: int) -> None:
    router.decide(_WORKLOAD, m=_SIDE, k=_SIDE, n=number)


def _check(router: Router, judges: Sequence[Peer]) -> None:
    """Raises ``SystemExit`` unless the peers agree with routerd's compiled policy, and all with the daemon."""
    compiled, *peers = judges
    agree(peers, compiled.answer, random_questions(256, seed=1))
    for task in _TASKS:
        said = router.call("policy.eval", core.ask_of(_WORKLOAD, task))
        rule = said["trace"]["rule"].partition(" ")[0]
        for judge in judges:
            answer = judge.answer(question_of(said["facts"]))
            if answer.rule != rule:
                raise SystemExit(f"{judge.name} ranks {task} by {answer.rule}, the daemon by {rule}")


def _works_in_table(router: Router) -> list[float]:
    """Those of ``_WORKS`` that the table answers, once it answers at all. Raises ``SystemExit`` if it does not."""
    decide, deadline = router.decider(_WORKLOAD), time.monotonic() + _TABLE_SECONDS
    while not (found := [work for work in _WORKS if decide(work).decision_id.startswith("table:")]):
        if time.monotonic() > deadline:
            raise SystemExit(f"the decision table does not answer about {_WORKLOAD}")
        time.sleep(0.05)
    return found


def _table_figures(found: Mapping[str, _Blocks]) -> Iterator[Figure]:
    least, clock = _micro(found["call"], 0.5), _micro(found["clock"], 0.99)
    for which, words in (("same", "the same work"), ("other", "another work every time")):
        name, middle, tail = f"table: decider(work), {words}", found[f"{which} in batches"], found[f"{which} alone"]
        yield Figure(f"{name}, p50", _micro(middle, 0.5), "µs", DECIDER_MICROSECONDS, floor=least)
        yield Figure(f"{name}, p99 of single calls", _micro(tail, 0.99), "µs", floor=clock)
    yield from _latency("table: decider(m=…, k=…, n=…)", found["named"])
    yield from _latency("table: decide, repeated question", found["table repeated"], targets=(TABLE_MICROSECONDS, None))
    yield from _latency(
        "table: decide, new question every time", found["table new"], targets=(TABLE_MICROSECONDS, None)
    )
    yield Figure("floor: a Python function that returns nothing, p50", least, "µs")
    yield Figure("floor: the same between two readings of the clock, p99", clock, "µs")


def _socket_figures(single: Mapping[str, _Blocks], together: Mapping[str, _Blocks], questions: int) -> Iterator[Figure]:
    floor, targets = single["blocking"], (MEDIAN_MICROSECONDS, TAIL_MICROSECONDS)
    yield from _latency("socket: repeated question, client library", single["repeated"], floor, targets)
    yield from _latency("socket: new question every time, client library", single["new"], floor, targets)
    yield from _latency("socket: repeated question, bare frames", single["raw"], floor)
    yield from _latency("peer: uvloop server that answers with zeros", single["uvloop"], floor)
    yield from _latency("floor: blocking socket echo", floor)
    looped = _rate(together["uvloop"], questions)
    raw = _rate(together["raw"], questions)
    yield Figure("socket: pipelined, bare frames", raw, "/s", RATE, at_least=True, floor=looped)
    yield Figure("socket: pipelined, decide_many", _rate(together["library"], len(_TOGETHER)), "/s", at_least=True)
    yield Figure("floor: pipelined, uvloop server that answers with zeros", looped, "/s", at_least=True)


def _latency(
    name: str,
    blocks: _Blocks,
    floor: _Blocks | None = None,
    targets: tuple[float | None, float | None] = (None, None),
) -> Iterator[Figure]:
    for label, share, target in zip(("p50", "p99"), (0.5, 0.99), targets, strict=True):
        least = None if floor is None else _micro(floor, share)
        yield Figure(f"{name}, {label}", _micro(blocks, share), "µs", target, floor=least)


def _micro(blocks: _Blocks, share: float) -> float:
    return over_blocks(blocks, share) * MICROSECOND


def _rate(blocks: _Blocks, questions: int) -> float:
    return questions / median(median(block) for block in blocks)


if __name__ == "__main__":
    main()
