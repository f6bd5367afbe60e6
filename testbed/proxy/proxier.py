"""The contract between the proxy and the code of one mode: what it is given, and what it must do.

Owns `Proxier`, `ProxySettings` and `SyncResult`. Must not know any mode.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from testbed.proxy.model import Family, ServicePortName
from testbed.proxy.servicemap import ServiceMap


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """Everything that a proxier's constructor takes, for one IP family.

    `cluster_cidr` is the pod network of the family (None: no local detection, nothing is masqueraded for
    coming from outside it). `node_ips` are the node's own addresses of the family, the primary first.
    `nodeport_addresses` are CIDRs or `primary`; empty means every local address. With more endpoints than
    `comments_up_to_endpoints` iptables rules in the chains of single Services carry no comments. Durations
    are in seconds. Defaults are kube-proxy's.
    """

    family: Family = Family.IPV4
    hostname: str = ""
    node_ips: tuple[str, ...] = ()
    cluster_cidr: str | None = None
    masquerade_all: bool = False
    masquerade_bit: int = 14
    nodeport_addresses: tuple[str, ...] = ()
    localhost_nodeports: bool = True
    min_sync_period_s: float = 1.0
    sync_period_s: float = 30.0
    scheduler: str = "rr"
    strict_arp: bool = False
    ipvs_exclude_cidrs: tuple[str, ...] = ()
    ipvs_tcp_timeout_s: float = 0.0
    ipvs_tcp_fin_timeout_s: float = 0.0
    ipvs_udp_timeout_s: float = 0.0
    iptables_variant: str = "auto"
    comments_up_to_endpoints: int = 1000
    udp_idle_timeout_s: float = 0.25
    proxy_port_range: tuple[int, int] | None = None
    bind_address: str = "0.0.0.0"  # noqa: S104  kube-proxy's default

    @property
    def masquerade_mark(self) -> int:
        """The packet mark that asks for masquerading, 0x4000 by default."""
        return 1 << self.masquerade_bit


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What one sync did, for metrics and for the benchmark's control-plane rows.

    `rules_written` counts what went to the kernel (iptables rules, netlink messages, set elements);
    `bytes_written` the text or messages it took. `rules_last` and `rules_total` are per table; in
    nftables mode, which has one, rules and elements count alike.
    `no_local_endpoints` counts, per policy (`internal`, `external`), the Services whose `Local` traffic is
    dropped here. `again_after_s` asks for another sync without changes after that time (graceful
    termination).
    """

    full: bool
    rules_written: int = 0
    bytes_written: int = 0
    rules_last: Mapping[str, int] = field(default_factory=dict)
    rules_total: Mapping[str, int] = field(default_factory=dict)
    no_local_endpoints: Mapping[str, int] = field(default_factory=dict)
    again_after_s: float | None = None


class Proxier(Protocol):
    """Makes one node's dataplane match the wanted Services, for one IP family.

    Runs in the network namespace of its thread; all calls come from one thread. A module that provides one
    also provides `cleanup(settings: ProxySettings, *, active: str = "") -> None`, which removes whatever any
    run of the mode may have left in this namespace for `settings.family`. With `active` (the mode that took
    over) it leaves alone what that mode shares with it, such as the chain KUBE-SERVICES and the jumps to it.
    """

    def sync(self, services: ServiceMap, changed: Collection[ServicePortName] | None) -> SyncResult:
        """Bring the dataplane in line with `services`; idempotent.

        `changed` names the ports whose Service or endpoints differ from the last successful sync, deleted
        ones (no longer in `services`) included; None means everything, whatever the kernel holds. After an
        exception the next call has `changed=None`.
        """
        ...

    def close(self) -> None:
        """Remove what this object installed and nothing else."""
        ...
