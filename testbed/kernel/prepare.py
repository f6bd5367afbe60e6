"""From a job to its plan: what the launcher's process knows and the session's processes will need."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryFile

from testbed.errors import BadResults, MachineLacks
from testbed.kernel.job import Job
from testbed.kernel.plan import GuestPlan, Plan
from testbed.kernel.session import SessionFds, import_path
from testbed.net import sandbox
from testbed.net.tools import tools_root
from testbed.spec.clock import INSTRUCTIONS

# What is left over when a guest's memory does not fit any more is a dead machine, not an error message.
_SPARE_MB = 128


def plan_job(job: Job, fds: SessionFds, guest: GuestPlan | None = None) -> Plan:
    """Make the plan of a session around `fds`.

    Raises:
        MachineLacks: this Python does not know its own interpreter.
        BadResults: the job's writable directory is missing or cannot be written.
    """
    if not sys.executable:
        raise MachineLacks("this Python is embedded in another program", "run testbed from a plain python3")
    path = import_path()
    inherited = os.environ | {"PYTHONPATH": path, "TESTBED_TOOLS": str(tools_root())}
    if job.clock == INSTRUCTIONS:
        inherited["PYTHONHASHSEED"] = "0"
    return Plan(
        launcher_pid=os.getpid(),
        lifeline_fd=fds.lifeline,
        control_fd=fds.control,
        line_fd=fds.line,
        interpreter=sys.executable,
        entry=job.entry,
        arguments=job.arguments,
        environment=sandbox.environment(inherited),
        directory=_current_directory(),
        writable=(_writable(job.writable),) if job.writable else (),
        kept=_kept(path),
        private_storage_mb=job.memory_mb + 256,
        guest=guest,
    )


def _writable(directory: Path) -> str:
    path = directory.resolve()
    if not path.is_dir():
        raise BadResults(f"{directory} is not a directory")
    try:
        # Root may write anywhere, says access(2), but not to every file system.
        with TemporaryFile(dir=path):
            return str(path)
    except OSError as error:
        remedy = "choose a directory that belongs to you"
        raise BadResults(f"{directory} cannot be written ({error.strerror}): {remedy}") from error


def _kept(path: str) -> tuple[str, ...]:
    candidates = [
        sys.prefix,
        sys.base_prefix,
        os.path.realpath(sys.executable).rsplit("/", 2)[0],
        _current_directory(),
        str(tools_root()),
        *path.split(os.pathsep),
    ]
    return tuple(dict.fromkeys(entry for entry in candidates if Path(entry).is_dir()))


def _current_directory() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "/"


def check_memory(memory_mb: int) -> None:
    """Raise MachineLacks unless a guest with so much memory fits into what is free."""
    fields = dict(field.split(":") for field in Path("/proc/meminfo").read_text().splitlines())
    free_mb = int(fields["MemAvailable"].split()[0]) // 1024
    if free_mb < memory_mb + _SPARE_MB:
        raise MachineLacks(
            f"a guest with {memory_mb} MB does not fit into the {free_mb} MB of memory that are free",
            "end other programs",
        )
