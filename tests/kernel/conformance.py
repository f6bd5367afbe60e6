"""What traffic has to find, as data: which Service, asked from where, is answered by whom in which mode.

Owns the table. Must not know how a question is asked.

A row of `expected` names a way in, and what becomes of it from a pod, from the node and from outside.
`ac=own`: a and c both answer, nobody else does, and they see the address that asks. With `ac=node` they see
that of the node (of its pod bridge, if they live there), with `ac=any` whatever it is. Two outcomes with a
bar between are those over TCP and over UDP. Rows of `modes` replace those of the same way for one mode:
there the real modes differ, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from asking import CLOSED, REFUSED, SILENCE, UNREACHABLE
from proxynode import (
    ALL_WAYS,
    EXTERNAL,
    LB,
    NODE,
    NODE_PORT,
    VIP,
    ZONE,
    End,
    Ends,
    Object,
    balancer,
    both,
    slices,
)
from smallcluster import CLUSTER_CIDRS, GATEWAY, OUTSIDE, PORT

PLACES = ("client", "node1", "outside")
WAYS = {
    "vip": (VIP, 80),
    "node port": (NODE, NODE_PORT),
    "balancer": (LB, 80),
    "external": (EXTERNAL, 80),
    "another port": (VIP, 81),
    "node port at the bridge": (GATEWAY, NODE_PORT),
    "node port at loopback": ("127.0.0.1", NODE_PORT),
}
WORDS = (REFUSED, SILENCE, CLOSED, UNREACHABLE)
PROTOCOLS = ("TCP", "UDP")


@dataclass(frozen=True)
class Case:
    """A Service with its endpoints, and what it looks like to `sources`."""

    ends: Ends
    expected: str
    modes: Mapping[str, str] = field(default_factory=dict)
    spec: Object = field(default_factory=dict)
    sources: tuple[str, ...] = PLACES
    settings: Object = field(default_factory=dict)
    slices: tuple[Object, ...] = ()
    no_local: tuple[str, ...] = ()
    """Policies under which the Service counts as having no local endpoints; userspace mode knows none."""

    def cells(self, mode: str) -> Iterator[tuple[str, str, str, str]]:
        """Way, source, protocol and expected outcome in a mode."""
        rows = _rows(self.expected) | _rows(self.modes.get(mode, ""))
        for way, columns in rows.items():
            for source, text in zip(self.sources, columns, strict=True):
                outcomes = text.split("|") if "|" in text else (text, text)
                for protocol, outcome in zip(PROTOCOLS, outcomes, strict=True):
                    if outcome != "-":
                        yield way, source, protocol, outcome


def _rows(text: str) -> dict[str, list[str]]:
    """Rows of a table: a way, a colon, and a column for each source."""
    lines = (line.partition(":") for line in text.strip().splitlines())
    return {way.strip(): columns.split() for way, _, columns in lines}


def ways(internal: str, outside: str) -> str:
    """A table with one row for the ClusterIP and the same for every other way."""
    others = ("node port", "balancer", "external")
    return "\n".join([f"vip: {internal}", *(f"{way}: {outside}" for way in others)])


def host_ranges(address: str) -> list[str]:
    """Source ranges, of both families, that hold one address."""
    four, six = both(address)
    return [f"{four}/32", f"{six}/128"]


LEAVING = End("a", ready=False, terminating=True)
GONE = End("c", ready=False, serving=False, terminating=True)
LOCAL: Object = {**ALL_WAYS, "externalTrafficPolicy": "Local"}
INTERNAL_LOCAL: Object = {**ALL_WAYS, "internalTrafficPolicy": "Local"}
NOBODY = "closed|silence"
KEPT = "\nnode port: a=own a=own a=own"
"""IPVS masquerades a node that talks to a service address of its own, not one that talks to its NodePort."""
RELAYED = {"userspace": ways("ac=node ac=node ac=node", "ac=node ac=node ac=node")}
RELAYED_TO_C = {"userspace": ways("c=node c=node c=node", "c=node c=node c=node")}

CASES: dict[str, Case] = {
    "pods keep their address at a ClusterIP, all else is masqueraded": Case(
        ["a", "c"],
        ways("ac=own ac=node ac=node", "ac=node ac=node ac=node"),
        RELAYED,
        ALL_WAYS,
    ),
    "external policy Local: outside keeps its address, pods and node reach all": Case(
        ["a", "c"],
        ways("ac=own ac=node ac=node", "ac=own ac=node a=own"),
        RELAYED | {"ipvs": ways("ac=own ac=node ac=node", "a=own a=node a=own") + KEPT},
        LOCAL,
    ),
    "external policy Local without local endpoints: silence outside only": Case(
        ["c"],
        ways("c=own c=node c=node", "c=own c=node silence"),
        RELAYED_TO_C,
        LOCAL,
        no_local=("external",),
    ),
    "internal policy Local keeps a ClusterIP on the node, and nothing else": Case(
        ["a", "c"],
        ways("a=own a=node a=node", "ac=node ac=node ac=node"),
        RELAYED,
        INTERNAL_LOCAL,
    ),
    "internal policy Local without local endpoints": Case(
        ["c"],
        ways("silence silence silence", "c=node c=node c=node"),
        RELAYED_TO_C | {"ipvs": "vip: refused refused refused"},
        INTERNAL_LOCAL,
        no_local=("internal",),
    ),
    "without endpoints every way is refused": Case(
        [],
        ways("refused refused refused", "refused refused refused"),
        {
            "userspace": ways(f"{NOBODY} {NOBODY} {NOBODY}", f"{NOBODY} {NOBODY} {NOBODY}"),
            # kube-proxy has no jump from OUTPUT to KUBE-EXTERNAL-SERVICES: what the node sends leaves it.
            "iptables": "balancer: refused silence refused\nexternal: refused silence refused",
        },
        ALL_WAYS,
    ),
    "endpoints that are not ready are none": Case(
        [End("a", ready=False), GONE],
        "vip: refused refused refused",
        {"userspace": f"vip: {NOBODY} {NOBODY} {NOBODY}"},
    ),
    "ready endpoints are preferred to terminating ones": Case(
        [LEAVING, "b", End("c", ready=False)],
        "vip: b=own b=node b=node",
        {"userspace": "vip: b=node b=node b=node"},
    ),
    "terminating endpoints that serve are the last resort": Case(
        [LEAVING, GONE],
        "vip: a=own a=node a=node",
        {"userspace": f"vip: {NOBODY} {NOBODY} {NOBODY}"},
    ),
    "policy Local falls back to terminating endpoints by itself": Case(
        [LEAVING, "c"],
        ways("c=own c=node c=node", "c=own c=node a=own"),
        RELAYED_TO_C | {"ipvs": ways("c=own c=node c=node", "a=own a=node a=own") + KEPT},
        LOCAL,
    ),
    "hints on all endpoints keep traffic in the zone": Case(
        [End("a", zone=ZONE), End("c", zone="there")],
        ways("a=own a=node a=node", "a=node a=node a=node"),
        RELAYED,
        ALL_WAYS,
    ),
    "hints on all endpoints but one mean nothing": Case(
        [End("a", zone=ZONE), End("b"), End("c", zone="there")],
        "vip: abc=own abc=node abc=node",
        {"userspace": "vip: abc=node abc=node abc=node"},
    ),
    "hints for other zones only mean nothing": Case(
        [End("a", zone="there"), End("c", zone="there")],
        "vip: ac=own ac=node ac=node",
        {"userspace": "vip: ac=node ac=node ac=node"},
    ),
    "a pod reaches itself in every way, masqueraded": Case(
        ["a"],
        ways("a=node", "a=node"),
        spec=ALL_WAYS,
        sources=("a",),
    ),
    "a pod reaches itself under policy Local": Case(
        ["a"],
        ways("a=node", "a=node"),
        spec=LOCAL,
        sources=("a",),
    ),
    "a pod reaches itself and another": Case(
        ["a", "b"],
        "vip: a=node,b=own",
        {"userspace": "vip: ab=node"},
        sources=("a",),
    ),
    "source ranges fence the load balancer only": Case(
        ["c"],
        ways("c=own c=node c=node", "c=node c=node c=node") + "\nbalancer: silence silence c=node",
        # What the node itself sends meets IPVS before it could meet a fence.
        RELAYED_TO_C | {"ipvs": "balancer: silence c=node c=node"},
        {**ALL_WAYS, "loadBalancerSourceRanges": host_ranges(OUTSIDE)},
    ),
    "source ranges that hold pods and the node": Case(
        ["c"],
        "balancer: c=node c=node silence",
        {"userspace": "balancer: c=node c=node c=node"},
        {**ALL_WAYS, "loadBalancerSourceRanges": [*CLUSTER_CIDRS.values(), *host_ranges(NODE)]},
    ),
    "source ranges that hold pods only": Case(
        ["c"],
        "balancer: c=node silence silence",
        {"userspace": "balancer: c=node c=node c=node", "ipvs": "balancer: c=node c=node silence"},
        {**ALL_WAYS, "loadBalancerSourceRanges": list(CLUSTER_CIDRS.values())},
    ),
    "a source range of everything is no fence": Case(
        ["c"],
        "balancer: c=node c=node c=node",
        spec={**ALL_WAYS, "loadBalancerSourceRanges": ["0.0.0.0/0", "::/0", *host_ranges("192.0.2.7")]},
    ),
    "a load balancer in proxy mode is not captured": Case(
        ["c"],
        "balancer: silence silence silence\nnode port: c=node c=node c=node",
        spec={**ALL_WAYS, "balancer": balancer(LB, ipMode="Proxy")},
    ),
    "one address may be external and a load balancer's": Case(
        ["c"],
        "external: c=node c=node c=node",
        spec={**ALL_WAYS, "balancer": balancer(EXTERNAL)},
    ),
    "a port of a ClusterIP that is not defined": Case(
        ["a"],
        "another port: silence silence silence",
        dict.fromkeys(("nftables", "ipvs"), "another port: refused refused refused"),
    ),
    "addresses of the node on which a NodePort answers": Case(
        ["c"],
        """node port at the bridge: c=node c=node c=node
           node port at loopback: - c=node -""",
        {
            "nftables": """node port at the bridge: refused refused refused
                           node port at loopback: - refused -""",
            "ipvs": "node port at loopback: - refused -",
        },
        ALL_WAYS,
    ),
    "NodePorts are kept to the addresses that are named": Case(
        ["c"],
        """node port: c=node c=node c=node
           node port at the bridge: refused refused refused""",
        spec=ALL_WAYS,
        settings={"nodeport_addresses": ("192.168.0.0/24", "203.0.113.0/24", "fd00:192:168::/64")},
    ),
    "NodePorts answer on the addresses of every range that is named": Case(
        ["c"],
        """node port: c=node c=node c=node
           node port at the bridge: c=node c=node c=node""",
        spec=ALL_WAYS,
        settings={"nodeport_addresses": ("192.168.0.0/24", "10.244.1.0/24", "fd00::/16")},
    ),
    "masqueradeAll hides pods from a ClusterIP's endpoints": Case(
        ["a", "c"],
        "vip: ac=node ac=node ac=node",
        spec=ALL_WAYS,
        settings={"masquerade_all": True},
    ),
    "the mark can be another bit": Case(
        ["c"],
        ways("c=own c=node c=node", "c=node c=node c=node"),
        RELAYED_TO_C,
        ALL_WAYS,
        settings={"masquerade_bit": 9},
    ),
    "slices of one Service are merged": Case(
        [],
        "vip: ac=own ac=node ac=node",
        {"userspace": "vip: ac=node ac=node ac=node"},
        slices=(*slices(["a"]), *slices(["c"], number=2)),
    ),
    "TCP and UDP of one number are independent": Case(
        [],
        "vip: a=own|c=own a=node|c=node a=node|c=node",
        {"userspace": "vip: a=node|c=node a=node|c=node a=node|c=node"},
        slices=(
            *slices(["a"], ports=[("tcp", "TCP", PORT)]),
            *slices(["c"], number=2, ports=[("udp", "UDP", PORT)]),
        ),
    ),
}
