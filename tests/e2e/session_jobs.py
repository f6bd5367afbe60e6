"""Jobs that the tests run in sandboxes and guests."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from testbed.errors import MachineLacks, SpecError
from testbed.kernel.line import Line
from testbed.kernel.probe import find_features
from testbed.net.namespace import Namespace


def echo(arguments: dict[str, Any], line: Line) -> int:
    """Send every message back until one says which status to end with."""
    while (message := line.receive()) is not None:
        if "status" in message:
            return int(message["status"])
        line.send(message | {"arguments": arguments})
    return 0


def tour(arguments: dict[str, Any], line: Line) -> int:
    """Do one thing after another as asked, so that a slow boot serves many tests."""
    while (request := line.receive()) is not None:
        match request["do"]:
            case "arguments":
                line.send(arguments)
            case "echo":
                line.send(request)
            case "describe":
                line.send(_description(request["paths"]))
            case "write":
                Path(request["path"]).write_text("written inside")
                line.send({"event": "written"})
            case "count":
                line.send({"instructions": _count()})
            case "features":
                line.send(find_features("elsewhere"))
            case "wait":
                return wait_for_interrupt(arguments, line)
    return 0


def describe(arguments: dict[str, Any], line: Line) -> int:
    """Say what the place looks like."""
    line.send(_description(arguments["paths"]))
    return 0


def _description(paths: list[str]) -> dict[str, Any]:
    return {
        "release": os.uname().release,
        "directory": str(Path.cwd()),
        "uid": os.geteuid(),
        "environment": dict(os.environ),
        "interfaces": [entry.split(":")[0].strip() for entry in _lines("/proc/net/dev")[2:]],
        "run": sorted(path.name for path in Path("/run").iterdir()),
        "writable": [path for path in paths if _can_write(Path(path))],
        "readable": [path for path in paths if Path(path).exists()],
    }


def _count() -> int:
    """The clock's distance over a fixed loop, the median of a few."""
    counts = []
    for _ in range(5):
        began_ns = time.perf_counter_ns()
        for number in range(20_000):
            hash(number)
        counts.append(time.perf_counter_ns() - began_ns)
    return sorted(counts)[2]


def write(arguments: dict[str, Any], line: Line) -> int:
    """Write a file into the writable directory, and speak on both standard streams."""
    del line
    Path(arguments["path"]).write_text("written inside")
    print("to standard output", flush=True)
    print("to standard error", file=sys.stderr, flush=True)
    return 0


def raise_lack(arguments: dict[str, Any], line: Line) -> int:
    """End with an error that has parts."""
    raise MachineLacks("no such thing", "get one")


def raise_user_error(arguments: dict[str, Any], line: Line) -> int:
    """End with an error of the user's."""
    raise SpecError([])


def crash(arguments: dict[str, Any], line: Line) -> int:
    """End with a mistake in the program."""
    raise ZeroDivisionError("a mistake in the program")


def be_killed(arguments: dict[str, Any], line: Line) -> int:
    """End by a signal."""
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def wait_for_interrupt(arguments: dict[str, Any], line: Line) -> int:
    """Say that the interrupt came, and end as it is usual then."""
    try:
        line.send({"event": "waiting"})
        line.receive()
    except KeyboardInterrupt:
        line.send({"event": "interrupted"})
        raise
    return 0


def make_a_mess(arguments: dict[str, Any], line: Line) -> int:
    """Make what must not survive: named namespaces, mounts, files, daemons that ignore being asked to end."""
    name = arguments["name"]
    for number in range(3):
        Namespace.create(f"{name}-{number}")
        _start_daemon()
    Path(os.environ["TMPDIR"], name).write_text("temporary")
    line.send({"event": "messy"})
    line.receive()
    return 0


def _start_daemon() -> None:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            while True:
                time.sleep(60)
        os._exit(0)


def _can_write(directory: Path) -> bool:
    probe = directory / "testbed-probe"
    try:
        probe.write_text("")
    except OSError:
        return False
    probe.unlink()
    return True


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
