"""Tests under tests/kernel, and those marked `sandbox`, run whole (fixtures too) inside their own sandbox.

Those under tests/kernel that are marked `guest` do so inside user-mode Linux (see `guests`), while the others
run; their reports are asked for last.
"""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from _pytest.runner import CallInfo, pytest_runtest_makereport, runtestprotocol
from guests import INSIDE, Guest
from sandboxed import Sandboxed

from testbed.errors import TestbedError

_KERNEL_TESTS = Path(__file__).parent / "kernel"
_LONGEST_TEST_S = 300.0
_GUEST = pytest.StashKey[Guest]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sandbox: runs inside a sandbox of its own, like all of tests/kernel")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if not item.path.is_relative_to(_KERNEL_TESTS) and item.get_closest_marker("sandbox") is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports_from_guest(item) if _belongs_in_guest(item) else _reports_from_sandbox(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_belongs_in_guest)


def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    nodeids = [item.nodeid for item in session.items if _belongs_in_guest(item)]
    if not nodeids or config.option.collectonly:
        return
    works_for_another = hasattr(config, "workerinput")  # a worker of pytest-xdist
    own = config._tmp_path_factory.getbasetemp()
    config.stash[_GUEST] = Guest(own.parent if works_for_another else own)
    config.stash[_GUEST].start(config.rootpath, nodeids, os.getppid() if works_for_another else os.getpid())


def _belongs_in_guest(item: pytest.Item) -> bool:
    here = item.path.is_relative_to(_KERNEL_TESTS) and item.get_closest_marker("guest") is not None
    return here and INSIDE not in os.environ


def _reports_from_guest(item: pytest.Item) -> list[pytest.TestReport]:
    try:
        reports = item.config.stash[_GUEST].reports_of(item.nodeid)
    except TestbedError as error:
        return [_failure(item, str(error))]
    return [_restored(item, report) for report in reports]


def _failure(item: pytest.Item, words: str) -> pytest.TestReport:
    call = CallInfo.from_call(lambda: pytest.fail(words, pytrace=False), "call")
    return pytest_runtest_makereport(item, call)


def _restored(item: pytest.Item, data: dict[str, object]) -> pytest.TestReport:
    return item.config.hook.pytest_report_from_serializable(config=item.config, data=data)  # type: ignore[no-any-return]


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
        return [_failure(item, value)]
    return [_restored(item, report) for report in value]
