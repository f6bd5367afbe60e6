"""What a machine must have room for before a fabric is built on it.

Owns the kernel's limits on links and namespaces and what one namespace costs. Must not build anything.
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from testbed.errors import MachineLacks, UserError

MOST_BRIDGE_PORTS = 1023  # BR_MAX_PORTS - 1, net/bridge/br_private.h: port 0 is not used
_BYTES_A_NAMESPACE = 400_000  # measured: 0.25 to 0.35 MB for a pod with its veth and its sockets
_SPARE_FILES = 256  # logs, pipes and sockets of whoever builds


def check_names(names: Iterable[str]) -> None:
    """Raise UserError unless every name is a file name and names one namespace."""
    counts = Counter(names)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise UserError(
            f"{', '.join(twice)}: used twice; nodes, pods, `outside` and `fabric` need different names"
        )
    unusable = sorted(name for name in counts if "/" in name or name in ("", ".", ".."))
    if unusable:
        raise UserError(f"{unusable[0]!r} cannot name a network namespace: take letters, digits, `-` and `.`")


def check_ports(ports: Mapping[str, int]) -> None:
    """Raise MachineLacks if a bridge (by what it belongs to) would need more ports than the kernel gives."""
    for owner, count in ports.items():
        if count > MOST_BRIDGE_PORTS:
            raise MachineLacks(
                f"{owner} needs a bridge with {count} ports and Linux gives one {MOST_BRIDGE_PORTS}",
                "spread the pods over more nodes",
            )


def check_memory(namespaces: int) -> None:
    """Raise MachineLacks if so many more namespaces would not fit into the memory that is free."""
    needed_mb = namespaces * _BYTES_A_NAMESPACE // 1_000_000
    free_mb = _free_memory_mb()
    if needed_mb > free_mb:
        raise MachineLacks(
            f"{namespaces} nodes and pods take about {needed_mb} MB of memory and {free_mb} MB are free",
            "take fewer pods or a machine with more memory",
        )


def allow_open_files(more: int) -> None:
    """Raise the limit on open files so that `more` can be opened; MachineLacks if it cannot be."""
    needed = len(list(Path("/proc/self/fd").iterdir())) + more + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed <= soft:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(needed, hard)))
    except (ValueError, OSError) as error:
        raise MachineLacks(
            f"this lab needs {needed} open files and the limit is {hard}",
            f"raise it: `ulimit -Hn {needed}` as root, or LimitNOFILE= where systemd starts the session",
        ) from error


def _free_memory_mb() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return int(amount.split()[0]) // 1024
    raise MachineLacks("/proc/meminfo says nothing of MemAvailable", "a kernel from 3.14 on")
