"""Each format against the model run directly in torch, and what a worker finds out by running it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from routerd.errors import InvalidModel, InvalidParameter, Unavailable
from routerd.models.description import unloadable
from routerd.namespaces.execution import contract_namespace, execute_kernel, refusal
from routerd.namespaces.numpy import NumpyNamespace
from routerd.testing import check_workload
from routerd.types import ArrayRef
from routerd.workloads.binding import bind

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
X = np.random.default_rng(1).standard_normal((37, 8))


def run(workload: Any, namespace: Any = None, **inputs: Any) -> dict[str, Any]:
    arrays = {name: np.asarray(array) for name, array in inputs.items()}
    return dict(execute_kernel(namespace or contract_namespace(workload), workload, {}, arrays).outputs)


def single() -> Any:
    from routerd.namespaces.torch import TorchNamespace

    return TorchNamespace("cpu", "float32")


def directly(module: Any, *inputs: Any) -> Any:
    import copy

    with torch.no_grad():
        return copy.deepcopy(module).double()(*(torch.as_tensor(one) for one in inputs))


class TestNetwork:
    """The module of the fixture, in every format."""

    @pytest.fixture(params=["safetensors", "pt", "ts", "pt2"])
    def workload(self, request, loaded, network, files):
        if request.param == "safetensors":
            return loaded("m.safetensors", safetensors.save(network.state_dict()), files.layers).workload
        if request.param == "pt2":
            content = files.exported(network, torch.randn(4, 8))
            return loaded("m.pt2", content, {"inputs": [{"name": "x"}]}).workload
        return loaded(f"m.{request.param}", files.script(network), files.x8).workload

    def test_the_contract_is_what_torch_computes_in_float64(self, workload, network):
        expected = directly(network, X).numpy()
        np.testing.assert_allclose(run(workload, x=X)["y"], expected, rtol=1e-12, atol=1e-12)

    def test_float32_is_what_torch_computes_in_float32(self, workload, network):
        with torch.no_grad():
            expected = network(torch.as_tensor(X, dtype=torch.float32)).numpy()
        np.testing.assert_allclose(run(workload, single(), x=X)["y"], expected, rtol=1e-6, atol=1e-7)

    def test_its_shapes_are_known(self, workload):
        assert [(array.name, array.shape, array.dtype) for array in workload.inputs] == [("x", ("batch", 8), "float64")]
        assert [(array.name, array.shape) for array in workload.outputs] == [("y", ("batch", 2))]
        assert workload.batch_dim == "batch"

    def test_work_grows_with_the_batch(self, workload):
        works = []
        for rows in (1, 10):
            task = bind(workload, {"model": "tried"}, {"x": ArrayRef((rows, 8), "float32")}, need_content=False)
            assert task.params == {"model": "tried", "version": 1}
            works.append(task.work)
        assert works[0] >= 2 * (8 * 16 + 16 * 2)
        assert works[1] == 10 * works[0]

    def test_a_clients_memory_is_never_written(self, workload):
        x = X.astype(np.float32)
        x.flags.writeable = False
        before = x.copy()
        run(workload, single(), x=x)
        np.testing.assert_array_equal(x, before)

    def test_parts_of_a_batch_make_the_whole(self, workload):
        assert workload.split is not None
        whole = workload.example(37 * workload.work_range[0], np.random.default_rng(0))
        parts = [run(workload, **part.arrays) for part in workload.split(whole, (0.2, 0.5, 0.3))]
        merged = workload.merge(whole, parts)["y"]
        np.testing.assert_allclose(merged, run(workload, **whole.arrays)["y"], rtol=1e-9)

    def test_its_content_is_part_of_its_identity(self, workload, loaded, files):
        again = torch.nn.Sequential(torch.nn.Linear(8, 2))
        other = loaded(
            "other.safetensors", safetensors.save(again.state_dict()), {"layers": [files.layers["layers"][0]]}
        )
        assert len(workload.content) == 64
        assert other.workload.content != workload.content


def test_a_network_from_safetensors_keeps_the_contract_of_workloads(loaded, network, files):
    made = loaded("m.safetensors", safetensors.save(network.state_dict()), files.layers)
    check_workload(made.workload, works=[1e3, 1e5]).raise_for_problems()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_every_precision_of_weights_is_read_exactly(loaded, network, files, dtype):
    rounded = {name: tensor.to(getattr(torch, dtype)) for name, tensor in network.state_dict().items()}
    made = loaded("m.safetensors", safetensors.save(rounded), files.layers)
    import copy

    module = copy.deepcopy(network).double()
    module.load_state_dict({name: tensor.double() for name, tensor in rounded.items()})
    np.testing.assert_allclose(run(made.workload, x=X)["y"], directly(module, X).numpy(), rtol=1e-12, atol=1e-13)


class Many(torch.nn.Module):
    """Convolution, normalisation, attention, recurrence, embedding; two inputs, three outputs of several dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv1d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm1d(8)
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        self.embedding = torch.nn.Embedding(10, 8)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.norm(self.convolution(x))).transpose(1, 2)
        hidden = self.attention(hidden, hidden, hidden)[0] + self.embedding(ids)
        left, right = self.dropout(hidden).split([3, 5], dim=-1)
        return left.mean(1), right[:, -1].argmax(-1), hidden.reshape(x.shape[0], -1)


