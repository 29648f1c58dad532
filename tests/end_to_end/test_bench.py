"""``routerctl bench routing`` and the method ``measure`` against a live daemon."""

from __future__ import annotations

import json

import pytest

from routerd.cli import app
from routerd.simulation.world import World

WORKLOADS = ("linalg.gemm", "indicators.sma")
TASK = {"workload": "linalg.gemm", "work": 1e5, "backend": "cpu.numpy"}


@pytest.fixture
def bench(daemon, capsys):
    """Score a few small tasks; standard output, and the remarks beside it as ``bench.remarks``."""

    def call(*arguments, code=0):
        few = [word for name in WORKLOADS for word in ("-w", name)]
        found = app.run(["bench", "routing", *few, "--tasks", "3", "--socket", str(daemon.socket), *arguments])
        captured = capsys.readouterr()
        assert found == code, captured.err
        call.remarks = captured.err
        return captured.out

    return call


def test_tasks_are_run_everywhere_and_the_choices_scored(bench, router, tmp_path):
    executed = router.call("stats")["executed"]
    path = tmp_path / "here.json"
    report = json.loads(bench("--json", "--record", str(path)))
    assert {trial["workload"] for trial in report["trials"]} <= set(WORKLOADS)
    for trial in report["trials"]:
        assert len(trial["seconds"]) > 1
        assert all(seconds > 0.0 for seconds in trial["seconds"].values())
        assert trial["predicted"].keys() >= trial["seconds"].keys()
        assert trial["chosen"] in trial["seconds"]
    score = report["score"]
    assert len(report["trials"]) + sum(report["skipped"].values()) == 6
    assert sum(one["count"] for one in score["reliability"]) == score["trials"]
    assert report["choosers"][0]["name"] == "routerd"
    assert report["machine"]["cpu.torch"] == "cpu float32"
    assert router.call("stats")["executed"] == executed

    world = World.load(path)
    assert {backend.name for backend in world.backends} >= {"cpu.numpy", "cpu.torch"}
    assert set(world.workloads) == set(WORKLOADS)
    assert app.run(["bench", "routing", "--world", str(path), "--tasks", "5"]) == 0


def test_the_text_has_the_tables_and_progress_goes_elsewhere(bench, tmp_path):
    picture = tmp_path / "routing.svg"
    text = bench("--picture", str(picture))
    for expected in ("chooser", "routerd", "fixed priority", "prediction error", "calibration error", "reliability"):
        assert expected in text
    assert "running linalg.gemm" in bench.remarks
    assert "running" not in text
    assert picture.read_text().startswith("<svg ")


def test_an_unknown_workload_gets_the_nearest_name(bench):
    assert bench("-w", "linalg.gem", code=2) == ""
    assert "did you mean linalg.gemm?" in bench.remarks


@pytest.fixture
def raw(wire):
    return wire().hello()


class TestMeasure:
    def test_a_seed_gives_one_example_and_each_run_is_timed(self, raw):
        first, again = (raw.ask("measure", {**TASK, "seed": 5, "budget_seconds": 0.05})["result"] for _ in range(2))
        assert first["work"] == again["work"]
        assert 0.5e5 < first["work"] < 2e5
        assert 1 <= len(first["seconds"]) <= 7
        assert all(0.0 < seconds < 1.0 for seconds in first["seconds"])

    def test_a_budget_too_small_for_two_runs_gives_one(self, raw):
        assert len(raw.ask("measure", {**TASK, "budget_seconds": 1e-9})["result"]["seconds"]) == 1

    @pytest.mark.parametrize(
        ("change", "code", "words"),
        [
            ({"workload": "linalg.gem"}, "unknown_workload", "did you mean linalg.gemm?"),
            ({"backend": "cpu.nunpy"}, "unknown_backend", "did you mean cpu.numpy?"),
            ({"work": 0.0}, "invalid_parameter", "linalg.gemm has examples from 10000 to"),
            ({"work": -1e6}, "invalid_parameter", "work -1e+06"),
            ({"work": float("nan")}, "invalid_parameter", "work nan"),
            ({"work": 1e300}, "invalid_parameter", "work 1e+300"),
            ({"budget_seconds": 0.0}, "invalid_parameter", "budget_seconds 0"),
            ({"budget_seconds": float("inf")}, "invalid_parameter", "at most 60"),
            ({"seed": -1}, "invalid_parameter", "seed -1"),
            ({"seed": 2**64 - 1}, "invalid_parameter", "seed 18446744073709551615"),
            ({"seed": 0.5}, "malformed_frame", "params of measure is not valid"),
            ({"work": "much"}, "malformed_frame", "params of measure is not valid"),
            ({"colour": 1}, "malformed_frame", "colour"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, raw, change, code, words):
        error = raw.error("measure", {**TASK, **change})
        assert error["code"] == code
        assert words in error["message"]
        assert raw.ask("ping")["result"] == {"pong": True}

    def test_a_pair_that_gets_no_work_says_why(self, raw, router):
        (workload,) = router.call("workloads", {"name": "execution.pretrade"})
        reasons = {
            name: pair["reason"] for name, pair in workload["backends"].items() if pair["state"] == "unsupported"
        }
        name, reason = next(iter(reasons.items()))
        low, _high = workload["work_range"]
        error = raw.error("measure", {"workload": "execution.pretrade", "work": low, "backend": name})
        assert error["code"] == "unavailable"
        assert error["message"] == f"{name} cannot be timed on execution.pretrade: {reason}"
