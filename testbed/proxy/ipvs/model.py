"""The nouns of IPVS: virtual servers, how they balance, real servers, and what a node holds of them.

Owns their identities and flag values. Must not know Services, netlink, or how any of it is read or written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

DEVICE = "kube-ipvs0"
"""The dummy device that holds every service address, so that the node takes packets for it as its own."""

# <linux/ip_vs.h>, IP_VS_SVC_F_*
PERSISTENT = 0x1
HASHED = 0x2
SCHED_1 = 0x8
SCHED_2 = 0x10

SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "fo", "ovf", "mh")
"""Every scheduler of Linux 6.x. Which of them a kernel has is for `schedulers` to find out."""

FLAG_NAMES: Mapping[str, int] = {
    "sh-fallback": SCHED_1,
    "sh-port": SCHED_2,
    "mh-fallback": SCHED_1,
    "mh-port": SCHED_2,
}
"""Flags of the hashing schedulers, named as `ipvsadm -b` names them."""


class VirtualServer(NamedTuple):
    """Identity of a virtual server. `protocol` is `TCP`, `UDP` or `SCTP`; `address` is canonical text."""

    protocol: str
    address: str
    port: int

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.protocol} {address}:{self.port}"


class RealServer(NamedTuple):
    """Identity of a real server (a destination) of a virtual server."""

    address: str
    port: int


class Status(NamedTuple):
    """A real server as the kernel describes it; a weight of -1 means that it does not masquerade.

    Active connections are established ones, inactive those that are opening or have ended lately.
    """

    weight: int
    active: int
    inactive: int

    @property
    def idle(self) -> bool:
        """No connection is left, not even one in TIME_WAIT."""
        return not self.active and not self.inactive


class Balancing(NamedTuple):
    """How a virtual server spreads connections; `timeout_s` is that of persistence, 0 without it."""

    scheduler: str
    flags: int = 0
    timeout_s: int = 0


@dataclass(slots=True)
class Live:
    """What the kernel holds of one virtual server: weights (as in `Status`) by real server."""

    balancing: Balancing
    weights: dict[RealServer, int] = field(default_factory=dict)


@dataclass(slots=True)
class NodeState:
    """What a node holds, as read from the kernel or as remembered: all that a sync compares with.

    `addresses` are those on `kube-ipvs0`; `sets` maps the name of every existing ipset to its members.
    """

    servers: dict[VirtualServer, Live] = field(default_factory=dict)
    addresses: set[str] = field(default_factory=set)
    sets: dict[str, set[str]] = field(default_factory=dict)


def parse_scheduler(text: str) -> tuple[str, int]:
    """Split `name` or `name:flag,flag` into the scheduler and its flags; empty means `rr`.

    `mh` alone hashes ports too, as kube-proxy asks for. Raises ValueError for a flag of another scheduler.
    """
    name, colon, listed = text.partition(":")
    name = name or "rr"
    if not colon:
        return name, FLAG_NAMES["mh-port"] if name == "mh" else 0
    return name, _flags(name, listed.split(","))


def _flags(scheduler: str, names: Iterable[str]) -> int:
    flags = 0
    for name in names:
        if name not in FLAG_NAMES or not name.startswith(f"{scheduler}-"):
            known = ", ".join(flag for flag in FLAG_NAMES if flag.startswith(f"{scheduler}-")) or "none"
            raise ValueError(
                f"{name!r} is not a flag of the IPVS scheduler {scheduler!r} (its flags: {known})"
            )
        flags |= FLAG_NAMES[name]
    return flags
