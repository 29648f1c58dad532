"""A proved backend that gives wrong shapes, wrong dtypes, too little, too much, NaN, errors, is late or crashes: clients get none of it."""

from __future__ import annotations

import pytest

from tests.faults.conftest import SECONDS
from tests.faults.storm import USUAL, Style, storm

pytestmark = pytest.mark.timeout(SECONDS + 120.0)

ORDERS = ("raise", "shape", "dtype", "missing", "surplus", "nan", "late", "exit", "segfault")


def test_what_it_gives_is_checked(ready_daemon, tmp_path, seed, seconds):
    daemon = ready_daemon()
    styles = [
        Style("sync", pinned=True, orders=ORDERS),
        Style("asyncio", pinned=True, orders=ORDERS),
        *USUAL[2:],
    ]
    report = storm(daemon, tmp_path, [], seed=seed, seconds=seconds, styles=styles)
    report.check()
    followed = {
        request.order
        for account in report.accounts
        for request in account.requests.values()
        for answer in request.answers
        if request.order and (answer.fallback or answer.ran_on == "fickle.one")
    }
    assert followed, "no order ever came to the fickle backend"
