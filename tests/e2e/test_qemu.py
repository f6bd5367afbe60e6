"""A session in an emulated machine: what it promises, seen in as few boots as possible."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from other_users import as_ordinary_user, reachable_directory

from testbed.errors import MachineLacks, ProcessDied, UserError, WaitTimeout
from testbed.kernel import Features, Job, QemuKernel, Session, Yes
from testbed.kernel.features import MODES
from testbed.kernel.probe import SCHEDULERS
from testbed.net.tools import find_tool

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MEMORY_MB = 512
# One boot beside much other work on two cores.
ANSWER_TIMEOUT_S = 600.0
WANTED = frozenset(MODES)


@pytest.fixture(scope="module")
def results() -> Iterator[Path]:
    with reachable_directory() as directory:
        (directory / 'it\'s a, "place"').mkdir(mode=0o777)
        yield directory / 'it\'s a, "place"'


@pytest.fixture(scope="module")
def session(results: Path) -> Iterator[Session]:
    job = Job("session_jobs:tour", {"text": "ü" * 300_000}, results, WANTED, MEMORY_MB, "instructions")
    with QemuKernel().start(job) as session:
        yield session


def ask(session: Session, **request: object) -> dict[str, object]:
    session.line.send(request)
    answer = session.line.receive(ANSWER_TIMEOUT_S)
    assert answer is not None
    return answer


def test_much_goes_over_the_line_both_ways(session: Session) -> None:
    assert ask(session, do="arguments")["text"] == "ü" * 300_000
    assert ask(session, do="echo", text="x" * 300_000)["text"] == "x" * 300_000


def test_the_place_is_private_and_read_only_but_for_one_directory(session: Session, results: Path) -> None:
    paths = [str(results), "/", "/tmp", "/usr", str(ROOT), "/run/tmp", "/dev/shm"]
    found = ask(session, do="describe", paths=paths)
    assert found["writable"] == [str(results), "/run/tmp", "/dev/shm"]
    assert found["readable"] == paths
    assert found["interfaces"] == ["lo"]
    assert found["uid"] == 0
    assert found["directory"] == str(Path.cwd())
    assert found["release"] == QemuKernel().image.release


def test_what_is_written_is_there_outside_at_once(session: Session, results: Path) -> None:
    ask(session, do="write", path=str(results / "file"))
    assert (results / "file").read_text() == "written inside"
    assert (results / "file").stat().st_uid == os.geteuid()


def test_a_fixed_loop_takes_the_same_number_of_instructions_each_time(session: Session) -> None:
    counts = [ask(session, do="count")["instructions"] for _ in range(3)]
    assert all(isinstance(count, int) for count in counts)
    assert max(counts) - min(counts) <= 0.002 * min(counts), counts  # type: ignore[type-var,operator]


def test_it_has_every_mode_and_scheduler(session: Session) -> None:
    features = Features.from_json("qemu", ask(session, do="features"))
    assert [mode for mode in MODES if features.modes[mode] != Yes()] == []
    assert features.iptables_variants == {"legacy": Yes(), "nft": Yes()}
    assert features.schedulers == SCHEDULERS
    assert (features.netem, features.ipset) == (Yes(), Yes())
    assert QemuKernel().lacking(MODES) == {}


def test_an_interrupt_reaches_the_job_which_ends_as_interrupted(session: Session) -> None:
    assert ask(session, do="wait") == {"event": "waiting"}
    session.interrupt()
    assert session.line.receive(ANSWER_TIMEOUT_S) == {"event": "interrupted"}
    assert session.wait(ANSWER_TIMEOUT_S) == 130


def pretend_qemu(directory: Path, instead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a shell script found before QEMU."""
    program = directory / "qemu-system-x86_64"
    program.write_text(f"#!/bin/sh\n{instead}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_a_machine_that_ends_before_its_job_is_told_with_its_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_qemu(tmp_path, "echo 'Kernel panic - not syncing: no luck'; exit 3", monkeypatch)
    with pytest.raises(ProcessDied, match="not syncing: no luck"):
        QemuKernel().start(Job("session_jobs:tour", clock="instructions", memory_mb=MEMORY_MB))


def test_a_boot_that_stalls_is_given_up_and_told_with_its_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_qemu(tmp_path, "echo Waiting for root device; sleep 1000", monkeypatch)
    with pytest.raises(WaitTimeout, match="Waiting for root device"):
        QemuKernel(boot_timeout_s=15).start(
            Job("session_jobs:tour", clock="instructions", memory_mb=MEMORY_MB)
        )


@pytest.mark.parametrize(
    ("program", "package"), [("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static")]
)
def test_a_missing_program_is_told_with_its_package(
    program: str, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sbin").mkdir()
    for name in {"qemu-system-x86_64", "busybox", "modprobe", "iptables-legacy-restore"} - {program}:
        (tmp_path / "sbin" / name).symlink_to(find_tool(name))
    monkeypatch.setenv("TESTBED_TOOLS", str(tmp_path))
    monkeypatch.setenv("TESTBED_KERNEL_IMAGE", str(QemuKernel().image.path))
    monkeypatch.setenv("TESTBED_IGNORE_SYSTEM_TOOLS", "1")
    refusal = QemuKernel().lacking(["iptables"])["iptables"]
    assert (refusal.reason, package in refusal.remedy) == (f"{program} is not installed", True)


def test_a_file_that_is_no_kernel_is_the_users_mistake(tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_text("no kernel")
    with pytest.raises(UserError, match="is no Linux kernel image"):
        QemuKernel(image).start(Job("session_jobs:tour", memory_mb=MEMORY_MB))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can keep a file from others that it runs as")
def test_an_image_that_only_root_may_read_is_told_with_what_helps() -> None:
    program = (
        "from pathlib import Path; import sys; from testbed.kernel import QemuKernel\n"
        "QemuKernel(Path(sys.argv[1])).image"
    )
    with reachable_directory() as directory:
        image = directory / "vmlinuz"
        image.write_bytes(b"")
        image.chmod(0o600)
        done = subprocess.run(
            [*as_ordinary_user(), sys.executable, "-c", program, image],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert f"{image} cannot be read by this user" in done.stderr
    assert f"sudo chmod a+r {image}; or `make tools`" in done.stderr


def test_a_guest_that_does_not_fit_into_memory_is_refused() -> None:
    with pytest.raises(MachineLacks, match="a guest with 100000000 MB does not fit"):
        QemuKernel().start(Job("session_jobs:tour", memory_mb=100_000_000))
