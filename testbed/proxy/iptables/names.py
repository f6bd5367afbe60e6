"""Chain names of iptables mode, exactly kube-proxy's, so that its users find what they know.

Owns the hashes and the names of the fixed chains. Must not know rules.
"""

from __future__ import annotations

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

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"  # base32, RFC 4648
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


def chain_hash(text: str) -> str:
    """First 16 characters of base32(sha256(text)), spelt out since base64.b32encode takes twice the time."""
    bits = int.from_bytes(sha256(text.encode()).digest()[:10], "big")
    pairs = _PAIRS
    return (
        pairs[bits >> 70]
        + pairs[bits >> 60 & 1023]
        + pairs[bits >> 50 & 1023]
        + pairs[bits >> 40 & 1023]
        + pairs[bits >> 30 & 1023]
        + pairs[bits >> 20 & 1023]
        + pairs[bits >> 10 & 1023]
        + pairs[bits & 1023]
    )


def service_hash(name: ServicePortName) -> str:
    """What follows `KUBE-SVC-`, `-SVL-`, `-EXT-` and `-FW-` for one Service port."""
    return chain_hash(f"{name}{name.protocol.lower()}")


def endpoint_hash(name: ServicePortName, endpoint: str) -> str:
    """What follows `KUBE-SEP-` for one endpoint, given as `address:port`."""
    return chain_hash(f"{name}{name.protocol.lower()}{endpoint}")


def is_service_chain(chain: str) -> bool:
    """Whether a chain belongs to one Service or endpoint."""
    return chain.startswith(SERVICE_PREFIXES)
