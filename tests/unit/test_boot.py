"""What a guest is started with."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.errors import MachineLacks
from testbed.kernel.boot import Wires, boot, command_line, write_init
from testbed.kernel.console import Console
from testbed.kernel.line import Line
from testbed.kernel.plan import GuestPlan, Machine, Plan
from testbed.net.lifeline import Lifeline

GUEST = GuestPlan(
    program="/usr/bin/linux.uml", modules="/m/6.1", modes=("ipvs",), memory_mb=512, console_fd=9, storage=None
)
PLAN = Plan(
    launcher_pid=1,
    lifeline_fd=3,
    control_fd=4,
    line_fd=5,
    interpreter=sys.executable,
    entry="a:b",
    arguments={"text": 'it\'s "quoted" $HOME'},
    environment={"PLAIN": "1", "AWKWARD": 'it\'s $HOME `x`\nand "more"', "not a name": "x"},
    directory="/",
    writable=("/results",),
    kept=("/usr",),
    private_storage_mb=768,
    guest=GUEST,
)


@pytest.fixture
def control() -> Iterator[Line]:
    one, other = socket.socketpair()
    line = Line(one.detach())
    yield line
    line.close()
    other.close()


def test_the_command_line_names_nothing_that_it_could_not_quote(tmp_path: Path) -> None:
    argv = command_line(GUEST, Path("/run/testbed/init"), Path("/run/testbed"), Wires(5, 4, 11, 13))
    assert " ".join(argv) == (
        "/usr/bin/linux.uml mem=512M root=/dev/root rootfstype=hostfs rootflags=/ ro init=/run/testbed/init "
        "uml_dir=/run/testbed quiet con=null con0=null,fd:1 con1=fd:5,fd:5 con2=fd:4,fd:4 con3=null,fd:11 "
        "con4=null,fd:13"
    )


def test_the_first_program_of_a_guest_passes_any_environment_on(tmp_path: Path) -> None:
    interpreter = tmp_path / "a python's place" / "python"
    interpreter.parent.mkdir()
    interpreter.write_text('#!/bin/sh\nprintf "%s|" "$PLAIN" "$AWKWARD" "$@"\n')
    interpreter.chmod(0o755)
    init = write_init(replace(PLAN, interpreter=str(interpreter)), tmp_path)
    said = subprocess.check_output([init, "console=tty0"], text=True, env={})
    assert said == f"1|{PLAN.environment['AWKWARD']}|-P|-m|testbed.kernel.guest|{tmp_path}/plan.json|"


def test_an_interpreter_that_may_not_be_executed_is_found_before_booting(
    tmp_path: Path, control: Line
) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text("")
    with pytest.raises(MachineLacks, match=rf"{interpreter} cannot be executed by uid {os.geteuid()}"):
        boot(
            replace(PLAN, interpreter=str(interpreter)),
            replace(GUEST, program=sys.executable),
            Lifeline(()),
            control,
            tmp_path / "storage",
        )


MACHINE = Machine("/boot/vmlinuz", ("/m/9p.ko",), "/bin/busybox", "instructions", 2, ("kvm", "tcg"))


@pytest.mark.parametrize("guest", [GUEST, replace(GUEST, machine=MACHINE), None])
def test_a_plan_crosses_an_exec_unchanged(guest: GuestPlan | None) -> None:
    plan = replace(PLAN, guest=guest, arguments={"much": "x" * 1_000_000})
    assert Plan.from_fd(plan.to_fd()) == plan


def test_a_panic_is_told_without_the_kernels_dump_of_itself() -> None:
    console = Console()
    os.write(
        console.fd,
        b"SELinux: CONFIG_SECURITY_SELINUX_CHECKREQPROT_VALUE is non-zero.\n"
        b"mmapper_init - find_iomem failed\n"
        b"Kernel panic - not syncing: Requested init /nonexist failed (error -2).\n"
        b"CPU: 0 PID: 1 Comm: swapper Not tainted 6.1.176 #1 \nStack:\n"
        b" 606944ba 607e7fcd 7b453e40 6067bb96\nCall Trace:\n [<606944ba>] ? _printk+0x0/0x94\n",
    )
    assert console.evidence() == "Kernel panic - not syncing: Requested init /nonexist failed (error -2)."
    console.close()
