"""``bench routing`` in a simulated world: no daemon is needed, so all of its output can be looked at here."""

from __future__ import annotations

import json
import re

import pytest

from routerd.cli import app
from routerd.simulation.world import World, WorldBackend, WorldCurve

WORKS = [10.0**exponent for exponent in range(2, 8)]


def curve(backend, workload, launch, rate):
    return WorldCurve(backend, workload, tuple((work, launch + rate * work) for work in WORKS))


@pytest.fixture
def world(tmp_path):
    """On ``sort`` the GPU pays from a work of 1e5 on; ``alone`` runs on the processor only."""
    path = tmp_path / "world.json"
    World(
        name="made-up",
        label="synthetic",
        source="for tests",
        backends=(
            WorldBackend("cpu.numpy", "cpu", "float64", 2e-5),
            WorldBackend("metal.mlx", "metal_gpu", "float32", 3e-5),
        ),
        curves=(
            curve("cpu.numpy", "sort", 1e-5, 1e-8),
            curve("metal.mlx", "sort", 1e-3, 1e-10),
            curve("cpu.numpy", "sum", 1e-5, 1e-9),
            curve("metal.mlx", "sum", 1e-3, 1e-9),
            curve("cpu.numpy", "alone", 1e-5, 1e-9),
        ),
        noise_log_sigma=0.02,
    ).save(path)
    return str(path)


def bench(*arguments):
    return app.run(["bench", "routing", *arguments])


def test_the_tables_are_printed(world, capsys):
    assert bench("--world", world, "--tasks", "30") == 0
    text = capsys.readouterr().out
    assert re.search(r"^chooser +right choices +mean regret +p95 regret$", text, re.MULTILINE)
    for name in ("routerd", r"regression \(StarPU\)", "fixed priority", "always cpu.numpy", "random"):
        assert re.search(rf"^{name} +[\d.]+ % +[\d.]+ % +[\d.]+ %$", text, re.MULTILINE), name
    assert re.search(r"^trials +60 of 2 workloads, seed 0$", text, re.MULTILINE)
    assert re.search(r"^prediction error +[\d.]+ % on average$", text, re.MULTILINE)
    assert re.search(r"^calibration error +0\.\d{3}$", text, re.MULTILINE)
    assert re.search(r"^0\.9 to 1\.0 +\d+ +[01]\.\d{3} +[01]\.\d{3} +0\.\d\d to 1\.00$", text, re.MULTILINE)


def test_json_has_everything_and_a_seed_repeats_it(world, capsys):
    def ask(*arguments):
        assert bench("--world", world, "--tasks", "20", "--json", *arguments) == 0
        return json.loads(capsys.readouterr().out)

    first = ask("--seed", "3")
    assert first["machine"] == {"world": "made-up", "label": "synthetic", "source": "for tests"}
    assert len(first["trials"]) == first["score"]["trials"] == 40
    assert first["choosers"][0]["name"] == "routerd"
    assert ask("--seed", "3") == first
    assert ask("--seed", "4")["trials"] != first["trials"]


def test_only_the_workloads_named_are_scored(world, capsys):
    assert bench("--world", world, "--tasks", "5", "--json", "-w", "sum") == 0
    assert {one["workload"] for one in json.loads(capsys.readouterr().out)["trials"]} == {"sum"}


def test_the_picture_is_written(world, tmp_path, capsys):
    picture = tmp_path / "routing.svg"
    assert bench("--world", world, "--tasks", "5", "--picture", str(picture)) == 0
    assert picture.read_text().startswith("<svg ")
    assert f"picture written to {picture}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--world", "{world}", "-w", "srot"], 2, "did you mean sort"),
        (["--world", "{world}", "-w", "alone"], 2, "no task was run on two backends"),
        (["--world", "{world}", "--tasks", "0"], 2, "--tasks"),
        (["--world", "{world}", "--seed", "-1"], 2, "--seed"),
        (["--world", "{world}", "--record", "x.json"], 2, "give one of them"),
        (["--world", "{world}", "--picture", "/no/such/place/x.svg"], 2, "--picture /no/such/place/x.svg: name a file"),
        (["--world", "{world}", "--picture", "/"], 2, "--picture /: name a file"),
        (["--world", "/no/such/world.json"], 3, "/no/such/world.json cannot be read"),
        (["--record", "/no/such/place/x.json"], 2, "--record /no/such/place/x.json: name a file"),
        (["--socket", "/tmp/routerd-no-such-directory/s"], 6, "no daemon answers"),
    ],
)
def test_what_cannot_be_is_one_line(world, capsys, monkeypatch, arguments, code, words):
    monkeypatch.setattr("routerd.cli.link.WAIT_SECONDS", 0.0)
    assert bench(*(argument.format(world=world) for argument in arguments)) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
