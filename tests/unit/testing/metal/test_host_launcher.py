"""Shaders on the processor: barriers, SIMD groups and attributes behave as Metal's, and what is wrong is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from routerd.errors import ExecutionError, InvalidArray, PluginError, Unavailable
from routerd.testing.metal import Buffer, HostLauncher, building

X, OUT = Buffer("x", "float32"), Buffer("out", "float32")
PLACE = "uint i [[thread_position_in_grid]]"
PLACES = f"{PLACE}, uint index [[thread_index_in_threadgroup]], uint group [[threadgroup_position_in_grid]]"
ATTRIBUTES = {
    "thread_position_in_grid": ".x",
    "thread_position_in_threadgroup": ".x",
    "threadgroup_position_in_grid": ".x",
    "threads_per_grid": ".x",
    "threadgroups_per_grid": ".x",
    "threads_per_threadgroup": ".x",
    "dispatch_threads_per_threadgroup": ".x",
    "thread_index_in_threadgroup": "",
    "thread_index_in_simdgroup": "",
    "simdgroup_index_in_threadgroup": "",
    "simdgroups_per_threadgroup": "",
    "threads_per_simdgroup": "",
}
REDUCTION = """
    threadgroup float part[64];
    part[index] = x[i];
    for (uint distance = 32; distance > 0; distance /= 2) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (index < distance) part[index] += part[index + distance];
    }
    if (index == 0) out[group] = part[0];"""


def kernel(name: str, body: str, attributes: str = PLACE) -> str:
    return (
        f"kernel void {name}(device const float* x [[buffer(0)]], device float* out [[buffer(1)]], {attributes}) {{\n"
        f"{body}\n}}\n"
    )


# One text, so that the compiler runs once.
TEXT = "#include <metal_stdlib>\nusing namespace metal;\n" + "".join(
    (
        kernel("copy", "out[i] = x[i];"),
        kernel("reduction", REDUCTION, PLACES),
        kernel("without_barrier", REDUCTION.replace("threadgroup_barrier(mem_flags::mem_threadgroup);", ""), PLACES),
        kernel(
            "fresh", "threadgroup float part[2]; if (x[group] > 0.0f) part[0] = 1.0f; out[group] = part[0];", PLACES
        ),
        kernel("skipping", "if (i != 1) out[i] = 2.0f;"),
        kernel("ended", "if (i == 3) return; threadgroup_barrier(mem_flags::mem_threadgroup); out[i] = 1.0f;"),
        kernel(
            "apart",
            "if (i < 2) {\n threadgroup_barrier(mem_flags::mem_none);\n} else {\n"
            "threadgroup_barrier(mem_flags::mem_none);\n}\nout[i] = 1.0f;",
        ),
        kernel(
            "failing",
            "threadgroup_barrier(mem_flags::mem_none); if (x[0] > 0.0f && i == 2) out[99] = 0.0f;\n"
            "threadgroup_barrier(mem_flags::mem_none); out[i] = float(i);",
        ),
        kernel("after", "out[i] = x[i + 1];"),
        kernel("before", "out[i] = x[i - 1u];"),
        kernel("shifted", "(out + i)[1] = 1.0f;"),
        kernel("address", "device float* far = &out[2]; far[2] = x[0];"),
        kernel("shared", "threadgroup float part[2]; part[i] = 1.0f; out[i] = part[i];"),
        kernel("component", "float4 four = float4(1.0f); out[i] = four[i + 2];"),
        kernel(
            "places",
            "\n".join(
                f"out[{len(ATTRIBUTES)} * thread_position_in_grid.x + {number}] = float({name}{component});"
                for number, (name, component) in enumerate(ATTRIBUTES.items())
            ),
            ", ".join(f"uint{'3' if component else ''} {name} [[{name}]]" for name, component in ATTRIBUTES.items()),
        ),
        kernel(
            "directions",
            "out[0] = float(place.y); out[1] = float(size.y);",
            "uint3 place [[thread_position_in_grid]], uint2 size [[threads_per_threadgroup]]",
        ),
        kernel(
            "lanes",
            "const float sum = simd_sum(x[i]); const float most = simd_max(x[i]); const float least = simd_min(x[i]);\n"
            "const float next = simd_shuffle_down(x[i], 1); const float partner = simd_shuffle_xor(x[i], 1);\n"
            "const float first = simd_broadcast(x[i], 0);\nif (i == 40) {\n"
            "out[0] = sum; out[1] = most; out[2] = least; out[3] = next; out[4] = partner; out[5] = first;\n}",
        ),
        kernel("odd", "if (i % 2) return; out[i] = simd_sum(x[i]);"),
        kernel(
            "functions",
            "out[0] = exp(x[0]); out[1] = metal::precise::log(x[1]); out[2] = sinpi(x[2]) + cospi(x[2]);\n"
            "out[3] = float(mulhi(0x80000001u, 6u)); out[4] = as_type<float>(0x3f800000u);\n"
            "out[5] = clamp(x[0], 0.0, 0.5) + float(popcount(7u)) + select(1.0f, 2.0f, x[0] > 0.0f);\n"
            "const float2 two = float2(x[0], x[1]) * 2.0f; out[6] = two.x + two.y;",
        ),
        "kernel void atomics(device const float* x, device atomic_uint* out, uint i [[thread_position_in_grid]]) {\n"
        "    atomic_fetch_add_explicit(&out[0], 2u, memory_order_relaxed);\n"
        "    atomic_fetch_max_explicit(out + 1, i ^ 0xfffffff0u, memory_order_relaxed);\n}\n",
    )
)


@dataclass(frozen=True)
class Text:
    """A shader given as text."""

    entry: str
    text: str = TEXT
    inputs: tuple[Buffer, ...] = (X,)
    outputs: tuple[Buffer, ...] = (OUT,)
    name: str = "text.metal"
    zeroed: bool = False


def launch(shader: Text | str, x: Any = (0.0,), size: int = 1, *, threads: int = 1, group: int = 1) -> Any:
    if isinstance(shader, str):
        shader = Text(shader)
    given = {name: np.asarray(x, dtype=dtype) for name, dtype in shader.inputs}
    return HostLauncher().launch(shader, given, {"out": (size,)}, threads=threads, group=group)["out"]


def test_threads_of_a_threadgroup_wait_for_each_other_at_a_barrier() -> None:
    values = np.random.default_rng(3).integers(100, size=64 * 1500).astype(np.float32)
    found = launch("reduction", values, 1500, threads=values.size, group=64)
    assert np.array_equal(found, values.reshape(1500, 64).sum(axis=1))


def test_a_barrier_that_is_missing_shows() -> None:
    found = launch("without_barrier", np.ones(256), 4, threads=256, group=64)
    # In descending order this reduction happens to be right; so every second threadgroup goes in ascending order.
    assert np.array_equal(found, [np.nan, 64.0, np.nan, 64.0], equal_nan=True)


def test_threadgroup_memory_begins_as_nan_in_every_threadgroup() -> None:
    assert np.array_equal(launch("fresh", (1.0, 0.0, 1.0), 3, threads=3), [1.0, np.nan, 1.0], equal_nan=True)


def test_an_output_that_is_not_written_is_nan() -> None:
    found = launch("skipping", size=3, threads=3, group=3)
    assert np.array_equal(found, [2.0, np.nan, 2.0], equal_nan=True)


def test_an_output_that_is_to_begin_as_zero_does() -> None:
    assert launch(Text("skipping", zeroed=True), size=3, threads=3, group=3).tolist() == [2.0, 0.0, 2.0]


def test_a_barrier_that_some_threads_never_reach_is_an_error() -> None:
    with pytest.raises(
        ExecutionError, match=r"ended: thread 0 of threadgroup 0: it waits in line \d+ for threads that"
    ):
        launch("ended", size=4, threads=4, group=4)


def test_barriers_in_different_places_do_not_meet() -> None:
    with pytest.raises(ExecutionError, match="wait elsewhere"):
        launch("apart", size=4, threads=4, group=4)


def test_a_launch_after_a_failed_one_is_as_good_as_any() -> None:
    for _ in range(2):
        with pytest.raises(ExecutionError, match=r"thread 2 of threadgroup 0: out\[99\] is outside of its 4 elements"):
            launch("failing", (1.0,), 4, threads=4, group=4)
        assert launch("failing", (0.0,), 4, threads=4, group=4).tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("after", r"thread 1 of threadgroup 1: x\[4\] is outside of its 4 elements"),
        ("before", r"thread 0 of threadgroup 0: x\[4294967295\] is outside"),
        ("shifted", r"out\[4\] is outside of its 4"),
        ("address", r"out\[4\] is outside of its 4"),
        ("shared", r"threadgroup 1: part\[3\] is outside of its 2"),
        ("component", "threadgroup 1: component 5 of a vector of 4"),
    ],
)
def test_an_access_outside_of_a_buffer_is_named(entry: str, problem: str) -> None:
    with pytest.raises(ExecutionError, match=problem):
        launch(entry, (1.0, 2.0, 3.0, 4.0), 4, threads=4, group=2)


def test_attributes_tell_the_place_of_a_thread_also_in_a_smaller_last_threadgroup() -> None:
    found = launch("places", size=100 * len(ATTRIBUTES), threads=100, group=40).reshape(100, len(ATTRIBUTES))
    thread = np.arange(100)
    inside = thread % 40
    sizes = np.where(thread < 80, 40, 20)
    expected = [thread, inside, thread // 40, thread * 0 + 100, thread * 0 + 3, sizes, thread * 0 + 40]
    expected += [inside, inside % 32, inside // 32, (sizes + 31) // 32, thread * 0 + 32]
    assert np.array_equal(found.T, expected)


def test_a_size_is_one_and_a_place_zero_in_other_directions() -> None:
    assert launch("directions", size=2).tolist() == [0.0, 1.0]


def test_lanes_of_a_simd_group_see_each_others_values() -> None:
    found = launch("lanes", np.arange(64), 6, threads=64, group=64)
    assert found.tolist() == [1520.0, 63.0, 32.0, 41.0, 41.0, 32.0]


def test_a_simd_group_goes_on_without_lanes_that_have_ended() -> None:
    found = launch("odd", np.ones(40), 40, threads=40, group=40)
    assert found[0] == 16.0
    assert found[32] == 4.0


def test_atomics_gather_over_all_threads() -> None:
    shader = Text("atomics", outputs=(Buffer("out", "uint32"),), zeroed=True)
    assert launch(shader, size=2, threads=100, group=20).tolist() == [200, 0xFFFFFFFF]


def test_functions_are_those_of_single_precision() -> None:
    found = launch("functions", (0.1, 3.0, 0.25), 7)
    x = np.array([0.1, 3.0], dtype=np.float32)
    expected = [np.exp(x[0]), np.log(x[1]), np.sqrt(2.0), 3.0, 1.0, x[0] + 5.0, 2.0 * x[0] + 2.0 * x[1]]
    assert found == pytest.approx(np.array(expected, dtype=np.float32), rel=2e-7)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("    out[i] = undefined;", r"text\.metal does not compile: text\.metal:2:\d+: error: .*undefined"),
        ("    double wide = 1.0f;", r"text\.metal:2:\d+: error: .*metal_has_no_double"),
        ("    out[i] = x[i] * pow(x[i], 2);", r"text\.metal:2:\d+: error: .*double"),
        ("    x[i] = 1.0f;", r"text\.metal:2:"),
    ],
)
def test_a_text_that_does_not_compile_gives_the_compilers_first_message(body: str, problem: str) -> None:
    with pytest.raises(PluginError, match=problem):
        launch(Text("wrong", kernel("wrong", body)))


def test_a_shader_that_is_declared_otherwise_than_written_is_refused() -> None:
    with pytest.raises(
        PluginError, match=r"text\.metal has no entry point copi \(did you mean copy\?\); it has copy, red"
    ):
        launch("copi")
    with pytest.raises(PluginError, match=r"has the buffers x \(float32\), out \(float32\); it was declared with y"):
        launch(Text("copy", inputs=(Buffer("y", "float32"),)))
    with pytest.raises(PluginError, match=r"declared with x \(int32\)"):
        launch(Text("copy", inputs=(Buffer("x", "int32"),)))


def test_an_input_of_another_dtype_is_refused() -> None:
    with pytest.raises(InvalidArray, match="reads x as float32, it was given float64"):
        HostLauncher().launch(Text("copy"), {"x": np.zeros(1)}, {"out": (1,)}, threads=1, group=1)


def test_a_launch_has_threads_and_a_threadgroup_of_a_size_that_a_gpu_has() -> None:
    for threads, group in ((0, 1), (1, 0), (2000, 1025)):
        with pytest.raises(ExecutionError, match="cannot run"):
            launch("copy", threads=threads, group=group)


def test_inputs_may_be_read_only_and_of_any_layout() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3).T
    x.flags.writeable = False
    assert launch("copy", x, 6, threads=6, group=4).tolist() == [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]


def test_without_a_compiler_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(building.shutil, "which", lambda name: None)
    with pytest.raises(Unavailable, match=r"needs a C\+\+17 compiler: install"):
        launch(Text("new", kernel("new", "    out[i] = 7.0f;")))