@pytest.fixture(scope="module")
def many() -> Many:
    torch.manual_seed(7)
    return Many().eval()


class TestManyOperators:
    INPUTS = (torch.randn(4, 3, 6), torch.randint(0, 10, (4, 6)))
    CONFIG: ClassVar[dict[str, Any]] = {
        "inputs": [{"name": "x", "unit": "USD"}, {"name": "ids", "minimum": 0, "maximum": 9}],
        "outputs": [{"name": "left"}, {"name": "label"}, {"name": "hidden", "doc": "the last hidden layer"}],
    }

    def test_outputs_and_inputs_of_several_dtypes(self, loaded, files, many):
        made = loaded("m.pt2", files.exported(many, *self.INPUTS), self.CONFIG)
        assert [array.dtype for array in made.workload.inputs] == ["float64", "int64"]
        assert [(one.name, one.shape, one.dtype) for one in made.workload.outputs] == [
            ("left", ("batch", 3), "float64"),
            ("label", ("batch",), "int64"),
            ("hidden", ("batch", 48), "float64"),
        ]
        x, ids = np.random.default_rng(3).standard_normal((9, 3, 6)), np.random.default_rng(4).integers(0, 10, (9, 6))
        outputs = run(made.workload, x=x, ids=ids.astype(np.int32))
        for actual, expected in zip(outputs.values(), directly(many, x, ids), strict=True):
            np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-11, atol=1e-12)

    def test_units_and_bounds_of_the_configuration_are_kept(self, loaded, files, many):
        made = loaded("m.pt2", files.exported(many, *self.INPUTS), self.CONFIG)
        assert made.workload.inputs[0].unit == "USD"
        assert made.workload.inputs[1].maximum == 9
        assert made.workload.outputs[2].doc == "the last hidden layer"

    def test_a_program_without_a_dynamic_batch_takes_that_batch_alone(self, loaded, files, many):
        made = loaded("m.pt2", files.exported(many, *self.INPUTS, dynamic=False), {"inputs": self.CONFIG["inputs"]})
        assert made.workload.inputs[0].shape == (4, 3, 6)
        assert made.workload.batch_dim is None
        assert made.workload.split is None
        assert made.workload.work_range[0] == made.workload.work_range[1]

    def test_the_files_own_limit_of_the_batch_is_kept(self, loaded, files, many):
        made = loaded("m.pt2", files.exported(many, *self.INPUTS, largest=100), {"inputs": self.CONFIG["inputs"]})
        with pytest.raises(InvalidParameter, match="a batch of 101 passes the model's limit of 100"):
            bind(
                made.workload,
                {},
                {"x": ArrayRef((101, 3, 6), "float64"), "ids": ArrayRef((101, 6), "int64")},
                need_content=False,
            )


