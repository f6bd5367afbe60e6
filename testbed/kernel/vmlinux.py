"""The kernel proper inside a kernel image.

An emulated machine that is given it boots at once; from the image, it would first unpack it itself, which
takes as long as all else in a boot. Owns the layout of an image. Pure but for the unpacking of zstd.

Sources: Documentation/arch/x86/boot.rst (payload_offset), include/xen/interface/elfnote.h (the entry point
that a kernel with CONFIG_PVH names).
"""

from __future__ import annotations

import bz2
import lzma
import struct
import subprocess
import zlib
from collections.abc import Iterator

from testbed.errors import MachineLacks
from testbed.net.tools import find_tool

_SETUP_SECTORS = 0x1F1
_PAYLOAD = 0x248
_SECTOR_BYTES = 512
_PT_NOTE = 4
_XEN_PHYS32_ENTRY = 18


def extract(image: bytes) -> bytes | None:
    """Return the ELF file inside an image, or None if it cannot be had or cannot be booted by itself."""
    offset, length = struct.unpack_from("<II", image, _PAYLOAD)
    start = ((image[_SETUP_SECTORS] or 4) + 1) * _SECTOR_BYTES + offset
    kernel = _unpack(image[start : start + length])
    return kernel if kernel is not None and _boots_by_itself(kernel) else None


def _unpack(payload: bytes) -> bytes | None:
    # What follows the packed data, its length, is left alone.
    match payload[:6]:
        case b"\xfd7zXZ\0":
            return lzma.LZMADecompressor().decompress(payload)
        case bytes(magic) if magic.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(wbits=31).decompress(payload)
        case bytes(magic) if magic.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(payload)
        case bytes(magic) if magic.startswith(b"\x28\xb5\x2f\xfd"):
            return _unpack_zstd(payload)
        case bytes(magic) if magic.startswith(b"\x7fELF"):
            return payload
        case _:
            return None


def _unpack_zstd(payload: bytes) -> bytes | None:
    try:
        program = find_tool("zstd")
    except MachineLacks:
        return None
    done = subprocess.run([program, "-dcq"], input=payload, stdout=subprocess.PIPE, check=False)
    # The length behind the packed data is no zstd to it, which it says once all is unpacked.
    return done.stdout or None


def _boots_by_itself(kernel: bytes) -> bool:
    if kernel[:5] != b"\x7fELF\x02":
        return False
    return any(name == b"Xen\0" and kind == _XEN_PHYS32_ENTRY for name, kind in _notes(kernel))


def _notes(kernel: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield name and type of every note of a 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", kernel, 0x20)
    size, count = struct.unpack_from("<HH", kernel, 0x36)
    for number in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", kernel, table + number * size)
        if kind != _PT_NOTE:
            continue
        at, end = offset, offset + length
        while at + 12 <= end:
            name_bytes, text_bytes, note = struct.unpack_from("<III", kernel, at)
            yield kernel[at + 12 : at + 12 + name_bytes], note
            at += 12 + (name_bytes + 3 & ~3) + (text_bytes + 3 & ~3)
