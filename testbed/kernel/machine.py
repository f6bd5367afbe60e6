"""An emulated machine: QEMU's command line, and how its first start is judged.

Owns which machine it is: the CPU, the clock, the devices that lead to this machine's files and to the
launcher. Must not know what runs inside.

Under the clock `instructions` QEMU counts: one nanosecond of the guest's time is one instruction while its
CPU is busy. For equal counts everywhere there is one CPU of a fixed model, without ERMS, by which the kernel
would copy with `rep movsb`, an instruction a byte; nothing is placed at random; and the CPU polls when it is
idle, since a halted one's clock follows the host's.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from testbed.kernel import initramfs
from testbed.kernel.boot import Wires
from testbed.kernel.init import shell_status
from testbed.kernel.line import Line
from testbed.kernel.plan import GuestPlan, Machine, Plan
from testbed.kernel.shares import ROOT_TAG, WRITABLE_TAG
from testbed.kernel.vmlinux import extract
from testbed.net import syscalls
from testbed.net.tools import tool_environment
from testbed.spec.clock import INSTRUCTIONS

MACHINE = "pc"
CPU_MODEL = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt"
KVM, EMULATION = "kvm", "tcg"
# Real hardware comes to the first script within a second; a /dev/kvm that only exists never does.
KVM_TIMEOUT_S = 8.0
_POLL_S = 0.05
# A crash ends the machine; the kernel's tests of its own ciphers take longer than the rest of its start.
_ALWAYS = "quiet console=ttyS0 panic=-1 reboot=t cryptomgr.notests"
# The frequency of the time stamp counter is known: measured, it would differ a little. Measuring the local
# timer takes 4 s of emulation; the HPET ticks as well.
COUNTED = "nokaslr norandmaps idle=poll tsc_early_khz=1000000 nolapic_timer"
_EPOCH = "2024-01-01T00:00:00"


def prepare(
    plan: Plan, guest: GuestPlan, machine: Machine, init: Path, storage: Path, wires: Wires, control: Line
) -> Callable[[], int]:
    """Write what the machine boots from, and return what a child does to become it."""
    archive, kernel = storage / "initramfs", Path(machine.image)
    if (unpacked := extract(kernel.read_bytes())) is not None:
        kernel = storage / "vmlinux"
        kernel.write_bytes(unpacked)
    modules = [Path(path) for path in machine.first_modules]
    archive.write_bytes(initramfs.build(Path(machine.busybox), modules, init))

    def argv(accelerator: str) -> list[str]:
        return command_line(guest, machine, accelerator, kernel, archive, plan.writable, wires)

    def start() -> int:
        os.environ.update(tool_environment())
        *trials, last = machine.accelerators
        for accelerator in trials:
            pid = _spawn(argv(accelerator))
            if _comes_alive(pid, guest.console_fd):
                return shell_status(os.waitpid(pid, 0)[1])
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            control.send({"note": f"{accelerator} starts no machine here: it is emulated, which is slower"})
        return os.execv(guest.program, argv(last))  # noqa: S606 - it is our own command line

    return start


def command_line(
    guest: GuestPlan,
    machine: Machine,
    accelerator: str,
    kernel: Path,
    archive: Path,
    writable: tuple[str, ...],
    wires: Wires,
) -> list[str]:
    """Return what QEMU is started with."""
    counted = machine.clock == INSTRUCTIONS
    kernel_line = f"{_ALWAYS} {COUNTED}" if counted else _ALWAYS
    return [
        guest.program,
        *("-machine", MACHINE, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-accel", accelerator, "-m", str(guest.memory_mb)),
        *("-smp", str(machine.cpus if accelerator == KVM else 1)),
        *("-cpu", "host" if accelerator == KVM else CPU_MODEL),
        *(_counting() if counted else ()),
        *("-kernel", str(kernel), "-initrd", str(archive), "-append", kernel_line),
        *("-serial", "stdio", "-device", "virtio-serial-pci"),
        *_shared("/", ROOT_TAG, ",readonly=on"),
        *(word for path in writable for word in _shared(path, WRITABLE_TAG)),
        *_port(1, "line", wires.line),
        *_port(2, "control", wires.control),
        *_port(3, "output", wires.output),
        *_port(4, "error", wires.error),
    ]


def _counting() -> tuple[str, ...]:
    # With sleep=off the clock would jump to the next timer whenever the guest waits for a file.
    return ("-icount", "shift=0,align=off,sleep=on", "-rtc", f"base={_EPOCH},clock=vm", "-seed", "1")


def _shared(path: str, tag: str, more: str = "") -> tuple[str, ...]:
    where = path.replace(",", ",,")
    return (
        *("-fsdev", f"local,id={tag},path={where},security_model=none,multidevs=remap{more}"),
        *("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
    )


def _port(number: int, name: str, fd: int) -> tuple[str, ...]:
    return (
        *("-chardev", f"socket,id={name},fd={fd}"),
        *("-device", f"virtserialport,nr={number},chardev={name},name={name}"),
    )


def _spawn(argv: list[str]) -> int:
    own_pidfd = os.pidfd_open(os.getpid())
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.die_with_parent(own_pidfd)
            os.execv(argv[0], argv)  # noqa: S606 - it is our own command line
        finally:
            os._exit(127)
    os.close(own_pidfd)
    return pid


def _comes_alive(pid: int, console_fd: int) -> bool:
    """Whether the machine gets as far as its first script."""
    deadline = time.monotonic() + KVM_TIMEOUT_S
    poll = select.poll()
    poll.register(os.pidfd_open(pid), select.POLLIN)
    while time.monotonic() < deadline:
        if initramfs.SIGN_OF_LIFE in os.pread(console_fd, 1 << 20, 0):
            return True
        if poll.poll(_POLL_S * 1000):
            return False
    return False
