"""The wire of JSON lines."""

from __future__ import annotations

import socket
import threading

import pytest

from testbed.load.lines import Lines


def a_wire() -> tuple[Lines, socket.socket]:
    ours, theirs = socket.socketpair()
    return Lines(ours), theirs


def test_lines_that_arrive_together_are_received_one_by_one() -> None:
    lines, other = a_wire()
    other.sendall(b'{"a": 1}\n{"b": 2}\n{"c"')

    assert lines.receive() == {"a": 1}
    assert lines.receive() == {"b": 2}
    other.sendall(b": 3}\n")
    assert lines.receive() == {"c": 3}


def test_a_line_of_megabytes_passes() -> None:
    lines, other = a_wire()
    text = "x" * 3_000_000
    sender = threading.Thread(target=Lines(other).send, args=({"text": text},))
    sender.start()

    assert lines.receive(10) == {"text": text}
    sender.join()


def test_the_end_of_the_other_side_is_none() -> None:
    lines, other = a_wire()
    other.sendall(b'{"torn": ')
    other.close()

    assert lines.receive() is None


def test_silence_is_a_timeout() -> None:
    lines, _other = a_wire()
    with pytest.raises(TimeoutError):
        lines.receive(0.01)
