"""Launchers: how a shader's text is put together, what MLX and torch are given, and that both compute the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from routerd.errors import PluginError
from routerd.testing.metal import HostLauncher, compile_shader, metal_kernel
from routerd.workloads.binding import bind
from routerd.workloads.options import MONTE_CARLO_EUROPEAN
from routerd_metal.fused import FUSED
from routerd_metal.fused.monte_carlo import ASIAN_BELOW_SHADER, ASIAN_SHADER, EUROPEAN_SHADER
from routerd_metal.launching import SHADERS, Buffer, MlxLauncher, Shader, TorchLauncher

SCALED = """
#include "scale.metal"

kernel void scaled(device const float* values [[buffer(0)]], device const uint* size [[buffer(1)]],
                   device float* doubled [[buffer(2)]], device uint* place [[buffer(3)]],
                   uint index [[thread_position_in_grid]], uint3 group [[threadgroup_position_in_grid]],
                   uint lane [[thread_index_in_threadgroup]]) {
    if (index >= size[0]) return;
    doubled[index] = scale(values[index]);
    place[index] = 10u * group.x + lane;
}
"""
INPUTS = {"values": np.arange(5, dtype=np.float32), "size": np.array([5], dtype=np.uint32)}


@pytest.fixture
def scaled(tmp_path: Path) -> Shader:
    (tmp_path / "scale.metal").write_text("inline float scale(float value) { return 2.0f * value; }\n")
    file = tmp_path / "scaled.metal"
    file.write_text(SCALED)
    inputs = (Buffer("values", "float32"), Buffer("size", "uint32"))
    return Shader(file, "scaled", inputs, (Buffer("doubled", "float32"), Buffer("place", "uint32")))


def imitated_mlx(kernel: Any = metal_kernel) -> Any:
    """Of ``mlx.core`` what a launcher uses, with NumPy's arrays; kernels run on the processor."""
    return SimpleNamespace(
        fast=SimpleNamespace(metal_kernel=kernel),
        array=np.array,
        eval=lambda arrays: None,
        float32=np.float32,
        uint32=np.uint32,
    )


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch whose shaders run on the processor."""
    module = pytest.importorskip("torch")
    monkeypatch.setattr("torch.mps.compile_shader", compile_shader)
    return module


def test_a_text_has_each_include_once_and_in_its_place() -> None:
    text = EUROPEAN_SHADER.text
    assert '#include "' not in text
    assert text.count("struct Moments {") == 1
    assert text.index("struct PhiloxWords") < text.index("philox_normals(counter, 0u")


def test_includes_are_found_beside_the_file_and_in_the_plugin(scaled: Shader, tmp_path: Path) -> None:
    (tmp_path / "scale.metal").write_text('#include "scale.metal"\n#include "moments.metal"\n#include "philox.metal"\n')
    text = scaled.text
    assert "struct Moments" in text
    assert "struct PhiloxWords" in text
    assert text.count("kernel void scaled") == 1


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    file = tmp_path / "lost.metal"
    file.write_text('#include "nowhere.metal"\n')
    with pytest.raises(PluginError, match=r"nowhere\.metal cannot be read"):
        _ = Shader(file, "lost", (), ()).text
    with pytest.raises(PluginError, match=r"absent\.metal cannot be read"):
        _ = Shader(tmp_path / "absent.metal", "lost", (), ()).text


def test_a_body_begins_with_the_attributes_by_the_names_that_it_uses(scaled: Shader) -> None:
    lines = scaled.body.splitlines()
    assert lines[:3] == [
        "    const uint index = thread_position_in_grid.x;",
        "    const uint3 group = threadgroup_position_in_grid;",
        "    const uint lane = thread_index_in_threadgroup;",
    ]
    assert lines[3] == "    if (index >= size[0]) return;"
    assert lines[-1] == "    place[index] = 10u * group.x + lane;"


def test_an_entry_point_that_is_missing_is_named(scaled: Shader) -> None:
    with pytest.raises(PluginError, match=r"scaled\.metal has no entry point skaled"):
        _ = replace(scaled, entry="skaled").body


def test_every_shader_of_the_plugin_is_declared_as_it_is_written() -> None:
    # The launcher on the processor compares names and dtypes with the signature before it runs anything.
    numbers = {"range": np.array([0, 8, 1, 2, 1], np.uint32), "terms": np.ones(6, np.float32)}
    steps = {"drift": np.zeros(1, np.float32), "loading": np.zeros(1, np.float32)}
    for shader in (EUROPEAN_SHADER, ASIAN_SHADER, ASIAN_BELOW_SHADER):
        assert shader.file.parent == SHADERS
        given = {name: {**numbers, **steps}[name] for name, _ in shader.inputs}
        moments = HostLauncher().launch(shader, given, {"moments": (1, 3)}, threads=256, group=256)["moments"]
        assert moments[0, 0] == 8


def test_all_launchers_compute_the_same(scaled: Shader, torch: Any) -> None:
    for launcher in (HostLauncher(), MlxLauncher(imitated_mlx()), TorchLauncher(torch, device="cpu")):
        for _ in range(2):  # built the first time, kept the second
            made = launcher.launch(scaled, INPUTS, {"doubled": (5,), "place": (5,)}, threads=6, group=4)
            assert made["doubled"].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
            assert made["place"].tolist() == [0, 1, 2, 3, 10]
            assert [array.dtype for array in made.values()] == [np.float32, np.uint32]


def test_bits_that_int32_has_no_number_for_survive_torch(tmp_path: Path, torch: Any) -> None:
    file = tmp_path / "copy.metal"
    file.write_text(
        "kernel void copied(device const uint* given [[buffer(0)]], device uint* made [[buffer(1)]],\n"
        "                   uint index [[thread_position_in_grid]]) {\n    made[index] = given[index] + 1u;\n}\n"
    )
    shader = Shader(file, "copied", (Buffer("given", "uint32"),), (Buffer("made", "uint32"),))
    given = {"given": np.array([2**31, 2**32 - 2], dtype=np.uint32)}
    made = TorchLauncher(torch, device="cpu").launch(shader, given, {"made": (2,)}, threads=2, group=2)["made"]
    assert made.tolist() == [2**31 + 1, 2**32 - 1]


def test_mlx_is_given_arrays_long_enough_for_device_memory(scaled: Shader) -> None:
    signatures = []

    def kernel(**made: Any) -> Any:
        def call(*, inputs: Any, **how: Any) -> Any:
            signatures.append([array.size for array in inputs])
            return metal_kernel(**made)(inputs=inputs, **how)

        return call

    launcher = MlxLauncher(imitated_mlx(kernel))
    launcher.launch(scaled, INPUTS, {"doubled": (5,), "place": (5,)}, threads=5, group=5)
    assert min(signatures[0]) >= 8


def test_a_workload_through_mlx_and_torch_is_the_one_on_the_processor(torch: Any) -> None:
    params = bind(
        MONTE_CARLO_EUROPEAN,
        {"spot_price": 100.0, "strike_price": 95.0, "volatility": 0.2, "num_simulations": 3001, "first_simulation": 7},
        {},
        need_content=True,
    ).params
    prices = [
        FUSED[MONTE_CARLO_EUROPEAN.name].run(launcher, params, {})
        for launcher in (HostLauncher(), MlxLauncher(imitated_mlx()), TorchLauncher(torch, device="cpu"))
    ]
    assert prices[0] == prices[1] == prices[2]


def test_what_mlx_itself_declares_around_the_body_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """MLX prints the whole text of a kernel while it exports a function, which needs no Metal."""
    mx = pytest.importorskip("mlx.core")
    if mx.metal.is_available():
        pytest.skip("this MLX launches kernels itself")

    def text_of(shader: Shader, arrays: list[Any]) -> str:
        class Verbose(SimpleNamespace):
            array = staticmethod(lambda values: values)
            eval = staticmethod(lambda arrays: None)

        def kernel(**made: Any) -> Any:
            real = mx.fast.metal_kernel(**made)

            def call(*, inputs: Any, **how: Any) -> Any:
                def traced(*tracers: Any) -> Any:
                    return real(inputs=list(tracers), verbose=True, **how)

                mx.export_function(str(tmp_path / "kernel.mlxfn"), traced, *map(mx.array, inputs))
                return [np.zeros(shape) for shape in how["output_shapes"]]

            return call

        module = Verbose(fast=SimpleNamespace(metal_kernel=kernel), float32=mx.float32, uint32=mx.uint32)
        given = {name: array for (name, _), array in zip(shader.inputs, arrays, strict=True)}
        try:
            MlxLauncher(module).launch(shader, given, {"moments": (1, 3)}, threads=256, group=256)
        except RuntimeError as error:
            pytest.skip(f"this MLX exports no Metal kernel without Metal: {error}")
        return capfd.readouterr().out.split("```")[1]

    numbers = [np.array([3, 70, 5, 6, 4], np.uint32), np.array([-0.1, 0.2, 1.0, 0.9], np.float32)]
    text = text_of(EUROPEAN_SHADER, numbers)
    assert "const device uint32_t* range [[buffer(0)]]" in text
    generated = tmp_path / "generated.metal"
    generated.write_text(text)
    entry = text.split("[[kernel]] void ")[1].split("(")[0]
    given = {"range": numbers[0], "terms": numbers[1]}
    found, expected = (
        HostLauncher().launch(shader, given, {"moments": (1, 3)}, threads=256, group=256)["moments"]
        for shader in (replace(EUROPEAN_SHADER, file=generated, entry=entry), EUROPEAN_SHADER)
    )
    assert np.array_equal(found, expected)
    assert expected[0, 0] == 70


def test_without_metal_mlx_says_so(scaled: Shader) -> None:
    mx = pytest.importorskip("mlx.core")
    if mx.metal.is_available():
        pytest.skip("this machine has Metal")
    with pytest.raises(RuntimeError, match="No Metal"):
        MlxLauncher(mx).launch(scaled, INPUTS, {"doubled": (5,), "place": (5,)}, threads=6, group=4)
