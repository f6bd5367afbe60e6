"""User-mode Linux: a Linux kernel that is an ordinary program, booted inside the sandbox."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from testbed.errors import CommandFailed, MachineLacks
from testbed.kernel.features import MODES, PROBE, Features, No, hear_features
from testbed.kernel.job import Job, check_clock
from testbed.kernel.plan import GuestPlan
from testbed.kernel.prepare import check_memory, plan_job
from testbed.kernel.session import Session
from testbed.kernel.unprotected import start_unprotected
from testbed.net.process import run
from testbed.net.sandbox import SandboxForbidden
from testbed.net.tools import find_tool, tools_root

_MODULES = "usr/lib/uml/modules"
_NEEDED_MODULES = {"ipvs": ("ip_vs", "dummy"), "iptables": ("iptable_nat",), "userspace": ("iptable_nat",)}
_NEEDED_TOOLS = {
    "ipvs": ("iptables-legacy-restore", "ipset"),
    "iptables": ("iptables-legacy-restore",),
    "userspace": ("iptables-legacy-restore",),
}
_ELSEWHERE = "use the machine's own kernel: --kernel host"


@dataclass(frozen=True)
class _Program:
    path: str
    release: str
    modules: Path


class UmlKernel:
    """The kernel in Debian's `user-mode-linux`; TESTBED_UML and TESTBED_UML_MODULES name another one."""

    name = "uml"

    def __init__(self, *, boot_timeout_s: float = 120.0) -> None:
        """A boot takes 2 s on an idle machine, and took 20 s at worst beside other work on two cores."""
        self._boot_timeout_s = boot_timeout_s

    def start(self, job: Job) -> Session:
        """Boot a guest and start a job in it; returns when it has begun.

        Where the machine does not let this user build a sandbox, the guest runs without one around it and the
        session's notes say so.

        Raises:
            MachineLacks: no user-mode Linux here, too little memory, something that it needs is missing, or
                the job wants another clock than the machine's.
            BadResults: the job's writable directory cannot be written.
            ProcessDied: the guest's kernel ended before the job began; the evidence is its console.
            WaitTimeout: the guest does not get as far as the job.
        """
        check_clock(job, self.name)
        check_memory(job.memory_mb)
        try:
            return self._boot(job)
        except SandboxForbidden as forbidden:
            return start_unprotected(
                lambda storage, note: self._boot(job, storage, (note,)), job.memory_mb, forbidden
            )

    def features(self) -> Features:
        """Boot a guest and try out what it can do (4 s); asked once."""
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

    @cached_property
    def _features(self) -> Features:
        job = Job(
            entry=PROBE, arguments={"elsewhere": _ELSEWHERE}, modes=frozenset(_NEEDED_MODULES), memory_mb=512
        )
        with self.start(job) as session:
            return hear_features(self.name, session)

    @cached_property
    def _program(self) -> _Program:
        path = os.environ.get("TESTBED_UML") or find_tool("linux.uml")
        try:
            release = run([path, "--version"]).stdout.strip()
        except (CommandFailed, OSError) as error:
            raise MachineLacks(
                f"{path} does not run: {error}", "name another with TESTBED_UML=..."
            ) from error
        return _Program(path, release, _find_modules(release))

    def _check_mode(self, mode: str) -> None:
        if mode not in MODES:
            raise MachineLacks(f"{mode!r} is not a mode", f"choose among {', '.join(MODES)}")
        if mode not in _NEEDED_MODULES:
            raise MachineLacks(f"user-mode Linux has no {mode} for IPv4", _ELSEWHERE)
        find_tool("modprobe")
        for tool in _NEEDED_TOOLS[mode]:
            find_tool(tool)
        index = (self._program.modules / "modules.dep").read_text()
        for module in _NEEDED_MODULES[mode]:
            if f"/{module}.ko" not in index:
                raise MachineLacks(f"{self._program.path} has no module {module}", _ELSEWHERE)

    def _boot(self, job: Job, storage: Path | None = None, notes: tuple[str, ...] = ()) -> Session:
        program = self._program
        modes = tuple(sorted(job.modes))
        return Session(
            lambda fds: plan_job(
                job,
                fds,
                GuestPlan(
                    program=program.path,
                    modules=str(program.modules),
                    modes=modes,
                    memory_mb=job.memory_mb,
                    console_fd=fds.console,
                    storage=str(storage) if storage else None,
                ),
            ),
            hello_timeout_s=self._boot_timeout_s,
            paced=True,
            notes=notes,
        )


def _find_modules(release: str) -> Path:
    named = os.environ.get("TESTBED_UML_MODULES")
    places = [Path(named).absolute()] if named else [Path("/", _MODULES), tools_root() / _MODULES]
    for directory in (path for place in places for path in (place / release, place)):
        if (directory / "modules.dep").exists():
            return directory
    raise MachineLacks(
        f"no modules for user-mode Linux {release} in {' or '.join(map(str, places))}",
        "apt-get install user-mode-linux, or name their directory with TESTBED_UML_MODULES=...",
    )
