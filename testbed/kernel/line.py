"""One line between two processes: JSON objects both ways, one a line.

Owns framing and the detection that the other end is gone. Works over anything that polls and carries bytes
both ways: a socket pair on the host, a serial line (`/dev/ttyN`) inside a guest. Must not know what the
messages mean.
"""

from __future__ import annotations

import errno
import json
import os
import select
import threading
import time
from collections.abc import Mapping
from typing import Any

from testbed.errors import ProcessDied, WaitTimeout

_CHUNK = 1 << 16
# What reading or writing says when the other end is gone: sockets, and serial lines after a hang-up.
_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.EIO, errno.EBADF})


class Line:
    """One end of a line; owns `fd`, which becomes non-blocking.

    Several threads may use one end: a message is never torn apart, and each is received once.
    """

    def __init__(self, fd: int, *, name: str = "the other end of the line") -> None:
        """`name` says in errors who is at the other end."""
        self._fd = fd
        self._name = name
        self._received = bytearray()
        self._searched = 0
        self._closed = False
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)

    def fileno(self) -> int:
        """The descriptor, for poll; a whole message may already be buffered, so `receive(0)` first."""
        return self._fd

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message, waiting while the other end is slow.

        Raises:
            ProcessDied: the other end is gone.
        """
        data = memoryview(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        with self._sending:
            while data:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:
                    self._wait_writable()
                except OSError as error:
                    if error.errno in _GONE:
                        raise ProcessDied(self._name, None) from error
                    raise

    def receive(self, timeout_s: float | None = None) -> dict[str, Any] | None:
        """Return the next message, or None when the other end is gone and everything it sent was received.

        Raises:
            WaitTimeout: nothing came within `timeout_s`; None waits for ever, 0 does not wait.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._receiving:
            while True:
                message = self._next()
                if message is not None or self._closed:
                    return message
                self._wait_readable(timeout_s, deadline)
                self._read()

    def collect(self) -> None:
        """Move what has arrived into the buffer, so that the other end is never kept waiting to send."""
        with self._receiving:
            self._read()

    @property
    def closed(self) -> bool:
        """Whether the other end was seen to be gone; messages may still be buffered."""
        return self._closed

    def close(self) -> None:
        """Close this end; receiving then returns what is buffered and None after that."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._closed = True

    def _next(self) -> dict[str, Any] | None:
        end = self._received.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._received)
            return None
        text = bytes(self._received[:end])
        del self._received[: end + 1]
        self._searched = 0
        message = json.loads(text)
        if not isinstance(message, dict):
            raise TypeError(f"{self._name} sent {text[:80]!r}, which is no object")
        return message

    def _read(self) -> None:
        while not self._closed:
            try:
                data = os.read(self._fd, _CHUNK)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                data = b""
            self._received += data
            self._closed = not data

    def _wait_readable(self, timeout_s: float | None, deadline: float | None) -> None:
        left_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not _poll(self._fd, select.POLLIN, left_ms):
            raise WaitTimeout(f"a message from {self._name}", timeout_s or 0)

    def _wait_writable(self) -> None:
        # Reading meanwhile lets two ends send at each other without either waiting for the other.
        _poll(self._fd, select.POLLIN | select.POLLOUT, None)
        if self._receiving.acquire(blocking=False):
            try:
                self._read()
            finally:
                self._receiving.release()
        if not self._closed:
            _poll(self._fd, select.POLLOUT, 50)


def _poll(fd: int, events: int, timeout_ms: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(timeout_ms))
