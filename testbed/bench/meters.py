"""Counters of the kernel and of one proxy process, read before and after a block.

Owns the files they are read from. Files of a namespace are opened once, from inside it, and read again
through the descriptor: so a reading needs neither a thread nor a switch of namespaces.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.net.namespace import Namespace

NETSTAT = "/proc/thread-self/net/netstat"
CONNTRACK = "/proc/thread-self/net/stat/nf_conntrack"
CONNTRACK_LOSSES = ("insert_failed", "drop", "early_drop")
NS_PER_S = 1_000_000_000
_CPU_KINDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Reading:
    """All counters at one moment; None where the kernel or the lane has none."""

    syn_retransmits: int
    conntrack_losses: int | None
    proxy_cpu_ns: int | None
    proxy_switches: int | None
    cpu_ns: Mapping[str, int]

    def since(self, before: Reading) -> Reading:
        """What was counted from `before` to here."""
        return Reading(
            syn_retransmits=self.syn_retransmits - before.syn_retransmits,
            conntrack_losses=_difference(self.conntrack_losses, before.conntrack_losses),
            proxy_cpu_ns=_difference(self.proxy_cpu_ns, before.proxy_cpu_ns),
            proxy_switches=_difference(self.proxy_switches, before.proxy_switches),
            cpu_ns={kind: spent - before.cpu_ns.get(kind, 0) for kind, spent in self.cpu_ns.items()},
        )


class Meters:
    """The counters of one lane: its client's namespace, its client's node, that node's proxy."""

    def __init__(self, client: Namespace, node: Namespace) -> None:
        self._netstat = client.run(os.open, NETSTAT, os.O_RDONLY | os.O_CLOEXEC)
        self._conntrack: int | None = None
        with suppress(FileNotFoundError):
            self._conntrack = node.run(os.open, CONNTRACK, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, proxy_pid: int | None) -> Reading:
        """Read everything now; a proxy that has just died has no counters."""
        return Reading(
            syn_retransmits=syn_retransmits(_reread(self._netstat)),
            conntrack_losses=None if self._conntrack is None else conntrack_losses(_reread(self._conntrack)),
            proxy_cpu_ns=None if proxy_pid is None else process_cpu_ns(proxy_pid),
            proxy_switches=None if proxy_pid is None else process_switches(proxy_pid),
            cpu_ns=cpu_ns(Path("/proc/stat").read_text(encoding="ascii")),
        )

    def close(self) -> None:
        os.close(self._netstat)
        if self._conntrack is not None:
            os.close(self._conntrack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def syn_retransmits(netstat: str) -> int:
    """`TCPSynRetrans` of /proc/net/netstat, where a line of names precedes each line of values."""
    lines = netstat.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        columns = names.split()
        if "TCPSynRetrans" in columns:
            return int(values.split()[columns.index("TCPSynRetrans")])
    return 0


def conntrack_losses(stat: str) -> int:
    """Entries that conntrack could not keep, over all CPUs (a line each, hexadecimal)."""
    header, *lines = stat.splitlines()
    places = [place for place, name in enumerate(header.split()) if name in CONNTRACK_LOSSES]
    return sum(int(line.split()[place], 16) for line in lines for place in places)


def cpu_ns(stat: str) -> dict[str, int]:
    """CPU time of the whole kernel by kind, from the first line of /proc/stat."""
    tick_ns = NS_PER_S // os.sysconf("SC_CLK_TCK")
    ticks = stat.partition("\n")[0].split()[1:]
    return {kind: int(count) * tick_ns for kind, count in zip(_CPU_KINDS, ticks, strict=False)}


def process_cpu_ns(pid: int) -> int | None:
    """CPU time that a process has used, from its CPU clock (clock_getcpuclockid(3)); None if it is gone."""
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return None


def process_switches(pid: int) -> int | None:
    """Context switches of all threads of a process, voluntary or not; None if it is gone."""
    try:
        texts = [path.read_text(encoding="utf-8") for path in Path(f"/proc/{pid}/task").glob("*/status")]
    except OSError:
        return None
    lines = (line for text in texts for line in text.splitlines() if "ctxt_switches" in line)
    return sum(int(line.split()[-1]) for line in lines) if texts else None


def has_children(pid: int) -> bool:
    """Whether a process has started programs that still run; false where the kernel does not list them."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    with suppress(OSError):
        return any(path.read_text(encoding="ascii").strip() for path in lists)
    return False


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process; None if it is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _reread(fd: int) -> str:
    return os.pread(fd, _READ_BYTES, 0).decode("ascii")


def _difference(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else now - before
