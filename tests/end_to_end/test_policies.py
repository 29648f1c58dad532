"""Policies at work: applied whole or not at all, explained, recorded, and never escaped."""

from __future__ import annotations

import os
import signal
import time

import pytest

from routerd import errors

POLICY = """
apiVersion: routerd/v1
kind: Policy
metadata: {{name: {name}}}
{body}
"""
TASK = ("options.monte_carlo_european", {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2,
                                         "num_simulations": 1000})  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(scope="module")
def write(directory):
    def write(body, name="site", file="site.yaml"):
        path = directory / file
        path.write_text(POLICY.format(name=name, body=body))
        return path

    return write


@pytest.fixture(scope="module")
def process(module_daemon, directory):
    return module_daemon(policy_paths=directory / "site.yaml")


@pytest.fixture
def governed(process, write):
    """A daemon under a policy in a file, and a client of it."""
    path = write("rules: [{id: first, objective: {latency: 1.0}}]")
    if process.process is None:
        process.start()
    with process.connect(name="governed") as router:
        router.call("policy.apply")
        yield process, router, path


def rule(router):
    return router.decide(TASK[0], **TASK[1]).rule


class TestReload:
    def test_on_sighup_it_takes_effect(self, governed, write, until):
        process, router, _path = governed
        before = router.decide(TASK[0], **TASK[1])
        assert before.rule == "first (site.yaml:5)"
        write("rules: [{id: second, objective: {latency: 1.0}}]")
        os.kill(process.pid, signal.SIGHUP)
        until(lambda: rule(router).startswith("second"))
        after = router.decide(TASK[0], **TASK[1])
        assert after.generation == before.generation + 1
        assert after.policy_digest != before.policy_digest
        history = router.call("policy.history", {"limit": 2})
        assert [(one["generation"], one["reason"]) for one in history] == [
            (after.generation, "reload"),
            (before.generation, "start"),
        ]

    def test_a_broken_one_keeps_the_last_good_until_mended(self, governed, write, until):
        process, router, path = governed
        write("rules: [{id: second, wehn: {task.work: {gt: 1}}}]")
        os.kill(process.pid, signal.SIGHUP)
        until(lambda: router.call("status")["policy"]["failure"] is not None)
        failure = router.call("status")["policy"]["failure"]
        assert f"{path}:5:" in failure
        assert "wehn" in failure
        assert rule(router).startswith("first")
        shown = router.call("policy.show")
        assert (shown["differs_from_disk"], "wehn" in shown["disk_problem"]) == (True, True)
        write("rules: [{id: third, objective: {latency: 1.0}}]")
        os.kill(process.pid, signal.SIGHUP)
        until(lambda: router.call("status")["policy"]["failure"] is None)
        assert rule(router).startswith("third")
        assert router.call("policy.show")["differs_from_disk"] is False

    def test_twenty_in_a_row_end_with_the_last(self, governed, write, until):
        process, router, _path = governed
        for number in range(20):
            write(f"rules: [{{id: rule-{number}, objective: {{latency: 1.0}}}}]")
            os.kill(process.pid, signal.SIGHUP)
        until(lambda: rule(router).startswith("rule-19"))
        assert router.call("status")["policy"]["failure"] is None


class TestApply:
    def test_it_is_in_force_when_the_call_returns(self, governed, write):
        _process, router, _path = governed
        before = router.decide(TASK[0], **TASK[1])
        path = write("constraints: [{id: cpu-only, allow: [cpu]}]", name="other", file="other.yaml")
        applied = router.call("policy.apply", {"paths": [str(path)]})
        after = router.decide(TASK[0], **TASK[1])
        assert (applied["generation"], applied["digest"]) == (after.generation, after.policy_digest)
        assert applied["previous_digest"] == before.policy_digest
        assert applied["changed"] is True
        summary = router.call("status")["policy"]
        assert (summary["name"], summary["until_restart"]) == ("other", True)
        assert router.call("policy.apply")["changed"] is True  # back to the configured one
        assert router.call("status")["policy"]["until_restart"] is False
        assert router.call("policy.apply")["changed"] is False

    def test_a_broken_one_changes_nothing(self, governed, write):
        _process, router, _path = governed
        before = router.decide(TASK[0], **TASK[1])
        path = write("rules: [{id: x, prefer: [metal_gpu, cpuu]}]", file="broken.yaml")
        with pytest.raises(errors.InvalidPolicy, match=rf"{path}:5:\d+") as caught:
            router.call("policy.apply", {"paths": [str(path)]})
        assert "cpuu" in caught.value.message
        assert caught.value.detail["problems"]
        after = router.decide(TASK[0], **TASK[1])
        assert (after.generation, after.rule) == (before.generation, before.rule)

    @pytest.mark.parametrize("path", ["site.yaml", "../site.yaml", ""])
    def test_a_relative_path_is_refused(self, governed, path):
        _process, router, _path = governed
        with pytest.raises(errors.InvalidPolicy, match="the daemon needs an absolute path"):
            router.call("policy.apply", {"paths": [path]})

    def test_a_path_that_is_not_there_is_refused(self, governed, tmp_path):
        _process, router, _path = governed
        with pytest.raises(errors.ConfigurationError, match=r"nowhere\.yaml"):
            router.call("policy.apply", {"paths": [str(tmp_path / "nowhere.yaml")]})
        assert rule(router).startswith("first")


