"""node1 of a small cluster with the proxiers of one mode, fed with the API's objects by the test itself.

Owns everything between objects and kernel but the HTTP: change tracker, sync, conntrack, health ports and
metrics are the product's own, one set for each IP family that the mode serves. What a mode leaves in a kernel
is listed by `dump`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import TracebackType
from typing import Any, NamedTuple, Self

from asking import Outcome, Question
from smallcluster import CLUSTER_CIDRS, NODES, PODS, PORT, SmallCluster, address6

from testbed.net.measuring import measuring_sysctls
from testbed.net.process import run
from testbed.proxy.health import ProxyHealth, ServiceHealth
from testbed.proxy.metrics import Metrics
from testbed.proxy.model import Family, ServicePortName
from testbed.proxy.modes import MODES, clean_up, make_proxier
from testbed.proxy.proxier import Proxier, ProxySettings, SyncResult
from testbed.proxy.servicemap import ServiceMap
from testbed.proxy.sync import FamilySync, SyncFailed

NODE = NODES["node1"]
VIP, LB, EXTERNAL, NODE_PORT = "10.96.0.1", "203.0.113.9", "198.51.100.7", 30080
ZONE = "here"
Object = dict[str, Any]
_PROXY_PORT = re.compile(r"(KUBE-(?:PORTALS|NODEPORT)-(?:CONTAINER|HOST) .* --to-\S+ \S*?)\d+$")
_UNLIMITED_ERRORS: dict[str, str | int] = {
    "net.ipv4.icmp_ratemask": 0,  # refusals are ICMP errors, of which a kernel sends 1,000 a second at most
    "net.ipv6.icmp.ratemask": "255",  # a type that nobody sends
}


@dataclass(frozen=True)
class Mode:
    """A mode as tests know it: the proxier's name, and the variant of iptables it is to use."""

    name: str
    variant: str = "legacy"

    @property
    def families(self) -> tuple[Family, ...]:
        return MODES[self.name].families


class End(NamedTuple):
    """A pod as an endpoint, with the conditions and the zone hint that its EndpointSlice states."""

    pod: str
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zone: str = ""

    def object(self, family: Family) -> Object:
        node, address = PODS[self.pod]
        conditions = {"ready": self.ready, "serving": self.serving, "terminating": self.terminating}
        stated: Object = {
            "addresses": [of_family(address, family)],
            "nodeName": node,
            "conditions": conditions,
        }
        return stated | ({"hints": {"forZones": [{"name": self.zone}]}} if self.zone else {})


Ends = Sequence[End | str]
"""Endpoints; a string stands for that pod, ready."""


