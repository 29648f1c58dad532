"""What of Metal's text becomes what of C++."""

from __future__ import annotations

import pytest

from routerd.errors import PluginError
from routerd.testing.metal.translation import BufferParameter, translate


def line(text: str) -> str:
    """The translation of one line."""
    return translate(text, "one").text.splitlines()[1].strip()


@pytest.mark.parametrize(
    ("metal", "translated"),
    [
        (
            "float sum(device const float* x) { return x[0]; }",
            "float sum(metal_shim::Pointer<const float> x) { return x[0]; }",
        ),
        ("void set(const device int *x);", "void set(metal_shim::Pointer<const int> x);"),
        ("void set(device metal::uint2* x);", "void set(metal_shim::Pointer<metal::uint2> x);"),
        ("float f(constant float& x);", "float f(const float& x);"),
        ("float f(thread float* x, thread float& y);", "float f(float* x, float& y);"),
        ("template <typename T> T f(threadgroup T* x);", "template <typename T> T f(metal_shim::Pointer<T> x);"),
        ("constant float table[2] = {0.5, 1e-3};", "static const float table[2] = {0.5f, 1e-3f};"),
        ("float f() { return 1.0f + 2. + x.y1 + 3; }", "float f() { return 1.0f + 2.f + x.y1 + 3; }"),
        ("int a; // device float* x", "int a;"),
        (
            "void f() { threadgroup float part[32]; }",
            'void f() { static float part_storage[32]; auto part = metal_shim::share(part_storage, "part"); }',
        ),
        (
            "void f() { threadgroup uint total; }",
            'void f() { static uint total_storage; uint& total = metal_shim::share(total_storage, "total"); }',
        ),
    ],
)
def test_address_spaces_become_checked_pointers(metal: str, translated: str) -> None:
    assert line(metal) == translated


def test_an_entry_point_tells_its_buffers_by_their_indexes() -> None:
    entries = translate(
        "kernel void first(device float* out [[buffer(1)]], constant uint& n [[buffer(0)]], uint i [[thread_position_in_grid]]) {}\n"
        "[[kernel]] void second(const device int* in, device int* out) {}\n",
        "two",
    ).entries
    assert entries["first"].buffers == (
        BufferParameter(0, "n", "uint", False),
        BufferParameter(1, "out", "float", True),
    )
    assert [one.name for one in entries["second"].buffers] == ["in", "out"]


def test_lines_keep_their_numbers() -> None:
    text = (
        "/* one\ntwo */\n#include <metal_stdlib>\nkernel void f(device float* x\n  [[buffer(0)]]) {\n  x[0] = 1.0;\n}\n"
    )
    assert translate(text, "lines").text.splitlines()[6] == "  x[0] = 1.0f;"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kernel void f(uint i [[stage_in]]) {}", r"asks for \[\[stage_in\]\]"),
        ("kernel void f(threadgroup float* x [[threadgroup(0)]]) {}", r"asks for \[\[threadgroup\]\]"),
        ("kernel void f(float x) {}", "no buffer and has no attribute: float x"),
        ("kernel void f(device float* x [[buffer(1)]]) {}", "must have the indexes 0…0"),
        ("kernel void f(device float* x", "never closed"),
    ],
)
def test_what_the_shim_has_not_is_named(text: str, problem: str) -> None:
    with pytest.raises(PluginError, match=problem):
        translate(text, "wrong")
