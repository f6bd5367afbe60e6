"""Tests under tests/kernel, and those marked `sandbox`, run whole (fixtures too) inside their own sandbox."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from _pytest.runner import CallInfo, pytest_runtest_makereport, runtestprotocol
from sandboxed import Sandboxed

_KERNEL_TESTS = Path(__file__).parent / "kernel"
_LONGEST_TEST_S = 300.0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sandbox: runs inside a sandbox of its own, like all of tests/kernel")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if not item.path.is_relative_to(_KERNEL_TESTS) and item.get_closest_marker("sandbox") is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports_from_sandbox(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _reports_from_sandbox(item: pytest.Item) -> list[pytest.TestReport]:
    # The directory for tmp_path is chosen out here, once: inside, everybody is called root.
    item.config._tmp_path_factory.getbasetemp()

    def run_item(line: Connection) -> None:
        reports = runtestprotocol(item, log=False, nextitem=None)
        serialise = item.config.hook.pytest_report_to_serializable
        line.send(("reports", [serialise(config=item.config, report=report) for report in reports]))

    sandboxed = Sandboxed(run_item)
    try:
        outcome, value = sandboxed.receive(_LONGEST_TEST_S)
    except (EOFError, TimeoutError) as error:
        outcome, value = "raised", f"the sandbox ended without a report: {error!r}"
    finally:
        sandboxed.close()
    if outcome == "raised":
        call = CallInfo.from_call(lambda: pytest.fail(value, pytrace=False), "call")
        return [pytest_runtest_makereport(item, call)]
    restore = item.config.hook.pytest_report_from_serializable
    return [restore(config=item.config, data=data) for data in value]
