"""Whether there is a driver, told from files and libraries, and which card is used."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable

import pytest

from routerd.errors import Unavailable
from routerd_cuda.driver import driver_problem, load_nvml, visible_card

PLACE = f"{sys.platform}/{platform.machine()}"


def libraries(*present: str) -> Callable[[str], object]:
    def load(name: str) -> object:
        if name not in present:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return object()

    return load


def nodes(*present: str) -> Callable[[str], bool]:
    return present.__contains__


def test_without_library_and_node_there_is_no_driver() -> None:
    assert driver_problem(libraries(), nodes()) == f"no NVIDIA driver ({PLACE})"


@pytest.mark.parametrize("node", ["/dev/nvidiactl", "/dev/dxg"])
def test_with_both_there_is_nothing_to_say(node: str) -> None:
    assert driver_problem(libraries("libcuda.so.1"), nodes(node)) is None


def test_a_container_without_the_library_is_told_how_to_get_it() -> None:
    problem = driver_problem(libraries(), nodes("/dev/nvidiactl")) or ""
    assert problem.startswith("/dev/nvidiactl is there, but the driver's library libcuda.so.1 is not")
    assert "--gpus" in problem


def test_a_library_without_a_card_is_told_apart() -> None:
    problem = driver_problem(libraries("libcuda.so.1"), nodes()) or ""
    assert "no card is: /dev/nvidiactl is missing" in problem
    assert "\n" not in problem


def test_the_management_library_is_asked_for_by_its_version() -> None:
    assert load_nvml(libraries("libnvidia-ml.so.1")) is not None
    with pytest.raises(Unavailable, match=r"no NVIDIA driver \(.*libnvidia-ml\.so\.1 cannot be loaded"):
        load_nvml(libraries())


@pytest.mark.parametrize(
    ("given", "card"),
    [("0", 0), ("3,1", 3), (" 2 ", 2), ("GPU-8932f937,0", "GPU-8932f937"), ("MIG-1f2e", "MIG-1f2e")],
)
def test_the_first_visible_card_is_used(given: str, card: int | str) -> None:
    assert visible_card({"CUDA_VISIBLE_DEVICES": given}) == card


def test_without_a_choice_it_is_the_first_of_all() -> None:
    assert visible_card({}) == 0


@pytest.mark.parametrize("given", ["", "-1", "-1,0", "none"])
def test_cards_may_all_be_hidden(given: str) -> None:
    with pytest.raises(Unavailable, match="hides every card"):
        visible_card({"CUDA_VISIBLE_DEVICES": given})
