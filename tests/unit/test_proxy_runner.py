"""When syncs happen."""

from __future__ import annotations

import threading

import pytest

from testbed.proxy.runner import Runner, Schedule, SyncFailed


class Clocked:
    """A schedule with a clock that the test turns."""

    def __init__(self, min_s: float, max_s: float) -> None:
        self.now = 100.0
        self.schedule = Schedule(min_s, max_s, self.now)

    def due_in(self) -> float:
        return self.schedule.due_in(self.now)

    def run(self) -> None:
        assert self.due_in() == 0
        self.schedule.start(self.now)
        self.schedule.succeeded()


def test_nothing_is_due_before_the_period_unless_asked_for() -> None:
    clocked = Clocked(1, 30)
    assert clocked.due_in() == 30
    clocked.schedule.want(clocked.now)
    assert clocked.due_in() == 0


def test_after_a_rest_two_runs_may_follow_at_once_and_then_one_per_interval() -> None:
    clocked = Clocked(1, 30)
    for _ in range(2):
        clocked.schedule.want(clocked.now)
        clocked.run()
    clocked.schedule.want(clocked.now)
    assert clocked.due_in() == pytest.approx(1)
    clocked.now += 1
    clocked.run()
    clocked.schedule.want(clocked.now)
    assert clocked.due_in() == pytest.approx(1)


def test_without_a_least_interval_every_wish_is_due_at_once() -> None:
    clocked = Clocked(0, 30)
    for _ in range(5):
        clocked.schedule.want(clocked.now)
        clocked.run()


def test_a_run_serves_every_wish_before_it() -> None:
    clocked = Clocked(1, 30)
    for _ in range(3):
        clocked.schedule.want(clocked.now)
    clocked.run()
    assert clocked.due_in() == 30


def test_the_period_counts_from_the_last_run() -> None:
    clocked = Clocked(1, 30)
    clocked.now += 20
    clocked.schedule.want(clocked.now)
    clocked.run()
    assert clocked.due_in() == 30
    clocked.now += 30
    clocked.run()


def test_a_later_wish_does_not_delay_an_earlier_one() -> None:
    clocked = Clocked(1, 30)
    clocked.schedule.want(clocked.now, 5)
    clocked.schedule.want(clocked.now, 20)
    assert clocked.due_in() == 5


def test_failures_are_repeated_less_and_less_soon() -> None:
    clocked = Clocked(0.1, 30)
    pauses = []
    for _ in range(8):
        clocked.schedule.want(clocked.now)
        clocked.schedule.start(clocked.now)
        clocked.schedule.failed(clocked.now)
        pauses.append(clocked.due_in())
        clocked.now += pauses[-1]
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 30, 30, 30])
    clocked.run()
    clocked.schedule.failed(clocked.now)
    assert clocked.due_in() == pytest.approx(1)


def test_the_runner_runs_on_request_again_when_asked_and_after_failures() -> None:
    calls: list[str] = []
    done = threading.Event()
    plan = iter(["fine", "again", "fine"])

    def run() -> float | None:
        step = next(plan, "end")
        calls.append(step)
        if step == "end":
            done.set()
            raise SyncFailed
        return 0.0 if step in ("fine", "again") else None

    runner = Runner(run, min_interval_s=0, max_interval_s=60)
    thread = threading.Thread(target=runner.loop)
    thread.start()
    runner.request()
    assert done.wait(10)
    runner.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert calls == ["fine", "again", "fine", "end"]


def test_what_a_run_raises_besides_failure_comes_out() -> None:
    def run() -> float | None:
        raise ZeroDivisionError

    runner = Runner(run, min_interval_s=0, max_interval_s=60)
    runner.request()
    with pytest.raises(ZeroDivisionError):
        runner.loop()
