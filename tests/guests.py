"""Runs the tests of tests/kernel that are marked `guest` inside user-mode Linux, all in one boot.

The outer pytest asks for one test after another; the guest runs a pytest of its own over all of them in the
same order and sends every report as it is made, so that each test is told of one by one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from testbed.errors import TestbedError
from testbed.kernel import Job, Line, Session, UmlKernel

INSIDE = "TESTBED_TESTS_INSIDE_GUEST"
_ENTRY = "guests:run_inside"
_MEMORY_MB = 2048


class Guest:
    """A booted guest that works through `nodeids`; reports come out in that order."""

    def __init__(self, root: Path, nodeids: Sequence[str]) -> None:
        job = Job(
            entry=_ENTRY,
            arguments={"root": str(root), "nodeids": list(nodeids)},
            modes=frozenset({"ipvs", "iptables", "userspace"}),
            memory_mb=_MEMORY_MB,
        )
        self._session: Session = UmlKernel().start(job)

    def reports_of(self, nodeid: str, timeout_s: float) -> list[dict[str, Any]]:
        """The serialised reports of one test. Raises TestbedError when the guest ends or falls silent."""
        reports = []
        while (message := self._session.line.receive(timeout_s)) is not None:
            if message.get("nodeid") == nodeid:
                reports.append(message["report"])
                if message["report"]["when"] == "teardown":
                    return reports
        status = self._session.wait()
        raise TestbedError(f"the guest ended with {status} before it had run {nodeid}")

    def close(self) -> None:
        """End the guest."""
        self._session.close()


def run_inside(arguments: dict[str, Any], line: Line) -> int:
    """Job entry in the guest: run the tests and send their reports."""
    os.environ[INSIDE] = "1"
    os.chdir(arguments["root"])
    options = ["-p", "no:cacheprovider", "-p", "no:benchmark", "-o", "addopts="]
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        return int(pytest.main([*options, *arguments["nodeids"]], plugins=[_Reporter(line)]))


class _Reporter:
    def __init__(self, line: Line) -> None:
        self._line = line

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._line.send({"nodeid": report.nodeid, "report": data})
