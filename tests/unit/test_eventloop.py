"""The event loop tells handlers of their descriptors, fires timers, and lets other threads in."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from select import EPOLLIN

import pytest

from testbed.net.eventloop import EventLoop
from testbed.net.wait import wait_until


class Recorder:
    """A handler that keeps what it was told and reacts as it is told."""

    def __init__(self, react: Callable[[int], None] = lambda events: None) -> None:
        self.told: list[int] = []
        self._react = react

    def ready(self, events: int) -> None:
        self.told.append(events)
        self._react(events)


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield loop
    loop.stop()
    thread.join()
    loop.close()


def test_other_threads_get_results_and_exceptions_of_calls_inside(loop: EventLoop) -> None:
    assert loop.call(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        loop.call(lambda: 1 // 0)


def test_calling_into_a_loop_that_has_ended_is_an_error() -> None:
    loop = EventLoop()
    loop.stop()
    loop.run()
    with pytest.raises(RuntimeError, match="ended"):
        loop.call(lambda: None)
    loop.close()


def test_a_handler_is_told_of_its_descriptor_whatever_its_number(loop: EventLoop) -> None:
    near, far = socket.socketpair()
    high = os.dup2(near.fileno(), 3000)
    handler = Recorder(lambda events: loop.close_fd(high))
    loop.call(lambda: loop.watch(high, handler, EPOLLIN))
    far.send(b"x")
    wait_until(lambda: handler.told == [EPOLLIN], "the event", 5)
    near.close()
    far.close()


def test_timers_fire_in_order_and_not_after_they_were_taken_back(loop: EventLoop) -> None:
    fired: list[str] = []

    def arm() -> None:
        loop.after(0.06, lambda: fired.append("late"))
        loop.after(0.01, lambda: fired.append("early"))
        loop.after(0.03, lambda: fired.append("never")).cancel()

    loop.call(arm)
    wait_until(lambda: len(fired) == 2, "two timers", 5)
    assert fired == ["early", "late"]


def test_a_handler_of_a_descriptor_closed_in_this_turn_is_not_told_any_more() -> None:
    loop = EventLoop()
    pairs = [socket.socketpair() for _ in range(2)]
    fds = [near.detach() for near, _ in pairs]

    def close_the_other(own: int) -> Callable[[int], None]:
        def react(events: int) -> None:
            os.read(own, 1)
            loop.close_fd(fds[1] if own == fds[0] else fds[0])
            loop.stop()

        return react

    handlers = [Recorder(close_the_other(fd)) for fd in fds]
    for fd, handler, (_, far) in zip(fds, handlers, pairs, strict=True):
        loop.watch(fd, handler, EPOLLIN)
        far.send(b"x")
    loop.run()
    assert sum(len(handler.told) for handler in handlers) == 1
    loop.close()
    for _, far in pairs:
        far.close()


def test_a_descriptor_closed_by_a_timer_is_closed_while_nothing_else_happens(loop: EventLoop) -> None:
    near, far = socket.socketpair()
    far.settimeout(5)
    fd = near.detach()
    loop.call(lambda: loop.watch(fd, Recorder(), EPOLLIN))
    loop.call(lambda: loop.after(0.01, lambda: loop.close_fd(fd)))
    assert far.recv(1) == b""
    far.close()


def test_work_broken_off_goes_on_after_others_had_their_turn(loop: EventLoop) -> None:
    order: list[str] = []
    done = threading.Event()

    def work(events: int) -> None:
        order.append("work")
        if order.count("work") == 3:
            done.set()
        else:
            loop.again(worker, 0)

    worker = Recorder(work)
    loop.call(lambda: loop.again(worker, 0))
    assert done.wait(5)
    assert len(worker.told) == 3


def test_writing_to_a_peer_that_is_gone_raises_and_kills_nobody(loop: EventLoop) -> None:
    near, far = socket.socketpair()
    far.close()
    with pytest.raises(BrokenPipeError):
        loop.call(lambda: os.write(near.fileno(), b"x"))
    near.close()
