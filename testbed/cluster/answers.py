"""What a backend says: who it is and whom it saw.

Owns the wire formats (HTTP/1.1, the line protocol, datagrams) as pure functions from bytes to bytes. Must
not know sockets, loops or namespaces.

    client sends                     answer
    an HTTP request                  200 with a JSON body: pod, node, address, port, peer, protocol
    the chunk b"?\\n" (or datagram)   b"<pod> <peer address>:<peer port>\\n"
    anything else                    the same bytes
"""

from __future__ import annotations

import json
import re

QUESTION = b"?\n"
METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"PATCH ", b"OPTIONS ")

MAX_HEAD_BYTES = 64 * 1024

_BLANK_LINE = b"\r\n\r\n"
_CONNECTION = re.compile(rb"\r\nconnection:[ \t]*([^\r]*)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked", re.IGNORECASE)


def join_host_port(host: str, port: int) -> str:
    """`10.0.0.1:80`, and `[fd00::1]:80` for IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Identity:
    """The answers of one port of one pod, with everything encoded that does not depend on the peer."""

    __slots__ = ("_after_peer", "_before_peer", "_head", "_line", "_plain_bytes")

    def __init__(self, pod: str, node: str, address: str, port: int, protocol: str) -> None:
        facts = {"pod": pod, "node": node, "address": address, "port": port, "protocol": protocol}
        self._before_peer = json.dumps(facts)[:-1].encode() + b', "peer": "'
        self._after_peer = b'"}\n'
        self._line = pod.encode() + b" "
        self._plain_bytes = len(self._before_peer) + len(self._after_peer)
        self._head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

    def line(self, peer: bytes) -> bytes:
        """The answer to the question; `peer` is `address:port`."""
        return self._line + peer + b"\n"

    def http(self, peer: bytes, *, connection: bytes = b"", with_body: bool = True) -> bytes:
        """A whole HTTP response; `connection` is a header line with its line end, or nothing."""
        head = b"%sContent-Length: %d\r\n%s\r\n" % (
            self._head,
            self._plain_bytes + len(peer),
            connection,
        )
        return head + self._before_peer + peer + self._after_peer if with_body else head

    def datagram(self, data: bytes, peer: tuple[str, int]) -> bytes:
        """The answer to one datagram."""
        if data in (QUESTION, b"?"):
            return self.line(join_host_port(*peer[:2]).encode())
        return data


class HttpAnswers:
    """Answers the requests on one connection; keeps what is incomplete."""

    __slots__ = ("_body_left", "_held", "_identity", "_peer", "closing")

    def __init__(self, identity: Identity, peer: bytes) -> None:
        self._identity = identity
        self._peer = peer
        self._held = b""
        self._body_left = 0
        self.closing = False

    def feed(self, data: bytes) -> bytes:
        """Take the bytes that came in and return the bytes to send.

        `closing` is true afterwards when the connection is to be closed once they are sent.
        """
        if not self._held and not self._body_left and data.startswith(b"GET ") and _is_plain(data):
            return self._identity.http(self._peer)
        self._held += data
        answers = []
        while not self.closing and self._take_body():
            end = self._held.find(_BLANK_LINE)
            if end < 0:
                if len(self._held) > MAX_HEAD_BYTES or not _may_be_request(self._held):
                    answers.append(self._refuse())
                break
            head, self._held = self._held[: end + 2], self._held[end + 4 :]
            answers.append(self._answer(head))
        return b"".join(answers)

    def _take_body(self) -> bool:
        """Drop the body of the last request; whether it has ended and more bytes are there."""
        taken = min(self._body_left, len(self._held))
        self._body_left -= taken
        self._held = self._held[taken:]
        return bool(self._held)

    def _answer(self, head: bytes) -> bytes:
        request_line = head[: head.index(b"\r\n")]
        if not request_line.startswith(METHODS) or b" HTTP/1." not in request_line:
            return self._refuse()
        wish = _CONNECTION.search(head)
        wishes = wish[1].lower() if wish else b""
        length = _LENGTH.search(head)
        self._body_left = int(length[1]) if length else 0
        old = request_line.endswith(b"HTTP/1.0")
        connection = b"Connection: keep-alive\r\n" if old else b""
        if b"close" in wishes or (old and b"keep-alive" not in wishes) or _CHUNKED.search(head):
            self.closing = True
            connection = b"Connection: close\r\n"
        return self._identity.http(
            self._peer, connection=connection, with_body=not request_line.startswith(b"HEAD ")
        )

    def _refuse(self) -> bytes:
        self.closing = True
        return b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def _is_plain(data: bytes) -> bool:
    """Whether these bytes are exactly one HTTP/1.1 request without a body and without special wishes."""
    return (
        data.find(_BLANK_LINE) == len(data) - 4
        and b" HTTP/1.1\r\n" in data
        and b"onnection:" not in data
        and b"ONNECTION:" not in data
        and not _LENGTH.search(data)
        and not _CHUNKED.search(data)
    )


def _may_be_request(data: bytes) -> bool:
    """Whether an incomplete head can still become a request."""
    return any(data.startswith(method) or method.startswith(data) for method in METHODS)
