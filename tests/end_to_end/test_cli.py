"""``routerctl`` against a live daemon: every command, as text and as JSON."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest

from routerd.cli import app

OPTION = (
    "options.monte_carlo_european",
    *("--param", "spot_price=100", "--param", "strike_price=110", "--param", "volatility=0.2"),
)
DECISION_FIELDS = {
    "decision_id", "workload", "work", "primary_hardware", "backend", "confidence", "estimated_gain",
    "predicted_seconds", "reasoning", "fallbacks", "rejected", "rule", "policy_digest", "generation", "in_time",
}  # fmt: skip
ROUTERCTL = [sys.executable, "-c", "from routerd.cli import main; main()"]


@pytest.fixture
def ctl(daemon, capsys):
    """Run a command in this process; its standard output. Fails unless it ends with ``code``."""

    def call(*arguments, code=0, socket=daemon.socket):
        found = app.run([*arguments, "--socket", str(socket)])
        captured = capsys.readouterr()
        assert found == code, captured.err
        assert "Traceback" not in captured.err
        assert "\x1b" not in captured.out + captured.err
        call.err = captured.err
        return captured.out

    return call


@pytest.fixture
def ask(ctl):
    """The same with ``--json``, decoded strictly."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    def call(*arguments, **options):
        return json.loads(ctl(*arguments, "--json", **options), parse_constant=refuse)

    return call


def test_status(ctl, ask, daemon):
    report = ask("status")
    assert report["ready"] is True
    assert report["socket"] == str(daemon.socket)
    text = ctl("status")
    for expected in ("serving", str(daemon.socket), str(daemon.state), "cpu.numpy", "ready", "cpu/numpy"):
        assert expected in text
    assert report["policy"]["digest"][:12] in text


def test_backends(ctl, ask):
    report = ask("backends")
    text = ctl("backends")
    for backend in report["backends"]:
        (row,) = [line for line in text.splitlines() if line.split()[:1] == [backend["name"]]]
        supported = [pair for pair in backend["workloads"] if pair["state"] != "unsupported"]
        assert f"/{len(supported)}" in row
        assert (backend["device"]["name"] if backend["state"] == "ready" else backend["reason"]) in row


def test_workloads(ctl, ask):
    names = [workload["name"] for workload in ask("workloads")]
    rows = ctl("workloads").splitlines()[1:]
    assert [row.split()[0] for row in rows] == names
    assert all("cpu.numpy" in row for row in rows)


def test_one_workload(ctl, ask):
    described = ask("workloads", OPTION[0])
    text = ctl("workloads", OPTION[0])
    for parameter in described["parameters"]:
        assert re.search(rf"^{parameter['name']} +{parameter['type']} ", text, re.MULTILINE)
    assert re.search(r"^volatility +float +required +≥ 0, ≤ 5 ", text, re.MULTILINE)
    assert re.search(r"^cpu.numpy +calibrated +0\.0e\+00", text, re.MULTILINE)
    assert text.rstrip().endswith("\n".join(described["examples"]))


def test_an_unknown_workload_is_refused_with_the_right_spelling(ctl, ask):
    ctl("workloads", "linalg.gem", code=2)
    assert (
        ctl.err
        == "routerctl: unknown_workload: no workload linalg.gem (did you mean linalg.gemm?); routerctl workloads lists all\n"
    )
    assert ask("decide", "linalg.gem", code=2)["error"]["detail"] == {"workload": "linalg.gem"}


def test_the_examples_of_every_workload_work(ask):
    for workload in ask("workloads"):
        commands = ask("workloads", workload["name"])["examples"]
        assert any(command.startswith("routerctl run ") for command in commands)
        for command in commands:
            _program, *arguments = shlex.split(command)
            answer = ask(*arguments)
            if arguments[0] == "decide":
                assert answer["backend"]
            else:
                assert set(answer["outputs"]) == {output["name"] for output in workload["outputs"]}


def test_decide(ctl, ask):
    task = ("decide", *OPTION, "--param", "num_simulations=1e6")
    decision = ask(*task)
    assert set(decision) == DECISION_FIELDS
    assert decision["work"] == 1e6
    text = ctl(*task)
    for expected in (decision["backend"], decision["reasoning"].split(";")[-1], decision["rule"], "confidence", "gain"):
        assert expected in text
    for other in (*decision["fallbacks"], *decision["rejected"]):
        assert other["backend"] in text


