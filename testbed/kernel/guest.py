"""Pid 1 of a guest: `python -m testbed.kernel.guest PLAN`, started by the guest's kernel.

Owns what turns a freshly booted kernel into the place a job expects: the same private file tree that a
sandbox has, the modules, the lines to the launcher, power-off at the end. Must not know how it was booted
beyond the lines named in `testbed.kernel.ports`.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from testbed.errors import TestbedError
from testbed.kernel.init import run_until_done
from testbed.kernel.job import CRASHED, enter_place, pack_error, run_entry
from testbed.kernel.line import Line
from testbed.kernel.plan import GuestPlan, Plan
from testbed.kernel.ports import Ports, SerialPorts, VirtioPorts
from testbed.kernel.shares import HostfsShares, NinepShares, Shares
from testbed.net import sandbox, syscalls
from testbed.net.lifeline import Lifeline
from testbed.net.process import run
from testbed.net.tools import find_tool, tool_environment

_MODULES_ROOT = sandbox.RUN / "modules"
# Loaded before the job; the rest comes by the kernel's own requests for modules.
_ALWAYS = ("veth", "bridge")
_TABLES = ("iptable_nat", "iptable_filter", "ip6table_nat", "ip6table_filter", "nf_conntrack_netlink")
_PER_MODE = {
    "userspace": _TABLES,
    "iptables": _TABLES,
    "ipvs": (*_TABLES, "ip_vs", "ip_vs_rr", "dummy"),
}


def main(argv: Sequence[str]) -> int:
    """Be pid 1: prepare, run the job, tell its exit status, power off."""
    plan = Plan.from_json(Path(argv[0]).read_text())
    assert plan.guest is not None
    emulated = plan.guest.machine is not None
    ports: Ports = VirtioPorts() if emulated else SerialPorts()
    shares: Shares = NinepShares() if emulated else HostfsShares()
    _make_device_directories()
    shares.hold(_covered(plan))
    sandbox.mount_private(plan.private_storage_mb)
    control = Line(ports.open("control"), name="the launcher")
    try:
        status = _serve(plan, plan.guest, control, ports, shares)
    except Exception as error:  # noqa: BLE001 - nobody else is left to tell of it
        control.send({"error": pack_error(error)})
        status = error.exit_status if isinstance(error, TestbedError) else CRASHED
    control.send({"exit": status})
    ports.drain(control.fileno())
    # An emulated machine ends when it restarts, which asks nothing of its firmware.
    syscalls.reboot(syscalls.REBOOT_RESTART if emulated else syscalls.REBOOT_POWER_OFF)
    return status


def _serve(plan: Plan, guest: GuestPlan, control: Line, ports: Ports, shares: Shares) -> int:
    for number, name in ((1, "output"), (2, "error")):
        os.dup2(ports.open(name), number)
    for path in plan.writable:
        shares.mount_writable(path)
    for path in _covered(plan):
        shares.show(path)
    sandbox.raise_limits()
    sandbox.set_loopback_up()
    enter_place(plan.environment, plan.directory)
    _load_modules(guest)
    return run_until_done(lambda: _run_job(plan, control, ports), Lifeline(()), control)


def _run_job(plan: Plan, control: Line, ports: Ports) -> int:
    line = Line(ports.open("line"), name="the launcher", pacing=ports.pacing)
    status = run_entry(plan.entry, plan.arguments, line, control.send)
    ports.drain(line.fileno())
    return status


def _make_device_directories() -> None:
    for name in ("shm", "pts"):
        (Path("/dev") / name).mkdir(exist_ok=True)
    syscalls.mount("devpts", "/dev/pts", "devpts", data="mode=620,ptmxmode=666")


def _covered(plan: Plan) -> list[str]:
    return [path for path in plan.kept if sandbox.is_covered(Path(path))]


def _load_modules(guest: GuestPlan) -> None:
    """Make modules loadable, by the kernel itself too, and load those of the job's modes.

    Raises:
        CommandFailed: one of them does not load.
    """
    home = _MODULES_ROOT / "lib/modules"
    home.mkdir(parents=True)
    (home / platform.release()).symlink_to(guest.modules)
    modprobe = [find_tool("modprobe"), "-d", str(_MODULES_ROOT)]
    wrapper = _MODULES_ROOT / "modprobe"
    # The kernel runs it with next to no environment.
    exports = [f"export {name}={shlex.quote(value)}" for name, value in tool_environment().items()]
    wrapper.write_text("\n".join(["#!/bin/sh", *exports, f'exec {shlex.join(modprobe)} "$@"', ""]))
    wrapper.chmod(0o755)
    Path("/proc/sys/kernel/modprobe").write_text(str(wrapper))
    wanted = dict.fromkeys((*_ALWAYS, *(name for mode in guest.modes for name in _PER_MODE.get(mode, ()))))
    run([*modprobe, "-a", *wanted])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
