"""Files made to do harm. Each would leave a mark if it got to run; where torch itself would run it, a test shows that it does."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from routerd.errors import InvalidModel

torch = pytest.importorskip("torch", reason="torch is not installed")


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


@pytest.fixture
def harmless(mark: Path, loaded: Callable[..., Any]) -> Callable[..., str]:
    """Loads a file that must be refused, gives the reason, and sees that nothing has run."""

    def load(file: str, content: bytes, config: Any = None) -> str:
        with pytest.raises(InvalidModel) as caught:
            loaded(file, content, config)
        assert not mark.exists()
        return caught.value.message

    return load


def rewritten(
    content: bytes, change: Callable[[str, bytes], bytes | None], more: dict[str, bytes] | None = None
) -> bytes:
    """An archive with each record changed, or left out where ``change`` gives ``None``."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(result, "w") as new:
        top = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            data = change(name.split("/", 1)[1], old.read(name))
            if data is not None:
                new.writestr(name, data)
        for name, data in (more or {}).items():
            new.writestr(f"{top}/{name}", data)
    return result.getvalue()


def replaced(content: bytes, record: str, data: bytes) -> bytes:
    return rewritten(content, lambda name, old: data if name == record else old)


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


class TestPickles:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_checkpoint_is_never_unpickled(self, harmless, mark, files, zipped):
        content = saved(Payload(mark), _use_new_zipfile_serialization=zipped)
        for file in ("m.pt", "m.ts", "m.pt2"):
            reason = harmless(file, content, files.x8)
            assert "pickled checkpoint (torch.save), which can run any code" in reason
            assert "torch.export.save" in reason
        torch.load(io.BytesIO(content), weights_only=False)
        assert mark.exists()

    def test_not_even_an_honest_one(self, harmless, network, files):
        assert "pickled checkpoint" in harmless("m.pt", saved(network), files.x8)
        assert "pickled checkpoint" in harmless("m.pt", saved(network.state_dict()), files.x8)

    def test_a_bare_pickle(self, harmless, mark, files):
        assert "pickled checkpoint" in harmless("m.pt", pickle.dumps(Payload(mark)), files.x8)

    @pytest.mark.parametrize("protocol", [0, 1])
    def test_an_old_pickle(self, harmless, mark, files, protocol):
        assert "does not begin as an archive" in harmless("m.pt", pickle.dumps(Payload(mark), protocol), files.x8)

    @pytest.mark.parametrize("file", ["m.safetensors", "m.pt2", "m.ts"])
    def test_under_another_name(self, harmless, mark, files, file):
        harmless(file, pickle.dumps(Payload(mark)), files.layers if file.endswith("safetensors") else None)


