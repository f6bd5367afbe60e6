"""Chain names of iptables mode, exactly kube-proxy's, so that its users find what they know.

Owns the hashes and the names of the fixed chains. Must not know rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

from testbed.proxy.model import ServicePortName

SERVICES = "KUBE-SERVICES"
EXTERNAL_SERVICES = "KUBE-EXTERNAL-SERVICES"
NODEPORTS = "KUBE-NODEPORTS"
POSTROUTING = "KUBE-POSTROUTING"
MARK_MASQ = "KUBE-MARK-MASQ"
FORWARD = "KUBE-FORWARD"
PROXY_FIREWALL = "KUBE-PROXY-FIREWALL"
FIREWALL = "KUBE-FIREWALL"

SERVICE_PREFIXES = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-")
"""What the chains of single Services and endpoints begin with."""

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"  # base32, RFC 4648
_LETTERS = _ALPHABET + bytes(256 - len(_ALPHABET))
_HASHED_BYTES, _NAME_LENGTH = 10, 16  # 80 bits are 16 letters of 5 bits
_PADDING = bytes(_NAME_LENGTH - _HASHED_BYTES)


def chain_hash(text: str) -> str:
    """First 16 characters of base32(sha256(text))."""
    return chain_hashes([text])[0]


def chain_hashes(texts: Sequence[str]) -> list[str]:
    """The chain hash of each text.

    All of them are one big number with 128 bits for each, in which a few shifts bring 5 bits into every byte:
    that takes a third of the time of base64.b32encode, and names are most of what rendering takes.
    """
    hashed = b"".join([_PADDING + sha256(text.encode()).digest()[:_HASHED_BYTES] for text in texts])
    number = int.from_bytes(hashed, "big")
    for high, low, shift in _spreading(len(texts)):
        number = (number & high) << shift | number & low
    names = number.to_bytes(len(hashed), "big").translate(_LETTERS).decode()
    return [names[start : start + _NAME_LENGTH] for start in range(0, len(names), _NAME_LENGTH)]


@lru_cache(maxsize=64)
def _spreading(count: int) -> tuple[tuple[int, int, int], ...]:
    """For each halving of lanes, from 128 bits to 8: masks of a lane's two halves, and how far they part."""
    steps = []
    lane, used = 128, 80
    while lane > 8:
        lane, used = lane // 2, used // 2
        low = sum(((1 << used) - 1) << start for start in range(0, 128 * count, 2 * lane))
        steps.append((low << used, low, lane - used))
    return tuple(steps)


def service_hash(name: ServicePortName) -> str:
    """What follows `KUBE-SVC-`, `-SVL-`, `-EXT-` and `-FW-` for one Service port."""
    return chain_hash(f"{name}{name.protocol.lower()}")


def endpoint_hash(name: ServicePortName, endpoint: str) -> str:
    """What follows `KUBE-SEP-` for one endpoint, given as `address:port`."""
    return chain_hash(f"{name}{name.protocol.lower()}{endpoint}")


def is_service_chain(chain: str) -> bool:
    """Whether a chain belongs to one Service or endpoint."""
    return chain.startswith(SERVICE_PREFIXES)
