"""Staging buffers: every value arrives converted, in bounded memory, and no buffer is touched while a copy of it is under way."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from routerd_cuda import staging  # noqa: E402
from routerd_cuda.staging import Staging  # noqa: E402

CPU = torch.device("cpu")
#: Two buffers of 8 float32 elements.
SMALL = {"slot_bytes": 32, "slots": 2}


class Watched(staging._Slot):
    """A buffer whose copies take until somebody waits for them; before that it holds rubbish."""

    made: list[Watched]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.copying = False
        self.made.append(self)

    def view(self, count: int, dtype: Any) -> Any:
        assert not self.copying, "a buffer is used while its last copy is under way"
        return super().view(count, dtype)

    def mark(self) -> None:
        self.copying = True
        self._copied = self._bytes.clone()
        self._bytes.fill_(0xFF)

    def wait(self) -> None:
        if self.copying:
            self._bytes.copy_(self._copied)
        self.copying = False


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    made: list[Watched] = []
    monkeypatch.setattr(Watched, "made", made, raising=False)
    monkeypatch.setattr(staging, "_Slot", Watched)
    return made


@pytest.mark.parametrize("count", [0, 1, 8, 9, 16, 17, 100])
def test_values_go_there_and_come_back(slots: list[Watched], count: int) -> None:
    stage = Staging(torch, CPU, **SMALL)
    host = torch.arange(count, dtype=torch.float64) + 0.5
    there = stage.to_device(host, torch.float32)
    assert there.dtype == torch.float32
    assert there.tolist() == host.tolist()
    back = torch.full_like(host, torch.nan)
    stage.to_host(there, back)
    assert back.tolist() == host.tolist()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float64])
def test_other_types_pass_as_they_are(dtype: Any) -> None:
    stage = Staging(torch, CPU, **SMALL)
    host = (torch.arange(30) % 2).to(dtype).reshape(5, 6)
    there = stage.to_device(host, dtype)
    back = torch.zeros_like(host)
    stage.to_host(there, back)
    assert torch.equal(there, host)
    assert torch.equal(back, host)


def test_a_result_that_is_not_contiguous_comes_in_its_order() -> None:
    array = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    back = torch.empty((6, 4), dtype=torch.float64)
    Staging(torch, CPU, **SMALL).to_host(array.T, back)
    assert torch.equal(back, array.T.to(torch.float64))


def test_buffers_are_few_and_used_again(slots: list[Watched]) -> None:
    stage = Staging(torch, CPU, **SMALL)
    for _ in range(3):
        stage.to_host(stage.to_device(torch.ones(50), torch.float32), torch.empty(50))
    assert len(slots) == 2


def test_nothing_is_held_before_the_first_array_and_after_the_release(slots: list[Watched]) -> None:
    stage = Staging(torch, CPU, **SMALL)
    assert slots == []
    stage.to_device(torch.ones(50), torch.float32)
    stage.release()
    assert stage.to_device(torch.ones(3), torch.float32).tolist() == [1.0, 1.0, 1.0]
    assert len(slots) == 3


def test_the_host_array_may_be_overwritten_at_once() -> None:
    host = torch.ones(100, dtype=torch.float64)
    there = Staging(torch, CPU, **SMALL).to_device(host, torch.float64)
    host.zero_()
    assert there.sum().item() == 100.0
