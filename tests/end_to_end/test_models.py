"""Users' models through a real daemon: put into its directory, replaced while requests run, refused, removed."""

from __future__ import annotations

import copy
import io
import json
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from routerd import errors

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

LAYERS = {"layers": [{"type": "linear", "name": "0"}, {"type": "relu"}, {"type": "linear", "name": "2"}]}
X = np.random.default_rng(2).standard_normal((50, 8))


def network(seed: int) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)).eval()


def answer(seed: int, x: Any = X) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return np.asarray(copy.deepcopy(network(seed)).double()(torch.as_tensor(np.asarray(x, dtype=np.float64))))


def exported(seed: int) -> bytes:
    shapes = ({0: torch.export.Dim("batch")},)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(network(seed), (torch.randn(4, 8),), dynamic_shapes=shapes), buffer)
    return buffer.getvalue()


def scripted(seed: int) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(network(seed)), buffer)
    return buffer.getvalue()


def put(root: Path, model: str, version: int, file: str, content: bytes, config: Any = None) -> Path:
    """A version as a careful user puts it there: written aside, then renamed into place."""
    for directory in (root, root / model):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
    aside = root / model / f".{version}"
    aside.mkdir()
    (aside / file).write_bytes(content)
    if config is not None:
        (aside / "config.json").write_text(json.dumps(config))
    for path in (aside, *aside.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return aside.rename(root / model / str(version))


def put_network(root: Path, model: str, version: int, seed: int) -> Path:
    return put(root, model, version, "m.safetensors", safetensors.save(network(seed).state_dict()), LAYERS)


def listed(router: Any) -> dict[str, dict[str, Any]]:
    (workload,) = router.call("workloads", {"name": "ml.model"})
    return {one.get("workload") or one["path"]: one for one in workload["models"]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Models that are there when the daemon starts."""
    directory = tmp_path_factory.mktemp("data") / "models"
    directory.mkdir(mode=0o755)
    put_network(directory, "weights", 1, 1)
    put(directory, "exported", 1, "m.pt2", exported(1), {"inputs": [{"name": "x"}]})
    put(directory, "scripted", 1, "m.pt", scripted(1), {"inputs": [{"name": "x", "shape": ["batch", 8]}]})
    return directory


@pytest.fixture(scope="module")
def serving(module_daemon, root, until):
    daemon = module_daemon(torch=True, models_dir=root).start()
    with daemon.connect(name="setup") as router:
        until(lambda: {one["state"] for one in listed(router).values()} == {"serving"}, 30.0)
    yield daemon
    assert daemon.stop() == 0
    assert "internal error" not in daemon.log.read_text()
    assert "Traceback" not in daemon.log.read_text()


@pytest.fixture
def router(serving):
    with serving.connect(name="test") as connection:
        yield connection


class TestRunning:
    @pytest.mark.parametrize("model", ["weights", "exported", "scripted"])
    @pytest.mark.parametrize("rows", [1, 50, 3000])
    def test_every_format_gives_what_torch_gives(self, router, model, rows):
        x = np.random.default_rng(rows).standard_normal((rows, 8)).astype(np.float32)
        result = router.run("ml.model", model=model, x=x)
        np.testing.assert_allclose(result["y"], answer(1, x), rtol=1e-5, atol=1e-6)
        assert result.decision.workload == f"ml.model/{model}@1"

    def test_the_contract_itself_where_no_error_is_allowed(self, router):
        result = router.run("ml.model", model="weights", x=X, tolerance=0.0)
        assert result.ran_on.backend == "cpu.numpy"
        np.testing.assert_allclose(result["y"], answer(1), rtol=1e-13, atol=1e-13)

    def test_a_model_for_torch_runs_where_torch_is_and_the_rest_say_why(self, router):
        decision = router.decide("ml.model", model="exported", x=(1000, 8))
        assert decision.backend == "cpu.torch"
        assert decision.estimated_gain == 1.0
        reasons = {one.backend: one.reason for one in decision.rejected}
        assert "NumPy cannot run it" in reasons["cpu.numpy"]
        assert "bfloat16" in reasons["cpu.torch_bf16"]

    def test_the_demo_needs_no_directory(self, router):
        assert router.run("ml.model", model="demo", x=X)["y"].shape == (50, 1)
        assert router.decide("ml.model", model="demo", version=1, x=(5, 8)).workload == "ml.model"

    def test_shapes_and_names_are_checked_against_the_model(self, router):
        with pytest.raises(errors.InvalidArray, match=r"ml\.model/weights@1: x has length 9 on axis 1, expected 8"):
            router.run("ml.model", model="weights", x=np.zeros((5, 9)))
        with pytest.raises(errors.UnknownParameter, match="has no input array z"):
            router.run("ml.model", model="weights", z=X)
        with pytest.raises(errors.InvalidArray, match="only finite values"):
            router.run("ml.model", model="weights", x=np.full((5, 8), np.nan))
        with pytest.raises(errors.UnknownModel, match=r"no model wieghts \(did you mean weights\?\)"):
            router.run("ml.model", model="wieghts", x=X)
        with pytest.raises(errors.InvalidParameter, match="needs the parameter model"):
            router.run("ml.model", x=X)

    def test_decisions_tell_model_and_version(self, router, until):
        result = router.run("ml.model", model="weights", x=X)
        wanted = result.decision.decision_id
        until(
            lambda: any(one["decision_id"] == wanted for one in router.call("decisions.tail", {"workload": "ml.model"}))
        )
        record = router.call("decisions.get", {"decision_id": wanted})
        assert record["params"] == {"model": "weights", "version": 1}
        assert (record["facts"]["workload.name"], record["facts"]["task.model"]) == ("ml.model", "weights")

    def test_a_model_is_proved_and_described_like_every_workload(self, router):
        (described,) = router.call("workloads", {"name": "ml.model/exported"})
        assert described["name"] == "ml.model/exported@1"
        assert described["backends"]["cpu.torch"]["state"] in ("proved", "calibrated")
        assert described["backends"]["cpu.torch"]["error"] < 1e-5
        assert described["backends"]["cpu.numpy"]["state"] == "unsupported"
        assert [array["shape"] for array in described["inputs"]] == [["batch", 8]]
        pending = router.call("calibrate.pending", {"workloads": ["ml.model/exported"]})["pairs"]
        assert {one["workload"] for one in pending} <= {"ml.model/exported@1"}


class TestReplacing:
    def test_a_new_version_takes_over_while_requests_run(self, serving, root, router, until):
        """Four clients without a pause, one of them pinned to the old version; not one request fails or mixes versions."""
        put_network(root, "rolling", 1, 1)
        until(lambda: listed(router).get("ml.model/rolling@1", {}).get("state") == "serving")
        expected, stop = {1: answer(1), 2: answer(2)}, threading.Event()
        seen: list[list[int]] = [[] for _ in range(4)]
        problems: list[str] = []

        def client(number: int) -> None:
            pinned = {"version": 1} if number == 0 else {}
            try:
                with serving.connect(name=f"client-{number}") as mine:
                    while not stop.is_set():
                        result = mine.run("ml.model", model="rolling", x=X, **pinned)
                        version = int(result.decision.workload[-1])
                        np.testing.assert_allclose(result["y"], expected[version], rtol=1e-5, atol=1e-6)
                        seen[number].append(version)
            except BaseException as error:
                problems.append(repr(error))
                raise

        threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: problems or all(seen))
            put_network(root, "rolling", 2, 2)
            until(lambda: problems or all(versions[-1] == 2 for versions in seen[1:]))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert problems == []
        assert set(seen[0]) == {1}
        for versions in seen[1:]:
            assert versions == sorted(versions)
            assert set(versions) == {1, 2}

    def test_a_broken_version_is_listed_with_its_reason_while_the_old_one_serves(self, root, router, until):
        put_network(root, "careful", 1, 1)
        put(root, "careful", 2, "m.safetensors", b"\0" * 100, LAYERS)
        until(lambda: listed(router).get("ml.model/careful@2", {}).get("state") == "failed")
        until(lambda: listed(router)["ml.model/careful@1"]["state"] == "serving")
        assert "no valid safetensors file" in listed(router)["ml.model/careful@2"]["reason"]
        np.testing.assert_allclose(router.run("ml.model", model="careful", x=X)["y"], answer(1), rtol=1e-5, atol=1e-6)
        with pytest.raises(errors.Unavailable, match=r"careful@2 cannot be served: it is no valid safetensors file"):
            router.run("ml.model", model="careful", version=2, x=X)

    def test_new_content_of_a_version_and_its_removal(self, root, router, until):
        place = put_network(root, "edited", 1, 1)
        put_network(root, "edited", 2, 2)
        until(lambda: listed(router).get("ml.model/edited@2", {}).get("state") == "serving")
        (place / "m.safetensors").write_bytes(safetensors.save(network(3).state_dict()))
        until(lambda: "ml.model/edited@1.2" in listed(router) and "ml.model/edited@1" not in listed(router))
        np.testing.assert_allclose(
            router.run("ml.model", model="edited", version=1, x=X)["y"], answer(3), rtol=1e-5, atol=1e-6
        )
        (root / "edited" / "2").rename(root / "edited" / ".2")
        until(lambda: router.decide("ml.model", model="edited", x=(1, 8)).workload == "ml.model/edited@1.2")
        with pytest.raises(errors.UnknownModel, match="has no version 2, it has 1"):
            router.run("ml.model", model="edited", version=2, x=X)


class TestRefusing:
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def bad(cls, serving, root, until, tmp_path_factory):
        """All of them at once; returns the file that would exist if the pickle had been loaded."""
        mark = tmp_path_factory.mktemp("marks") / "mark"

        class Payload:
            def __reduce__(self) -> Any:
                return Path.touch, (mark,)

        buffer = io.BytesIO()
        torch.save(Payload(), buffer)
        put(root, "pickled", 1, "m.pt", buffer.getvalue(), {"inputs": [{"name": "x", "shape": ["batch", 8]}]})
        put(root, "Wrong-Name", 1, "m.pt", b"x")
        put_network(root, "shared", 1, 1).chmod(0o777)
        put(root, "apple", 1, "notes.txt", b"x")
        (root / "apple" / "1" / "m.mlpackage").mkdir(mode=0o755)
        with serving.connect(name="setup") as router:
            until(lambda: {"Wrong-Name", "shared/1"} <= listed(router).keys())
            for name in ("pickled", "apple"):
                until(lambda name=name: listed(router).get(f"ml.model/{name}@1", {}).get("state") == "failed")
        return mark

    def test_a_pickle_is_refused_with_what_to_do_instead(self, router, bad):
        with pytest.raises(errors.Unavailable, match=r"pickled checkpoint .* save the model with torch\.export\.save"):
            router.run("ml.model", model="pickled", x=X)
        assert not bad.exists()

    def test_what_is_no_model_is_listed(self, router):
        assert "lower case" in listed(router)["Wrong-Name"]["reason"]
        assert "others may write" in listed(router)["shared/1"]["reason"]

    def test_a_core_ml_model_says_where_it_would_run(self, router):
        with pytest.raises(errors.Unavailable, match="neural engine's plugin on macOS"):
            router.run("ml.model", model="apple", x=X)


class TestStartingAgain:
    def test_a_new_worker_loads_every_model_again(self, serving, router, until):
        before = router.run("ml.model", model="exported", x=X)["y"].copy()
        (pid,) = (one["pid"] for one in router.call("status")["workers"] if one["name"] == "cpu/torch")
        psutil.Process(pid).send_signal(signal.SIGKILL)
        until(lambda: router.call("status")["backends"]["cpu.torch"] != "ready")
        until(lambda: not listed(router)["ml.model/exported@1"]["backends"]["cpu.torch"], 30.0)
        np.testing.assert_array_equal(router.run("ml.model", model="exported", x=X)["y"], before)

    def test_a_new_daemon_knows_what_was_proved_unless_the_content_changed(self, private_daemon, tmp_path, until):
        root = tmp_path / "models"
        root.mkdir(mode=0o755)
        put_network(root, "kept", 1, 1)
        place = put_network(root, "changed", 1, 1)
        daemon = private_daemon(torch=True, models_dir=root)

        def first_calls() -> list[float]:
            """Seconds of the first call that each proof has measured: never twice the same."""
            names = ("ml.model/kept@1", "ml.model/changed@1")

            def proved() -> bool:
                known = listed(router)
                return all(known.get(name, {}).get("backends", {}).get("cpu.torch") == "" for name in names)

            daemon.start()
            with daemon.connect() as router:
                until(proved, 30.0)
                described = [router.call("workloads", {"name": name})[0] for name in names]
            assert daemon.stop() == 0
            return [one["backends"]["cpu.torch"]["cold_seconds"] for one in described]

        before = first_calls()
        (place / "m.safetensors").write_bytes(safetensors.save(network(2).state_dict()))
        after = first_calls()
        assert after[0] == before[0]
        assert after[1] != before[1]
