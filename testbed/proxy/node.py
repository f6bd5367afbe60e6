"""The proxy's own Node: its addresses, its zone, and whether it is going away.

Owns how they are read from a Node object, and the fallback where there is none. Must not know Services.
"""

from __future__ import annotations

import logging
import socket
import threading
from typing import NamedTuple

from testbed.proxy.apiclient import NODES_PATH, ApiRefused, ApiServer, Object, object_path
from testbed.proxy.health import DELETION_TAINT
from testbed.proxy.model import Family
from testbed.proxy.parse import ZONE_LABEL, address_family, labels

log = logging.getLogger(__name__)

_PAUSE_S = (0.1, 5.0)
_SOMEWHERE = {  # documentation addresses (RFC 5737, RFC 3849): nothing is sent, only the route is looked up
    Family.IPV4: (socket.AF_INET, "192.0.2.1"),
    Family.IPV6: (socket.AF_INET6, "2001:db8::1"),
}


class NodeFacts(NamedTuple):
    """What the proxy needs to know of its node; `eligible` is False where load balancers should leave."""

    addresses: tuple[str, ...] = ()
    zone: str = ""
    eligible: bool = True

    def of_family(self, family: Family) -> tuple[str, ...]:
        """Its addresses of one family, the internal one first."""
        return tuple(address for address in self.addresses if address_family(address) is family)


def node_facts(item: Object) -> NodeFacts:
    """Read a Node object; what it lacks is empty."""
    status, spec, meta = (item.get(part) or {} for part in ("status", "spec", "metadata"))
    entries = [entry for entry in status.get("addresses") or () if address_family(entry.get("address"))]
    entries.sort(key=lambda entry: entry.get("type") != "InternalIP")
    tainted = any(taint.get("key") == DELETION_TAINT for taint in spec.get("taints") or ())
    return NodeFacts(
        addresses=tuple(dict.fromkeys(entry["address"] for entry in entries)),
        zone=str(labels(item).get(ZONE_LABEL, "")),
        eligible=not tainted and not meta.get("deletionTimestamp"),
    )


def find_node(server: ApiServer, hostname: str, stopped: threading.Event) -> NodeFacts:
    """Ask the API for the node, waiting until there is an API; where it has no such Node, ask the kernel."""
    pause_s = _PAUSE_S[0]
    while not stopped.is_set():
        try:
            facts = node_facts(server.get(object_path(NODES_PATH, hostname)))
        except ApiRefused as refusal:
            log.warning("no Node %s (%s): using the addresses of this host", hostname, refusal)
            return NodeFacts(_own_addresses())
        except OSError as error:
            log.warning("API server %s cannot be reached: %s", server.url, error)
            stopped.wait(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S[1])
        else:
            return facts if facts.addresses else facts._replace(addresses=_own_addresses())
    return NodeFacts()


def _own_addresses() -> tuple[str, ...]:
    """The addresses from which this namespace would talk to the world."""
    found = []
    for inet, elsewhere in _SOMEWHERE.values():
        try:
            with socket.socket(inet, socket.SOCK_DGRAM) as probe:
                probe.connect((elsewhere, 9))
                found.append(probe.getsockname()[0])
        except OSError:
            continue  # no route, so no address
    return tuple(found)
