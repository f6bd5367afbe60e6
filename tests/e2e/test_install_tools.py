"""`tools/install` gets what is missing, or says the one command that does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

INSTALL = Path(__file__).parents[2] / "tools/install"
NAMES = (
    "linux.uml",
    "iptables",
    "iptables-legacy-restore",
    "ipset",
    "ipvsadm",
    "nft",
    "conntrack",
    "modprobe",
    "ip",
    "tc",
    "qemu-system-x86_64",
    "busybox",
)


def install(home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TESTBED_IGNORE_SYSTEM_TOOLS": "1",
        **variables,
    }
    return subprocess.run(
        [INSTALL], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def shell_only(directory: Path) -> str:
    """A PATH on which nothing can be got from the archive."""
    programs = directory / "bin"
    programs.mkdir()
    for name in ("sh", "sort", "tr", "sed", "id", "grep"):
        (programs / name).symlink_to(f"/usr/bin/{name}")
    return str(programs)


def pretend_programs(tree: Path, names: Iterable[str]) -> None:
    (tree / "sbin").mkdir(parents=True)
    for name in names:
        program = tree / "sbin" / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)


def pretend_kernel(tree: Path, release: str, *, has_9p: bool = True) -> None:
    modules = tree / "lib/modules" / release
    (modules / "kernel/fs/9p").mkdir(parents=True)
    (modules / "modules.dep").touch()
    if has_9p:
        (modules / "kernel/fs/9p/9p.ko").touch()
    (tree / "boot").mkdir()
    (tree / "boot" / f"vmlinuz-{release}").touch()


def test_nothing_is_done_or_said_where_all_tools_are_there(tmp_path: Path) -> None:
    pretend_programs(tmp_path / "tree", NAMES)
    pretend_kernel(tmp_path / "tree", "6.1.0-1-amd64")
    done = install(tmp_path, TESTBED_TOOLS=str(tmp_path / "tree"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tree"]


def test_where_nothing_can_be_got_the_one_command_is_printed(tmp_path: Path) -> None:
    done = install(tmp_path, PATH=shell_only(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "    apt-get update && apt-get install -y --no-install-recommends "
        "busybox-static conntrack iproute2 ipset iptables ipvsadm kmod linux-image-amd64 nftables "
        "qemu-system-x86 user-mode-linux"
    )


def test_only_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    pretend_programs(tmp_path / "tree", set(NAMES) - {"ip", "tc"})
    pretend_kernel(tmp_path / "tree", "6.1.0-1-amd64")
    done = install(tmp_path, PATH=shell_only(tmp_path), TESTBED_TOOLS=str(tmp_path / "tree"))
    assert done.stderr.splitlines()[0] == "testbed needs: iproute2"


@pytest.mark.parametrize("cloud", [False, True])
def test_a_kernel_for_clouds_is_none_since_a_guest_could_not_reach_its_files(
    tmp_path: Path, cloud: bool
) -> None:
    pretend_programs(tmp_path / "tree", NAMES)
    pretend_kernel(tmp_path / "tree", "6.1.0-1-cloud-amd64" if cloud else "6.1.0-1-amd64", has_9p=not cloud)
    done = install(tmp_path, PATH=shell_only(tmp_path), TESTBED_TOOLS=str(tmp_path / "tree"))
    assert ("testbed needs: linux-image-amd64" in done.stderr) == cloud


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written_is_told_with_the_variable_that_names_another(tmp_path: Path) -> None:
    done = install(tmp_path, TESTBED_TOOLS="/nowhere/tools")
    assert done.returncode == 2
    assert "name another place for the programs with TESTBED_TOOLS=" in done.stderr


@pytest.mark.validate
def test_packages_are_unpacked_into_a_tree_whose_programs_run(tmp_path: Path) -> None:
    done = install(tmp_path)
    assert done.returncode == 0, done.stderr
    tree = tmp_path / ".cache/testbed/tools"
    for name in NAMES:
        found = [
            path
            for path in (
                tree / "usr/sbin" / name,
                tree / "usr/bin" / name,
                tree / "sbin" / name,
                tree / "bin" / name,
            )
            if path.exists()
        ]
        assert found, name
    version = subprocess.check_output([tree / "usr/sbin/iptables-legacy-restore", "--version"], text=True)
    assert "legacy" in version
    assert sorted(path.name for path in tree.parent.iterdir()) == ["tools", "tools.lock"]
