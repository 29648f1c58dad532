"""The cache of decisions: what it answers is what deciding afresh would answer."""

from __future__ import annotations

import time

import msgspec
import pytest

from routerd.decisions import DecisionCache
from routerd.errors import BadRequest
from routerd.protocol import Ask, encode
from routerd.session import Session
from routerd.types import ArrayRef, Decision

OPTION = {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2, "num_simulations": 1000}


def raw(**params):
    return msgspec.Raw(encode(Ask("options.monte_carlo_european", {**OPTION, **params})))


def decoded(answer):
    return msgspec.msgpack.decode(answer, type=Decision)


def without_id(decision):
    return msgspec.structs.replace(decision, decision_id="")


@pytest.fixture
def router(make_router):
    return make_router()


@pytest.fixture
def cache(router):
    return DecisionCache(router)


def test_a_hit_is_the_same_answer_under_a_new_id(cache, router, session):
    first, second = decoded(cache.decide(session, raw())), decoded(cache.decide(session, raw()))
    assert (cache.hits, cache.misses) == (1, 1)
    assert first.decision_id < second.decision_id
    assert without_id(first) == without_id(second)
    fresh = router.plan(Ask("options.monte_carlo_european", OPTION), session).decision
    assert without_id(second) == without_id(fresh)


def test_hits_are_recorded_each_under_its_own_id(cache, session, store):
    answers = [decoded(cache.decide(session, raw())) for _ in range(3)]
    for answer in answers:
        assert store.decision(answer.decision_id).decision == answer


def test_another_question_or_another_client_is_a_miss(cache, session, parts):
    cache.decide(session, raw())
    cache.decide(session, raw(num_simulations=1001))
    cache.decide(session, raw(tolerance=0.5))
    cache.decide(Session("other", 1000, 1000, 1, "read", parts.LIMITS), raw())
    cache.decide(Session("tester", 1001, 1000, 1, "read", parts.LIMITS), raw())
    assert (cache.hits, cache.misses) == (0, 5)


@pytest.mark.parametrize("change", ["policy", "model", "time"])
def test_a_change_empties_it(make_router, policy_of, session, monkeypatch, change):
    router = make_router(
        'rules: [{id: night, when: {time.local: {between: ["22:00", "06:00"]}}, objective: {energy: 1.0}}]'
    )
    now = [12 * 3600.0]
    monkeypatch.setattr(router.facts, "_clock", lambda: now[0])
    monkeypatch.setattr("routerd.facts.time.localtime", time.gmtime)
    ticks = iter(range(1000))
    monkeypatch.setattr(router.facts, "_monotonic", lambda: float(next(ticks)))
    cache = DecisionCache(router)
    before = decoded(cache.decide(session, raw()))
    assert before.rule.startswith("default")
    cache.decide(session, raw())
    assert (cache.hits, cache.misses) == (1, 1)
    if change == "policy":
        router.activate(policy_of("rules: [{id: other, objective: {latency: 1.0}}]", generation=2))
    elif change == "model":
        router.changed()
    else:
        now[0] = 23 * 3600.0
    after = decoded(cache.decide(session, raw()))
    assert (cache.hits, cache.misses) == (1, 2)
    assert after.rule.split(" ")[0] == {"policy": "other", "model": "default", "time": "night"}[change]


def test_an_answer_that_depends_on_a_queue_is_not_kept(cache, fleet, session):
    fleet.backends["metal.mlx"].worker.load(0.5)
    cache.decide(session, raw())
    fleet.backends["metal.mlx"].worker.load(0.25)
    later = decoded(cache.decide(session, raw()))
    assert cache.hits == 0
    queued = next(one for one in later.fallbacks if one.backend == "metal.mlx")
    assert queued.queue_seconds == 0.25


def test_nothing_is_answered_from_it_while_a_worker_has_work(cache, fleet, session):
    """And what was kept before is not lost by it."""
    before = decoded(cache.decide(session, raw()))
    fleet.backends["metal.mlx"].worker.load(0.5)
    busy = decoded(cache.decide(session, raw()))
    assert (cache.hits, before.backend, busy.backend) == (0, "metal.mlx", "ane.coreml")
    assert next(one for one in busy.fallbacks if one.backend == "metal.mlx").queue_seconds == 0.5
    fleet.backends["metal.mlx"].worker.load(0.0)
    assert without_id(decoded(cache.decide(session, raw()))) == without_id(before)
    assert cache.hits == 1


def test_clients_that_can_run_work_themselves_get_answers_of_their_own(cache, session, parts):
    cache.decide(session, raw())
    able = Session(session.name, session.uid, session.gid, 1, "execute", parts.LIMITS, in_process=True)
    cache.decide(able, raw())
    assert (cache.hits, cache.misses) == (0, 2)


def test_a_refusal_is_not_kept(cache, session):
    for _ in range(2):
        with pytest.raises(BadRequest):
            cache.decide(session, raw(volatility=-1.0))
    assert cache.hits == 0


def test_it_stays_bounded(cache, session, monkeypatch):
    monkeypatch.setattr("routerd.decisions._ENTRIES", 10)
    for number in range(100):
        cache.decide(session, raw(num_simulations=1000 + number))
    assert len(cache._entries) <= 10


def test_a_question_that_carries_data_is_answered_and_not_kept(cache, session):
    """The content plays no part in the decision, and thousands of such questions would fill the memory."""
    arrays = {name: ArrayRef((40, 40), "float64", data=bytes(12_800)) for name in "ab"}
    question = msgspec.Raw(encode(Ask("linalg.gemm", {}, arrays)))
    first, second = (decoded(cache.decide(session, question)) for _ in range(2))
    assert without_id(first) == without_id(second)
    assert (cache.hits, cache.misses) == (0, 2)
