"""Boot a user-mode Linux: from a plan to the running program `linux.uml`.

Runs in the process that will watch over the guest, pid 1 of a sandbox if there is one. Owns the kernel's
command line, the files that the guest's pid 1 starts from and the wiring of its consoles. Must not know what
happens inside; that is `testbed.kernel.guest`.

    /dev/tty0  the kernel's own messages ─► console_fd     /dev/tty3  the job's standard output
    /dev/tty1  the job's line                              /dev/tty4  the job's standard error
    /dev/tty2  the control line
"""

from __future__ import annotations

import os
import resource
import shlex
from pathlib import Path

from testbed.errors import MachineLacks
from testbed.kernel.init import run_until_done
from testbed.kernel.line import Line
from testbed.kernel.plan import GuestPlan, Plan
from testbed.net.lifeline import Lifeline


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
    wires = {1: plan.line_fd, 2: control.fileno(), 3: output[1], 4: error[1]}
    argv = command_line(guest, init, storage, wires)

    def execute() -> int:
        os.environ.update(TMPDIR=str(storage), HOME=str(storage))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for target in (1, 2):
            os.dup2(guest.console_fd, target)
        for fd in wires.values():
            os.set_inheritable(fd, True)
        # A panic ends in abort(), and a core file would be as large as the guest's memory.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.execv(guest.program, argv)  # noqa: S606 - it is our own command line

    return run_until_done(execute, lifeline, relays={output[0]: 1, error[0]: 2})


def command_line(guest: GuestPlan, init: Path, storage: Path, wires: dict[int, int]) -> list[str]:
    """Return what linux.uml is started with; `wires` maps the guest's terminals to descriptors."""
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
        f"con1=fd:{wires[1]},fd:{wires[1]}",
        f"con2=fd:{wires[2]},fd:{wires[2]}",
        f"con3=null,fd:{wires[3]}",
        f"con4=null,fd:{wires[4]}",
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


def _relay() -> tuple[int, int]:
    """Make a pipe for the guest's output: given a terminal itself, it would set that to raw mode."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    return reader, writer
