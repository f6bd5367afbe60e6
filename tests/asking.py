"""Asks many questions at once, over TCP and UDP, and tells what became of each.

Owns the sockets of questions and the meaning of what they report: answered, refused, closed, unreachable,
silence. Must not know Services. Every question leaves from a port of its own, so that no entry that a kernel
keeps of an earlier one (conntrack, IPVS, TIME_WAIT) can answer for it, and ends by reset.
"""

from __future__ import annotations

import errno
import itertools
import json
import select
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from testbed.net.namespace import Namespace
from testbed.net.rawsocket import reset_on_close

REFUSED = "refused"
SILENCE = "silence"
CLOSED = "closed"
UNREACHABLE = "unreachable"

SILENT_S = 0.7
"""How long nothing has to come to be called silence: a refusal comes at once, a SYN is repeated after 1 s."""
_PATIENCE_S = 15.0
_AGAIN_S = 1.0  # datagrams are lost where a machine is busy: clients ask again, as TCP does
_FIRST_PORT, _LAST_PORT = 10_000, 29_000  # below what kernels choose from

_KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}
_OUTCOMES = {
    errno.ECONNREFUSED: REFUSED,
    errno.ECONNRESET: CLOSED,
    errno.EPIPE: CLOSED,
    errno.EHOSTUNREACH: UNREACHABLE,
    errno.ENETUNREACH: UNREACHABLE,
}


class Question(NamedTuple):
    """Who asks, where, and how; `text` is what is sent."""

    source: str
    address: str
    port: int
    protocol: str = "TCP"
    text: bytes = b"?\n"


class Answer(NamedTuple):
    """Who answered, and whom it saw."""

    pod: str
    peer: str


Outcome = Answer | str
"""An answer, or one of the words above, or the name of an error that no test expects."""


def question(sock: socket.socket) -> Answer:
    """Ask over an open socket, TCP or connected UDP, who is at its other end."""
    sock.sendall(b"?\n")
    return _read(sock.recv(4096))


def target_port(data: bytes) -> int:
    """The port of the pod that gave an answer to an HTTP request."""
    return int(json.loads(data.partition(b"\r\n\r\n")[2])["port"])


class Asker:
    """Asks from the namespaces of some places."""

    def __init__(self, places: Mapping[str, Namespace]) -> None:
        self._places = places
        self._ports: Iterator[int] = itertools.cycle(range(_FIRST_PORT, _LAST_PORT))

    def outcomes(self, questions: Sequence[Question], mute: Sequence[bool] = ()) -> list[Outcome]:
        """Ask all of them at once; the outcome of each, in their order.

        Where `mute` says so silence is expected: such a question is given `SILENT_S`, the others are waited
        for much longer, so that a busy machine turns no answer into silence.
        """
        expected = list(mute) or [False] * len(questions)
        open_questions = self._open(questions)
        try:
            return _Conversation(questions, open_questions).end(expected)
        finally:
            for sock in open_questions:
                sock.close()

    def _open(self, questions: Sequence[Question]) -> list[socket.socket]:
        socks: dict[int, socket.socket] = {}
        for source in dict.fromkeys(question.source for question in questions):
            asked = [index for index, question in enumerate(questions) if question.source == source]
            opened = self._places[source].run(self._sockets, [questions[index] for index in asked])
            socks.update(zip(asked, opened, strict=True))
        return [socks[index] for index in range(len(questions))]

    def _sockets(self, questions: Sequence[Question]) -> list[socket.socket]:
        return [self._socket(question) for question in questions]

    def _socket(self, question: Question) -> socket.socket:
        family = socket.AF_INET6 if ":" in question.address else socket.AF_INET
        sock = socket.socket(family, _KINDS[question.protocol] | socket.SOCK_NONBLOCK)
        if question.protocol == "TCP":
            reset_on_close(sock.fileno())
        while True:
            try:
                sock.bind(("", next(self._ports)))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return sock


class _Conversation:
    """The exchange over a set of sockets that do not block."""

    def __init__(self, questions: Sequence[Question], socks: Sequence[socket.socket]) -> None:
        self._questions = questions
        self._socks = socks
        self._indices = {sock.fileno(): index for index, sock in enumerate(socks)}
        self._poll = select.poll()
        self._found: dict[int, Outcome] = {}

    def end(self, mute: Sequence[bool]) -> list[Outcome]:
        """Begin all exchanges and follow them until each has its outcome."""
        for index in range(len(self._socks)):
            self._begin(index)
        began_s = asked_s = time.monotonic()
        everything = len(self._socks)
        while len(self._found) < everything:
            now_s = time.monotonic()
            unheard = [index for index in range(everything) if not mute[index] and index not in self._found]
            if now_s - began_s >= (_PATIENCE_S if unheard else SILENT_S):
                break
            if now_s - asked_s >= _AGAIN_S:
                asked_s = now_s
                self._ask_again(unheard)
            for fd, _ in self._poll.poll(50):
                self._go_on(self._indices[fd])
        return [self._found.get(index, SILENCE) for index in range(everything)]

    def _begin(self, index: int) -> None:
        question, sock = self._questions[index], self._socks[index]
        error = sock.connect_ex((question.address, question.port))
        if error == errno.EINPROGRESS:
            # A refusal that came while connect(2) held the socket is kept aside (tcp_v4_err): ask for it.
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._poll.register(sock, select.POLLOUT)
        elif not error:
            error = self._ask(index)
        if error:
            self._settle(index, _OUTCOMES.get(error, errno.errorcode[error]))

    def _ask(self, index: int) -> int:
        self._poll.register(self._socks[index], select.POLLIN)
        try:
            self._socks[index].send(self._questions[index].text)
        except PermissionError:
            return 0  # a rule of the sender's own namespace stopped it: a refusal may follow, or silence
        except OSError as error:
            return error.errno or 0
        return 0

    def _ask_again(self, indices: Sequence[int]) -> None:
        for index in indices:
            if self._questions[index].protocol == "UDP":
                self._ask(index)

    def _go_on(self, index: int) -> None:
        if index in self._found:
            return
        sock = self._socks[index]
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not error:
            error = self._advance(index, sock)
        if error:
            self._settle(index, _OUTCOMES.get(error, errno.errorcode[error]))

    def _advance(self, index: int, sock: socket.socket) -> int:
        """Read the answer if it is there, else send the question; the error number of what goes wrong."""
        try:
            data = sock.recv(4096)
        except BlockingIOError:
            return self._ask(index)
        except OSError as error:
            return error.errno or 0
        self._settle(index, _read(data) if data else CLOSED)
        return 0

    def _settle(self, index: int, outcome: Outcome) -> None:
        self._found[index] = outcome
        with suppress(KeyError):  # refused before anything was waited for
            self._poll.unregister(self._socks[index])


def _read(data: bytes) -> Answer:
    if data.startswith(b"HTTP/"):
        return Answer(str(target_port(data)), "")
    pod, peer = data.decode().split()
    return Answer(pod, peer.rpartition(":")[0].strip("[]"))
