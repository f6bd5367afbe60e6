"""A job's entry is called on the far side, and its errors cross over whole."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.errors import BadResults, MachineLacks, ProcessDied, TestbedError, UserError, WaitTimeout
from testbed.kernel.job import enter_place, pack_error, run_entry, unpack_error
from testbed.kernel.line import Line
from testbed.net.sandbox import SandboxForbidden


@pytest.fixture
def lines() -> Iterator[tuple[Line, Line]]:
    one, other = socket.socketpair()
    here, there = Line(one.detach()), Line(other.detach())
    yield here, there
    here.close()
    there.close()


def give_back(arguments: dict[str, Any], line: Line) -> int:
    line.send(arguments)
    return int(arguments["status"])


def leave(arguments: dict[str, Any], line: Line) -> int:
    raise SystemExit(arguments["code"])


def be_interrupted(arguments: dict[str, Any], line: Line) -> int:
    raise KeyboardInterrupt


def lack(arguments: dict[str, Any], line: Line) -> int:
    raise MachineLacks("this", "get it")


def test_an_entry_says_hello_before_it_gets_its_arguments(lines: tuple[Line, Line]) -> None:
    here, there = lines
    assert run_entry(f"{__name__}:give_back", {"status": 5}, here, pytest.fail) == 5
    assert there.receive(1) == {"hello": f"{__name__}:give_back"}
    assert there.receive(1) == {"status": 5}


@pytest.mark.parametrize(("code", "status"), [(4, 4), (None, 0), ("a word", 1)])
def test_leaving_by_exit_is_an_exit_status(lines: tuple[Line, Line], code: object, status: int) -> None:
    assert run_entry(f"{__name__}:leave", {"code": code}, lines[0], pytest.fail) == status


def test_an_interrupted_entry_ends_as_a_shell_expects(lines: tuple[Line, Line]) -> None:
    assert run_entry(f"{__name__}:be_interrupted", {}, lines[0], pytest.fail) == 130


def test_an_error_is_reported_and_decides_the_exit_status(lines: tuple[Line, Line]) -> None:
    reports: list[Any] = []
    assert run_entry(f"{__name__}:lack", {}, lines[0], reports.append) == 2
    assert str(unpack_error(reports[0]["error"])) == "this: get it"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (SandboxForbidden("no", "do"), SandboxForbidden),
        (MachineLacks("no", "do"), MachineLacks),
        (BadResults("bad"), UserError),
        (WaitTimeout("it", 3), TestbedError),
    ],
)
def test_an_error_keeps_its_text_and_exit_status(error: TestbedError, kind: type[TestbedError]) -> None:
    crossed = unpack_error(pack_error(error))
    assert type(crossed) is kind
    assert (str(crossed), crossed.exit_status) == (str(error), error.exit_status)


def test_a_mistake_in_a_program_crosses_as_a_dead_process_with_its_traceback() -> None:
    crossed = unpack_error(pack_error(ValueError("what")))
    assert isinstance(crossed, ProcessDied)
    assert "ValueError: what" in crossed.evidence


def test_a_place_that_cannot_be_entered_leaves_the_job_at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Path.cwd()
    monkeypatch.setattr(os, "environ", {"OLD": "1"})
    try:
        enter_place({"NEW": "2"}, "/nonexistent")
        assert (Path.cwd(), os.environ) == (Path("/"), {"NEW": "2"})
    finally:
        os.chdir(before)
