"""A worker that is asked to load models: only what its backends can run, once, and gone when it is let go."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from routerd.types import ArrayRef
from routerd.worker import messages
from routerd.worker.host import Host
from routerd.workloads import builtin_workloads

safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")

NAME = "ml.model/line@1"
CONFIG = '{"layers": [{"type": "linear", "name": "0"}]}'
WEIGHT = np.arange(6.0).reshape(2, 3)


@pytest.fixture
def root(tmp_path):
    place = tmp_path / "models" / "line" / "1"
    place.mkdir(parents=True)
    (place / "m.safetensors").write_bytes(safetensors.save({"0.weight": WEIGHT}))
    (place / "config.json").write_text(CONFIG)
    for path in (tmp_path / "models", place.parent, place, *place.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return tmp_path / "models"


@pytest.fixture
def host():
    made = Host({one.name: one for one in builtin_workloads()}, incarnation=1, inline_bytes=1 << 20)
    loaded = made.handle(messages.Load(1, "null.one", "routerd.testing:NullBackend", {}))
    assert isinstance(loaded, messages.Loaded)
    yield made
    made.close()


def adopt(root, file="m.safetensors", digest=None, max_bytes=1 << 20):
    return messages.Adopt(2, NAME, str(root), "line", 1, file, max_bytes, digest)


def run(host):
    x = np.ones((4, 3))
    ref = ArrayRef(x.shape, "float64", data=x.tobytes())
    return host.handle(messages.Execute(3, "null.one", NAME, {}, {"x": ref}, {"batch": 4}, 5, "d"))


def test_a_model_can_be_run_proved_and_timed(host, root):
    adopted = host.handle(adopt(root))
    assert isinstance(adopted, messages.Adopted), adopted
    assert adopted.supported == {"null.one": None}
    assert [array.shape for array in adopted.description.inputs] == [("batch", 3)]
    executed = run(host)
    np.testing.assert_allclose(np.frombuffer(executed.outputs["y"].data).reshape(4, 2), np.ones((4, 3)) @ WEIGHT.T)
    proved = host.handle(messages.Prove(4, "null.one", NAME, (100.0, 1e4)))
    assert proved.error == 0.0
    assert host.handle(messages.Measure(5, "null.one", NAME, 100.0, 0.01)).seconds


def test_a_second_backend_of_the_worker_shares_what_is_loaded(host, root):
    first = host.handle(adopt(root))
    (root / "line" / "1" / "m.safetensors").unlink()
    host.handle(messages.Load(6, "null.two", "routerd.testing:NullBackend", {"fail": "unsupported"}))
    again = host.handle(adopt(root))
    assert again.description == first.description
    assert again.supported == {"null.one": None, "null.two": "the backend does not support this workload"}


@pytest.mark.parametrize("file", ["m.pt", "m.pt2", "m.mlpackage"])
def test_a_file_that_no_backend_here_runs_is_not_even_opened(host, root, file, monkeypatch):
    monkeypatch.setattr("routerd.worker.host.load_model", lambda *_arguments, **_options: pytest.fail("it was opened"))
    adopted = host.handle(adopt(root, file))
    assert adopted.description is None
    assert adopted.supported == {"null.one": "the backend does not support this workload"}


def test_what_cannot_be_loaded_is_an_answer_and_the_worker_goes_on(host, root):
    for job, reason in (
        (adopt(root, digest="0" * 64), "has changed"),
        (adopt(root, max_bytes=10), "max_model_bytes"),
        (adopt(root / "absent"), "cannot be read"),
        (adopt(root, "absent.safetensors"), "cannot be read"),
    ):
        failed = host.handle(job)
        assert isinstance(failed, messages.Failed)
        assert failed.error.code == "invalid_model"
        assert reason in failed.error.message
        assert failed.trace == ""
    assert isinstance(host.handle(adopt(root)), messages.Adopted)


def test_a_missing_library_is_told_with_what_installs_it(host, root, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    failed = host.handle(adopt(root))
    assert failed.error.code == "unavailable"
    assert "pip install 'routerd[models]'" in failed.error.message


def test_one_that_is_not_there_is_unavailable_and_so_is_one_that_was_let_go(host, root):
    before = run(host)
    assert before.error.code == "unavailable"
    assert f"does not hold {NAME}" in before.error.message
    host.handle(adopt(root))
    assert isinstance(run(host), messages.Executed)
    assert host.handle(messages.Release(NAME)) is None
    assert run(host).error.code == "unavailable"
