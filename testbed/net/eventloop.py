"""One thread that waits for many descriptors: a plain epoll loop.

Owns the epoll instance, the table from descriptor to handler and the timers. The table is a list indexed by
descriptor and a handler is called directly, so that an event costs one index and one call. Must not know
what the descriptors carry.
"""

from __future__ import annotations

import heapq
import os
import select
import signal
import threading
from collections import deque
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Protocol, TypeVar

T = TypeVar("T")

_MAX_EVENTS = 256


class Handler(Protocol):
    """Whoever is told that a descriptor is ready."""

    def ready(self, events: int) -> None:
        """`events` is epoll's mask."""
        ...


class Timer:
    """A call to come; `cancel` takes it back."""

    __slots__ = ("due_s", "fire")

    def __init__(self, due_s: float, fire: Callable[[], None]) -> None:
        self.due_s = due_s
        self.fire: Callable[[], None] | None = fire

    def cancel(self) -> None:
        """Cheap, and harmless after the timer fired."""
        self.fire = None


class EventLoop:
    """An epoll loop; everything but `call` and `stop` belongs to the thread that runs it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: list[Handler | None] = [None] * 1024
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._again: list[tuple[Handler, int]] = []
        self._calls: deque[Callable[[], None]] = deque()
        self._closing: list[int] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._running = True
        self._ended = threading.Event()
        self.watch(self._wake, _Wake(self), select.EPOLLIN)

    def watch(self, fd: int, handler: Handler, events: int) -> None:
        """Tell `handler` of `events` on `fd` from now on."""
        handlers = self._handlers
        if fd >= len(handlers):
            handlers.extend([None] * (fd + 1))
        handlers[fd] = handler
        self._epoll.register(fd, events)

    def hand_over(self, fd: int, handler: Handler) -> None:
        """Let another handler be told of a watched descriptor."""
        self._handlers[fd] = handler

    def change(self, fd: int, events: int) -> None:
        """Wait for other events on `fd`; an edge-triggered event that is already true is told again."""
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Stop waiting for `fd` and leave it open."""
        self._handlers[fd] = None
        self._epoll.unregister(fd)

    def close_fd(self, fd: int) -> None:
        """Close a watched descriptor at the end of this turn.

        Not at once: its number would be given to the next socket, for whose handler the events still to come
        in this turn are not meant.
        """
        self._handlers[fd] = None
        self._closing.append(fd)

    def handlers(self) -> list[Handler]:
        """The handlers of all watched descriptors."""
        return [handler for handler in self._handlers if handler is not None]

    def again(self, handler: Handler, events: int) -> None:
        """Call `handler` in the next turn as if `events` had come: for work broken off in fairness."""
        self._again.append((handler, events))

    def after(self, delay_s: float, fire: Callable[[], None]) -> Timer:
        """Call `fire` once, `delay_s` from now."""
        timer = Timer(monotonic() + delay_s, fire)
        heapq.heappush(self._timers, (timer.due_s, next(self._order), timer))
        return timer

    def call(self, fn: Callable[[], T], timeout_s: float = 30.0) -> T:
        """Run `fn` in the loop's thread and return its result or raise its exception; for other threads.

        Raises RuntimeError when the loop has ended and TimeoutError when it does not come round in time.
        """
        done = threading.Event()
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(fn())
            except BaseException as error:  # noqa: BLE001  handed to the caller
                errors.append(error)
            done.set()

        self._calls.append(run)
        self._poke()
        while not done.wait(min(timeout_s, 0.5)):
            if self._ended.is_set():
                raise RuntimeError("the event loop has ended")
            timeout_s -= 0.5
            if timeout_s <= 0:
                raise TimeoutError("the event loop did not come round")
        if errors:
            raise errors[0]
        return results[0]

    def stop(self) -> None:
        """Make `run` return; may be called from any thread and from signal handlers."""
        self._running = False
        self._poke()

    def run(self) -> None:
        """Serve until `stop`. Writing to a peer that is gone raises BrokenPipeError and sends no signal."""
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGPIPE,))
        poll, handlers, closing = self._epoll.poll, self._handlers, self._closing
        try:
            while self._running:
                timeout_s = self._run_timers() if self._timers else -1
                if closing:
                    self._close_descriptors()
                for fd, events in poll(0 if self._again else timeout_s, _MAX_EVENTS):
                    handler = handlers[fd]
                    if handler is not None:
                        handler.ready(events)
                if self._again:
                    self._run_again()
        finally:
            self._ended.set()

    def close(self) -> None:
        """Give back the loop's own descriptors, after `run` has returned; watched ones are their owners'."""
        self._epoll.close()
        self._close_descriptors()
        os.close(self._wake)

    def _run_timers(self) -> float:
        """Fire what is due; seconds until the next one, -1 for none."""
        timers = self._timers
        while timers and timers[0][2].fire is None:
            heapq.heappop(timers)
        if not timers:
            return -1
        now_s = monotonic()
        while timers and (timers[0][0] <= now_s or timers[0][2].fire is None):
            fire = heapq.heappop(timers)[2].fire
            if fire is not None:
                fire()
        return max(0.0, timers[0][0] - monotonic()) if timers else -1

    def _run_again(self) -> None:
        again, self._again = self._again, []
        for handler, events in again:
            handler.ready(events)

    def _close_descriptors(self) -> None:
        for fd in self._closing:
            os.close(fd)
        self._closing.clear()

    def _poke(self) -> None:
        os.eventfd_write(self._wake, 1)

    def _run_calls(self) -> None:
        while self._calls:
            self._calls.popleft()()


class _Wake:
    """Runs what other threads asked for."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop

    def ready(self, events: int) -> None:
        try:
            os.eventfd_read(self._loop._wake)
        except BlockingIOError:
            return
        self._loop._run_calls()
