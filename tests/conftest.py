"""Tests under tests/kernel, and those marked `sandbox`, run whole (fixtures too) inside their own sandbox.

Those under tests/kernel that are marked `guest` do so inside user-mode Linux (see `guests`), while the others
run; their reports are asked for last. In there, those that ask for `nodes`, which takes seconds to make,
follow one another in one sandbox.
"""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from _pytest.runner import CallInfo, pytest_runtest_makereport, runtestprotocol
from guests import INSIDE, Guest, parts
from sandboxed import Sandboxed

from testbed.errors import TestbedError

_KERNEL_TESTS = Path(__file__).parent / "kernel"
_LONGEST_TEST_S = 600.0
_SHARED = "nodes"
_GUESTS = pytest.StashKey[dict[str, Guest]]()
_SHARERS = pytest.StashKey["_Sharers"]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sandbox: runs inside a sandbox of its own, like all of tests/kernel")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if not item.path.is_relative_to(_KERNEL_TESTS) and item.get_closest_marker("sandbox") is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_belongs_in_guest)
    if INSIDE in os.environ:
        items.sort(key=lambda item: (_what_is_shared(item), _settings(item)))  # neighbours may share a node


def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    groups: dict[str, list[str]] = defaultdict(list)
    for item in session.items:
        if _belongs_in_guest(item):
            groups[_what_is_shared(item)].append(item.nodeid)
    if not groups or config.option.collectonly:
        return
    works_for_another = hasattr(config, "workerinput")  # a worker of pytest-xdist
    own = config._tmp_path_factory.getbasetemp()
    suite = os.getppid() if works_for_another else os.getpid()
    config.stash[_GUESTS] = {}
    for number, nodeids in enumerate(parts(groups.values())):
        guest = Guest(own.parent if works_for_another else own, number)
        guest.start(config.rootpath, nodeids, suite)
        config.stash[_GUESTS] |= dict.fromkeys(nodeids, guest)


def _what_is_shared(item: pytest.Item) -> str:
    """The mode of the node that a test of the guest shares with others; empty for what shares nothing."""
    if item.get_closest_marker("guest") is None or _SHARED not in getattr(item, "fixturenames", ()):
        return ""
    return str(item.callspec.params.get("mode", "any")) if hasattr(item, "callspec") else "any"


def _settings(item: pytest.Item) -> str:
    return str(item.callspec.params.get("settings", "")) if hasattr(item, "callspec") else ""


def _reports(item: pytest.Item) -> list[pytest.TestReport]:
    if _belongs_in_guest(item):
        return _reports_from_guest(item)
    # The directory for tmp_path is chosen out here, once: inside, everybody is called root.
    item.config._tmp_path_factory.getbasetemp()
    if INSIDE not in os.environ or not _what_is_shared(item):
        return _reports_from_sandbox(item)
    stash = item.session.stash
    if _SHARERS not in stash:
        stash[_SHARERS] = _Sharers([each for each in item.session.items if _what_is_shared(each)])
    return stash[_SHARERS].reports_of(item)


def _belongs_in_guest(item: pytest.Item) -> bool:
    here = item.path.is_relative_to(_KERNEL_TESTS) and item.get_closest_marker("guest") is not None
    return here and INSIDE not in os.environ


def _reports_from_guest(item: pytest.Item) -> list[pytest.TestReport]:
    try:
        reports = item.config.stash[_GUESTS][item.nodeid].reports_of(item.nodeid)
    except TestbedError as error:
        return [_failure(item, str(error))]
    return [_restored(item, report) for report in reports]


def _failure(item: pytest.Item, words: str) -> pytest.TestReport:
    call = CallInfo.from_call(lambda: pytest.fail(words, pytrace=False), "call")
    return pytest_runtest_makereport(item, call)


def _restored(item: pytest.Item, data: dict[str, object]) -> pytest.TestReport:
    return item.config.hook.pytest_report_from_serializable(config=item.config, data=data)  # type: ignore[no-any-return]


def _reports_from_sandbox(item: pytest.Item) -> list[pytest.TestReport]:
    sandboxed = Sandboxed(lambda line: line.send(("reports", _run(item, None))))
    try:
        return _received(item, sandboxed)
    finally:
        sandboxed.close()


def _run(item: pytest.Item, following: pytest.Item | None) -> list[dict[str, object]]:
    """Run a test here; its serialised reports."""
    reports = runtestprotocol(item, log=False, nextitem=following)
    serialise = item.config.hook.pytest_report_to_serializable
    return [serialise(config=item.config, report=report) for report in reports]


def _received(item: pytest.Item, sandboxed: Sandboxed) -> list[pytest.TestReport]:
    try:
        outcome, value = sandboxed.receive(_LONGEST_TEST_S)
    except (EOFError, TimeoutError) as error:
        outcome, value = "raised", f"the sandbox ended without a report: {error!r}"
    if outcome == "raised":
        return [_failure(item, value)]
    return [_restored(item, report) for report in value]


class _Sharers:
    """The tests that run in one sandbox; after one that failed the others run in a fresh one."""

    def __init__(self, items: list[pytest.Item]) -> None:
        self._items = items
        self._sandboxed: Sandboxed | None = None

    def reports_of(self, item: pytest.Item) -> list[pytest.TestReport]:
        if self._sandboxed is None:
            self._sandboxed = Sandboxed(self._run_what_is_asked_for)
        place = self._items.index(item)
        self._sandboxed.line.send(place)
        reports = _received(item, self._sandboxed)
        if place + 1 == len(self._items) or any(report.failed for report in reports):
            self._sandboxed.close()
            self._sandboxed = None
        return reports

    def _run_what_is_asked_for(self, line: Connection) -> None:
        following = dict(itertools.pairwise(self._items))
        while True:
            item = self._items[line.recv()]
            line.send(("reports", _run(item, following.get(item))))
