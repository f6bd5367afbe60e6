"""Programs run where they are told to, leave evidence, and never outlive whoever started them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from testbed.errors import CommandFailed, MachineLacks, ProcessDied
from testbed.net.namespace import Namespace
from testbed.net.process import Child, fork, popen, run, spawn
from testbed.net.wait import wait_until


def link_names() -> str:
    return run(["ip", "-o", "link"]).stdout


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_text(path: Path, wanted: str = "\n") -> str:
    wait_until(lambda: path.exists() and wanted in path.read_text(), f"{wanted!r} in {path}", 10)
    return path.read_text()


def test_a_commands_result_is_its_output_and_status() -> None:
    done = run(["sh", "-c", "cat; echo aside >&2; exit 3"], input="said", check=False)
    assert (done.exit_status, done.stdout, done.stderr) == (3, "said", "aside\n")
    assert run(["cat"]).stdout == ""


def test_a_command_runs_in_the_namespace_and_with_the_environment_given() -> None:
    with Namespace.create("a") as a:
        a.sysctl("net.ipv4.ip_forward", 1)
        shown = run(
            ["sh", "-c", "cat /proc/sys/net/ipv4/ip_forward; echo $EXTRA"], namespace=a, env={"EXTRA": "x"}
        )
        assert shown.stdout == "1\nx\n"
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "0\n"


def test_a_failure_keeps_the_evidence() -> None:
    with Namespace.create("node1") as namespace, pytest.raises(CommandFailed) as failed:
        run(["ip", "link", "show", "nothing"], namespace=namespace)
    error = failed.value
    assert (error.argv, error.status, error.namespace) == (("ip", "link", "show", "nothing"), 1, "node1")
    assert "nothing" in error.stderr


def test_a_missing_tool_is_named_with_its_package() -> None:
    for start in (run, lambda argv: spawn(argv, name="x")):
        with pytest.raises(MachineLacks, match="no-such-tool is not installed"):
            start(["no-such-tool"])


def test_a_command_that_hangs_is_killed_and_told() -> None:
    with pytest.raises(CommandFailed, match=r"still running after 0\.2 s") as failed:
        run(["sleep", "60"], timeout_s=0.2)
    assert failed.value.status == -signal.SIGKILL


def test_a_spawned_program_has_its_namespace_log_and_session(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Namespace.create("a") as a:
        script = "readlink /proc/self/ns/net; echo $EXTRA; echo ready; sleep 60"
        with spawn(["sh", "-c", script], name="x", namespace=a, env={"EXTRA": "y"}, log=log) as child:
            lines = wait_text(log, "ready").split()
            assert lines == [f"net:[{os.fstat(a.fd).st_ino}]", "y", "ready"]
            assert os.getsid(child.pid) == child.pid
            assert child.alive()
        assert not is_running(child.pid)


def test_descriptors_are_passed_by_their_number_and_no_others() -> None:
    ours, theirs = os.pipe()
    hidden, _ = os.pipe()
    script = f"echo through >/proc/self/fd/{theirs}; test ! -e /proc/self/fd/{hidden}"
    with spawn(["sh", "-c", script], name="x", pass_fds=[theirs]) as child:
        os.close(theirs)
        assert os.read(ours, 100) == b"through\n"
        assert child.wait(10) == 0


def test_a_file_is_mounted_over_another_for_the_child_alone(tmp_path: Path) -> None:
    hosts, log = tmp_path / "hosts", tmp_path / "log"
    hosts.write_text("10.96.0.1 web\n")
    with spawn(["cat", "/etc/hosts"], name="x", mounts={hosts: Path("/etc/hosts")}, log=log) as child:
        assert child.wait(10) == 0
    assert log.read_text() == hosts.read_text() != Path("/etc/hosts").read_text()


def test_a_program_that_cannot_be_started_is_refused_with_the_reason(tmp_path: Path) -> None:
    before = {path.name for path in Path("/proc/self/fd").iterdir()}
    with pytest.raises(CommandFailed, match="No such file"):
        spawn(["cat"], name="x", mounts={tmp_path / "missing": Path("/etc/hosts")})
    assert {path.name for path in Path("/proc/self/fd").iterdir()} == before


def test_a_fork_keeps_what_is_in_memory_and_reports_its_status(tmp_path: Path) -> None:
    log, secret = tmp_path / "log", object()

    def main() -> int:
        print(id(secret), Path("/proc/thread-self/ns/net").readlink())
        return 7

    with Namespace.create("a") as a, fork(main, name="x", namespace=a, log=log) as child:
        assert child.wait(10) == 7 == child.status
        assert log.read_text().split() == [str(id(secret)), f"net:[{os.fstat(a.fd).st_ino}]"]


def test_a_fork_that_raises_tells_its_log_and_never_returns_to_us(tmp_path: Path) -> None:
    def main() -> int:
        raise KeyError("evidence")

    us = os.getpid()
    with fork(main, name="the proxy", log=tmp_path / "log") as child:
        assert child.wait(10) == 1
        with pytest.raises(ProcessDied, match=r"the proxy exited with 1:(.|\n)*KeyError: 'evidence'"):
            child.check()
    assert os.getpid() == us


@pytest.mark.parametrize(("code", "status"), [(None, 0), (5, 5), ("message", 1)])
def test_a_fork_may_end_by_sys_exit(code: int | str | None, status: int) -> None:
    with fork(lambda: sys.exit(code), name="x") as child:
        assert child.wait(10) == status


def test_terminating_is_polite_first_and_insists_later(tmp_path: Path) -> None:
    log = tmp_path / "log"
    polite = spawn(
        ["sh", "-c", "trap 'exit 4' TERM; echo ready; while :; do sleep 0.01; done"], name="x", log=log
    )
    wait_text(log)
    assert polite.terminate(10) == 4
    log.unlink()
    deaf = spawn(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done"], name="x", log=log)
    wait_text(log)
    assert deaf.terminate(0.1) == -signal.SIGKILL
    for child in (polite, deaf):
        child.close()
        child.close()


def test_killing_takes_the_childs_own_children_along(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with spawn(["sh", "-c", "sleep 60 & echo $!; wait"], name="x", log=log):
        grandchild = int(wait_text(log))
        assert is_running(grandchild)
    wait_until(lambda: not is_running(grandchild), "the grandchild's end", 10)


def test_waiting_ends_when_the_time_is_up() -> None:
    with spawn(["sleep", "60"], name="x") as child:
        started_s = time.monotonic()
        assert child.wait(0.05) is None
        assert 0.04 < time.monotonic() - started_s < 10
        assert child.status is None


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_children_die_with_a_parent_that_is_killed(tmp_path: Path, how: str) -> None:
    log = tmp_path / "log"

    def parent() -> int:
        child: Child
        if how == "fork":
            child = fork(lambda: time.sleep(60) or 0, name="child")
        else:
            child = spawn(["sleep", "60"], name="child")
        print(child.pid)
        time.sleep(60)
        return 0

    with fork(parent, name="parent", log=log) as middle:
        grandchild = int(wait_text(log))
        assert is_running(grandchild)
        os.kill(middle.pid, signal.SIGKILL)
        wait_until(lambda: not is_running(grandchild), "the grandchild's end", 10)


def test_signal_settings_of_the_parent_do_not_reach_children() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    with spawn(["sleep", "60"], name="x") as program, fork(lambda: time.sleep(60) or 0, name="x") as function:
        assert program.terminate(10) == -signal.SIGTERM
        assert function.terminate(10) == -signal.SIGTERM


def test_a_program_can_be_talked_to_in_its_namespace(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("mounted")
    with (
        Namespace.create("a") as a,
        popen(["sh", "-c", "cat /etc/hosts; cat"], namespace=a, mounts={names: Path("/etc/hosts")}) as talk,
    ):
        said, _ = talk.communicate(b" and said", timeout=10)
    assert said == b"mounted and said"