class InPlace(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x += 1.0
        return x.relu_()


@pytest.mark.parametrize("suffix", ["pt", "pt2"])
def test_a_model_that_writes_to_its_input_gets_one_of_its_own(loaded, files, suffix):
    content = files.script(InPlace()) if suffix == "pt" else files.exported(InPlace(), torch.randn(4, 8))
    made = loaded(f"m.{suffix}", content, files.x8)
    x = X.astype(np.float32)
    x.flags.writeable = False
    np.testing.assert_allclose(run(made.workload, single(), x=x)["y"], np.maximum(x + 1.0, 0.0), rtol=1e-6)
    np.testing.assert_array_equal(x, X.astype(np.float32))


class AcrossRows(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


def test_a_model_that_mixes_its_rows_is_not_split(loaded, files):
    made = loaded("m.pt", files.script(AcrossRows()), files.x8)
    assert made.workload.split is None
    assert made.workload.batch_dim == "batch"


class Insisting(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.to(torch.float32))


def test_a_module_that_insists_on_float32_is_its_own_contract(loaded, files):
    assert loaded("m.pt", files.script(Insisting()), files.x8).description.contract_precision == "float32"
    assert loaded("m.ts", files.script(AcrossRows()), files.x8).description.contract_precision == "float64"


class Named(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mean": x.mean(1), "largest": x.amax(1)}


def test_outputs_that_have_names_keep_them(loaded, files):
    made = loaded("m.pt", files.script(Named()), files.x8)
    np.testing.assert_allclose(run(made.workload, x=X)["largest"], X.max(axis=1))
    assert [array.name for array in made.workload.outputs] == ["mean", "largest"]


class TestRefusedWithAReason:
    @pytest.mark.parametrize("config", [None, {}, {"inputs": [{"name": "x"}]}])
    def test_torchscript_without_shapes(self, loaded, network, files, config):
        with pytest.raises(InvalidModel, match=r"does not keep the shapes of its inputs; declare them in config\.json"):
            loaded("m.pt", files.script(network), config)

    def test_shapes_that_do_not_run(self, loaded, network, files):
        config = {"inputs": [{"name": "x", "shape": ["batch", 9]}]}
        with pytest.raises(InvalidModel, match="does not run on an example"):
            loaded("m.pt", files.script(network), config)

    def test_training_mode(self, loaded, files):
        module = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Dropout(0.5))
        with pytest.raises(InvalidModel, match="two runs on the same input differ"):
            loaded("m.pt2", files.exported(module, torch.randn(4, 8)))

    def test_a_model_that_changes_itself(self, loaded, files):
        module = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4))
        with pytest.raises(InvalidModel, match=r"must not change itself|changes a weight"):
            loaded("m.pt2", files.exported(module, torch.randn(4, 8)))

    def test_a_second_dynamic_axis(self, loaded, files):
        dims = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length")},)
        import io

        buffer = io.BytesIO()
        torch.export.save(torch.export.export(Named(), (torch.randn(4, 8),), dynamic_shapes=dims), buffer)
        with pytest.raises(InvalidModel, match="only the first, the batch, may be"):
            loaded("m.pt2", buffer.getvalue())

    def test_outputs_that_are_no_tensors(self, loaded, files):
        class Number(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> float:
                return float(x.sum())

        with pytest.raises(InvalidModel, match="its output y is a float"):
            loaded("m.pt", files.script(Number()), files.x8)

    @pytest.mark.parametrize("suffix", ["safetensors", "pt", "pt2"])
    def test_a_file_that_ends_early(self, loaded, network, files, suffix):
        content = {
            "safetensors": safetensors.save(network.state_dict()),
            "pt": files.script(network),
            "pt2": files.exported(network, torch.randn(4, 8)),
        }[suffix]
        config = {"safetensors": files.layers, "pt": files.x8, "pt2": None}[suffix]
        for end in (0, 1, 100, len(content) // 2, len(content) - 1):
            with pytest.raises(InvalidModel):
                loaded(f"m.{suffix}", content[:end], config)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"layers": []}, "say in config.json what to do"),
            ({"layers": [{"type": "conv1d", "name": "0"}]}, "Invalid enum value 'conv1d'"),
            ({"layers": [{"type": "linear", "nmae": "0"}]}, "unknown field `nmae`"),
            ({"layers": [{"type": "linear", "name": "7"}]}, "none of the layers is linear with its weight in the file"),
            (
                {"layers": [{"type": "linear", "name": "0"}, {"type": "linear", "name": "9"}]},
                "needs the tensor 9.weight",
            ),
            ({"layers": [{"type": "linear", "name": "0"}, {"type": "linear", "name": "0"}]}, "must be any × 16"),
            ({"layers": [{"type": "linear", "name": "0"}]}, "no layer uses the tensors 2.bias, 2.weight"),
            ({"layers": [{"type": "relu", "layers": [{"type": "relu"}]}]}, "none of the layers is linear"),
            ({"tolerance": -1.0}, "tolerance"),
            ({"inputs": [{"name": "x"}, {"name": "z"}]}, "declares 2 inputs, the model has 1"),
            ({"inputs": [{"name": "x", "shape": ["batch", 9]}]}, "declares x with shape"),
            ({"inputs": [{"name": "model"}]}, "cannot be called 'model'"),
            ({"inputs": [{"name": "priority"}]}, "cannot be called 'priority'"),
            ({"inputs": [{"name": "a b"}]}, "cannot be called 'a b'"),
            ({"outputs": [{"name": "x"}], "inputs": [{"name": "x"}]}, "two arrays are called x"),
            ("{", "config.json"),
            ("[" * 100_000, "config.json"),
        ],
    )
    def test_a_configuration_that_does_not_fit(self, loaded, network, files, change, reason):
        config = change if isinstance(change, str) else {**files.layers, **change}
        with pytest.raises(InvalidModel) as caught:
            loaded("m.safetensors", safetensors.save(network.state_dict()), config)
        assert reason in caught.value.message

    def test_residual_blocks_without_end(self, loaded, network, files):
        layer: dict[str, Any] = {"type": "relu"}
        for _ in range(12):
            layer = {"type": "residual", "layers": [layer]}
        config = {"layers": [files.layers["layers"][0], layer]}
        with pytest.raises(InvalidModel, match="more than 8 deep"):
            loaded("m.safetensors", safetensors.save(network.state_dict()), config)

    def test_weights_that_are_no_numbers(self, loaded, network, files):
        broken = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        broken["3.bias"][0] = float("nan")
        with pytest.raises(InvalidModel, match=r"NaN or infinity in 3\.bias"):
            loaded("m.safetensors", safetensors.save(broken), files.layers)

    def test_weights_of_another_kind(self, loaded, network, files):
        whole = {**network.state_dict(), "0.bias": torch.zeros(16, dtype=torch.int64)}
        with pytest.raises(InvalidModel, match=r"the tensor 0\.bias is I64; accepted are"):
            loaded("m.safetensors", safetensors.save(whole), files.layers)