def test_decide_by_shape_and_by_file_agree(ask, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((30, 20)))
    by_shape = ask("decide", "linalg.gemm", "--shape", "a=30x20", "--shape", "b=20x40")
    by_file = ask("decide", "linalg.gemm", "--input", f"a={tmp_path / 'a.npy'}", "--shape", "b=20x40")
    assert by_shape["work"] == by_file["work"] > 0
    assert by_shape["rule"] == by_file["rule"]


def test_run_as_promised(daemon):
    process = subprocess.run(
        [*ROUTERCTL, "run", *OPTION, "--param", "num_simulations=1000000", "--json"],
        env=daemon.env, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    answer = json.loads(process.stdout)
    outputs = answer["outputs"]
    assert abs(outputs["price"] - 6.0401) < 5 * outputs["standard_error"]  # Black–Scholes: 6.0401
    assert set(answer["decision"]) == DECISION_FIELDS
    assert answer["planned"] == answer["ran_on"]
    assert answer["fallback_reason"] is None
    assert 0 < answer["timing"]["kernel_seconds"] < answer["timing"]["total_seconds"]
    assert process.stderr == ""


def test_run_as_text(ctl, ask):
    task = ("run", *OPTION, "--param", "num_simulations=1000", "--param", "seed=7")
    price = ask(*task)["outputs"]["price"]
    text = ctl(*task)
    assert re.search(rf"^price +{re.escape(str(price))[:12]}", text, re.MULTILINE)
    assert re.search(r"^ran on +cpu\.", text, re.MULTILINE)
    assert "kernel" in text


@pytest.fixture
def matrices(tmp_path):
    rng = np.random.default_rng(1)
    found = {}
    for name, shape in {"small": (4, 5), "wide": (5, 3), "large": (40, 30), "tall": (30, 50)}.items():
        found[name] = rng.standard_normal(shape)
        np.save(tmp_path / f"{name}.npy", found[name])
    return found


def test_small_arrays_come_as_lists(ctl, ask, matrices, tmp_path):
    task = ("run", "linalg.gemm", "--input", f"a={tmp_path}/small.npy", "--input", f"b={tmp_path}/wide.npy")
    answer = ask(*task)
    np.testing.assert_allclose(answer["outputs"]["c"], matrices["small"] @ matrices["wide"], rtol=1e-4, atol=1e-5)
    assert "4×3 float64: " in ctl(*task)


def test_large_arrays_are_described_and_saved(ctl, ask, matrices, tmp_path):
    task = ("run", "linalg.gemm", "--input", f"a={tmp_path}/large.npy", "--input", f"b={tmp_path}/tall.npy")
    assert ask(*task)["outputs"]["c"] == {"shape": [40, 50], "dtype": "float64", "saved": None}
    target = tmp_path / "result.data"
    answer = ask(*task, "--output", f"c={target}")
    assert answer["outputs"]["c"]["saved"] == str(target)
    np.testing.assert_allclose(np.load(target), matrices["large"] @ matrices["tall"], rtol=1e-4, atol=1e-4)
    assert str(tmp_path / "new" / "c.npy") in ctl(*task, "--output", str(tmp_path / "new"))
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "c.npy").shape, (40, 50))


def test_a_bad_output_is_refused_before_anything_runs(ctl, ask, matrices, tmp_path):
    task = ("run", "linalg.gemm", "--input", f"a={tmp_path}/small.npy", "--input", f"b={tmp_path}/wide.npy")
    before = ask("status")["decisions"]["recorded"]
    for target, message in {
        "d=x.npy": "has no output d",
        "c=/no/such/directory/c.npy": "in a directory that exists",
        f"{tmp_path}/small.npy": "cannot be a directory",
    }.items():
        ctl(*task, "--output", target, code=2)
        assert message in ctl.err
    assert ask("status")["decisions"]["recorded"] == before


def test_bad_tasks_are_usage_errors(ctl, ask):
    ctl("decide", *OPTION, code=2)
    assert "num_simulations" in ctl.err
    ctl("run", *OPTION, "--param", "num_simulations=10", "--param", "strike=1", code=2)
    assert "did you mean" in ctl.err
    assert (
        ask("decide", "linalg.gemm", "--shape", "a=3x4", "--shape", "b=5x6", code=2)["error"]["code"] == "invalid_array"
    )


def test_flags(ctl, ask):
    flags = ask("flags")
    text = ctl("flags")
    for flag in flags:
        (row,) = [line for line in text.splitlines() if line.split()[:1] == [flag["name"]]]
        assert flag["state"] in row
        assert flag["reason"] in row
    for group in {flag["group"] for flag in flags}:
        assert f"\n{group}\n" in f"\n{text}"


