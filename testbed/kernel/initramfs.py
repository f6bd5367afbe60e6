"""The first files of a guest in an emulated machine: enough to reach the machine's own files, and no more.

Owns the archive that the kernel unpacks into memory and the script in it. Pure but for reading what goes in.
There is no udev and no service manager: the script loads the modules that lead to the root file system,
mounts it and becomes the guest's pid 1.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.kernel.modules import read_module
from testbed.kernel.shares import NINEP, ROOT_TAG

# Said on the console by the script, first of all.
SIGN_OF_LIFE = b"testbed: the kernel has booted"
_DIRECTORY = 0o40755
_PROGRAM = 0o100755
_CONSOLE = 0o20600
_BUSYBOX = "/bin/busybox"


@dataclass(frozen=True)
class Entry:
    """A file of the archive; `device` is the major and minor number of a device node."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def build(busybox: Path, modules: Sequence[Path], init: Path) -> bytes:
    """Return the archive of a guest that becomes `init`, found on the root file system."""
    script = render_script([path.name for path in modules], init)
    return pack(
        [
            *(Entry(name, _DIRECTORY) for name in ("bin", "dev", "root", "modules")),
            Entry("dev/console", _CONSOLE, device=(5, 1)),
            Entry(_BUSYBOX[1:], _PROGRAM, busybox.read_bytes()),
            Entry("init", _PROGRAM, script.encode()),
            *(Entry(f"modules/{path.name}", _PROGRAM, read_module(path)) for path in modules),
        ]
    )


def render_script(modules: Iterable[str], init: Path) -> str:
    """Return the script that leads to `init`."""
    lines = [
        f"#!{_BUSYBOX} sh",
        "set -e",
        f"echo {SIGN_OF_LIFE.decode()} >/dev/console",
        *(f"{_BUSYBOX} insmod /modules/{shlex.quote(name)}" for name in modules),
        # Nothing changes underneath while the guest lives, so it may keep what it has read.
        f"{_BUSYBOX} mount -t 9p -o ro,cache=loose,{NINEP} {ROOT_TAG} /root",
        f"{_BUSYBOX} mount -t devtmpfs none /root/dev",
        f"exec {_BUSYBOX} switch_root /root {shlex.quote(str(init))}",
        "",
    ]
    return "\n".join(lines)


def pack(entries: Iterable[Entry]) -> bytes:
    """Return a cpio archive of the kind that Linux unpacks at boot.

    Documentation/driver-api/early-userspace/buffer-format.rst in Linux.
    """
    archive = bytearray()
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.name.encode() + b"\0"
        links, owner, time, check = 1, 0, 0, 0
        fields = (
            *(number, entry.mode, owner, owner, links, time, len(entry.data)),
            *(0, 0, *entry.device, len(name), check),
        )
        archive += b"070701" + b"".join(b"%08x" % field for field in fields) + name
        archive += bytes(-len(archive) % 4) + entry.data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)
