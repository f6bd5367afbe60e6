"""Programs are found on the PATH, in sbin, and in the private tree; their packages are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.errors import MachineLacks
from testbed.net.tools import find_tool, tool_environment, tools_root


def make_program(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TESTBED_TOOLS", str(tmp_path / "tree"))
    monkeypatch.setenv("TESTBED_IGNORE_SYSTEM_TOOLS", "1")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    return tmp_path / "tree"


def test_the_path_comes_before_the_tree(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TESTBED_IGNORE_SYSTEM_TOOLS")
    make_program(tree / "usr/sbin/ipvsadm")
    installed = make_program(tmp_path / "bin/ipvsadm")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_tool("ipvsadm") == installed


def test_sbin_is_searched_though_it_is_on_no_ordinary_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert Path(find_tool("iptables-legacy")).parent in (Path("/usr/sbin"), Path("/sbin"))


@pytest.mark.parametrize("directory", ["usr/sbin", "usr/bin", "sbin", "bin"])
def test_the_tree_is_searched_where_packages_put_programs(tree: Path, directory: str) -> None:
    program = make_program(tree / directory / "modprobe")
    assert find_tool("modprobe") == program


def test_a_missing_program_is_told_with_its_package(tree: Path) -> None:
    with pytest.raises(MachineLacks, match="nft is not installed: apt-get install nftables"):
        find_tool("nft")


def test_programs_that_are_not_ours_to_bring_stay_the_systems(tree: Path) -> None:
    assert find_tool("true")


def test_a_tree_in_use_lends_its_libraries_and_extensions(tree: Path) -> None:
    make_program(tree / "usr/sbin/iptables-legacy-restore")
    libraries = tree / "usr/lib/x86_64-linux-gnu"
    (libraries / "xtables").mkdir(parents=True)
    variables = tool_environment()
    assert variables["PATH"].startswith(str(tree / "usr/sbin"))
    assert variables["LD_LIBRARY_PATH"] == str(libraries)
    assert variables["XTABLES_LIBDIR"] == str(libraries / "xtables")


def test_a_tree_that_nothing_is_taken_from_changes_only_the_path(tree: Path) -> None:
    (tree / "usr/lib/x86_64-linux-gnu/xtables").mkdir(parents=True)
    assert set(tool_environment()) == {"PATH"}


def test_the_tree_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TESTBED_TOOLS", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert tools_root() == Path("/home/somebody/.cache/testbed/tools")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert tools_root() == Path("/cache/testbed/tools")
