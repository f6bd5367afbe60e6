"""Names of the chains and sets of single Services and endpoints, as kube-proxy builds them.

Owns the hash and what it is taken of. Must not know rules.
"""

from __future__ import annotations

from base64 import b32encode
from hashlib import sha256

from testbed.proxy.model import Endpoint, ServicePort

_HASH_LENGTH = 8
_MAX_LENGTH = 200  # the kernel takes 255; prefixes need room


def port_path(port: ServicePort) -> str:
    """`namespace/name/protocol/port`, what a Service port is called in every name below."""
    namespace, name, port_name, _ = port.name
    return f"{namespace}/{name}/{port.protocol}/{port_name}"


def port_name(path: str) -> str:
    """What follows `service-`, `local-`, `external-` and `firewall-`."""
    return _hashed(path)


def endpoint_name(path: str, endpoint: Endpoint) -> str:
    """What follows `endpoint-` and `affinity-`; nft takes no colon in a name."""
    address = endpoint.address.replace(":", ".")
    return _hashed(f"{path}__{address}/{endpoint.port}")


def _hashed(text: str) -> str:
    digest = b32encode(sha256(text.encode()).digest()[:5]).decode()
    name = f"{digest[:_HASH_LENGTH]}-{text}"
    return name if len(name) <= _MAX_LENGTH else f"{name[: _MAX_LENGTH - 3]}..."
