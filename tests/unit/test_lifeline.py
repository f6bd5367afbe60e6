"""The lifeline tells that the launcher is gone, whichever way it went."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from testbed.net.lifeline import Lifeline


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    ends = list(os.pipe())
    yield ends
    for fd in ends:
        os.close(fd)


def test_it_holds_while_the_parent_lives_and_the_pipe_is_open(pipe: list[int]) -> None:
    lifeline = Lifeline.of_launcher(pipe[0], os.getppid())
    assert not lifeline.broken()


def test_it_breaks_when_the_pipe_is_closed(pipe: list[int]) -> None:
    lifeline = Lifeline.of_launcher(pipe[0], os.getppid())
    os.close(pipe.pop())
    assert lifeline.broken()


def test_it_is_born_broken_under_another_parent_than_the_launcher(pipe: list[int]) -> None:
    assert Lifeline.of_launcher(pipe[0], 1 if os.getppid() != 1 else 2).broken()
    gone = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(gone, 0)
    assert Lifeline.of_launcher(pipe[0], gone).broken()
