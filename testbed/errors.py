"""Every error that testbed raises on purpose.

    TestbedError                 the work failed                         exit status 3
    ├── CommandFailed            a program exited non-zero
    ├── NetlinkRefused           the kernel answered a message with an errno
    │   └── TransactionRefused   nf_tables did nothing of a transaction, because of one command
    ├── SysctlRefused            a sysctl kept another value than the one written
    ├── ProcessDied              a proxy, backend, control plane or guest ended early
    ├── WaitTimeout              a condition did not come true in time
    ├── ApiError                 the Kubernetes API refused a request
    └── UserError                the user can put it right                exit status 2
        ├── SpecError            mistakes in a topology or manifest, all of them at once
        ├── MachineLacks         a tool, module, mode or limit that this machine does not have
        └── BadResults           a results directory that cannot be read or written

Each message ends with what to do about it. Callers ask by type, never by text.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class TestbedError(Exception):
    """Base of all errors raised on purpose; `exit_status` is what the command line ends with."""

    __test__ = False
    exit_status = 3


class UserError(TestbedError):
    """Something that the user can put right."""

    exit_status = 2


@dataclass(frozen=True)
class Problem:
    """One mistake in an input file.

    Renders as `topologies/lab.yaml:14 services[2].scheduler: 'lcc' is not a scheduler (did you mean 'lc'?)`.
    `line` counts from 1; `remedy` is a phrase that fits into the brackets.
    """

    message: str
    file: str = ""
    line: int | None = None
    path: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        where = self.file + (f":{self.line}" if self.line is not None else "")
        place = " ".join(part for part in (where, self.path) if part)
        text = f"{place}: {self.message}" if place else self.message
        return f"{text} ({self.remedy})" if self.remedy else text


class SpecError(UserError):
    """Every mistake found in one input file, one line each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class MachineLacks(UserError):
    """This machine lacks `what`; `remedy` is the command or change that brings it."""

    def __init__(self, what: str, remedy: str) -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(f"{what}: {remedy}")


class BadResults(UserError):
    """A results directory that cannot be written, or that holds no readable run."""


class CommandFailed(TestbedError):
    """A program exited non-zero; keeps the evidence.

    `namespace` is the name of the network namespace it ran in, or None for the caller's own.
    """

    def __init__(
        self, argv: Sequence[str], exit_status: int, stderr: str, namespace: str | None = None
    ) -> None:
        self.argv = tuple(argv)
        self.status = exit_status
        self.stderr = stderr
        self.namespace = namespace
        where = f" in {namespace}" if namespace else ""
        super().__init__(f"`{shlex.join(argv)}`{where} exited with {exit_status}: {stderr.strip()[-2000:]}")


class NetlinkRefused(TestbedError):
    """The kernel refused a netlink message; `errno` is positive, `index` its place in the batch from 0."""

    def __init__(self, errno: int, what: str, index: int = 0) -> None:
        self.errno = errno
        self.index = index
        super().__init__(f"{what}: {os.strerror(errno)}")


class TransactionRefused(NetlinkRefused):
    """nf_tables refused a whole transaction; `what` is the command that it did not like."""


class SysctlRefused(TestbedError):
    """A sysctl did not take the value written to it."""

    def __init__(self, key: str, wanted: str, found: str) -> None:
        self.key = key
        super().__init__(f"sysctl {key} should be {wanted!r} and is {found!r}")


class ProcessDied(TestbedError):
    """A process that the lab depends on ended; `evidence` is the end of its log."""

    def __init__(self, name: str, status: int | None, evidence: str = "") -> None:
        self.name = name
        self.status = status
        self.evidence = evidence
        ended = "ended" if status is None else describe_status(status)
        super().__init__(f"{name} {ended}" + (f":\n{evidence.strip()}" if evidence.strip() else ""))


class WaitTimeout(TestbedError):
    """`what` did not come true within `after_s` seconds."""

    def __init__(self, what: str, after_s: float) -> None:
        self.what = what
        self.after_s = after_s
        super().__init__(f"waited {after_s:g} s for {what}")


class ApiError(TestbedError):
    """A Kubernetes API answered with a Status that says no.

    `code` is the HTTP status, `reason` the machine-readable word (`NotFound`, `Conflict`, `Invalid`, ...),
    `details` the Status's details: name, group, kind and causes, as far as they are known.
    """

    def __init__(
        self, code: int, reason: str, message: str, details: Mapping[str, object] | None = None
    ) -> None:
        self.code = code
        self.reason = reason
        self.message = message
        self.details = dict(details or {})
        super().__init__(message)


def describe_status(status: int) -> str:
    """Say how a process ended, from its `subprocess`-style status (negative: signal number)."""
    return f"was killed by signal {-status}" if status < 0 else f"exited with {status}"
