"""Worlds: what may be in one, and what it says between its points."""

from __future__ import annotations

import json
import math

import msgspec
import pytest

from routerd.errors import BadRequest, ConfigurationError, UnknownBackend, UnknownWorkload
from routerd.simulation.world import World


def test_a_world_survives_being_saved_and_loaded(tiny, tmp_path):
    tiny.save(tmp_path / "tiny.json")
    assert World.load(tmp_path / "tiny.json") == tiny


def test_a_file_has_a_line_for_each_backend_and_curve(tiny, tmp_path):
    tiny.save(tmp_path / "tiny.json")
    lines = (tmp_path / "tiny.json").read_text().splitlines()
    assert sum('"device_kind"' in line for line in lines) == len(tiny.backends)
    assert sum('"points"' in line for line in lines) == len(tiny.curves)


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        (("name",), " ", "name is empty"),
        (("label",), "guessed", r"guessed.*\$\.label"),
        (("noise_log_sigma",), -0.1, "noise_log_sigma is -0.1"),
        (("bias_log_sigma",), "0.1", r"float.*\$\.bias_log_sigma"),
        (("surprise",), 1, "surprise"),
        (("backends",), [], "backends is empty"),
        (("backends", 1, "name"), "cpu.numpy", r"backends\[1\].name says cpu.numpy a second time"),
        (
            ("backends", 0, "device_kind"),
            "metal_gpus",
            r"backends\[0\].device_kind says 'metal_gpus' \(did you mean metal_gpu",
        ),
        (("backends", 0, "overhead_seconds"), -1e-6, r"backends\[0\].overhead_seconds is -1e-06"),
        (("backends", 1, "name"), "ane.coreml", r"backends\[1\] has no curve: ane.coreml"),
        (("curves", 2, "backend"), "cuda.torch", r"curves\[2\].backend says cuda.torch, which is not among backends"),
        (("curves", 2, "workload"), "sort", r"curves\[2\] is a second one of cpu.numpy on sort"),
        (("curves", 0, "points"), [[1.0, 1.0]], r"curves\[0\].points has 1"),
        (("curves", 0, "points", 3), [50.0, 1e-3], r"curves\[0\].points\[3\] has work 50 after 316.228; sort"),
        (
            ("curves", 0, "points", 3, 1),
            -1e-3,
            r"curves\[0\].points\[3\] is \(562.*-0.001\); work and seconds are positive",
        ),
        (("curves", 0, "points", 3, 1), math.nan, "no world"),
        (("curves", 0, "points"), [[1e7, 1.0], [1e8, 2.0]], "curves of sort have no work in common"),
    ],
)
def test_a_world_that_cannot_be_is_refused_with_file_field_and_reason(tiny, tmp_path, field, value, complaint):
    path = tmp_path / "broken.json"
    data = msgspec.to_builtins(tiny)
    place = data
    for key in field[:-1]:
        place[key] = list(place[key]) if isinstance(place[key], tuple) else place[key]
        place = place[key]
    place[field[-1]] = value
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigurationError, match=complaint) as refused:
        World.load(path)
    assert str(path) in refused.value.message
    assert refused.value.detail["path"] == str(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": "x"}', b"\xff\xfe"])
def test_a_file_that_is_something_else_is_refused(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"{path} is no world"):
        World.load(path)


def test_a_file_that_is_not_there_or_cannot_be_written_is_named(tiny, tmp_path):
    with pytest.raises(ConfigurationError, match=r"gone.json cannot be read: No such file"):
        World.load(tmp_path / "gone.json")
    with pytest.raises(ConfigurationError, match=r"x.json cannot be written: No such file"):
        tiny.save(tmp_path / "gone" / "x.json")


def test_not_a_number_is_refused_in_a_world_made_by_code(tiny):
    curve = tiny.curves[0]
    broken = msgspec.structs.replace(curve, points=((1.0, math.nan), *curve.points[1:]))
    with pytest.raises(ConfigurationError, match=r"points\[0\] is \(1.0, nan\)"):
        msgspec.structs.replace(tiny, curves=(broken, *tiny.curves[1:]))


class TestTruth:
    def test_it_holds_at_the_points(self, tiny):
        for curve in tiny.curves:
            for work, seconds in curve.points:
                assert tiny.seconds(curve.backend, curve.workload, work) == pytest.approx(seconds, rel=1e-12)

    def test_it_is_a_straight_line_in_logarithms_between_them(self, tiny):
        (w0, s0), (w1, s1) = tiny.curves[0].points[8:10]
        for share in (0.1, 0.5, 0.9):
            work = w0 * (w1 / w0) ** share
            assert tiny.seconds("cpu.numpy", "sort", work) == pytest.approx(s0 * (s1 / s0) ** share, rel=1e-9)

    @pytest.mark.parametrize("work", [99.0, 1.01e6, 0.0, -1.0, math.nan, math.inf])
    def test_it_is_not_known_outside_them(self, tiny, work):
        with pytest.raises(BadRequest, match=r"known on sort from 100 to 1e\+06 of work"):
            tiny.seconds("cpu.numpy", "sort", work)

    def test_names_that_are_not_in_it_are_said_to_be_so(self, tiny):
        with pytest.raises(UnknownWorkload, match=r"knows no sorts \(did you mean sort\?\)"):
            tiny.seconds("cpu.numpy", "sorts", 1e3)
        with pytest.raises(UnknownBackend, match=r"metal\.mlx has no curve for alone; those that have are cpu\.numpy"):
            tiny.seconds("metal.mlx", "alone", 1e3)


def test_work_is_compared_where_every_backend_is_known(tiny):
    curves = list(tiny.curves)
    curves[0] = msgspec.structs.replace(curves[0], points=curves[0].points[2:])
    curves[1] = msgspec.structs.replace(curves[1], points=curves[1].points[:-1])
    world = msgspec.structs.replace(tiny, curves=tuple(curves))
    assert world.work_range("sort") == (world.curves[0].points[0][0], world.curves[1].points[-1][0])
    assert world.curve_range("metal.mlx", "sort")[0] == 100.0