def test_decisions(ctl, ask):
    made = [ask("decide", *OPTION, "--param", f"num_simulations={count}")["decision_id"] for count in (1000, 2000)]
    ran = ask("run", *OPTION, "--param", "num_simulations=1000")["decision"]["decision_id"]
    newest = ask("decisions", "tail", "--limit", "3")
    assert [record["decision_id"] for record in newest] == [*made, ran]
    assert newest[-1]["timing"]["total_seconds"] > 0
    rows = ctl("decisions", "tail", "-n", "3").splitlines()
    assert [row.split()[1] for row in rows[1:]] == [*made, ran]
    assert all("routerctl" in row and "cpu." in row for row in rows[1:])

    record = ask("decisions", "get", ran)
    assert record["ran_on"].startswith("cpu.")
    text = ctl("decisions", "get", ran)
    for expected in (ran, "run by routerctl", "num_simulations=1000", "workload.family", record["decision"]["rule"]):
        assert expected in text


def test_decisions_can_be_narrowed(ask, ctl):
    ask("decide", *OPTION, "--param", "num_simulations=1000")
    wanted = ask("decide", "linalg.gemm", "--shape", "a=8x8", "--shape", "b=8x8")["decision_id"]
    ask("decide", *OPTION, "--param", "num_simulations=1000")
    found = ask("decisions", "tail", "--workload", "linalg.gemm", "--since", "5m")
    assert found[-1]["decision_id"] == wanted
    assert {record["workload"] for record in found} == {"linalg.gemm"}
    assert ask("decisions", "tail", "--since", "0s") == []
    ctl("decisions", "tail", "--since", "yesterday", code=2)
    ctl("decisions", "get", "no-such-id", code=2)
    assert ctl.err.startswith("routerctl: unknown_decision: ")


