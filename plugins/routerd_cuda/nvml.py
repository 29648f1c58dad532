"""NVIDIA's management library through ctypes: the few functions that a sensor and a probe need.

Signatures and structures are those of ``nvml.h``. Every function returns a status; all may be called from any thread.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

_SUCCESS = 0
#: Not supported by the card, not permitted to this user, or not in this version of the library.
_CANNOT_TELL = (3, 4, 13)
_FUNCTION_NOT_FOUND = 13
_VERSION_BYTES = 80
#: Bits of the reasons why clocks are lower than they might be: thermal slowdown by software, by hardware.
_SLOWED_BY_HEAT = 0x20 | 0x40

Card = ctypes.c_void_p


class NvmlError(Exception):
    """A function gave another status than success. ``cannot_tell``: this card or library has no answer, which is no fault."""

    def __init__(self, function: str, status: int, words: str) -> None:
        super().__init__(f"{function}: {words}")
        self.cannot_tell = status in _CANNOT_TELL


class Memory(ctypes.Structure):
    """``nvmlMemory_t``: bytes of the card's memory."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Utilisation(ctypes.Structure):
    """``nvmlUtilization_t``: percent of the last sample period in which kernels ran, and in which memory was used."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Function(NamedTuple):
    name: str
    arguments: tuple[Any, ...]


_INIT = _Function("nvmlInit_v2", ())
_DRIVER_VERSION = _Function("nvmlSystemGetDriverVersion", (ctypes.c_char_p, ctypes.c_uint))
_CARD_BY_NUMBER = _Function("nvmlDeviceGetHandleByIndex_v2", (ctypes.c_uint, ctypes.POINTER(Card)))
_CARD_BY_UUID = _Function("nvmlDeviceGetHandleByUUID", (ctypes.c_char_p, ctypes.POINTER(Card)))
_MEMORY = _Function("nvmlDeviceGetMemoryInfo", (Card, ctypes.POINTER(Memory)))
_UTILISATION = _Function("nvmlDeviceGetUtilizationRates", (Card, ctypes.POINTER(Utilisation)))
_POWER = _Function("nvmlDeviceGetPowerUsage", (Card, ctypes.POINTER(ctypes.c_uint)))
_CLOCK_REASONS = _Function("nvmlDeviceGetCurrentClocksThrottleReasons", (Card, ctypes.POINTER(ctypes.c_ulonglong)))


class Nvml:
    """The library, initialised, which can take seconds on a card that nobody has used yet. Raises ``NvmlError``."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._call(_INIT)

    def driver_version(self) -> str:
        version = ctypes.create_string_buffer(_VERSION_BYTES)
        self._call(_DRIVER_VERSION, version, _VERSION_BYTES)
        return version.value.decode(errors="replace")

    def card(self, which: int | str) -> Card:
        """The card of that number in the order of the PCI bus, or of that whole UUID."""
        card = Card()
        if isinstance(which, int):
            self._call(_CARD_BY_NUMBER, which, ctypes.byref(card))
        else:
            self._call(_CARD_BY_UUID, which.encode(), ctypes.byref(card))
        return card

    def free_bytes(self, card: Card) -> int:
        memory = Memory()
        self._call(_MEMORY, card, ctypes.byref(memory))
        return int(memory.free)

    def utilisation(self, card: Card) -> float:
        """Share of the last sample period (a sixth of a second to a second) in which a kernel ran."""
        rates = Utilisation()
        self._call(_UTILISATION, card, ctypes.byref(rates))
        return float(rates.gpu) / 100.0

    def watts(self, card: Card) -> float:
        """What the whole board draws."""
        milliwatts = ctypes.c_uint()
        self._call(_POWER, card, ctypes.byref(milliwatts))
        return milliwatts.value / 1000.0

    def slowed_by_heat(self, card: Card) -> bool:
        reasons = ctypes.c_ulonglong()
        self._call(_CLOCK_REASONS, card, ctypes.byref(reasons))
        return bool(reasons.value & _SLOWED_BY_HEAT)

    def _call(self, function: _Function, *arguments: Any) -> None:
        try:
            call = getattr(self._library, function.name)
        except AttributeError:
            raise NvmlError(function.name, _FUNCTION_NOT_FOUND, "this driver's library lacks it") from None
        call.argtypes, call.restype = function.arguments, ctypes.c_int
        status = call(*arguments)
        if status != _SUCCESS:
            raise NvmlError(function.name, status, self._words(status))

    def _words(self, status: int) -> str:
        self._library.nvmlErrorString.argtypes = (ctypes.c_int,)
        self._library.nvmlErrorString.restype = ctypes.c_char_p
        words: bytes = self._library.nvmlErrorString(status)
        return words.decode(errors="replace")
