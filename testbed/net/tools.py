"""Where the programs of other projects are found, and which package brings each.

Searched in this order: the PATH, the sbin directories (not on an ordinary user's PATH), and the private tools
tree that `tools/install` unpacks packages into when it may not install them. Must not run anything.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from testbed.errors import MachineLacks

# Programs and the Debian packages that hold them.
PACKAGES = {
    "linux.uml": "user-mode-linux",
    "iptables": "iptables",
    "iptables-legacy": "iptables",
    "iptables-legacy-restore": "iptables",
    "iptables-legacy-save": "iptables",
    "iptables-nft": "iptables",
    "iptables-nft-restore": "iptables",
    "iptables-nft-save": "iptables",
    "iptables-restore": "iptables",
    "iptables-save": "iptables",
    "ip6tables": "iptables",
    "ipset": "ipset",
    "ipvsadm": "ipvsadm",
    "nft": "nftables",
    "conntrack": "conntrack",
    "modprobe": "kmod",
    "ip": "iproute2",
    "tc": "iproute2",
}
_SBIN = ("/usr/sbin", "/sbin")
_TREE_PATH = ("usr/sbin", "usr/bin", "sbin", "bin")


def find_tool(name: str) -> str:
    """Return the absolute path of a program.

    Raises:
        MachineLacks: it is nowhere; the remedy names its Debian package.
    """
    path = os.pathsep.join(_search_path())
    found = shutil.which(name, path=path)
    if found is None:
        package = PACKAGES.get(name, name)
        raise MachineLacks(
            f"{name} is not installed",
            f"apt-get install {package} (or `make tools`, which needs no root)",
        )
    return str(Path(found).absolute())


def tool_environment() -> dict[str, str]:
    """Return the variables with which every program finds the others, and those of the tree their libraries."""
    path = dict.fromkeys((*_search_path(), *_inherited_path()))
    variables = {"PATH": os.pathsep.join(path)}
    tree = tools_root()
    libraries = [str(path) for path in _library_directories(tree)]
    if libraries:
        inherited = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
        variables["LD_LIBRARY_PATH"] = os.pathsep.join([*libraries, *filter(None, inherited)])
    for extensions in (Path(path) / "xtables" for path in libraries):
        if extensions.is_dir():
            variables["XTABLES_LIBDIR"] = str(extensions)
    return variables


def tools_root() -> Path:
    """Return the private tools tree: `$TESTBED_TOOLS`, or `testbed/tools` in the user's cache.

    Inside a sandbox the home directory is another one, so the launcher sets the variable for it.
    """
    if named := os.environ.get("TESTBED_TOOLS"):
        return Path(named).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or os.environ.get("HOME", "/nonexistent") + "/.cache"
    return Path(cache).absolute() / "testbed" / "tools"


def uses_system_tools() -> bool:
    """Whether the machine's own programs count; `TESTBED_IGNORE_SYSTEM_TOOLS=1` is for trying the tree."""
    return os.environ.get("TESTBED_IGNORE_SYSTEM_TOOLS", "") in ("", "0")


def _search_path() -> Iterator[str]:
    if uses_system_tools():
        yield from _inherited_path()
        yield from (path for path in _SBIN if path not in _inherited_path())
    tree = tools_root()
    yield from (str(tree / path) for path in _TREE_PATH if (tree / path).is_dir())


def _inherited_path() -> list[str]:
    return [path for path in os.environ.get("PATH", os.defpath).split(os.pathsep) if path]


def _library_directories(tree: Path) -> Iterator[Path]:
    for base in ("usr/lib", "lib"):
        yield from sorted((tree / base).glob("*-linux-gnu*"))
