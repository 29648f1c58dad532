"""Teams: what is known of backends that share tasks."""

from __future__ import annotations

import math

import pytest

from routerd.costs.model import Point
from routerd.worker.teams import Team, Teams


def test_a_team_is_its_members_and_its_workload():
    teams = Teams()
    team = teams.form("w", ["a", "b"])
    assert teams.form("w", ("a", "b")) is team
    assert teams.find("w", ["a", "b"]) is team
    assert teams.find("w", ["a", "c"]) is None
    assert teams.form("v", ["a", "b"]) is not team
    assert [one.workload for one in teams] == ["w", "v"]
    teams.forget("w")
    assert [one.workload for one in teams] == ["v"]


def test_it_takes_tasks_once_it_was_timed_and_says_why_not():
    team = Team("w", ("a", "b"))
    assert team.objection() == "not yet timed as hybrid of a + b"
    team.problem = "a is down"
    assert team.objection() == "a + b could not be timed as hybrid: a is down"
    team.problem = None
    team.model.calibrate([Point(1.0, 1.0, 0.1)])
    assert team.objection() is None


def test_slowdowns_follow_what_lasts_and_no_single_task():
    team = Team("w", ("a", "b"))
    team.note_slowdowns({"a": 9.0})
    assert team.slowdown("a") < 9.0
    for _ in range(5):
        team.note_slowdowns({"a": 2.0, "b": math.inf})
    assert team.slowdown("a") == 2.0
    assert team.slowdown("b") == 1.0
    for _ in range(9):
        team.note_slowdowns({"b": 1e9})
    assert team.slowdown("b") == pytest.approx(20.0)
