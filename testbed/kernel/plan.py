"""The plan of a session: what its launcher tells the processes it starts, once.

Owns the form in which this crosses an exec: JSON in an anonymous file, so that its size has no limit and
nothing of it is left behind. Must not know how a session is started or run.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any, Self

from testbed.spec.clock import Clock


@dataclass(frozen=True)
class Machine:
    """An emulated machine: what makes it different from user-mode Linux.

    Attributes:
        image: the kernel image that it boots.
        first_modules: files of the modules that lead to its root file system and lines, in loading order.
        busybox: the program of its first script.
        clock: what its time counts.
        cpus: how many it has where a CPU is the machine's own; an emulated one is alone.
        accelerators: what to run it by, the first that works here: kvm, tcg.
    """

    image: str
    first_modules: tuple[str, ...]
    busybox: str
    clock: Clock
    cpus: int
    accelerators: tuple[str, ...]


@dataclass(frozen=True)
class GuestPlan:
    """A guest to boot: its program, the directory of its modules, and what it gets.

    `storage` is an existing private directory for a guest without a sandbox around it, else None. `machine`
    is None for user-mode Linux, whose program is the kernel itself.
    """

    program: str
    modules: str
    modes: tuple[str, ...]
    memory_mb: int
    console_fd: int
    storage: str | None = None
    machine: Machine | None = None


@dataclass(frozen=True)
class Plan:
    """Everything that the processes of a session need to know.

    Attributes:
        launcher_pid: who started the session.
        lifeline_fd: a pipe that the launcher holds open.
        control_fd: the session's private line: errors, notes, the exit status; signals the other way.
        line_fd: the job's line.
        interpreter: Python for the job.
        entry, arguments: see `Job`.
        environment: of the job.
        directory: where the job starts, if it can.
        writable, kept: see `FileTree`.
        private_storage_mb: limit of temporary files, a guest's memory included.
        guest: None to run the job on the machine's own kernel.
    """

    launcher_pid: int
    lifeline_fd: int
    control_fd: int
    line_fd: int
    interpreter: str
    entry: str
    arguments: dict[str, Any]
    environment: dict[str, str]
    directory: str
    writable: tuple[str, ...]
    kept: tuple[str, ...]
    private_storage_mb: int
    guest: GuestPlan | None = None

    def to_json(self) -> str:
        """Render for `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` rendered."""
        fields = json.loads(text)
        for name in ("writable", "kept"):
            fields[name] = tuple(fields[name])
        if guest := fields.pop("guest"):
            return cls(**fields, guest=_guest(guest))
        return cls(**fields)

    def to_fd(self) -> int:
        """Put the plan into an anonymous file and return its descriptor, at the start."""
        fd = os.memfd_create("testbed-plan")
        with open(fd, "w", encoding="utf-8", closefd=False) as file:
            file.write(self.to_json())
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Read the plan that `to_fd` put into `fd`, and close it."""
        with open(fd, encoding="utf-8") as file:
            return cls.from_json(file.read())


def _guest(fields: dict[str, Any]) -> GuestPlan:
    fields["modes"] = tuple(fields["modes"])
    if machine := fields.pop("machine"):
        for name in ("first_modules", "accelerators"):
            machine[name] = tuple(machine[name])
        return GuestPlan(**fields, machine=Machine(**machine))
    return GuestPlan(**fields)
