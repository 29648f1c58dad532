"""The benchmarks of load: robust slopes, frames for many clients, words about limits, and a run of each that shows its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks._crowd import Outcome, batches_of, merged
from benchmarks._descriptors import SPARE, advice
from benchmarks._soak import theil_sen
from routerd.protocol import FrameBuffer, Nothing, Request
from routerd.protocol import encode as encoded
from tests.processes import leave_out

ROOT = Path(__file__).resolve().parents[3]


def test_a_slope_is_that_of_most_pairs() -> None:
    times = [float(number) for number in range(20)]
    values = [3.0 * time + 1.0 for time in times]
    values[4] += 1000.0
    values[15] -= 1000.0
    assert theil_sen(times, values) == pytest.approx(3.0)
    assert theil_sen([1.0], [5.0]) == 0.0


def test_a_batch_holds_whole_requests_with_ids_of_their_own() -> None:
    import msgspec

    batches = batches_of("ping", [Nothing()], together=8, count=3)
    bodies = [list(FrameBuffer(1 << 20).feed(batch.frames)) for batch in batches]
    requests = [msgspec.msgpack.decode(body, type=Request) for bodies_of_one in bodies for body in bodies_of_one]
    assert [batch.replies for batch in batches] == [8, 8, 8]
    assert len({request.id for request in requests}) == 24
    assert {len(encoded(request.id)) for request in requests} == {3}


def test_what_several_crowds_did_adds_up() -> None:
    one = Outcome(answered=10, refused=1, seconds=2.0, latencies=[0.1], first_refusal="overloaded")
    other = Outcome(answered=5, lost=2, seconds=3.0, latencies=[0.2])
    both = merged([other, one])
    assert (both.answered, both.errors, both.seconds) == (15, 3, 3.0)
    assert both.first_refusal == "overloaded"
    assert sorted(both.latencies) == [0.1, 0.2]


@pytest.mark.parametrize(("platform", "words"), [("linux", "LimitNOFILE="), ("darwin", "launchctl limit maxfiles")])
def test_the_advice_names_the_limit_and_how_to_raise_it(
    platform: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    told = advice(15_000, 1024)
    assert words in told
    assert str(15_000 + SPARE) in told
    assert "RLIMIT_NOFILE" in told


def test_a_quick_run_reports_every_figure(tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    leave_out(tmp_path, "torch", "mlx")
    command = [sys.executable, "-m", "benchmarks.load", "--quick", "--clients", "50", "--json", str(written)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stderr
    figures = {row["name"]: row for row in json.loads(written.read_text())["figures"]}
    assert figures["clients connected"]["value"] == 50
    assert figures["decide, 50,000 a second offered, answered"]["value"] > 0
    errors = {name: row["value"] for name, row in figures.items() if name.endswith(", errors")}
    assert len(errors) == 4
    assert set(errors.values()) == {0}
    assert sum(name.startswith("fair share") and name.endswith("with 1") for name in figures) == 2
