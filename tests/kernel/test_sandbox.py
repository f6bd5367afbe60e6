"""What a process in the sandbox sees, and what it cannot do."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from testbed.errors import BadResults, MachineLacks
from testbed.kernel import unprotected
from testbed.kernel.unprotected import kill_descendants, make_storage
from testbed.net import sandbox, syscalls
from testbed.net.wait import wait_until


def is_real_root() -> bool:
    return Path("/proc/self/uid_map").read_text().split()[2] != "1"


@pytest.mark.parametrize("directory", ["/", "/usr", "/etc", "/var", "/dev", "/root"])
def test_the_machines_files_cannot_be_changed(directory: str) -> None:
    if not Path(directory).exists():
        pytest.skip(f"this machine has no {directory}")
    with pytest.raises(OSError, match=r"Read-only file system|Permission denied"):
        (Path(directory) / "testbed-probe").write_text("")


def test_devices_still_work() -> None:
    assert Path("/dev/null").write_text("gone") == 4
    with Path("/dev/urandom").open("rb", buffering=0) as source:
        assert len(source.read(8)) == 8


def test_this_process_is_the_first_of_its_own_pid_namespace() -> None:
    assert os.getpid() == 1
    assert all(int(path.name) < 1000 for path in Path("/proc").iterdir() if path.name.isdigit())


def test_the_only_link_is_a_loopback_that_works() -> None:
    assert socket.if_nameindex() == [(1, "lo")]
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()


def test_stock_ip_netns_works_with_private_names() -> None:
    subprocess.run(["ip", "netns", "add", "testbed-probe"], check=True)
    seen = subprocess.check_output(
        ["ip", "netns", "exec", "testbed-probe", "ls", "/sys/class/net"], text=True
    )
    assert seen.split() == ["lo"]
    assert [path.name for path in Path("/run/netns").iterdir()] == ["testbed-probe"]


def test_private_storage_runs_programs_and_is_limited() -> None:
    program = sandbox.TEMPORARY / "program"
    program.write_text("#!/bin/sh\nexit 7\n")
    program.chmod(0o755)
    assert subprocess.run([program], check=False).returncode == 7
    with pytest.raises(OSError, match="No space left"):
        os.posix_fallocate(os.open(sandbox.TEMPORARY / "big", os.O_RDWR | os.O_CREAT), 0, 2 << 30)


def test_sysctls_of_the_machine_cannot_be_changed_and_those_of_the_network_can() -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"
    before = Path("/proc/sys/kernel/panic").read_text()
    with pytest.raises(OSError, match=r"Read-only file system|Permission denied|not permitted"):
        Path("/proc/sys/kernel/panic").write_text(before)


def test_no_program_can_load_a_module_into_the_machines_kernel() -> None:
    status = subprocess.check_output(["cat", "/proc/self/status"], text=True)
    bounding = int(status.partition("CapBnd:")[2].split()[0], 16)
    assert not is_real_root() or not bounding >> 16 & 1


def test_a_directory_of_somebody_else_is_refused_as_writable(tmp_path: Path) -> None:
    tree = sandbox.FileTree(writable=(tmp_path / "missing",))
    with pytest.raises(BadResults, match="missing: No such file or directory"):
        sandbox.build(tree)


def test_the_environment_points_to_private_storage_and_finds_sbin() -> None:
    inner = sandbox.environment({"PATH": "/usr/bin", "HOME": "/home/me", "XDG_CACHE_HOME": "/c", "LANG": "C"})
    assert inner == {
        "PATH": "/usr/bin:/usr/sbin:/sbin",
        "HOME": "/run/home",
        "TMPDIR": "/run/tmp",
        "LANG": "C",
    }


def test_memory_of_an_unprotected_guest_goes_where_programs_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    noexec, good = sandbox.RUN / "noexec", sandbox.RUN / "good"
    for directory, flags in ((noexec, syscalls.MS_NOEXEC), (good, 0)):
        directory.mkdir()
        syscalls.mount("tmpfs", str(directory), "tmpfs", flags, "size=64m")
    monkeypatch.setattr(unprotected.tempfile, "gettempdir", lambda: str(noexec))
    monkeypatch.setattr(unprotected, "_CANDIDATES", (str(good),))
    assert make_storage(memory_mb=16).parent == good
    with pytest.raises(MachineLacks, match="has 128 MB free and is mounted without noexec"):
        make_storage(memory_mb=128)


def test_adopted_orphans_are_killed_with_their_parents(tmp_path: Path) -> None:
    # Pid 1 adopts orphans as a subreaper does; a shell leaves two behind, one of which ignores its end.
    script = f"(trap '' TERM; sleep 1000) & setsid sleep 1000 & echo >{tmp_path}/ready; exec sleep 1000"
    shell = subprocess.Popen(["sh", "-c", script])
    wait_until((tmp_path / "ready").exists, "the shell", 10)
    kill_descendants()
    assert [path.name for path in Path("/proc").iterdir() if path.name.isdigit()] == ["1"]
    shell.returncode = -9
