"""A daemon that is killed or restarted under load: clients resume with the next one, and no request of theirs is lost."""

from __future__ import annotations

import pytest

from tests.faults.conftest import SECONDS
from tests.faults.injectors import kill_daemon, terminate_daemon
from tests.faults.storm import serves, storm

pytestmark = pytest.mark.timeout(SECONDS + 120.0)


def test_killed_and_restarted(ready_daemon, tmp_path, seed, seconds):
    daemon = ready_daemon()
    storm(
        daemon,
        tmp_path,
        [kill_daemon, terminate_daemon],
        seed=seed,
        seconds=seconds,
        counted=False,
        gap_seconds=(0.3, 1.0),
    ).check()
    serves(daemon)
