"""Runs the tests of tests/kernel that are marked `guest` inside user-mode Linux, many in one boot.

A *reporter*, one process a guest, boots it while the other tests run. The guest runs a pytest of its own over
the tests of its part and sends every report as it is made; the reporter keeps them in the *journal*, where
whoever runs a test, the pytest or a worker of it, finds the reports of that one.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import pkgutil
import select
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import IO, Any

import pytest

import testbed.proxy
from testbed.errors import TestbedError
from testbed.kernel import Job, Line, UmlKernel
from testbed.kernel.session import import_path

INSIDE = "TESTBED_TESTS_INSIDE_GUEST"
_ENTRY = "guests:run_inside"
_MEMORY_MB = 1024
_MOST_GUESTS = 2
_WORTH_A_BOOT = 20
_LONGEST_SILENCE_S = 900.0  # longer than any test may take
_LOOK_AGAIN_S = 0.02


def parts(groups: Iterable[list[str]]) -> list[list[str]]:
    """Share out groups of tests, none of them torn apart, among as many guests as are worth it here."""
    wanted = sorted(groups, key=len, reverse=True)
    worthwhile = sum(map(len, wanted)) // _WORTH_A_BOOT
    shared: list[list[str]] = [[] for _ in range(max(1, min(_MOST_GUESTS, os.cpu_count() or 1, worthwhile)))]
    for group in wanted:
        min(shared, key=len).extend(group)
    return [part for part in shared if part]


class Guest:
    """A guest of this run of the suite, seen by one of its processes.

    The journal is a file in `directory`, which the processes of a run share; a line of it is a report, or
    says that a test is finished. Its lock is held as long as the reporter lives, so that nobody starts a
    second one or waits for a dead one.
    """

    def __init__(self, directory: Path, number: int) -> None:
        self._journal = directory / f"guest{number}.jsonl"
        self._journal.touch()
        self._last_words = directory / f"guest{number}.err"
        self._reports: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._finished: set[str] = set()
        self._taken = 0

    def start(self, root: Path, nodeids: Sequence[str], suite: int) -> None:
        """Have the guest run these tests, unless another process has seen to it; `suite` is whom to die with.

        The reporter is no child to fork: it must outlive a worker, and keep none of its descriptors.
        """
        with self._journal.open("ab") as journal:
            if not _lock(journal, fcntl.LOCK_EX) or journal.tell():
                return
            pidfd = os.pidfd_open(suite)
            with self._last_words.open("wb") as words:
                self._reporter = subprocess.Popen(
                    [sys.executable, __file__, str(root), str(journal.fileno()), str(pidfd)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=words,
                    pass_fds=(journal.fileno(), pidfd),
                    env=os.environ | {"PYTHONPATH": import_path()},
                )
            os.close(pidfd)
        assert self._reporter.stdin is not None
        with suppress(BrokenPipeError), self._reporter.stdin as stdin:
            stdin.write(json.dumps(nodeids).encode())

    def reports_of(self, nodeid: str) -> list[dict[str, Any]]:
        """The serialised reports of one test, once it has run. Raises TestbedError when it never will."""
        while True:
            alive = self._reporter_lives()
            self._collect()
            if nodeid in self._finished:
                return self._reports[nodeid]
            if not alive:
                words = self._last_words.read_text(errors="replace")
                raise TestbedError(f"the guest ended before it had run {nodeid}\n{words}")
            time.sleep(_LOOK_AGAIN_S)

    def _reporter_lives(self) -> bool:
        with self._journal.open("rb") as another:
            return not _lock(another, fcntl.LOCK_SH)

    def _collect(self) -> None:
        """Take in the lines that have become complete."""
        with self._journal.open("rb") as journal:
            journal.seek(self._taken)
            for line in journal:
                if not line.endswith(b"\n"):
                    break
                self._taken += len(line)
                entry = json.loads(line)
                if entry["report"] is None:
                    self._finished.add(entry["nodeid"])
                else:
                    self._reports[entry["nodeid"]].append(entry["report"])


def _lock(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _report(root: str, journal: int, suite: int) -> int:
    """The reporter: boot the guest and keep its reports, until it has run everything or the suite ends."""
    threading.Thread(target=_end_with, args=(suite,), daemon=True).start()
    job = Job(
        entry=_ENTRY,
        arguments={"root": root, "nodeids": json.load(sys.stdin)},
        modes=frozenset({"ipvs", "iptables", "userspace"}),
        memory_mb=_MEMORY_MB,
    )
    try:
        with UmlKernel().start(job) as session, open(journal, "ab", buffering=0) as out:
            while (entry := session.line.receive(_LONGEST_SILENCE_S)) is not None:
                out.write(json.dumps(entry).encode() + b"\n")
            return session.wait()
    except TestbedError as error:
        print(error, file=sys.stderr)
        return 1


def _end_with(pidfd: int) -> None:
    """End this process, and with it the guest, when the other one has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()
    os._exit(1)


def run_inside(arguments: dict[str, Any], line: Line) -> int:
    """Job entry in the guest: run the tests and send their reports."""
    os.environ[INSIDE] = "1"
    os.environ.pop("PYTEST_ADDOPTS", None)
    os.chdir(arguments["root"])
    # Modes are imported when first used: once here, where that is slow, not in the process of every test.
    for module in pkgutil.walk_packages(testbed.proxy.__path__, "testbed.proxy."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    options = ["-p", "no:cacheprovider", "-p", "no:benchmark", "-p", "no:xdist", "-o", "addopts="]
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

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._line.send({"nodeid": nodeid, "report": None})


if __name__ == "__main__":
    sys.exit(_report(sys.argv[1], *map(int, sys.argv[2:])))
