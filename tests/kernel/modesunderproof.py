"""The modes that every behaviour is proven in, on the kernel that has them, and what is peculiar to each.

What works in the host's kernel is proven there, what works in user-mode Linux there, too. Owns the facts that
`conformance` cannot say in its table.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest
from _pytest.mark import ParameterSet
from asking import Answer, Outcome, Question
from proxynode import VIP, Mode, Node, of_family
from smallcluster import PODS, PORT

from testbed.proxy.model import Family

_PAUSE_S = 0.01
"""Between connections, lest a client has the only CPU of a guest to itself."""

HOST = (Mode("iptables", "legacy"), Mode("iptables", "nft"), Mode("nftables"), Mode("userspace"))
GUEST = (Mode("iptables", "legacy"), Mode("ipvs"), Mode("userspace"))


@dataclass(frozen=True)
class Traits:
    """What a mode is like.

    `nobody` is what a Service without endpoints does, as in `conformance`. `affinity_s` is the shortest
    timeout that a test can wait for. Commands are for `Node.command`: `flushing` ones lose what leads to
    Services, after `wrecking` ones a change cannot be written, which the metric `failures` counts (empty: it
    is written anyway). `rules` tells, for a family, how many rules by table so many Services of two ports
    have with so many endpoints each.
    """

    rules: Callable[[Family, int, int], Mapping[str, int]]
    flushing: tuple[str, ...]
    wrecking: tuple[str, ...]
    failures: str = ""
    takes_turns: bool = False
    nobody: str = "refused"
    affinity_s: int = 2
    foreign: tuple[str, ...] = ()
    foreign_traces: tuple[str, ...] = ()
    forgetting_foreign: tuple[str, ...] = ()


_FLUSHING_NAT = ("iptables -t nat -F", "ip6tables -t nat -F")
_WRECKING_NAT = (*_FLUSHING_NAT, "iptables -t nat -X", "ip6tables -t nat -X")
_OTHERS_RULE = "PREROUTING -p tcp -m tcp --dport 1 -j MINE"
_FOREIGN_RULE = ("iptables -t nat -N MINE", f"iptables -t nat -A {_OTHERS_RULE}")
_FORGETTING_RULE = (f"iptables -t nat -D {_OTHERS_RULE}", "iptables -t nat -X MINE")

TRAITS = {
    "iptables": Traits(
        rules=lambda family, services, endpoints: {
            "filter": 4 if family is Family.IPV4 else 3,  # route_localnet is a matter of IPv4
            "nat": 5 + services * 2 * (2 + 3 * endpoints),
        },
        flushing=tuple(f"iptables -t {table} -F" for table in ("nat", "filter", "mangle")),
        wrecking=_WRECKING_NAT,
        failures="sync_proxy_rules_iptables_restore_failures_total",
        foreign=_FOREIGN_RULE,
        foreign_traces=(f"-A {_OTHERS_RULE}",),
        forgetting_foreign=_FORGETTING_RULE,
    ),
    "nftables": Traits(
        # A Service has one element for its address; each of its ports has one more, and rules to masquerade,
        # to choose, and two for every endpoint.
        rules=lambda family, services, endpoints: {
            "kube-proxy": 24 + services * (1 + 2 * (1 + 2 + 2 * endpoints))
        },
        flushing=("nft flush ruleset", "nft flush chain ip kube-proxy services"),
        wrecking=("nft flush ruleset",),
        failures="sync_proxy_rules_nftables_sync_failures_total",
        foreign=("nft add table ip mine",),
        foreign_traces=("table ip mine",),
        forgetting_foreign=("nft delete table ip mine",),
    ),
    "userspace": Traits(
        rules=lambda family, services, endpoints: {"nat": 5 + services * 2 * 2},
        flushing=("iptables -t nat -F",),
        wrecking=_WRECKING_NAT,
        failures="sync_proxy_rules_iptables_restore_failures_total",
        takes_turns=True,
        nobody="closed|silence",
        foreign=_FOREIGN_RULE,
        foreign_traces=(f"-A {_OTHERS_RULE}",),
        forgetting_foreign=_FORGETTING_RULE,
    ),
    "ipvs": Traits(
        rules=lambda family, services, endpoints: {"nat": 23, "filter": 19},
        flushing=(
            "ipvsadm -C",
            f"ipvsadm -E -t {VIP}:80 -s lc -p 60",
            f"ipvsadm -e -t {VIP}:80 -r {PODS['a'][1]}:{PORT} -m -w 7",
            "ipset flush",
            "ipset add KUBE-NODE-PORT-TCP 31000",
            *_FLUSHING_NAT,
            f"ip address del {VIP}/32 dev kube-ipvs0",
        ),
        wrecking=("ipvsadm -C",),
        takes_turns=True,
        # An affinity ends when its time is over and the connections under it are forgotten, ten seconds after
        # they were reset; found unfinished ones, IPVS looks again a minute later.
        affinity_s=12,
        foreign=(
            "ipvsadm -A -t 192.0.2.77:80 -s rr",
            "ipset create MINE hash:ip",
            "iptables -A INPUT -m set --match-set MINE src -j DROP",
        ),
        foreign_traces=("192.0.2.77:80", "MINE", "--match-set MINE src -j DROP"),
        forgetting_foreign=(
            "ipvsadm -D -t 192.0.2.77:80",
            "iptables -D INPUT -m set --match-set MINE src -j DROP",
            "ipset destroy MINE",
        ),
    ),
}


def _params(*left_out: str) -> Iterator[ParameterSet]:
    for mode in HOST:
        if mode.name not in left_out:
            name = f"{mode.name}-{mode.variant}" if mode.name == "iptables" else mode.name
            yield pytest.param(mode, id=name)
    for mode in GUEST:
        if mode.name not in left_out:
            yield pytest.param(mode, id=f"{mode.name}-in-guest", marks=pytest.mark.guest)


MODES = list(_params())
"""Parameters of tests: each mode on the host's kernel, and in the guest."""
ONCE = [
    pytest.param(*param.values, id=param.id, marks=(*param.marks, pytest.mark.validate))
    if str(param.id).endswith("-in-guest") and param.values[0].name != "ipvs"
    else param
    for param in MODES
]
"""The same for what takes minutes in a guest: `make validate` alone asks it there, of modes the host has."""
IN_KERNEL = list(_params("userspace"))
"""The same without the mode whose connections end with the proxy's process."""


@contextlib.contextmanager
def unfailing_client(node: Node) -> Iterator[list[Outcome]]:
    """A client that connects again and again while the block runs, over every family, and never fails."""
    vips = [of_family(VIP, family) for family in node.families]
    outcomes: list[Outcome] = []
    over = threading.Event()

    def keep_asking() -> None:
        while not over.wait(_PAUSE_S):
            outcomes.extend(node.cluster.outcomes([Question("client", vip, 80) for vip in vips]))

    client = threading.Thread(target=keep_asking)
    client.start()
    try:
        yield outcomes
    finally:
        over.set()
        client.join()
    assert outcomes
    assert [outcome for outcome in outcomes if not isinstance(outcome, Answer)] == []
