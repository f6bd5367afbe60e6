"""One line between two processes: JSON objects both ways, one a line.

Owns framing, pacing, and the detection that the other end is gone. Works over anything that polls and carries
bytes both ways: a socket pair on the host, a serial line (`/dev/ttyN`) inside a guest. Must not know what the
messages mean.

A serial line of user-mode Linux goes deaf for ever once its reader is 4 kB behind (the driver disables its
interrupt and does not enable it again; seen with 6.1). Towards a guest a line is therefore *paced*: no more
than a window is under way, and the reader answers each part of it with a byte that no JSON text contains.
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
_WINDOW_BYTES = 3072
_PART_BYTES = 1024
_TAKEN = b"\x06"  # ASCII's "acknowledge"
# What reading or writing says when the other end is gone: sockets, and serial lines after a hang-up.
_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.EIO, errno.EBADF})


class Line:
    """One end of a line; owns `fd`, which becomes non-blocking.

    Several threads may use one end: a message is never torn apart, and each is received once.
    """

    def __init__(
        self, fd: int, *, name: str = "the other end of the line", paced: bool = False, pacing: bool = False
    ) -> None:
        """`name` says in errors who is at the other end.

        An end that is `paced` sends no faster than the other one, which is `pacing`, takes.
        """
        self._fd = fd
        self._window: int | None = _WINDOW_BYTES if paced else None
        self._pacing = pacing
        self._untaken = 0
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
                data = data[self._write(data) :]

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
        """Take in all that has arrived; needs the receiving lock."""
        while not self._closed:
            try:
                data = os.read(self._fd, _CHUNK)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                data = b""
            self._closed = not data
            if self._pacing:
                self._acknowledge(len(data))
            if self._window is not None:
                self._window += data.count(_TAKEN) * _PART_BYTES
                data = data.replace(_TAKEN, b"")
            self._received += data

    def _acknowledge(self, taken: int) -> None:
        parts, self._untaken = divmod(self._untaken + taken, _PART_BYTES)
        for _ in range(parts):
            while not self._closed and not self._try_to_write(_TAKEN):
                _poll(self._fd, select.POLLOUT, None)

    def _write(self, data: memoryview) -> int:
        """Write some of `data` and return how much; while none can be, take in what arrives."""
        part = data if self._window is None else data[: self._window]
        written = self._try_to_write(part) if part else 0
        if self._window is not None:
            self._window -= written
        if written == 0:
            _poll(self._fd, select.POLLIN | (select.POLLOUT if part else 0), None)
            self._read_unless_another_does()
        return written

    def _try_to_write(self, data: bytes | memoryview) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in _GONE:
                raise ProcessDied(self._name, None) from error
            raise

    def _read_unless_another_does(self) -> None:
        if self._receiving.acquire(blocking=False):
            try:
                self._read()
            finally:
                self._receiving.release()

    def _wait_readable(self, timeout_s: float | None, deadline: float | None) -> None:
        left_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not _poll(self._fd, select.POLLIN, left_ms):
            raise WaitTimeout(f"a message from {self._name}", timeout_s or 0)


def _poll(fd: int, events: int, timeout_ms: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(timeout_ms))