def test_a_file_that_changed_since_it_was_first_loaded(models, network, files):
    models.put("tried", 1, "m.safetensors", safetensors.save(network.state_dict()), files.layers)
    first = models.load("tried", "m.safetensors")
    from routerd.interfaces import ModelId
    from routerd.models.loading import load_model

    arguments = (models.root, ModelId("tried", 1), "m.safetensors", "ml.model/tried@1")
    assert load_model(*arguments, limit=10**6, digest=first.description.digest).description == first.description
    with pytest.raises(InvalidModel, match="has changed since it was first loaded"):
        load_model(*arguments, limit=10**6, digest="0" * 64)


@pytest.mark.parametrize(
    ("suffix", "reason"),
    [(".safetensors", None), (".pt", "NumPy cannot run it"), (".pt2", "needs torch"), (".mlpackage", "macOS")],
)
def test_numpy_says_which_files_it_cannot_run(suffix, reason):
    answer = refusal(unloadable("ml.model/any@1", suffix), NumpyNamespace())
    assert (answer is None) if reason is None else (reason in answer)


def test_no_namespace_runs_a_core_ml_model():
    assert "macOS" in (refusal(unloadable("ml.model/any@1", ".mlpackage"), single()) or "")


def test_the_daemon_can_decide_about_a_model_and_not_run_it(loaded, network, files):
    from routerd.interfaces import ModelId
    from routerd.models.description import workload_of

    made = loaded("m.safetensors", safetensors.save(network.state_dict()), files.layers)
    known = workload_of(made.workload.name, ModelId("tried", 1), made.description)
    assert bind(known, {}, {"x": ArrayRef((3, 8), "float64")}, need_content=False).dims == {"batch": 3}
    with pytest.raises(Unavailable, match="in workers alone"):
        run(known, NumpyNamespace(), x=X)
