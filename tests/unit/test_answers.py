"""A backend names itself and its peer over HTTP, lines and datagrams, and echoes everything else."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.cluster.answers import MAX_HEAD_BYTES, HttpAnswers, Identity, join_host_port

IDENTITY = Identity("web-1", "node1", "10.244.1.2", 80, "TCP")
PEER = b"10.244.1.9:4711"


def answers() -> HttpAnswers:
    return HttpAnswers(IDENTITY, PEER)


def split(response: bytes) -> tuple[str, dict[str, str], bytes]:
    head, body = response.split(b"\r\n\r\n", 1)
    status, *lines = head.decode().split("\r\n")
    return status, dict(line.split(": ", 1) for line in lines), body


def test_a_question_is_answered_with_pod_and_peer() -> None:
    assert IDENTITY.line(PEER) == b"web-1 10.244.1.9:4711\n"


def test_an_ipv6_peer_stands_in_brackets() -> None:
    assert join_host_port("fd00::1", 80) == "[fd00::1]:80"
    assert IDENTITY.datagram(b"?", ("fd00::1", 80)) == b"web-1 [fd00::1]:80\n"


@pytest.mark.parametrize("question", [b"?", b"?\n"])
def test_a_datagram_that_asks_is_answered(question: bytes) -> None:
    assert IDENTITY.datagram(question, ("10.0.0.9", 53)) == b"web-1 10.0.0.9:53\n"


def test_any_other_datagram_comes_back() -> None:
    assert IDENTITY.datagram(b"", ("10.0.0.9", 53)) == b""
    assert IDENTITY.datagram(b"??", ("10.0.0.9", 53)) == b"??"


def test_a_request_is_answered_with_everything_known() -> None:
    http = answers()
    status, headers, body = split(http.feed(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"))
    assert status == "HTTP/1.1 200 OK"
    assert headers["Content-Length"] == str(len(body))
    assert json.loads(body) == {
        "pod": "web-1",
        "node": "node1",
        "address": "10.244.1.2",
        "port": 80,
        "protocol": "TCP",
        "peer": "10.244.1.9:4711",
    }
    assert body.endswith(b"}\n")
    assert not http.closing


@pytest.mark.parametrize(
    ("head", "closing", "header"),
    [
        ("GET / HTTP/1.1\r\nConnection: close", True, "close"),
        ("GET / HTTP/1.1\r\nCONNECTION:Close", True, "close"),
        ("GET / HTTP/1.1\r\nConnection: keep-alive", False, None),
        ("GET / HTTP/1.0", True, "close"),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive", False, "keep-alive"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked", True, "close"),
    ],
)
def test_the_connection_stays_open_as_the_request_wishes(
    head: str, closing: bool, header: str | None
) -> None:
    http = answers()
    _, headers, _ = split(http.feed(head.encode() + b"\r\n\r\n"))
    assert http.closing is closing
    assert headers.get("Connection") == header


def test_head_is_answered_without_a_body() -> None:
    status, headers, body = split(answers().feed(b"HEAD / HTTP/1.1\r\n\r\n"))
    assert status.endswith("200 OK")
    assert int(headers["Content-Length"]) > 0
    assert body == b""


REQUESTS = (
    b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
    b"POST /b HTTP/1.1\r\nContent-Length: 25\r\n\r\nGET / HTTP/1.1\r\n\r\n1234567"
    b"DELETE /c HTTP/1.1\r\n\r\n"
    b"GET /d HTTP/1.1\r\n\r\n"
)


@given(st.lists(st.integers(0, len(REQUESTS)), max_size=6))
def test_requests_cut_anywhere_get_one_answer_each(cuts: list[int]) -> None:
    http = answers()
    edges = [0, *sorted(cuts), len(REQUESTS)]
    pieces = [REQUESTS[start:end] for start, end in pairwise(edges)]
    sent = b"".join(http.feed(piece) for piece in pieces if piece)
    assert sent == IDENTITY.http(PEER) * 4


@pytest.mark.parametrize("nonsense", [b"GET nothing\r\n\r\n", b"GET / SMTP/1.1\r\n\r\n"])
def test_a_broken_request_is_refused_and_the_connection_closed(nonsense: bytes) -> None:
    http = answers()
    assert http.feed(nonsense).startswith(b"HTTP/1.1 400 ")
    assert http.closing


def test_bytes_that_can_never_be_a_request_are_refused_at_once() -> None:
    http = answers()
    http.feed(b"GET / HTTP/1.1\r\n\r\n")
    assert http.feed(b"\x00\x01").startswith(b"HTTP/1.1 400 ")


def test_a_head_without_end_is_refused() -> None:
    http = answers()
    assert http.feed(b"GET / HTTP/1.1\r\nX: ") == b""
    assert http.feed(b"x" * MAX_HEAD_BYTES).startswith(b"HTTP/1.1 400 ")
