"""The policy in force: replaced whole, kept when its successor is broken, and open about it."""

from __future__ import annotations

import asyncio

import pytest

from routerd.errors import InvalidPolicy
from routerd.flags import load_flags
from routerd.interfaces import DEVICE_KINDS
from routerd.policies import PolicyKeeper
from routerd.policy import Vocabulary
from routerd.protocol import Ask, DecisionId, Nothing, PolicyPaths, Tail
from routerd.recorder import record_of

HEAD = "apiVersion: routerd/v1\nkind: Policy\nmetadata: {name: test}\n"
GOOD = HEAD + "rules: [{id: first, objective: {latency: 1.0}}]\n"
OTHER = HEAD + "rules: [{id: other, objective: {latency: 1.0}}]\n"
BROKEN = HEAD + "rules: [{id: first, prefer: [tpu]}]\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def keeper(file, store, parts, make_router):
    """A keeper and the router that it governs."""
    vocabulary = Vocabulary(
        workloads=frozenset(parts.WORKLOADS),
        families=frozenset({"linalg", "options"}),
        engines=frozenset({"Risk"}),
        backends=frozenset({"cpu.numpy", "metal.mlx", "ane.coreml"}),
        device_kinds=frozenset(DEVICE_KINDS),
    )
    made = PolicyKeeper([file], vocabulary, load_flags({}).as_mapping(), store)
    router = make_router()
    router.activate(made.load_first())
    made.attach(router)
    return made


def apply(keeper, session, *paths):
    return asyncio.run(keeper.apply(session, PolicyPaths(tuple(map(str, paths)))))


def test_the_first_has_a_generation_and_a_history(keeper):
    assert keeper.active.generation == 1
    assert keeper.summary()["name"] == "test"
    assert keeper.summary()["failure"] is None


def test_a_broken_first_one_keeps_the_daemon_from_starting(keeper, file):
    file.write_text(BROKEN)
    with pytest.raises(InvalidPolicy, match=rf"{file}:4:\d+"):
        keeper.load_first()


def test_a_reload_that_fails_leaves_the_last_good_one_and_says_so(keeper, file):
    before = keeper.active
    file.write_text(BROKEN)
    asyncio.run(keeper.reload())
    assert keeper.active is before
    assert "tpu" in keeper.failure
    file.write_text(OTHER)
    asyncio.run(keeper.reload())
    assert keeper.failure is None
    assert (keeper.active.generation, keeper.active.policy.rules[0].id) == (2, "other")


def test_apply_says_what_changed(keeper, session, file, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(OTHER)
    before = keeper.active.policy.digest
    answer = apply(keeper, session, other)
    assert answer["previous_digest"] == before != answer["digest"]
    assert (answer["changed"], answer["files"]) == (True, (str(other),))
    assert keeper.summary()["until_restart"] is True
    assert apply(keeper, session)["digest"] == before
    assert keeper.summary()["until_restart"] is False


@pytest.mark.parametrize("path", ["policy.yaml", "./policy.yaml", "~/policy.yaml"])
def test_apply_takes_absolute_paths_only(keeper, session, path):
    with pytest.raises(InvalidPolicy, match="the daemon needs an absolute path"):
        apply(keeper, session, path)
    assert keeper.failure is None


def test_two_changes_at_once_follow_each_other(keeper, session, tmp_path):
    paths = []
    for number in range(6):
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_text(HEAD + f"rules: [{{id: rule-{number}, objective: {{latency: 1.0}}}}]\n")

    async def main():
        return await asyncio.gather(*(keeper.apply(session, PolicyPaths((str(path),))) for path in paths))

    answers = asyncio.run(main())
    assert sorted(answer["generation"] for answer in answers) == [2, 3, 4, 5, 6, 7]
    newest = max(answers, key=lambda answer: answer["generation"])
    assert keeper.active.policy.digest == newest["digest"]
    assert keeper.active.generation == 7


def test_show_compares_with_the_files(keeper, session, file):
    shown = asyncio.run(keeper.show(session, Nothing()))
    assert (shown["differs_from_disk"], shown["disk_problem"]) == (False, None)
    file.write_text(GOOD + "# a comment changes nothing\n")
    assert asyncio.run(keeper.show(session, Nothing()))["differs_from_disk"] is False
    file.write_text(OTHER)
    assert asyncio.run(keeper.show(session, Nothing()))["differs_from_disk"] is True
    file.unlink()
    shown = asyncio.run(keeper.show(session, Nothing()))
    assert shown["differs_from_disk"] is True
    assert str(file) in shown["disk_problem"]


def test_a_decision_is_explained_by_its_own_facts(keeper, session, file):
    ask = Ask("linalg.gemm", {"m": 2, "k": 2, "n": 2})
    router = keeper._router
    plan = router.plan(ask, session)
    wanted = router.active.policy.record
    router.recorder.decided(record_of(plan, session, wanted, "decide"), wanted)
    explained = asyncio.run(keeper.explain(session, DecisionId(plan.decision.decision_id)))
    assert explained["same_policy"] is True
    file.write_text(OTHER)
    asyncio.run(keeper.reload())
    explained = asyncio.run(keeper.explain(session, DecisionId(plan.decision.decision_id)))
    assert explained["same_policy"] is False
    assert [clause.id for clause in explained["trace"].clauses if clause.selected] == ["other"]


def test_evaluating_records_nothing(keeper, session, store):
    shown = keeper.evaluate(session, Ask("linalg.gemm", {"m": 2, "k": 2, "n": 2}))
    assert shown["facts"]["task.work"] == 16.0
    assert store.recorded == 0


def test_history_is_newest_first(keeper, session, file):
    for text in (OTHER, GOOD, OTHER):
        file.write_text(text)
        apply(keeper, session)
    newest = asyncio.run(keeper.history(session, Tail(limit=2)))
    assert [(one.generation, one.reason, one.author_uid) for one in newest] == [(4, "apply", 1000), (3, "apply", 1000)]


def test_what_changes_nothing_is_no_new_generation(keeper, session, file, store):
    file.write_text("# a comment more\n" + file.read_text())
    assert apply(keeper, session)["generation"] == 1
    asyncio.run(keeper.reload())
    assert keeper.active.generation == 1
    assert len(store.policy_history(10)) == 1
