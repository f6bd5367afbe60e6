"""A line carries whole messages both ways, paced where the other end needs it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from testbed.errors import ProcessDied, WaitTimeout
from testbed.kernel.line import Line

MEGABYTE = "x" * 1_000_000


@pytest.fixture(params=[False, True], ids=["plain", "paced"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Line, Line]]:
    one, other = socket.socketpair()
    here = Line(one.detach(), name="the job", paced=request.param)
    there = Line(other.detach(), name="the launcher", pacing=request.param)
    yield here, there
    here.close()
    there.close()


def take(end: socket.socket, size: int) -> bytes:
    taken = b""
    while len(taken) < size:
        taken += end.recv(size - len(taken))
    return taken


def test_messages_arrive_whole_and_in_order(ends: tuple[Line, Line]) -> None:
    here, there = ends
    for number in range(20):
        here.send({"n": number, "text": "ü\n\x06"})
    assert [there.receive(1) for _ in range(20)] == [{"n": number, "text": "ü\n\x06"} for number in range(20)]


def test_a_message_of_a_megabyte_arrives_though_it_fits_into_no_buffer(ends: tuple[Line, Line]) -> None:
    here, there = ends
    sender = threading.Thread(target=here.send, args=({"text": MEGABYTE},))
    sender.start()
    assert there.receive(20) == {"text": MEGABYTE}
    sender.join()


def test_both_ends_may_send_much_at_the_same_time(ends: tuple[Line, Line]) -> None:
    here, there = ends
    got: list[object] = []

    def be_the_other_end() -> None:
        there.send({"text": MEGABYTE})
        got.append(there.receive(20))

    other = threading.Thread(target=be_the_other_end)
    other.start()
    here.send({"text": MEGABYTE})
    assert here.receive(20) == {"text": MEGABYTE}
    other.join()
    assert got == [{"text": MEGABYTE}]


def test_several_threads_may_send_without_tearing_messages_apart(ends: tuple[Line, Line]) -> None:
    here, there = ends
    threads = [threading.Thread(target=here.send, args=({"n": n, "text": "y" * 50_000},)) for n in range(8)]
    for thread in threads:
        thread.start()
    received = [there.receive(20) for _ in threads]
    assert sorted(message["n"] for message in received if message) == list(range(8))
    for thread in threads:
        thread.join()


def test_a_paced_end_never_has_more_under_way_than_a_serial_line_bears() -> None:
    one, other = socket.socketpair()
    here = Line(one.detach(), paced=True)
    sender = threading.Thread(target=here.send, args=({"text": "z" * 20_000},))
    sender.start()
    other.settimeout(5)
    assert len(take(other, 3072)) == 3072
    other.settimeout(0.05)
    with pytest.raises(TimeoutError):
        other.recv(1)
    other.settimeout(5)
    other.sendall(b"\x06")
    assert len(take(other, 1024)) == 1024
    other.sendall(b"\x06" * 20)
    assert take(other, 20_012 - 3072 - 1024).endswith(b'"}\n')
    sender.join()
    here.close()
    other.close()


def test_what_was_sent_before_the_end_is_still_received(ends: tuple[Line, Line]) -> None:
    here, there = ends
    here.send({"n": 1})
    here.close()
    assert there.receive(1) == {"n": 1}
    assert there.receive(1) is None
    assert there.receive() is None
    assert there.closed


def test_half_a_message_at_the_end_is_no_message(ends: tuple[Line, Line]) -> None:
    here, there = ends
    os.write(here.fileno(), b'{"n": 1')
    here.close()
    assert there.receive(1) is None


def test_sending_to_an_end_that_is_gone_says_whose(ends: tuple[Line, Line]) -> None:
    here, there = ends
    there.close()
    with pytest.raises(ProcessDied, match="the job ended"):
        here.send({"n": 1})


def test_waiting_ends_in_time_and_says_for_what(ends: tuple[Line, Line]) -> None:
    here, _ = ends
    with pytest.raises(WaitTimeout, match=r"waited 0\.01 s for a message from the job"):
        here.receive(0.01)


def test_what_is_no_object_is_refused(ends: tuple[Line, Line]) -> None:
    here, there = ends
    os.write(here.fileno(), b"[1]\n")
    with pytest.raises(TypeError, match=r"the launcher sent b'\[1\]'"):
        there.receive(1)
