"""A stock Linux kernel in a machine that QEMU emulates, or runs by KVM, inside the sandbox."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path

from testbed.errors import MachineLacks, ProcessDied
from testbed.kernel.calibration import JOB
from testbed.kernel.features import MODES, PROBE, Features, No, hear_features
from testbed.kernel.identity import machine_identity
from testbed.kernel.image import NEEDED_MODULES, KernelImage, find_image
from testbed.kernel.job import Job
from testbed.kernel.machine import EMULATION, KVM
from testbed.kernel.plan import GuestPlan, Machine
from testbed.kernel.prepare import check_memory, plan_job
from testbed.kernel.session import Session, SessionFds
from testbed.kernel.unprotected import start_unprotected
from testbed.net.sandbox import SandboxForbidden
from testbed.net.tools import find_tool
from testbed.spec.clock import INSTRUCTIONS, Clock

_PROGRAM = "qemu-system-x86_64"
_BUSYBOX = "busybox"
_MODULES = {
    "userspace": ("iptable_nat",),
    "iptables": ("iptable_nat",),
    "ipvs": ("ip_vs", "ip_vs_rr", "dummy", "ip_set"),
    "nftables": ("nf_tables", "nft_nat", "nft_masq"),
}
_TOOLS = {
    "userspace": ("iptables-legacy-restore",),
    "iptables": ("iptables-legacy-restore",),
    "ipvs": ("iptables-legacy-restore", "ipset"),
    "nftables": ("nft",),
}
_ELSEWHERE = "take the distribution's general kernel: apt-get install linux-image-amd64"
_PROBE_MEMORY_MB = 1024
# For the kernel, unpacked, and the guest's first files.
_STORAGE_MB = 256


class QemuKernel:
    """A kernel image of a distribution; the only place whose clock can count instructions."""

    name = "qemu"

    def __init__(self, image: Path | None = None, *, boot_timeout_s: float = 600.0) -> None:
        """Boot `image`, or what `testbed.kernel.image.find_image` finds.

        An emulated boot takes about 10 s on an idle machine, and several times that beside other work.
        """
        self._named = image
        self._boot_timeout_s = boot_timeout_s

    def start(self, job: Job) -> Session:
        """Boot a machine and start a job in it; returns when it has begun.

        Where this user may not build a sandbox, the machine runs without one and the session's notes say so.

        Raises:
            UserError: the image is no kernel image.
            MachineLacks: QEMU, the image, its modules or memory are missing; with the remedy.
            BadResults: the job's writable directory cannot be written.
            ProcessDied: the guest's kernel ended before the job began; the evidence is its console.
            WaitTimeout: the guest does not get as far as the job.
        """
        check_memory(job.memory_mb)
        try:
            return self._boot(job)
        except SandboxForbidden as forbidden:
            return start_unprotected(
                lambda storage, note: self._boot(job, storage, (note,)), _STORAGE_MB, forbidden
            )

    def features(self) -> Features:
        """Boot a guest and try out what it can do; asked once."""
        return self._features

    def lacking(self, modes: Iterable[str]) -> dict[str, No]:
        """Those of `modes` that cannot run here, as far as can be told without booting."""
        refusals: dict[str, No] = {}
        for mode in modes:
            if mode != "direct":
                try:
                    self._check_mode(mode)
                except MachineLacks as lacking:
                    refusals[mode] = No(lacking.what, lacking.remedy)
        return refusals

    def calibrate(self) -> tuple[Mapping[str, float], Features]:
        """Boot by the clock that counts instructions: what fixed loops cost, and what the kernel can do.

        Raises as `start`.
        """
        job = Job(
            entry=JOB, arguments={"elsewhere": _ELSEWHERE}, modes=frozenset(_MODULES),
            memory_mb=_PROBE_MEMORY_MB, clock=INSTRUCTIONS,
        )  # fmt: skip
        with self.start(job) as session:
            message = session.line.receive()
            if message is None:
                raise ProcessDied("the calibration", session.wait())
            return message["vector"], hear_features(self.name, session)

    def identity(self, clock: Clock) -> Mapping[str, str]:
        """What counts of instructions depend on, as named facts; raises as `start`."""
        return machine_identity(_PROGRAM, self.image, clock)

    @cached_property
    def image(self) -> KernelImage:
        """The kernel that is booted; raises as `find_image`."""
        return find_image(self._named)

    @cached_property
    def _features(self) -> Features:
        job = Job(
            entry=PROBE,
            arguments={"elsewhere": _ELSEWHERE},
            modes=frozenset(_MODULES),
            memory_mb=_PROBE_MEMORY_MB,
        )
        with self.start(job) as session:
            return hear_features(self.name, session)

    def _check_mode(self, mode: str) -> None:
        if mode not in MODES:
            raise MachineLacks(f"{mode!r} is not a mode", f"choose among {', '.join(MODES)}")
        for tool in (_PROGRAM, "modprobe", *_TOOLS[mode]):
            find_tool(tool)
        _find_busybox()
        for module in _MODULES[mode]:
            if module not in self.image.index:
                raise MachineLacks(f"{self.image.path} has no module {module}", _ELSEWHERE)

    def _boot(self, job: Job, storage: Path | None = None, notes: tuple[str, ...] = ()) -> Session:
        guest = self._plan(job, storage)
        return Session(
            lambda fds: plan_job(job, fds, guest(fds)), hello_timeout_s=self._boot_timeout_s, notes=notes
        )

    def _plan(self, job: Job, storage: Path | None) -> Callable[[SessionFds], GuestPlan]:
        machine = Machine(
            image=str(self.image.path),
            first_modules=tuple(map(str, self.image.index.in_order(NEEDED_MODULES))),
            busybox=_find_busybox(),
            clock=job.clock,
            cpus=len(os.sched_getaffinity(0)),
            accelerators=_accelerators(job),
        )
        program, modes = find_tool(_PROGRAM), tuple(sorted(job.modes))
        return lambda fds: GuestPlan(
            program=program,
            modules=str(self.image.modules),
            modes=modes,
            memory_mb=job.memory_mb,
            console_fd=fds.console,
            storage=str(storage) if storage else None,
            machine=machine,
        )


def _find_busybox() -> str:
    """Return a busybox that starts without libraries, which the guest's first files do not have.

    Raises:
        MachineLacks: there is none.
    """
    path = find_tool(_BUSYBOX)
    if b"/ld-linux" in Path(path).read_bytes():
        raise MachineLacks(f"{path} is not linked statically", "apt-get install busybox-static")
    return path


def _accelerators(job: Job) -> tuple[str, ...]:
    """What to try; only an emulated CPU can be counted."""
    if job.clock == INSTRUCTIONS or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return (EMULATION,)
    return (KVM, EMULATION)
