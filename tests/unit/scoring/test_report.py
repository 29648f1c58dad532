"""A whole scoring: every chooser on the same trials, as data and as a picture."""

from __future__ import annotations

import json
from random import Random
from xml.etree import ElementTree

import pytest

from routerd.errors import BadRequest
from routerd.scoring.picture import picture_of
from routerd.scoring.report import make_report, percent
from routerd.scoring.trials import Sample, Trial

BACKENDS = {"cpu.numpy": (1e-8, 1e-5), "metal.mlx": (1e-10, 1e-3)}
PRIORITY = ["metal.mlx", "cpu.numpy"]
SVG = "{http://www.w3.org/2000/svg}"


def law(backend, work):
    rate, launch = BACKENDS[backend]
    return launch + rate * work


@pytest.fixture
def trials():
    """A machine whose GPU is worth its launch from a work of 1e5 on; routerd knows that, and is nearly sure of it."""
    rng = Random(1)
    works = [10.0 ** rng.uniform(2, 7) for _ in range(60)]
    made = []
    for work in works:
        seconds = {backend: law(backend, work) for backend in BACKENDS}
        made.append(Trial("linalg.gemm", work, seconds, seconds, min(seconds, key=seconds.__getitem__), 0.98))
    return made


@pytest.fixture
def samples():
    return [Sample("linalg.gemm", one, 10.0**n, law(one, 10.0**n)) for one in BACKENDS for n in range(2, 8)]


@pytest.fixture
def report(trials, samples):
    return make_report(trials, samples, PRIORITY, seed=4, skipped={"failed on the choice": 2})


def test_every_chooser_is_judged_on_the_same_trials(report, trials):
    rates = {one.name: one.choices.right_rate for one in report.choosers}
    assert list(rates) == [
        "routerd", "regression (StarPU)", "history (StarPU)", "fixed priority", "always cpu.numpy", "random"]  # fmt: skip
    assert rates["routerd"] == rates["regression (StarPU)"] == 1.0
    small = sum(trial.work < 99_000 for trial in trials) / len(trials)
    assert rates["always cpu.numpy"] == pytest.approx(small, abs=0.05)
    assert rates["fixed priority"] == pytest.approx(1.0 - small, abs=0.05)
    assert 0.0 < rates["random"] < 1.0
    assert report.choosers[0].choices == report.score.choices


def test_a_trial_without_a_choice_flatters_nobody(trials, samples):
    alone = Trial("linalg.gemm", 1e3, {"cpu.numpy": 1.0}, {"cpu.numpy": 1.0}, "cpu.numpy", 1.0)
    plain = make_report(trials, samples, PRIORITY, seed=4)
    mixed = make_report([alone, *trials], samples, PRIORITY, seed=4)
    assert mixed.choosers == plain.choosers
    assert (mixed.score.trials, mixed.score.single_backend) == (60, 1)


def test_without_trials_there_is_no_report(samples):
    with pytest.raises(BadRequest, match="nothing to score"):
        make_report([], samples, PRIORITY, seed=0)


def test_it_is_plain_data_with_every_trial(report, trials):
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["skipped"] == {"failed on the choice": 2}
    assert data["seed"] == 4
    assert len(data["trials"]) == len(trials)
    assert data["trials"][0]["seconds"] == trials[0].seconds
    assert data["score"]["choices"]["right_rate"] == 1.0
    assert data["choosers"][3]["name"] == "fixed priority"


def texts(svg):
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_picture_tells_what_the_report_does(report):
    svg = picture_of(report)
    shown = texts(svg)
    for one in report.choosers:
        assert one.name in shown
        assert percent(one.choices.right_rate) in shown
        assert percent(one.choices.mean_regret) in shown
    assert "60 decisions, expected calibration error 0.020" in shown
    assert "60" in shown  # choices in the only bin
    (curve,) = ElementTree.fromstring(svg).iter(f"{SVG}polyline")
    points = curve.get("points").split()
    assert len(points) == len(report.score.reliability) == 1


def test_everything_lies_within_the_picture(report):
    root = ElementTree.fromstring(picture_of(report))
    _left, _top, width, height = map(float, root.get("viewBox").split())
    for node in root.iter(f"{SVG}rect"):
        x, y = float(node.get("x", 0)), float(node.get("y", 0))
        assert 0.0 <= x <= x + float(node.get("width")) <= width
        assert 0.0 <= y <= y + float(node.get("height")) <= height


def test_a_name_cannot_break_the_picture(trials, samples):
    renamed = [Trial("a<b & 'c'", one.work, one.seconds, {}, one.chosen, one.confidence) for one in trials]
    assert texts(picture_of(make_report(renamed, samples, PRIORITY, seed=0)))


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0.0 %"), (0.0042, "0.42 %"), (0.97251, "97.3 %"), (1.0, "100 %"), (2.1, "210 %")]
)
def test_percentages_have_the_digits_that_tell_something(share, text):
    assert percent(share) == text
