"""What the instructions of a run depend on besides the kernel: Python, libc, packages, tools.

Owns how these facts are found. A guest runs the machine's own files, so what is found here holds in it too.
Must not compare identities; `testbed.results.identity` does.
"""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path

from testbed.errors import MachineLacks
from testbed.net.tools import find_tool

PACKAGES = ("locust", "gevent", "greenlet", "aiohttp", "orjson", "pyroute2", "prometheus-client")
TOOLS = ("iptables-legacy-restore", "iptables-nft-restore", "nft", "ipset")
_SHOWN = 12


def software_identity() -> dict[str, str]:
    """Names to versions; files by their contents, since distributions patch within a version."""
    return {"Python": platform.python_version(), "libc": _libc(), **_packages(), **_tools()}


def _libc() -> str:
    version = " ".join(platform.libc_ver())
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    found = {line.split()[-1] for line in mapped if "/libc.so" in line or "/ld-musl" in line}
    return " ".join([version, *(digest(Path(path)) for path in sorted(found))])


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _tools() -> dict[str, str]:
    found = {}
    for name in TOOLS:
        try:
            found[name] = digest(Path(find_tool(name)).resolve())
        except (MachineLacks, OSError):
            continue
    return found


def digest(path: Path) -> str:
    """The head of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_SHOWN]
