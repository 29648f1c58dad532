"""A simulated annealer that swaps: selections of K out of N assets keep their size, so nothing has to be penalised.

Every number that a decision depends on is a 64-bit integer: the problem is scaled to integers once, on the host, and so
is the noise. Integer sums have no rounding, so a read takes the same road on every device and in any split.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from routerd.interfaces import Namespace
from routerd.workloads.randomness import key_of, philox4x32

if TYPE_CHECKING:
    import numpy as np

# Sums over a selection stay below 2^52, so they are exact as float64 too; a selected asset's cost is beyond all of them.
_ENERGY_BITS = 52
_TAKEN = 1 << 60
# First and last temperature in units of the spread of costs: what did best on spin glasses; markets are easier than those.
_HOTTEST, _COLDEST = 0.2, 0.01
# Noise starts at one of these places of its table. A random word gives two of them, so a counter serves eight steps.
_PLACES = 1 << 12
_STEPS_PER_COUNTER = 8
# The table is the same for every seed; a seed chooses the places.
_TABLE_KEY = (0x243F6A88, 0x85A308D3)


class Problem(NamedTuple):
    """An instance in integers, on the host.

    Attributes:
        cardinality: how many assets to select, K.
        coefficients: integers whose sum over the pairs of a selection is its energy times ``scale``, shape (N, N).
        scale: a power of two.
        spread: standard deviation of what it costs to add an asset to a random selection of K, times ``scale``.
    """

    cardinality: int
    coefficients: np.ndarray[Any, Any]
    scale: float
    spread: float


def in_integers(energies: np.ndarray[Any, Any], cardinality: int) -> Problem:
    """The instance whose energy is xᵀ·energies·x for selections x of ``cardinality``; ``energies`` (N, N) is symmetric."""
    import numpy as np

    pairs = energies - np.diag(energies.diagonal())
    largest = cardinality * (cardinality * float(np.abs(pairs).max()) + float(np.abs(energies.diagonal()).max()))
    scale = math.ldexp(1.0, min(_ENERGY_BITS - math.frexp(largest)[1], 1_000))
    others = max(1, energies.shape[0] - 1)
    mean = pairs.sum(axis=1) / others
    variance = np.sum(pairs * pairs, axis=1) / others - mean * mean
    spread = math.sqrt(
        float(np.var(energies.diagonal() + 2.0 * cardinality * mean))
        + 4.0 * cardinality * max(0.0, float(np.mean(variance)))
    )
    return Problem(cardinality, np.rint(scale * energies).astype(np.int64), scale, scale * spread)


def anneal(
    namespace: Namespace, problem: Problem, reads: tuple[int, int], *, sweeps: int, seed: int
) -> np.ndarray[Any, Any]:
    """The assets that the reads from ``reads[0]`` until before ``reads[1]`` choose, shape (reads, K).

    A step takes one asset out of each selection and draws its successor from all that are not in it, itself included,
    by their Boltzmann weights at the temperature: the least sum of cost and Gumbel noise (heat bath). ``costs`` (reads, N)
    holds what each asset would add to the energy, kept up to date by one row of the problem for each asset moved. The
    first sweep fills empty selections in the same way; the last ones draw without noise until no single swap helps.
    Read 0 has no noise at all, so it is the greedy selection improved by swaps, and the answer is never worse than that.

    Source: Kirkpatrick, Gelatt, Vecchi (1983), Science 220; Geman, Geman (1984), IEEE PAMI 6 (heat bath); Gumbel (1954).
    """
    import numpy as np

    xp, count, assets = namespace.xp, problem.cardinality, problem.coefficients.shape[0]
    rows = 2 * problem.coefficients
    np.fill_diagonal(rows, rows.diagonal() + _TAKEN)
    changes = namespace.from_host(rows)
    costs = namespace.from_host(np.tile(problem.coefficients.diagonal(), (reads[1] - reads[0], 1)))
    members: list[Any] = []
    columns = namespace.arange(0, assets)
    noise = _gumbel(assets)
    places = _places(namespace, seed, reads, (sweeps + 1) * count, len(noise) - assets)
    for sweep in range(sweeps + 1):
        temperature = problem.spread * _HOTTEST * (_COLDEST / _HOTTEST) ** (sweep / sweeps)
        table = namespace.from_host(np.rint(-temperature * noise).astype(np.int64))
        for slot in range(count):
            if sweep:
                costs -= xp.take(changes, members[slot], axis=0)
            windows = xp.reshape(next(places)[:, None] + columns, (-1,))
            noisy = xp.reshape(xp.take(table, windows), costs.shape)
            noisy += costs
            chosen = xp.argmin(noisy, axis=1)
            costs += xp.take(changes, chosen, axis=0)
            members[slot : slot + 1] = [chosen]
    return np.asarray(namespace.to_host(_descend(xp, changes, costs, members)))


def _descend(xp: Any, changes: Any, costs: Any, members: list[Any]) -> Any:
    """The selections that single swaps lead down to, shape (reads, K).

    Of equal assets the first is taken, so a selection that changes at equal energy moves to the front, and that ends.
    """
    while True:
        before = xp.stack(members, axis=1)
        for slot, member in enumerate(members):
            costs -= xp.take(changes, member, axis=0)
            members[slot] = xp.argmin(costs, axis=1)
            costs += xp.take(changes, members[slot], axis=0)
        after = xp.stack(members, axis=1)
        if bool(xp.all(before == after)):
            return after


def _places(namespace: Namespace, seed: int, reads: tuple[int, int], steps: int, silent: int) -> Iterator[Any]:
    """For each step, where the noise of each read starts in the table, shape (reads,): at ``silent`` for read 0.

    The counter is the number of the read and that of the step, so a read's noise depends on nothing else.
    """
    xp = namespace.xp
    read = namespace.arange(*reads)[None, :]
    counters = -(-steps // _STEPS_PER_COUNTER)
    stride = max(1, namespace.block // (reads[1] - reads[0]))
    for start in range(0, counters, stride):
        step = namespace.arange(start, min(start + stride, counters))[:, None]
        zero = 0 * (read + step)
        words = philox4x32((read + zero, step + zero, zero, zero), key_of(seed))
        halves = xp.stack([half & (_PLACES - 1) for word in words for half in (word, word >> 16)], axis=1)
        halves = xp.where(read[None, :, :] == 0, 0 * halves + silent, halves)
        yield from xp.reshape(halves, (-1, read.shape[1]))


@lru_cache(maxsize=16)
def _gumbel(window: int) -> np.ndarray[Any, Any]:
    """Gumbel noise of which every ``window`` consecutive numbers serve one step, then a window of zeros."""
    import numpy as np

    counter = np.arange(-(-(_PLACES + window) // 4))
    zero = np.zeros_like(counter)
    words = np.concatenate(philox4x32((counter, zero, zero, zero), _TABLE_KEY))[: _PLACES + window]
    return np.concatenate((-np.log(-np.log((words + 0.5) * 2.0**-32)), np.zeros(window)))
