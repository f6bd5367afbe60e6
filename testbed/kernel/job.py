"""A job: the function that runs in a sandbox or in a guest, with what it is given.

Owns the description that crosses the border, the call on the far side, and how an error comes back. Must not
know which kernel runs it.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.errors import MachineLacks, ProcessDied, TestbedError, UserError
from testbed.kernel.line import Line
from testbed.net.sandbox import SandboxForbidden
from testbed.spec.clock import INSTRUCTIONS, WALL, Clock

CRASHED = 1
INTERRUPTED = 130

Entry = Callable[[dict[str, Any], Line], int]


@dataclass(frozen=True)
class Job:
    """What to run in a kernel.

    Attributes:
        entry: `module:function`; called as `function(arguments, line)`, returns the exit status.
        arguments: JSON, handed over as it is.
        writable: the one directory of the machine that the job can write; None for none.
        modes: proxy modes whose modules a guest loads before the job starts.
        memory_mb: memory of a guest, and the limit of private storage in a sandbox.
        clock: what time is in there; only an emulated guest can count instructions.
    """

    entry: str
    arguments: dict[str, Any] = field(default_factory=dict)
    writable: Path | None = None
    modes: frozenset[str] = frozenset()
    memory_mb: int = 2048
    clock: Clock = WALL


def check_clock(job: Job, kernel: str) -> None:
    """Raise MachineLacks unless the job is content with the machine's own clock, all that `kernel` has."""
    if job.clock == INSTRUCTIONS:
        raise MachineLacks(
            f"the {kernel} kernel cannot count instructions: only an emulated machine can",
            "--kernel qemu, or --clock wall",
        )


def enter_place(environment: Mapping[str, str], directory: str) -> None:
    """Give this process the job's environment, and put it where the launcher is if that can be entered."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir("/")
    with suppress(OSError):
        os.chdir(directory)


def run_entry(
    entry: str, arguments: dict[str, Any], line: Line, report: Callable[[Mapping[str, Any]], None]
) -> int:
    """Call the entry and return its exit status; an error goes to `report` in a form that can cross over."""
    try:
        line.send({"hello": entry})
        status = _find(entry)(arguments, line)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException as error:  # noqa: BLE001 - nobody else is left to tell of it
        report({"error": pack_error(error)})
        return error.exit_status if isinstance(error, TestbedError) else CRASHED
    return status


def pack_error(error: BaseException) -> dict[str, Any]:
    """Describe an error so that `unpack_error` can raise it in another process."""
    packed: dict[str, Any] = {"text": str(error), "kind": "crash"}
    match error:
        case SandboxForbidden(what=what, remedy=remedy):
            packed |= {"kind": "forbidden", "what": what, "remedy": remedy}
        case MachineLacks(what=what, remedy=remedy):
            packed |= {"kind": "lacks", "what": what, "remedy": remedy}
        case UserError():
            packed["kind"] = "user"
        case TestbedError():
            packed["kind"] = "testbed"
        case _:
            packed["evidence"] = "".join(traceback.format_exception(error))
    return packed


def unpack_error(packed: Mapping[str, Any]) -> TestbedError:
    """Return the error that `pack_error` described; one that was no `TestbedError` is a dead process."""
    match packed["kind"]:
        case "forbidden":
            return SandboxForbidden(packed["what"], packed["remedy"])
        case "lacks":
            return MachineLacks(packed["what"], packed["remedy"])
        case "user":
            return UserError(packed["text"])
        case "testbed":
            return TestbedError(packed["text"])
        case _:
            return ProcessDied("the job", CRASHED, packed["evidence"])


def _find(entry: str) -> Entry:
    module, _, name = entry.partition(":")
    found: Entry = getattr(importlib.import_module(module), name)
    return found
