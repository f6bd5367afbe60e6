"""A relayed connection: two sockets, and the bytes that go from each to the other.

Owns how bytes are moved, backpressure, half-close and reset. Must not know Services, nor how the two sockets
came to be connected (see `dialling`).

Each of the two `End`s is told of its own socket's events and owns the direction of bytes that begins there:

    client socket ──► End ──read/write, or splice through a pipe──► other End's socket

Sockets are registered once and edge-triggered, so a quiet connection costs no system call beyond its reads
and writes. A read shorter than asked for has emptied the socket: the kernel reports the next byte anew.
"""

from __future__ import annotations

from os import SPLICE_F_MOVE, SPLICE_F_NONBLOCK, read, splice, write
from select import EPOLLERR, EPOLLET, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP

from testbed.net.eventloop import EventLoop
from testbed.net.rawsocket import end_sending, reset_on_close, send_at_once
from testbed.proxy.userspace.pipes import PIPE_BYTES, Pipe, PipePool

READING = EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLET
READING_AND_WRITING = READING | EPOLLOUT

COPY_BYTES = 64 * 1024
"""A direction is copied until this much has passed; what comes in bulk after that is spliced."""

_BULK_BYTES = 16 * 1024  # below this, one read and one write are cheaper than three splices
_TURN_BYTES = 4 << 20  # then others have their turn
_SPLICE = SPLICE_F_MOVE | SPLICE_F_NONBLOCK


class End:
    """One socket of a relayed connection, with the direction of bytes that it is the source of."""

    __slots__ = (
        "_bulk",
        "_loop",
        "_moved",
        "_over",
        "_pending",
        "_pipe",
        "_piped",
        "_pipes",
        "_prompt",
        "_source_ended",
        "_told_of_room",
        "fd",
        "other",
    )

    other: End | None

    def __init__(self, loop: EventLoop, pipes: PipePool, fd: int, prompt: bool, told_of_room: bool) -> None:
        self._loop = loop
        self._pipes = pipes
        self.fd = fd
        self.other = None
        self._prompt = prompt
        self._told_of_room = told_of_room
        self._moved = 0
        self._bulk = False
        self._pending: bytes | memoryview = b""
        self._pipe: Pipe | None = None
        self._piped = 0
        self._source_ended = False
        self._over = False

    def begin(self, pending: bytes, moved: int) -> None:
        """Start with what was read from this end before: `moved` bytes passed on, `pending` not yet."""
        self._moved = moved
        if pending:
            self._pending = pending
            self._pump(EPOLLIN)

    def ready(self, events: int) -> None:
        """The socket has bytes, an end or an error, or has room again."""
        other = self.other
        if other is None:
            return
        if events & ~EPOLLOUT:
            self._pump(events)
        if events & EPOLLOUT and (other._pending or other._piped) and self.other is not None:
            other._pump(EPOLLIN)

    def close(self) -> None:
        """Close both sockets."""
        other = self.other
        if other is None:
            return
        self.other = other.other = None
        for end in (self, other):
            if end._pipe is not None:
                end._pipe.close()
            end._loop.close_fd(end.fd)

    def _pump(self, events: int) -> None:
        """Move bytes until the source has none or the sink has no room."""
        other = self.other
        if other is None:
            return
        if self._over:
            if events & EPOLLERR:
                self._reset()
            return
        if (self._pending or self._piped) and not self._flush(other):
            return
        if self._source_ended:
            self._end(other)
        elif self._bulk:
            self._splice(other)
        else:
            self._copy(other, events)

    def _copy(self, other: End, events: int) -> None:
        while True:
            try:
                data = read(self.fd, COPY_BYTES)
            except BlockingIOError:
                return
            except OSError:
                self._reset()
                return
            if not data:
                self._end(other)
                return
            size = len(data)
            if not other._prompt and self._moved:
                # Nagle holds nothing back while nothing is unacknowledged: the first segment needs no call.
                other._prompt = True
                send_at_once(other.fd)
            try:
                sent = write(other.fd, data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._give_up(other)
                return
            self._moved += size
            drained = size < COPY_BYTES and not events & EPOLLPRI  # urgent data makes reads stop short
            self._source_ended = drained and bool(events & EPOLLRDHUP)
            self._bulk = self._moved >= COPY_BYTES and size >= _BULK_BYTES
            if sent < size:
                self._pending = memoryview(data)[sent:]
                if not self._flush(other):
                    return
            if self._source_ended:
                self._end(other)
                return
            if drained:
                return
            if self._bulk:
                self._splice(other)
                return

    def _splice(self, other: End) -> None:
        pipe = self._pipe = self._pipe or self._pipes.take()
        if pipe is None:
            self._bulk = False
            self._loop.again(self, EPOLLIN)
            return
        fd, total = self.fd, 0
        while total < _TURN_BYTES:
            try:
                taken = splice(fd, pipe.writer, PIPE_BYTES, flags=_SPLICE)
            except BlockingIOError:
                self._bulk = total >= _BULK_BYTES
                break
            except OSError:
                self._reset()
                return
            if not taken:
                self._give_back_pipe()
                self._end(other)
                return
            total += taken
            self._piped = taken
            if not self._flush(other):
                return
        else:
            self._loop.again(self, EPOLLIN)
        self._give_back_pipe()

    def _flush(self, other: End) -> bool:
        """Pass on what was read before; False when the sink has no room, or is gone."""
        try:
            while self._pending:
                self._pending = memoryview(self._pending)[write(other.fd, self._pending) :]
            while self._piped and self._pipe is not None:
                self._piped -= splice(self._pipe.reader, other.fd, self._piped, flags=_SPLICE)
        except BlockingIOError:
            if not other._told_of_room:
                other._told_of_room = True
                self._loop.change(other.fd, READING_AND_WRITING)
            return False
        except OSError:
            self._give_up(other)
            return False
        return True

    def _end(self, other: End) -> None:
        """The source has sent its last byte and all are passed on: pass the end on, too."""
        self._over = True
        if other._over:
            self.close()
        else:
            end_sending(other.fd)

    def _give_up(self, other: End) -> None:
        """The sink takes no more. What it has sent before may still be read: that direction goes on."""
        self._pending = b""
        self._piped = 0
        self._over = True
        if other._over:
            self.close()
        elif not other._pending and not other._piped:
            other._pump(EPOLLIN)

    def _reset(self) -> None:
        """The source broke off: break off the other side as well, so that nobody takes it for an end."""
        if self.other is not None:
            reset_on_close(self.other.fd)
            self.close()

    def _give_back_pipe(self) -> None:
        if self._pipe is not None:
            self._pipes.give_back(self._pipe)
            self._pipe = None


def relay(
    loop: EventLoop, pipes: PipePool, client: int, server: int, *, pending: bytes, moved: int, watched: bool
) -> End:
    """Relay between two connected sockets from now on.

    `pending` are bytes read from the client that the server has not been sent, `moved` counts those that it
    has. `watched` says that the loop watches the server's socket already, for room as well: events that it
    told before are to be given to the server's end, which is returned.
    """
    near = End(loop, pipes, client, True, False)
    far = End(loop, pipes, server, False, watched)
    near.other, far.other = far, near
    loop.watch(client, near, READING)
    if watched:
        loop.hand_over(server, far)
    else:
        loop.watch(server, far, READING)
    near.begin(pending, moved)
    return far
