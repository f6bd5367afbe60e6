"""Everything works for an ordinary user; where the machine forbids him something, he is told what and why."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from other_users import as_ordinary_user, reachable_directory, without_user_namespaces

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROGRAM = """
import sys
from pathlib import Path
from testbed.errors import TestbedError
from testbed.kernel import HostKernel, Job, UmlKernel

kernel = HostKernel() if sys.argv[1] == "host" else UmlKernel()
here = Path(sys.argv[2])
try:
    job = Job("session_jobs:write", {"path": str(here / "file")}, here, memory_mb=256)
    with kernel.start(job) as session:
        status = session.wait()
except TestbedError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(*session.notes)
sys.exit(status)
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with reachable_directory() as directory:
        yield directory


def run_as(prefix: tuple[str, ...], kernel: str, place: Path) -> subprocess.CompletedProcess[str]:
    (place / "results").mkdir()
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE))),
        "HOME": str(place),
        "TMPDIR": str(place),
    }
    argv = [*prefix, sys.executable, "-c", PROGRAM, kernel, str(place / "results")]
    return subprocess.run(
        argv, cwd=place, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.parametrize("kernel", ["host", pytest.param("uml", marks=pytest.mark.guest)])
def test_an_ordinary_user_gets_results_that_belong_to_him(kernel: str, place: Path) -> None:
    prefix = as_ordinary_user()
    done = run_as(prefix, kernel, place)
    assert (done.returncode, done.stdout) == (0, "to standard output\n\n"), done.stderr
    owner = (place / "results/file").stat()
    assert (owner.st_uid, owner.st_gid) == ((65534, 65534) if prefix else (os.geteuid(), os.getegid()))
    assert sorted(path.name for path in place.iterdir()) == ["results"]


def test_where_user_namespaces_are_forbidden_the_host_kernel_is_refused_with_the_switch(place: Path) -> None:
    done = run_as(without_user_namespaces(), "host", place)
    assert done.returncode == 1
    assert done.stderr.startswith("SandboxForbidden: this machine does not let this user build a sandbox")
    assert done.stderr.endswith("sudo sysctl -w user.max_user_namespaces=10000\n")


@pytest.mark.guest
def test_where_user_namespaces_are_forbidden_a_guest_runs_and_says_what_is_missing(place: Path) -> None:
    done = run_as(without_user_namespaces(), "uml", place)
    assert done.returncode == 0, done.stderr
    assert "the guest runs without one: files are protected from it only by their permissions" in done.stdout
    assert done.stdout.endswith("sudo sysctl -w user.max_user_namespaces=10000\n")
    assert (place / "results/file").read_text() == "written inside"
    assert sorted(path.name for path in place.iterdir()) == ["results"]
