"""Clients that vanish, in the middle of whatever they do: nobody else notices, and nothing of theirs stays."""

from __future__ import annotations

import pytest

from tests.faults.conftest import SECONDS
from tests.faults.injectors import half_frame, held_segments, kill_client, leave_work, unread_replies
from tests.faults.storm import serves, storm

pytestmark = pytest.mark.timeout(SECONDS + 120.0)


def test_vanishing(ready_daemon, tmp_path, seed, seconds):
    daemon = ready_daemon()
    injectors = [kill_client, half_frame, unread_replies, held_segments, leave_work]
    storm(daemon, tmp_path, injectors, seed=seed, seconds=seconds, gap_seconds=(0.02, 0.2)).check()
    serves(daemon)