def test_following_decisions_ends_with_an_interrupt(daemon, ask):
    first = ask("decide", "linalg.gemm", "--shape", "a=8x8", "--shape", "b=8x8")["decision_id"]
    process = subprocess.Popen(
        [*ROUTERCTL, "decisions", "tail", "-n", "1", "--follow", "--json"],
        env=daemon.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert json.loads(process.stdout.readline())["decision_id"] == first
        second = ask("decide", "linalg.gemm", "--shape", "a=8x8", "--shape", "b=8x8")["decision_id"]
        assert json.loads(process.stdout.readline())["decision_id"] == second
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (130, "", "")


def test_a_reader_that_leaves_is_no_error(daemon):
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run([*ROUTERCTL, "flags"], env=daemon.env, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (process.returncode, process.stderr) == (141, b"")


def test_calibrate(ctl, ask):
    answer = ask("calibrate", "linalg.gemm")
    assert answer["workloads"] == ["linalg.gemm"]
    assert {"backend": "cpu.numpy", "workload": "linalg.gemm", "state": "calibrated"}.items() <= answer["pairs"][
        0
    ].items()
    text = ctl("calibrate", "linalg.gemm")
    assert re.search(r"^cpu\.numpy +linalg\.gemm +calibrated", text, re.MULTILINE)
    assert ctl.err.startswith("routerctl: ")
    ctl("calibrate", "no.such", code=2)
    assert "unknown_workload" in ctl.err


def test_policy_show(ctl, ask):
    found = ask("policy", "show")
    text = ctl("policy", "show")
    assert found["digest"] in text
    assert "same as in force" in text
    assert ask("policy", "show", "--effective") == found["effective"]


def test_the_effective_policy_loads_again_as_the_same(ctl, ask, tmp_path):
    (tmp_path / "effective.yaml").write_text(ctl("policy", "show", "--effective"))
    out = ctl("policy", "check", str(tmp_path / "effective.yaml"))
    assert "policy default is valid" in out


def test_policy_eval_and_explain(ctl, ask):
    task = (*OPTION, "--param", "num_simulations=5e6")
    found = ask("policy", "eval", *task)
    assert found["trace"]["rule"] == found["decision"]["rule"]
    text = ctl("policy", "eval", *task)
    for clause in found["trace"]["clauses"]:
        assert f"{clause['kind']} {clause['id']} ({clause['place']})" in text
        for condition in clause["conditions"]:
            assert f"{condition['fact']} {condition['test']}" in text
    assert f"decided by {found['decision']['rule']}" in text

    decision_id = ask("decide", *task)["decision_id"]
    explained = ask("policy", "explain", decision_id)
    assert explained["same_policy"] is True
    assert explained["record"]["decision_id"] == decision_id
    text = ctl("policy", "explain", decision_id)
    assert decision_id in text
    assert f"decided by {explained['record']['decision']['rule']}" in text


POLICY = "{apiVersion: routerd/v1, kind: Policy, metadata: {name: mine}, rules: [{id: all, prefer: [cpu]}]}\n"


def test_policies_are_applied_refused_and_listed(private_daemon, ctl, ask, tmp_path, monkeypatch):
    private = private_daemon().start()
    private.connect().close()
    options = {"socket": private.socket}
    decision_id = ask("decide", *OPTION, "--param", "num_simulations=1000", **options)["decision_id"]
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(POLICY)
    bad.write_text(POLICY.replace("[cpu]", "[cppu]"))

    monkeypatch.chdir(tmp_path)
    text = ctl("policy", "apply", "good.yaml", **options)  # a relative path counts from here, not from the daemon
    assert text.startswith("generation 2 is in force, digest ")
    assert "(was " in text
    again = ask("policy", "apply", "good.yaml", **options)
    assert (again["changed"], again["generation"], again["files"]) == (False, 2, [str(good)])

    ctl("policy", "explain", decision_id, **options)
    assert "no longer in force" in ctl.err

    ctl("policy", "apply", "bad.yaml", code=3, **options)
    assert f"{bad}:1:" in ctl.err
    assert "did you mean cpu" in ctl.err
    for command in (("policy", "show"), ("status",)):
        text = ctl(*command, **options)
        assert "mine" in text
        assert f"{bad}:1:" in text

    good.write_text(POLICY.replace("mine", "other"))
    assert "differ from what is in force" in ctl("policy", "show", **options)
    assert ctl("policy", "apply", **options).startswith("generation 3 ")  # the configured files again
    assert "default" in ctl("policy", "show", **options)

    rows = ctl("policy", "history", **options).splitlines()
    assert [row.split()[0] for row in rows[1:]] == ["3", "2", "1"]
    history = ask("policy", "history", "--limit", "2", **options)
    assert [entry["generation"] for entry in history] == [3, 2]
    assert history[1]["content"]["metadata"]["name"] == "mine"
    assert private.stop() == 0


def test_no_backend_left_is_told_with_reasons(private_daemon, ctl, ask, tmp_path):
    private = private_daemon().start()
    private.connect().close()
    path = tmp_path / "closed.yaml"
    path.write_text("{apiVersion: routerd/v1, kind: Policy, constraints: [{id: closed, deny: [cpu]}]}\n")
    ctl("policy", "apply", str(path), socket=private.socket)
    ctl("decide", *OPTION, "--param", "num_simulations=1000", code=7, socket=private.socket)
    assert ctl.err.startswith("routerctl: no_candidate: ")
    assert "denied by constraint closed (closed.yaml:1)" in ctl.err
    error = ask("run", *OPTION, "--param", "num_simulations=1000", code=7, socket=private.socket)["error"]
    assert "cpu.numpy" in {rejection["backend"] for rejection in error["detail"]["rejected"]}
    assert private.stop() == 0


def test_redacted_decisions_are_shown_without_what_is_redacted(private_daemon, ctl, ask, tmp_path):
    private = private_daemon().start()
    private.connect().close()
    path = tmp_path / "discreet.yaml"
    redact = "record: {redact: [client.name, client.uid, task.params]}"
    path.write_text(f"apiVersion: routerd/v1\nkind: Policy\n{redact}\n")
    ctl("policy", "apply", str(path), socket=private.socket)
    made = ask("decide", *OPTION, "--param", "num_simulations=1000", socket=private.socket)["decision_id"]
    text = ctl("decisions", "get", made, socket=private.socket)
    assert "decide by a client (name redacted) (uid redacted) at " in text
    assert "spot_price" not in text
    assert ctl("decisions", "tail", "-n", "1", socket=private.socket).splitlines()[1].split()[1:3] == [made, "–"]
    assert private.stop() == 0


def test_a_daemon_that_is_gone_is_unreachable(private_daemon, ctl):
    private = private_daemon().start()
    private.connect().close()
    assert private.stop() == 0
    for command in (("status",), ("run", *OPTION, "--param", "num_simulations=1000")):
        ctl(*command, code=6, socket=private.socket)
        assert ctl.err.startswith("routerctl: daemon_unreachable: no daemon answers on ")
