"""`tools/install` gets what is missing, or says the one command that does."""

from __future__ import annotations

import os
import subprocess
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


def test_nothing_is_done_or_said_where_all_tools_are_there(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / "tree/sbin").mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree/sbin" / name).symlink_to("/bin/true")
    done = install(tmp_path, TESTBED_TOOLS=str(tmp_path / "tree"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tree"]


def test_where_nothing_can_be_got_the_one_command_is_printed(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "sort", "tr", "sed", "id"):
        (programs / name).symlink_to(f"/usr/bin/{name}")
    done = install(tmp_path, PATH=str(programs))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "    apt-get update && apt-get install -y --no-install-recommends "
        "conntrack iproute2 ipset iptables ipvsadm kmod nftables user-mode-linux"
    )


def test_only_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "sort", "tr", "sed", "id"):
        (programs / name).symlink_to(f"/usr/bin/{name}")
    (tmp_path / "tree/sbin").mkdir(parents=True)
    for name in NAMES[:-2]:
        (tmp_path / "tree/sbin" / name).symlink_to("/bin/true")
    done = install(tmp_path, PATH=str(programs), TESTBED_TOOLS=str(tmp_path / "tree"))
    assert done.stderr.splitlines()[0] == "testbed needs: iproute2"


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