@dataclass
class Node:
    """The node's proxiers, and the objects they were told of. `settings` override what they are given."""

    cluster: SmallCluster
    mode: Mode
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __post_init__(self) -> None:
        logging.getLogger("testbed.proxy").setLevel(logging.WARNING)  # here: unit tests read what it says
        measuring_sysctls(self.cluster.node)
        self.cluster.node.sysctls(_UNLIMITED_ERRORS)
        self._told: dict[tuple[str, str, str], Object] = {}
        self.closed = False
        self.restart()

    @property
    def families(self) -> tuple[Family, ...]:
        return self.mode.families

    def restart(self) -> None:
        """Begin with new proxiers that know what the API has; those there were end and leave their rules."""
        self.closed = False
        self._health = ProxyHealth(60)
        self._service_health = ServiceHealth(self._health)
        self.recorders: list[Recorder] = []
        self.syncs = [self.cluster.node.run(self._family_sync, family) for family in self.families]
        self._count_anew()
        for item in self._told.values():
            self._tell(item)

    def _count_anew(self) -> None:
        self.metrics = Metrics(lambda: (0, 0), lambda: sum(each.malformed for each in self.syncs))

    def _family_sync(self, family: Family) -> FamilySync:
        settings = replace(
            ProxySettings(
                family=family,
                hostname="node1",
                node_ips=(of_family(NODE, family),),
                cluster_cidr=CLUSTER_CIDRS[family],
                iptables_variant=self.mode.variant,
            ),
            **self.settings,
        )
        self.recorders.append(Recorder(make_proxier(self.mode.name, settings)))
        health = self._service_health if family is Family.IPV4 else None
        return FamilySync(self.recorders[-1], settings, self._health, lambda: self.metrics, health, zone=ZONE)

    def tell(self, *items: Object) -> None:
        """The API has these objects."""
        for item in items:
            meta = item["metadata"]
            self._told[item["kind"], meta["namespace"], meta["name"]] = item
            self._tell(item)

    def _tell(self, item: Object) -> None:
        for each in self.syncs:
            tracker = each.tracker
            (tracker.update_service if item["kind"] == "Service" else tracker.update_slice)(item)

    def service(self, *ends: End | str, name: str = "web", vip: str = VIP, **spec: Any) -> None:
        """Announce or change a Service of port 80 over TCP and UDP with these endpoints."""
        self.tell(service(name, vip, **spec), *slices(ends, of=name))

    def delete(self, name: str = "web") -> None:
        """Withdraw a Service and its slices."""
        for key, item in list(self._told.items()):
            if name not in (key[2], service_of(item)):
                continue
            del self._told[key]
            for each in self.syncs:
                forget = each.tracker.remove_service if key[0] == "Service" else each.tracker.remove_slice
                forget((key[1], key[2]))

    def sync(self, *, full: bool = False) -> list[SyncResult]:
        """A sync of every family, of what changed since the last one. Raises SyncFailed."""
        for recorder in self.recorders:
            recorder.everything = full
        failed = self.cluster.node.run(lambda: [_failure(each) for each in self.syncs])
        for failure in filter(None, failed):
            raise failure
        return [recorder.result for recorder in self.recorders]

    def serve(self, *ends: End | str, **spec: Any) -> list[SyncResult]:
        """Announce or change the Service, and sync."""
        self.service(*ends, **spec)
        return self.sync()

    def forget(self) -> None:
        """The API has nothing any more, and nothing was counted."""
        for kind, _, name in list(self._told):
            if kind == "Service":
                self.delete(name)
        self._count_anew()

    def close(self, *families: Family) -> None:
        """Remove what the proxiers installed, or those of some families."""
        self.closed = True
        for family, recorder in zip(self.families, self.recorders, strict=True):
            if family in (families or self.families):
                self.cluster.node.run(recorder.close)
        self.cluster.node.run(self._service_health.sync, ServiceMap(), ())

    def clean_up(self) -> None:
        """As `--cleanup` does: everything that any mode left, for both families."""
        self.closed = True
        for name in MODES:
            self.clean_up_after(name)

    def clean_up_after(self, mode: str, *, active: str = "", variant: str = "auto") -> None:
        """Remove what a mode left, with another (or the same in another variant) in its place."""
        for family in Family:
            settings = ProxySettings(family=family, iptables_variant=variant)
            assert self.cluster.node.run(clean_up, mode, settings, active)

    def ask(
        self, source: str = "client", address: str = VIP, port: int = 80, times: int = 1, **how: Any
    ) -> list[Outcome]:
        """What becomes of so many questions, asked one after another."""
        return [self.cluster.outcomes([Question(source, address, port, **how)])[0] for _ in range(times)]

    def pods(self, times: int, source: str = "client", address: str = VIP) -> list[str]:
        """The pods that answer, one after another."""
        return [getattr(outcome, "pod", str(outcome)) for outcome in self.ask(source, address, 80, times)]

    def metric(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(f"kubeproxy_{name}", labels)
        assert value is not None, name
        return value

    def sh(self, *argv: str) -> str:
        """What a command prints on the node."""
        return run(list(argv), namespace=self.cluster.node).stdout

    def command(self, line: str) -> str:
        """What a command line prints on the node; `iptables` and `ip6tables` are those of the variant."""
        tool, *argv = line.split()
        return self.sh(f"{tool}-{self.mode.variant}" if tool.endswith("tables") else tool, *argv)

    def dump(self, *, others: bool = False) -> list[str]:
        """What this mode has in the kernel, in an order that does not depend on its history.

        With `others` what is not the mode's own is listed beside.
        """
        lines: list[str] = []
        for family in self.families:
            if self.mode.name == "nftables":
                lines += self._nft_table("ip" if family is Family.IPV4 else "ip6")
            else:
                tool = "iptables" if family is Family.IPV4 else "ip6tables"
                lines += rules_in(self.sh(f"{tool}-{self.mode.variant}-save"))
        if self.mode.name == "ipvs":
            lines += [line for line in self.sh("ipvsadm", "-Sn").splitlines() if not line.endswith("-w 0")]
            lines += [line for line in self.sh("ipset", "save").splitlines() if line.startswith("add ")]
            addresses = self.sh("ip", "-o", "addr").splitlines()
            lines += [line.partition(": ")[2] for line in addresses if "kube-ipvs0" in line]
        if others and self.mode.name == "nftables":
            lines += self.sh("nft", "list", "tables").splitlines()
        if others and self.mode.name == "ipvs":
            lines += [*self.sh("ipset", "list", "-n").splitlines(), *self.sh("ip", "-o", "link").splitlines()]
        return sorted(lines)

    def _nft_table(self, family: str) -> list[str]:
        if f"table {family} kube-proxy" not in self.sh("nft", "list", "tables"):
            return []
        listed = self.sh("nft", "-s", "list", "table", family, "kube-proxy")
        return [line.strip(" \t,{}") for line in listed.replace(", ", ",\n").splitlines()]


def _failure(sync: FamilySync) -> SyncFailed | None:
    try:
        sync.sync()
    except SyncFailed as failed:
        return failed
    return None


class Recorder:
    """A proxier that keeps the result of its last sync; everything goes through to the real one.

    `everything` makes the next sync a full one.
    """

    def __init__(self, proxier: Proxier) -> None:
        self.result = SyncResult(full=False)
        self.everything = False
        self.close = proxier.close
        self._proxier = proxier

    def sync(self, services: ServiceMap, changed: Collection[ServicePortName] | None) -> SyncResult:
        self.result = self._proxier.sync(services, None if self.everything else changed)
        return self.result


def rules_in(saved: str) -> list[str]:
    """Rules, and chains of our own, that iptables-save printed, without counters and userspace's ports."""
    lines = [line.partition(" [")[0] for line in saved.splitlines() if line.startswith(("-A", ":KUBE"))]
    return [_PROXY_PORT.sub(r"\1 PORT", line) for line in lines]


@cache
def of_family(address: str, family: Family) -> str:
    return address if family is Family.IPV4 else address6(address)


def both(address: str) -> list[str]:
    """An address and the one that stands beside it."""
    return [address, address6(address)]


def service(name: str = "web", vip: str = VIP, *, labels: Object | None = None, **spec: Any) -> Object:
    """A Service, dual-stack, of port 80 over TCP and UDP unless `spec` says otherwise.

    `balancer` are ingress entries; whatever else is not of the spec's own form comes through unchanged.
    """
    ingress = spec.pop("balancer", [])
    usual: Object = {"port": 80, "targetPort": PORT}
    if number := spec.pop("node_port", 0):
        usual["nodePort"] = number
    ports = [{"name": kind.lower(), "protocol": kind, **usual} for kind in ("TCP", "UDP")]
    addresses = both(vip) if vip[:1].isdigit() else [vip]
    return {
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name, "labels": labels or {}},
        "spec": {"clusterIP": vip, "clusterIPs": addresses, "ports": ports, **spec},
        "status": {"loadBalancer": {"ingress": ingress}},
    }


