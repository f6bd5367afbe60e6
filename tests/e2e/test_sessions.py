"""A session runs a job in a kernel: the same code, the same promises, on the host and in a guest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testbed.errors import BadResults, MachineLacks, ProcessDied, UserError, WaitTimeout
from testbed.kernel import HostKernel, Job, Kernel, UmlKernel
from testbed.net.tools import find_tool

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MEMORY_MB = 256


@pytest.fixture(params=["host", pytest.param("uml", marks=pytest.mark.guest)], scope="module")
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return HostKernel() if request.param == "host" else UmlKernel()


def job(entry: str, writable: Path | None = None, **arguments: object) -> Job:
    return Job(f"session_jobs:{entry}", arguments, writable=writable, memory_mb=MEMORY_MB)


def test_a_job_gets_its_arguments_answers_and_tells_its_exit_status(kernel: Kernel) -> None:
    text = "ü" * 300_000
    with kernel.start(job("echo", text=text)) as session:
        session.line.send({"n": 1})
        assert session.line.receive(60) == {"n": 1, "arguments": {"text": text}}
        session.line.send({"status": 7})
        assert session.line.receive(60) is None
        assert session.wait(60) == 7


def test_many_messages_may_be_under_way_both_ways(kernel: Kernel) -> None:
    numbers = range(200)
    with kernel.start(job("echo")) as session:
        for number in numbers:
            session.line.send({"n": number, "padding": "x" * 200})
        answers = [session.line.receive(60) for _ in numbers]
        assert [answer and answer["n"] for answer in answers] == list(numbers)


def test_the_place_is_private_and_read_only_but_for_one_directory(kernel: Kernel, tmp_path: Path) -> None:
    paths = [str(tmp_path), "/", "/tmp", "/usr", str(ROOT), "/run/tmp", "/dev/shm"]
    with kernel.start(job("describe", tmp_path, paths=paths)) as session:
        found = session.line.receive(60)
        assert session.wait(60) == 0
    assert found is not None
    assert found["writable"] == [str(tmp_path), "/run/tmp", "/dev/shm"]
    assert found["readable"] == paths
    assert found["interfaces"] == ["lo"]
    assert set(found["run"]) <= {"home", "lock", "modules", "netns", "tmp"}
    assert found["uid"] == 0
    assert found["directory"] == str(Path.cwd())
    assert found["environment"]["TMPDIR"] == "/run/tmp"
    assert found["environment"]["HOME"] == "/run/home"
    assert (found["release"] == os.uname().release) == (kernel.name == "host")


@pytest.mark.parametrize("parent", ["/dev/shm", "/run"])
def test_a_writable_directory_may_lie_where_private_contents_go(kernel: Kernel, parent: str) -> None:
    if not os.access(parent, os.W_OK):
        pytest.skip(f"{parent} belongs to root")
    directory = Path(subprocess.check_output(["mktemp", "-d", "-p", parent], text=True).strip())
    try:
        with kernel.start(job("write", directory, path=str(directory / "file"))) as session:
            assert session.wait(60) == 0
        assert (directory / "file").read_text() == "written inside"
    finally:
        (directory / "file").unlink(missing_ok=True)
        directory.rmdir()


def test_a_directory_with_blanks_and_quotes_in_its_name_can_be_written(
    kernel: Kernel, tmp_path: Path
) -> None:
    directory = tmp_path / 'it\'s a "place", yes'
    directory.mkdir()
    with kernel.start(job("write", directory, path=str(directory / "file"))) as session:
        assert session.wait(60) == 0
    assert (directory / "file").read_text() == "written inside"


def test_standard_streams_of_the_job_are_the_launchers(kernel: Kernel, tmp_path: Path) -> None:
    class_name = type(kernel).__name__
    program = (
        f"from testbed.kernel import Job, {class_name}; from pathlib import Path; import sys\n"
        f"here = Path('{tmp_path}')\n"
        f"job = Job('session_jobs:write', {{'path': str(here / 'file')}}, here, memory_mb={MEMORY_MB})\n"
        f"with {class_name}().start(job) as session: sys.exit(session.wait())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE)))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "to standard output\n", "to standard error\n")


def test_an_error_with_parts_arrives_whole(kernel: Kernel) -> None:
    with kernel.start(job("raise_lack")) as session, pytest.raises(MachineLacks) as caught:
        session.wait(60)
    assert (caught.value.what, caught.value.remedy) == ("no such thing", "get one")


def test_a_mistake_of_the_user_stays_one(kernel: Kernel) -> None:
    with kernel.start(job("raise_user_error")) as session, pytest.raises(UserError):
        session.wait(60)


def test_a_mistake_in_the_job_arrives_with_its_traceback(kernel: Kernel) -> None:
    with kernel.start(job("crash")) as session, pytest.raises(ProcessDied, match="in crash\n") as caught:
        session.wait(60)
    assert "ZeroDivisionError: a mistake in the program" in caught.value.evidence


def test_an_entry_that_does_not_exist_is_told(kernel: Kernel) -> None:
    with (
        kernel.start(job("nothing_of_that_name")) as session,
        pytest.raises(ProcessDied, match="nothing_of_that"),
    ):
        session.wait(60)


def test_a_job_ended_by_a_signal_has_the_status_that_a_shell_would_give(kernel: Kernel) -> None:
    with kernel.start(job("be_killed")) as session:
        assert session.wait(60) == 128 + 9


def test_an_interrupt_reaches_the_job_which_ends_as_interrupted(kernel: Kernel) -> None:
    with kernel.start(job("wait_for_interrupt")) as session:
        assert session.line.receive(60) == {"event": "waiting"}
        session.interrupt()
        assert session.line.receive(60) == {"event": "interrupted"}
        assert session.wait(60) == 130


def test_closing_ends_a_job_that_would_go_on(kernel: Kernel) -> None:
    with kernel.start(job("echo")) as session:
        pid = session.pid
    assert session.line.receive() is None
    assert not Path(f"/proc/{pid}").exists()
    session.close()


def test_a_process_that_the_launcher_forked_does_not_keep_a_session_alive(kernel: Kernel) -> None:
    with kernel.start(job("echo")) as session:
        child = os.fork()
        if child == 0:
            signal.pause()
        started = time.monotonic()
        session.close()
        assert time.monotonic() - started < 5
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_directory_that_cannot_be_written_is_refused_before_anything_starts(kernel: Kernel) -> None:
    with pytest.raises(BadResults, match="/proc/self/nowhere is not a directory"):
        kernel.start(job("echo", Path("/proc/self/nowhere")))
    with pytest.raises(BadResults, match="/sys/kernel cannot be written"):
        kernel.start(job("echo", Path("/sys/kernel")))


def pretend_uml(directory: Path, instead_of_booting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a shell script taken for user-mode Linux."""
    program = directory / "linux.uml"
    program.write_text(
        f'#!/bin/sh\n[ "$1" != --version ] || exec {find_tool("linux.uml")} --version\n{instead_of_booting}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("TESTBED_UML", str(program))


def test_a_guest_that_ends_before_its_job_is_told_with_its_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_uml(tmp_path, "echo 'Kernel panic - not syncing: no luck'; exit 3", monkeypatch)
    with pytest.raises(ProcessDied, match="not syncing: no luck"):
        UmlKernel().start(job("echo"))


def test_a_boot_that_stalls_is_given_up_and_told_with_its_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_uml(tmp_path, "echo Waiting for root device; sleep 1000", monkeypatch)
    with pytest.raises(WaitTimeout, match="Waiting for root device"):
        UmlKernel(boot_timeout_s=3).start(job("echo"))


def test_a_guest_that_does_not_fit_into_memory_is_refused() -> None:
    with pytest.raises(MachineLacks, match="a guest with 100000000 MB does not fit"):
        UmlKernel().start(Job("session_jobs:echo", memory_mb=100_000_000))


def test_a_missing_user_mode_linux_is_told_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TESTBED_IGNORE_SYSTEM_TOOLS", "1")
    monkeypatch.setenv("TESTBED_TOOLS", str(tmp_path))
    with pytest.raises(MachineLacks, match="apt-get install user-mode-linux"):
        UmlKernel().start(job("echo"))