class TestInForce:
    @pytest.mark.parametrize("table", [True, False])
    def test_nothing_escapes_a_constraint(self, governed, write, table):
        process, router, _path = governed
        router.call("calibrate", {"workloads": [TASK[0]]})  # so that the table has answers
        path = write("constraints: [{id: nobody, deny: [cpu, in_process]}]", file="strict.yaml")
        router.call("policy.apply", {"paths": [str(path)]})
        with process.connect(name="governed", table=table) as client:
            for method in (router.decide, router.run, client.decide, client.run):
                with pytest.raises(
                    errors.NoCandidate, match=r"no backend may run options\.monte_carlo_european"
                ) as caught:
                    method(TASK[0], **TASK[1])
                reasons = {one["backend"]: one["reason"] for one in caught.value.detail["rejected"]}
                assert reasons["cpu.numpy"] == "denied by constraint nobody (strict.yaml:5)"

    def test_admission_limits_are_kept(self, governed, write):
        _process, router, _path = governed
        router.call("calibrate", {"workloads": [TASK[0]]})  # which would occupy the worker
        path = write("admission: {max_queue_ms: 0.001, max_in_flight_per_client: 64}", file="admission.yaml")
        router.call("policy.apply", {"paths": [str(path)]})
        assert router.run(TASK[0], **TASK[1])["price"] > 0.0  # an idle worker has no queue

    def test_the_clients_name_and_the_tasks_size_are_facts(self, governed, write):
        _process, router, _path = governed
        path = write(
            "rules:\n  - {id: mine, when: {client.name: 'gov*', task.work: {gte: 5000}}, objective: {latency: 1.0}}\n",
            file="facts.yaml",
        )
        router.call("policy.apply", {"paths": [str(path)]})
        assert rule(router).startswith("default")
        assert router.decide(TASK[0], **{**TASK[1], "num_simulations": 5000}).rule.startswith("mine")

    def test_eval_shows_facts_and_trace_and_records_nothing(self, governed):
        _process, router, _path = governed
        recorded = router.call("status")["decisions"]["recorded"]
        shown = router.call("policy.eval", {"workload": TASK[0], "params": TASK[1]})
        assert shown["facts"]["task.work"] == 1000.0
        assert shown["facts"]["client.name"] == "governed"
        assert shown["decision"]["rule"].startswith("first")
        assert [clause["id"] for clause in shown["trace"]["clauses"] if clause["selected"]] == ["first"]
        assert router.call("status")["decisions"]["recorded"] == recorded

    @pytest.mark.parametrize(("mode", "kept"), [("none", set()), ("runs", {"run"}), ("all", {"run", "decide"})])
    def test_what_is_recorded(self, governed, write, mode, kept):
        process, router, _path = governed
        path = write(f"record: {{decisions: {mode}}}", file="record.yaml")
        router.call("policy.apply", {"paths": [str(path)]})
        started = time.time()
        with process.connect(table=False) as asking:
            asking.decide(TASK[0], **TASK[1])
            asking.decide(TASK[0], **TASK[1])
            asking.run(TASK[0], **TASK[1])
        assert {record["method"] for record in router.call("decisions.tail", {"since": started})} == kept

    def test_what_is_to_be_left_out_is_left_out(self, governed, write):
        process, router, _path = governed
        path = write("record: {redact: [client.name, client.uid, client.gid, task.params]}", file="redact.yaml")
        router.call("policy.apply", {"paths": [str(path)]})
        with process.connect(name="governed", table=False) as asking:
            decision = asking.decide(TASK[0], **TASK[1])
        record = router.call("decisions.get", {"decision_id": decision.decision_id})
        assert "governed" not in str(record)
        assert "strike_price" not in str(record["params"])
        assert not {"client.name", "client.uid", "client.gid"} & record["facts"].keys()


def test_a_syntax_error_at_start_is_placed(private_daemon, write):
    path = write("rules: [{id: x, objective: {latency: 1.0}", file="syntax.yaml")
    code, words = private_daemon(policy_paths=path).refuse()
    assert code == 3
    assert words.startswith("routerd: invalid_policy: ")
    assert f"{path}:" in words
    assert "Traceback" not in words
