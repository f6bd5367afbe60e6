"""Elements of sets and verdict maps as the kernel takes them: keys, networks, verdicts.

Owns the attribute layout of elements and of data in <linux/netfilter/nf_tables.h>. Pure. Must not know rules,
nor which sets there are.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from functools import lru_cache

from testbed.net.netlink import attribute, be32, nested, text

PROTOCOLS = {
    "tcp": socket.IPPROTO_TCP,
    "udp": socket.IPPROTO_UDP,
    "sctp": socket.IPPROTO_SCTP,
}
LIST_ELEMENT = 1
DATA_VALUE, _DATA_VERDICT = 1, 2

_ELEM_KEY, _ELEM_DATA, _ELEM_FLAGS = 1, 2, 3
_INTERVAL_END = 1
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
# enum nft_verdicts, as unsigned numbers; NF_DROP is <linux/netfilter.h>'s
_DROP, _RETURN, _GOTO, _JUMP = 0, 0xFFFFFFFB, 0xFFFFFFFC, 0xFFFFFFFD
_VERDICTS = {
    "drop": be32(_VERDICT_CODE, _DROP),
    "return": be32(_VERDICT_CODE, _RETURN),
    "goto": be32(_VERDICT_CODE, _GOTO),
    "jump": be32(_VERDICT_CODE, _JUMP),
}


def element(key: bytes, verdict: str = "", flags: int = 0) -> bytes:
    """One element of a set, or with a verdict such as `goto chain` of a verdict map."""
    parts = be32(_ELEM_FLAGS, flags) if flags else b""
    parts += nested(_ELEM_KEY, attribute(DATA_VALUE, key))
    if verdict:
        code, _, chain = verdict.partition(" ")
        parts += nested(_ELEM_DATA, verdict_data(code, chain))
    return nested(LIST_ELEMENT, parts)


@lru_cache(maxsize=4096)
def packed(address: str) -> bytes:
    """An address in network order."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def intervals(networks: Iterable[str], whole: int) -> list[bytes]:
    """Elements of a set of disjoint networks: where each begins, and where it has ended.

    nft marks the lowest address as an end, too, unless something begins there; neighbours share no mark.
    """
    merged: list[list[int]] = []
    for network in sorted(map(ipaddress.ip_network, networks), key=lambda each: int(each.network_address)):
        first, behind = int(network.network_address), int(network.broadcast_address) + 1
        if merged and merged[-1][1] == first:
            merged[-1][1] = behind
        else:
            merged.append([first, behind])
    elements = [] if merged[0][0] == 0 else [element(bytes(whole), flags=_INTERVAL_END)]
    for first, behind in merged:
        elements.append(element(first.to_bytes(whole)))
        if behind >> 8 * whole == 0:
            elements.append(element(behind.to_bytes(whole), flags=_INTERVAL_END))
    return elements


def verdict_data(code: str, chain: str = "") -> bytes:
    """A verdict, as `goto` a chain or `drop`. Raises ValueError for one that is not known."""
    if code not in _VERDICTS:
        raise ValueError(f"not known in a rule: {code}")
    return nested(_DATA_VERDICT, _VERDICTS[code] + text(_VERDICT_CHAIN, chain) if chain else _VERDICTS[code])
