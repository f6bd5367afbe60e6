"""The loadable modules of a kernel: what there is, and in which order a module and what it needs go in.

Owns reading a directory of modules as depmod(8) left it. Must not load anything.
"""

from __future__ import annotations

import gzip
import lzma
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from testbed.net.tools import find_tool


@dataclass(frozen=True)
class ModuleIndex:
    """The modules in a directory.

    Attributes:
        directory: what the paths are relative to.
        needs: by name, the module's own path and those of all that it needs, nearest first.
        builtin: names of the parts that are in the kernel itself.
    """

    directory: Path
    needs: Mapping[str, tuple[str, ...]]
    builtin: frozenset[str]

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read modules.dep and modules.builtin."""
        needs = {}
        for entry in (directory / "modules.dep").read_text().splitlines():
            path, _, others = entry.partition(":")
            needs[module_name(path)] = (path, *others.split())
        builtin: frozenset[str] = frozenset()
        with suppress(FileNotFoundError):
            listed = (directory / "modules.builtin").read_text().split()
            builtin = frozenset(map(module_name, listed))
        return cls(directory, needs, builtin)

    def __contains__(self, name: str) -> bool:
        return name in self.needs or name in self.builtin

    def in_order(self, names: Iterable[str]) -> list[Path]:
        """Return the files of `names` and of what they need, each after what it needs itself."""
        paths: dict[str, None] = {}
        for name in names:
            if name not in self.builtin:
                paths |= dict.fromkeys(reversed(self.needs[name]))
        return [self.directory / path for path in paths]


def module_name(path: str) -> str:
    """Return the name by which the kernel knows the module in a file."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def read_module(path: Path) -> bytes:
    """Return a module's object code, unpacked.

    Raises:
        MachineLacks: it is packed by zstd, and there is no program to unpack it.
    """
    match path.suffix:
        case ".xz":
            return lzma.decompress(path.read_bytes())
        case ".gz":
            return gzip.decompress(path.read_bytes())
        case ".zst":
            return subprocess.check_output([find_tool("zstd"), "-dc", path])
        case _:
            return path.read_bytes()