class TestTorchScript:
    @pytest.mark.parametrize("record", ["data.pkl", "constants.pkl"])
    @pytest.mark.parametrize("protocol", [0, 2, 4])
    def test_its_own_unpickler_runs_no_python(self, harmless, mark, network, files, record, protocol):
        content = replaced(files.script(network), record, pickle.dumps(Payload(mark), protocol))
        assert "torch cannot load it" in harmless("m.pt", content, files.x8)

    def test_reading_a_file(self, harmless, files):
        class Reads(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x + torch.from_file("/etc/hostname", False, 1)

        assert "uses from_file, with which a model could read or write files" in harmless(
            "m.pt", files.script(Reads()), files.x8
        )

    def test_writing_a_file(self, harmless, mark, files):
        class Writes(torch.nn.Module):
            def __init__(self, place: str) -> None:
                super().__init__()
                self.place = place

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                torch.save(x, self.place)
                return x

        module = torch.jit.script(Writes(str(mark)))
        assert "uses save, with which" in harmless("m.pt", files.script(module), files.x8)
        module(torch.zeros(1))
        assert mark.exists()

    def test_writing_a_file_while_it_is_loaded(self, harmless, mark, files):
        class Restores(torch.nn.Module):
            def __init__(self, place: str) -> None:
                super().__init__()
                self.place = place

            @torch.jit.export
            def __getstate__(self) -> tuple[str, bool]:
                return self.place, self.training

            @torch.jit.export
            def __setstate__(self, state: tuple[str, bool]) -> None:
                self.place = state[0]
                self.training = state[1]
                torch.save(torch.zeros(1), self.place)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x

        content = files.script(Restores(str(mark)))
        assert "uses save, with which" in harmless("m.pt", content, files.x8)
        torch.jit.load(io.BytesIO(content))
        assert mark.exists()

    @pytest.mark.parametrize(
        "code", ["torch . from_file('x', False, 1)", "ops.aten.from_file('x')", "torch.\\\n  save(x, 'y')"]
    )
    def test_however_it_is_written(self, harmless, network, files, code):
        content = rewritten(
            files.script(network),
            lambda name, data: data + f"\n  _0 = {code}\n".encode() if name.endswith(".py") else data,
        )
        assert "could read or write files" in harmless("m.pt", content, files.x8)

    def test_operators_from_elsewhere(self, harmless, network, files):
        content = rewritten(
            files.script(network),
            lambda name, data: data + b"\n  _0 = ops.acme.run(x)\n" if name.endswith(".py") else data,
        )
        assert "operators from outside torch: acme" in harmless("m.pt", content, files.x8)


class TestExportedProgram:
    @pytest.fixture
    def content(self, network: Any, files: Any) -> bytes:
        return files.exported(network, torch.randn(4, 8))

    def edited(self, content: bytes, edit: Callable[[Any], Any]) -> bytes:
        def change(name: str, data: bytes) -> bytes:
            if name != "models/model.json":
                return data
            program = json.loads(data)
            edit(program)
            return json.dumps(program).encode()

        return rewritten(content, change)

    def test_a_pickle_as_sample_inputs_is_not_looked_at(self, loaded, content, mark):
        attack = replaced(content, "data/sample_inputs/model.pt", saved(Payload(mark)))
        loaded("m.pt2", attack)
        assert not mark.exists()
        with pytest.raises(Exception):  # noqa: B017  # what torch says does not matter, what it does is the point
            torch.export.load(io.BytesIO(attack))
        assert mark.exists()

    def test_guard_code_is_not_executed(self, loaded, content, mark):
        def edit(program: Any) -> None:
            program["guards_code"] = [f"__import__('os').system('touch {mark}') == 0"]

        attack = self.edited(content, edit)
        loaded("m.pt2", attack)
        assert not mark.exists()
        torch.export.load(io.BytesIO(attack)).module()(torch.zeros(4, 8))
        assert mark.exists()

    def test_names_of_types_are_not_looked_at(self, loaded, content):
        def edit(program: Any) -> None:
            signature = program["graph_module"]["module_call_graph"][0]["signature"]
            signature["in_spec"] = signature["in_spec"].replace("builtins.tuple", "os.system")

        loaded("m.pt2", self.edited(content, edit))

    def test_shape_expressions_are_not_evaluated(self, loaded, content, mark):
        evil = f"__import__('os').system('touch {mark}')"

        def edit(program: Any) -> None:
            graph = program["graph_module"]["graph"]
            graph["tensor_values"]["input"]["sizes"][0]["as_expr"]["expr_str"] = evil

        attack = self.edited(content, edit)
        loaded("m.pt2", attack)
        assert not mark.exists()
        with pytest.raises(Exception):  # noqa: B017  # as above
            torch.export.load(io.BytesIO(attack))
        assert mark.exists()

    @pytest.mark.parametrize("kind", ["weights", "constants"])
    def test_pickled_numbers_are_refused(self, harmless, content, mark, kind):
        meta = {"dtype": 7, "sizes": [], "strides": [], "storage_offset": {"as_int": 0}, "layout": 7}
        entry = {"path_name": f"{kind[:-1]}_0", "is_param": True, "use_pickle": True, "tensor_meta": meta}
        config = json.dumps({"config": {"0.weight": entry}}).encode()
        attack = replaced(content, f"data/{kind}/model_{kind}_config.json", config)
        attack = rewritten(attack, lambda _name, data: data, {f"data/{kind}/{kind[:-1]}_9": saved(Payload(mark))})
        assert "is pickled in its archive, and a pickle can run any code" in harmless("m.pt2", attack)

    def test_the_older_layout_with_pickled_weights_is_refused(self, harmless, content, mark):
        attack = rewritten(
            content,
            lambda name, data: None if name.startswith("data/weights/") else data,
            {"data/weights/model.pt": saved(Payload(mark))},
        )
        assert "its weights are pickled, as older versions of torch saved them" in harmless("m.pt2", attack)

    @pytest.mark.parametrize(
        "target",
        [
            "torch.serialization.os.system",
            "torch.hub.os.system",
            "torch._C._jit_set_profiling_mode",
            "_operator.methodcaller",
            "_operator.attrgetter",
            "math.os",
            "torch.ops.aten.from_file.default",
            "torch.ops.aten.save.default",
            "torch.ops.load_library",
            "torch.ops.acme.run.default",
            "torch.ops.aten.relu",
            "torch.ops.aten.relu.__class__",
            "torch.ops.aten.__class__.mro",
            "torch.ops.aten.__dict__.get",
            "torch.ops.higher_order.cond",
            "#extension.run",
            "",
        ],
    )
    def test_only_operators_on_tensors_are_called(self, harmless, content, mark, target):
        def edit(program: Any) -> None:
            node = program["graph_module"]["graph"]["nodes"][1]
            node["target"] = target
            node["inputs"] = [{"name": "command", "arg": {"as_string": f"touch {mark}"}, "kind": 1}]

        assert "it calls " in harmless("m.pt2", self.edited(content, edit))

    def test_a_tensor_cannot_reach_beyond_its_numbers(self, harmless, content):
        def change(name: str, data: bytes) -> bytes:
            if name != "data/weights/model_weights_config.json":
                return data
            config = json.loads(data)
            config["config"]["0.weight"]["tensor_meta"]["sizes"] = [{"as_int": 10**9}, {"as_int": 8}]
            return json.dumps(config).encode()

        assert "0.weight reaches beyond its numbers" in harmless("m.pt2", rewritten(content, change))

    @pytest.mark.parametrize("value", [None, 3, [], {}, "x", {"graph": {}}])
    @pytest.mark.parametrize("key", ["graph_module", "schema_version"])
    def test_nonsense_is_refused(self, harmless, content, key, value):
        harmless("m.pt2", self.edited(content, lambda program: program.update({key: value})))

    def test_nested_nonsense_is_refused(self, harmless, content):
        harmless("m.pt2", replaced(content, "models/model.json", b"[" * 200_000))
        harmless("m.pt2", replaced(content, "models/model.json", b"\xff\xfe"))


class TestArchives:
    def test_one_that_unpacks_to_far_more(self, harmless, files):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("m/constants.pkl", b"\0" * 10_000_000)
        assert "unpacks to far more" in harmless("m.pt", buffer.getvalue(), files.x8)

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_two_records_of_one_name(self, harmless, network, files):
        content = rewritten(files.script(network), lambda _name, data: data, {"data.pkl": b"x"})
        assert "that torch does not write" in harmless("m.pt", content, files.x8)

    @pytest.mark.parametrize("name", ["../up", "/etc/passwd", "other/data.pkl", "m/../../up"])
    def test_records_elsewhere(self, harmless, network, files, name):
        content = files.script(network)
        buffer = io.BytesIO(content)
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr(name, b"x")
        assert "torch does not write" in harmless("m.pt", buffer.getvalue(), files.x8)

    def test_something_before_the_archive(self, harmless, network, files):
        assert "does not begin as an archive" in harmless("m.pt", b"#!/bin/sh\n" + files.script(network), files.x8)


class TestSafetensors:
    @pytest.mark.parametrize(
        "header",
        [
            {"0.weight": {"dtype": "F32", "shape": [16, 8], "data_offsets": [0, 10**12]}},
            {"0.weight": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}},
            {"0.weight": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}},
            {
                "0.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "0.bias": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            },
        ],
    )
    def test_offsets_that_lie(self, harmless, files, header):
        pytest.importorskip("safetensors", reason="safetensors is not installed")
        text = json.dumps(header).encode()
        assert "no valid safetensors" in harmless(
            "m.safetensors", struct.pack("<Q", len(text)) + text + b"\0" * 4, files.layers
        )

    @pytest.mark.parametrize("length", [0, 2**63, 2**64 - 1, 10**8])
    def test_a_header_that_lies(self, harmless, files, length):
        pytest.importorskip("safetensors", reason="safetensors is not installed")
        assert "no valid safetensors" in harmless("m.safetensors", struct.pack("<Q", length) + b"{}", files.layers)
