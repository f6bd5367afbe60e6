"""The account of a run: where the machine's time went, stage by stage, and what is left."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.lab.account import Account
from testbed.lab.progress import time_left


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def progress(done: float, **facts: Any) -> dict[str, Any]:
    return {"event": "progress", "cell": "1 Service", "done": done, "clock_ns": 0, **facts}


def test_every_stage_has_the_machines_time_and_the_count_of_the_kernels_clock() -> None:
    clock = Clock()
    account = Account(clock)

    account.enter("booting")
    clock.now_s += 20
    account.hear({"event": "stage", "name": "importing", "clock_ns": 1_000})
    clock.now_s += 5
    account.hear({"event": "stage", "name": "building", "clock_ns": 9_000})
    clock.now_s += 1
    account.leave()

    assert account.stages() == [
        {"name": "booting", "took_s": 20.0, "counted_ns": None},
        {"name": "importing", "took_s": 5.0, "counted_ns": 8_000},
        {"name": "building", "took_s": 1.0, "counted_ns": None},
    ]


def test_the_time_left_follows_the_pace_of_the_machine() -> None:
    clock = Clock()
    account = Account(clock)
    first, later = progress(0.0), progress(0.25)

    account.hear(first)
    clock.now_s += 30
    account.hear(later)

    assert time_left(first) == ""
    assert later["left_s"] == pytest.approx(90)
    assert time_left(later) == "1:30 left"


def test_an_estimate_that_the_run_made_itself_is_kept() -> None:
    event = progress(0.5, left_s=7.0)

    Account(Clock()).hear(event)

    assert event["left_s"] == 7.0


def test_other_events_change_nothing() -> None:
    account = Account(Clock())

    account.hear({"event": "note", "text": "hello"})

    assert account.stages() == []