def slices(
    ends: Iterable[End | str],
    *,
    of: str = "web",
    number: int = 1,
    ports: Sequence[tuple[str, str, int]] = (("tcp", "TCP", PORT), ("udp", "UDP", PORT)),
) -> list[Object]:
    """An EndpointSlice of each family; `ports` are name, protocol and number."""
    behind = [end if isinstance(end, End) else End(end) for end in ends]
    return [
        {
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": "default",
                "name": f"{of}-{number}-{family.lower()}",
                "labels": {"kubernetes.io/service-name": of},
            },
            "addressType": str(family),
            "endpoints": [end.object(family) for end in behind],
            "ports": [{"name": name, "protocol": kind, "port": port} for name, kind, port in ports],
        }
        for family in Family
    ]


def service_of(item: Object) -> str:
    """The Service that a slice belongs to; empty for other objects."""
    return str(item["metadata"]["labels"].get("kubernetes.io/service-name", ""))


def balancer(*addresses: str, **fields: str) -> list[Object]:
    """Ingress entries of a load balancer, of both families."""
    return [{"ip": each, **fields} for address in addresses for each in both(address)]


ALL_WAYS: Object = {
    "type": "LoadBalancer",
    "node_port": NODE_PORT,
    "externalIPs": both(EXTERNAL),
    "balancer": balancer(LB),
}
"""A Service that is reached in every way there is."""
