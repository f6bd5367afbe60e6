"""A Linux kernel image of a distribution, with its modules: which one is booted, and what it is.

Owns how images and modules are found and read. Must not know the machine that boots them.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from testbed.errors import MachineLacks, UserError
from testbed.kernel.modules import ModuleIndex
from testbed.net.tools import ignores_system_tools, tools_root

_VARIABLE = "TESTBED_KERNEL_IMAGE"
_GET_ONE = "`make tools`, or as root apt-get install linux-image-amd64"
# Documentation/arch/x86/boot.rst: the magic, and where the pointer to the version text stands.
_MAGIC = slice(0x202, 0x206)
_VERSION_POINTER = 0x20E
_SETUP_START = 0x200
_HEADER_BYTES = 1 << 16
# What the guest cannot start without: its root file system and its lines.
NEEDED_MODULES = ("9p", "9pnet_virtio", "virtio_pci", "virtio_console")


@dataclass(frozen=True)
class KernelImage:
    """An image that can be read, and the directory of its modules (the one with modules.dep)."""

    path: Path
    release: str
    modules: Path

    @cached_property
    def index(self) -> ModuleIndex:
        """Its modules by name."""
        return ModuleIndex.read(self.modules)


def find_image(named: Path | None = None) -> KernelImage:
    """Return the image `named`, else $TESTBED_KERNEL_IMAGE, else the newest one here that a guest can use.

    Raises:
        UserError: what is named is no kernel image.
        MachineLacks: there is none, it cannot be read, or it lacks what a guest needs; with the remedy.
    """
    if named is None and (variable := os.environ.get(_VARIABLE)):
        named = Path(variable)
    if named is not None:
        return open_image(named)
    candidates = sorted(_installed(), key=_newness, reverse=True)
    if not candidates:
        raise MachineLacks(
            "there is no Linux kernel image to boot", f"{_GET_ONE}, or name one: --kernel-image"
        )
    first: MachineLacks | None = None
    for path in candidates:
        try:
            return open_image(path)
        except MachineLacks as lacking:
            first = first or lacking
    assert first is not None
    raise first


def open_image(path: Path) -> KernelImage:
    """Read an image's release and find its modules; raises as `find_image`."""
    release = read_release(path)
    image = KernelImage(path.absolute(), release, _find_modules(path.absolute(), release))
    missing = [name for name in NEEDED_MODULES if name not in image.index]
    if missing:
        cloud = "a kernel for clouds " if "cloud" in release else "a kernel "
        raise MachineLacks(
            f"{path} is {cloud}without {missing[0]}, by which a guest reaches the machine's files",
            f"take the distribution's general kernel: {_GET_ONE}",
        )
    return image


def read_release(path: Path) -> str:
    """Return the release (`uname -r`) that an image says it is."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except PermissionError as error:
        raise MachineLacks(
            f"{path} cannot be read by this user, as some distributions have it",
            f"sudo chmod a+r {path}; or `make tools`, which gets another; or name one: --kernel-image",
        ) from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: name a kernel image, such as /boot/vmlinuz-*") from error
    if len(header) < _VERSION_POINTER + 2 or header[_MAGIC] != b"HdrS":
        raise UserError(
            f"{path} is no Linux kernel image for x86 (bzImage): name one such as /boot/vmlinuz-*"
        )
    (pointer,) = struct.unpack_from("<H", header, _VERSION_POINTER)
    text = header[_SETUP_START + pointer :].partition(b"\0")[0].decode(errors="replace")
    return text.split(" ", 1)[0]


def _installed() -> Iterator[Path]:
    """Yield the images that packages have put here, or that `tools/install` has unpacked."""
    for root in _roots():
        for pattern in ("boot/vmlinuz-*", "lib/modules/*/vmlinuz", "usr/lib/modules/*/vmlinuz"):
            with suppress(OSError):
                yield from root.glob(pattern)


def _roots() -> tuple[Path, ...]:
    """Where packages are: on the system, and in the private tools tree."""
    return (tools_root(),) if ignores_system_tools() else (Path("/"), tools_root())


def _newness(path: Path) -> str:
    """Sort by version: 6.12 is newer than 6.1."""
    name = path.parent.name if path.name == "vmlinuz" else path.name.removeprefix("vmlinuz-")
    return re.sub(r"\d+", lambda number: number[0].zfill(8), name)


def _find_modules(image: Path, release: str) -> Path:
    roots = dict.fromkeys((image.resolve().parent.parent, *_roots()))
    places = [root / part / release for root in roots for part in ("lib/modules", "usr/lib/modules")]
    places += [parent for parent in (image.parent, image.resolve().parent) if parent.name == release]
    for directory in places:
        if (directory / "modules.dep").exists():
            return directory
    for directory in places:
        if (directory / "kernel").is_dir():
            root = str(directory).removesuffix(f"/lib/modules/{release}") or "/"
            raise MachineLacks(f"{directory} has no index of its modules", f"depmod -b {root} {release}")
    raise MachineLacks(
        f"{image} has no modules in {' or '.join(map(str, places[:4]))}",
        "install its package whole, or unpack the package's lib/modules beside the image's directory",
    )
