"""Where the programs of other projects are found, and which package brings each.

Searched in this order: the PATH, the sbin directories (not on an ordinary user's PATH), and the private tools
tree that `tools/install` unpacks packages into when it may not install them. Must not run anything.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
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
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "ip": "iproute2",
    "tc": "iproute2",
}
_SBIN = ("/usr/sbin", "/sbin")


def find_tool(name: str) -> str:
    """Return the absolute path of a program.

    Raises:
        MachineLacks: it is nowhere; the remedy names its Debian package.
    """
    found = _on_the_system(name) or _in_the_tree(name, tools_root())
    if found is None:
        package = PACKAGES.get(name, name)
        raise MachineLacks(
            f"{name} is not installed",
            f"apt-get install {package} (or `make tools`, which needs no root)",
        )
    return found


def tool_environment() -> dict[str, str]:
    """Return the variables with which programs find each other, and those of the tree their libraries.

    Libraries of the tree are for its own programs: the system's get them only beside those.
    """
    tree = tools_root()
    used = _used_from(tree, os.environ.get("PATH", os.defpath), ignores_system_tools())
    system = [*_path(), *_SBIN]
    if not used:
        return {"PATH": os.pathsep.join(dict.fromkeys(system))}
    own = _tree_directories(tree)
    path = [*own, *system] if ignores_system_tools() else [*system, *own]
    libraries = [str(path) for base in ("usr/lib", "lib") for path in (tree / base).glob("*-linux-gnu*")]
    inherited = filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))
    variables = {
        "PATH": os.pathsep.join(dict.fromkeys(path)),
        "LD_LIBRARY_PATH": os.pathsep.join(dict.fromkeys((*libraries, *inherited))),
    }
    if "iptables-legacy-restore" in used:
        for extensions in (tree / "usr/lib").glob("*-linux-gnu*/xtables"):
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


def ignores_system_tools() -> bool:
    """Whether only the tree counts: `TESTBED_IGNORE_SYSTEM_TOOLS=1` is for trying it."""
    return os.environ.get("TESTBED_IGNORE_SYSTEM_TOOLS", "") not in ("", "0")


def _on_the_system(name: str) -> str | None:
    if ignores_system_tools() and name in PACKAGES:
        return None
    found = shutil.which(name, path=os.pathsep.join((*_path(), *_SBIN)))
    return found and str(Path(found).absolute())


def _in_the_tree(name: str, tree: Path) -> str | None:
    return shutil.which(name, path=os.pathsep.join(_tree_directories(tree)))


@cache
def _used_from(tree: Path, path: str, ignoring: bool) -> frozenset[str]:
    """The programs that come from the tree; `path` and `ignoring` are what else the answer depends on."""
    del path, ignoring
    if not tree.is_dir():
        return frozenset()
    return frozenset(name for name in PACKAGES if not _on_the_system(name) and _in_the_tree(name, tree))


def _tree_directories(tree: Path) -> list[str]:
    return [str(tree / directory) for directory in ("usr/sbin", "usr/bin", "sbin", "bin")]


def _path() -> list[str]:
    return [path for path in os.environ.get("PATH", os.defpath).split(os.pathsep) if path]
