"""Boot a guest: from a plan to the running program, `linux.uml` or QEMU.

Runs in the process that will watch over the guest, pid 1 of a sandbox if there is one. Owns the files that
the guest's pid 1 starts from, the descriptors that lead out of it, and the command line of user-mode Linux;
that of QEMU is the business of `testbed.kernel.machine`. Must not know what happens inside; that is
`testbed.kernel.guest`.
"""

from __future__ import annotations

import os
import resource
import shlex
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import MachineLacks
from testbed.kernel.init import run_until_done
from testbed.kernel.line import Line
from testbed.kernel.plan import GuestPlan, Plan
from testbed.net.lifeline import Lifeline


@dataclass(frozen=True)
class Wires:
    """Descriptors that lead out of a guest; see `testbed.kernel.ports` for its own ends of them."""

    line: int
    control: int
    output: int
    error: int


def boot(plan: Plan, guest: GuestPlan, lifeline: Lifeline, control: Line, storage: Path) -> int:
    """Boot the guest and return the exit status of its kernel; the job's comes over the control line.

    `storage` is a private directory for the guest's memory and the files it starts from.

    Raises:
        MachineLacks: the guest's user could not execute what it boots.
    """
    storage.mkdir(exist_ok=True)
    for path in (guest.program, plan.interpreter):
        if not os.access(path, os.X_OK):
            raise MachineLacks(
                f"{path} cannot be executed by uid {os.geteuid()} of the sandbox",
                "choose an interpreter that everybody may execute, such as /usr/bin/python3",
            )
    init = write_init(plan, storage)
    output, error = _relay(), _relay()
    wires = Wires(plan.line_fd, control.fileno(), output[1], error[1])
    start = _starter(plan, guest, init, storage, wires, control)

    def execute() -> int:
        os.environ.update(TMPDIR=str(storage), HOME=str(storage))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for target in (1, 2):
            os.dup2(guest.console_fd, target)
        for fd in (wires.line, wires.control, wires.output, wires.error):
            os.set_inheritable(fd, True)
        # A panic ends in abort(), and a core file would be as large as the guest's memory.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        return start()

    return run_until_done(execute, lifeline, relays={output[0]: 1, error[0]: 2})


def command_line(guest: GuestPlan, init: Path, storage: Path, wires: Wires) -> list[str]:
    """Return what linux.uml is started with."""
    return [
        guest.program,
        f"mem={guest.memory_mb}M",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        f"init={init}",
        f"uml_dir={storage}",
        "quiet",
        "con=null",
        "con0=null,fd:1",
        f"con1=fd:{wires.line},fd:{wires.line}",
        f"con2=fd:{wires.control},fd:{wires.control}",
        f"con3=null,fd:{wires.output}",
        f"con4=null,fd:{wires.error}",
    ]


def write_init(plan: Plan, storage: Path) -> Path:
    """Write the guest's first program: a shell script, since a kernel command line cannot quote."""
    plan_path = storage / "plan.json"
    plan_path.write_text(plan.to_json())
    script = storage / "init"
    exports = [
        f"export {name}={shlex.quote(value)}"
        for name, value in plan.environment.items()
        if name.isidentifier()
    ]
    start = shlex.join([plan.interpreter, "-P", "-m", "testbed.kernel.guest", str(plan_path)])
    script.write_text("\n".join(["#!/bin/sh", *exports, f"exec {start}", ""]))
    script.chmod(0o700)
    return script


def _starter(
    plan: Plan, guest: GuestPlan, init: Path, storage: Path, wires: Wires, control: Line
) -> Callable[[], int]:
    """Return what the child has to do to become the guest."""
    if guest.machine is not None:
        from testbed.kernel.machine import prepare

        return prepare(plan, guest, guest.machine, init, storage, wires, control)
    argv = command_line(guest, init, storage, wires)
    return lambda: os.execv(guest.program, argv)  # noqa: S606 - it is our own command line


def _relay() -> tuple[int, int]:
    """Make a pair for the guest's output: given a terminal itself, it would set that to raw mode."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    return reader.detach(), writer.detach()
