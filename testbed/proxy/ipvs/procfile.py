"""Reads /proc/net/ip_vs: every real server of every virtual server in one pass.

Netlink can list the real servers of one virtual server only, which for ten thousand Services takes ten
thousand dumps. Owns the file's format. Must not decide anything.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from testbed.proxy.ipvs.model import RealServer, Status, VirtualServer

PATH = Path("/proc/thread-self/net/ip_vs")
_PROTOCOLS = frozenset({"TCP", "UDP", "SCTP"})

Statuses = dict[RealServer, Status]


def read_all() -> dict[VirtualServer, Statuses]:
    """All virtual servers of this thread's network namespace with their real servers."""
    with PATH.open(encoding="ascii") as lines:
        return parse(lines)


def parse(lines: Iterable[str]) -> dict[VirtualServer, Statuses]:
    """Read the file's lines: a virtual server's line is followed by one `->` line per real server."""
    table: dict[VirtualServer, Statuses] = {}
    statuses: Statuses = {}
    for line in lines:
        words = line.split()
        if words[0] == "->" and words[1] != "RemoteAddress:Port":
            weight = int(words[3]) if words[2] == "Masq" else -1
            statuses[RealServer(*_place(words[1]))] = Status(weight, int(words[4]), int(words[5]))
        elif words[0] in _PROTOCOLS:
            statuses = table[VirtualServer(words[0], *_place(words[1]))] = {}
        else:
            statuses = {}  # the head of the table, or a virtual server by firewall mark
    return table


@lru_cache(maxsize=4096)
def _place(text: str) -> tuple[str, int]:
    """`0A600001:0050` or `[fd00:...]:0050`."""
    address, _, port = text.rpartition(":")
    if address.startswith("["):
        packed = socket.inet_pton(socket.AF_INET6, address[1:-1])
        return socket.inet_ntop(socket.AF_INET6, packed), int(port, 16)
    return socket.inet_ntop(socket.AF_INET, bytes.fromhex(address)), int(port, 16)
