"""The order of a sync's steps, and what a failure leads to."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

import pytest

from testbed.errors import CommandFailed
from testbed.proxy.changes import Delta
from testbed.proxy.conntrack import Frontends, udp_frontends
from testbed.proxy.health import ProxyHealth
from testbed.proxy.metrics import Metrics
from testbed.proxy.model import Endpoint, Family, ServicePort, ServicePortName
from testbed.proxy.proxier import ProxySettings, SyncResult
from testbed.proxy.runner import SyncFailed
from testbed.proxy.servicemap import ServiceMap
from testbed.proxy.sync import FamilySync

WEB = ServicePortName("default", "web", "")


class Fake:
    """A proxier that remembers what it was asked for, and fails when told to."""

    def __init__(self) -> None:
        self.asked: list[set[ServicePortName] | None] = []
        self.fail = False
        self.again_after_s: float | None = None

    def sync(self, services: ServiceMap, changed: Collection[ServicePortName] | None) -> SyncResult:
        self.asked.append(None if changed is None else set(changed))
        if self.fail:
            raise CommandFailed(["/sbin/iptables-legacy-restore"], 1, "no")
        return SyncResult(full=changed is None, again_after_s=self.again_after_s)

    def close(self) -> None:
        raise AssertionError("rules stay")


@pytest.fixture
def proxier() -> Fake:
    return Fake()


@pytest.fixture
def family(proxier: Fake) -> FamilySync:
    settings = ProxySettings(hostname="node1")
    metrics = cache(lambda: Metrics(lambda: (0, 0), lambda: 0))
    return FamilySync(proxier, settings, ProxyHealth(60), metrics, zone="a")


def service(vip: str = "10.96.0.1") -> dict[str, Any]:
    meta = {"namespace": "default", "name": "web"}
    return {"metadata": meta, "spec": {"clusterIP": vip, "ports": [{"port": 80}]}}


def test_the_first_sync_is_a_full_one_and_the_next_has_only_what_changed(
    family: FamilySync, proxier: Fake
) -> None:
    family.tracker.update_service(service())
    family.sync()
    family.tracker.update_service(service("10.96.0.2"))
    family.sync()
    family.sync()
    assert proxier.asked == [None, {WEB}, set()]
    assert family.synced.is_set()


def test_after_a_failure_everything_is_written(family: FamilySync, proxier: Fake) -> None:
    family.sync()
    proxier.fail = True
    family.tracker.update_service(service())
    for _ in range(2):
        with pytest.raises(SyncFailed):
            family.sync()
    proxier.fail = False
    family.sync()
    family.sync()
    assert proxier.asked == [None, {WEB}, None, None, set()]


def test_another_zone_means_another_choice_everywhere(family: FamilySync, proxier: Fake) -> None:
    family.sync()
    family.set_zone("a")
    family.sync()
    family.set_zone("b")
    family.sync()
    assert proxier.asked == [None, set(), None]


def test_a_proxier_may_ask_to_be_called_again(family: FamilySync, proxier: Fake) -> None:
    proxier.again_after_s = 3.5
    assert family.sync() == 3.5


def test_udp_frontends_are_all_addresses_with_the_endpoints_right_for_them_now() -> None:
    dns = ServicePortName("default", "dns", "", "UDP")
    services = ServiceMap()
    now = ServicePort(dns, "10.96.0.2", 53, node_port=30053, external_ips=("198.51.100.7",))
    services.set_service(("default", "dns"), [now])
    services.set_service(("default", "web"), [ServicePort(WEB, "10.96.0.9", 80)])
    ends = (Endpoint("10.0.0.1", 5353), Endpoint("10.0.0.2", 5353, ready=False))
    services.set_slice(("default", "dns"), "x", {dns: ends})
    before = ServicePort(dns, "10.96.0.1", 53, node_port=30053)
    delta = Delta(changed={dns, WEB}, before={dns: before})
    right = frozenset({(bytes([10, 0, 0, 1]), 5353)})
    assert udp_frontends(delta, services, Family.IPV4) == Frontends(
        {
            (bytes([10, 96, 0, 1]), 53): frozenset(),
            (bytes([10, 96, 0, 2]), 53): right,
            (bytes([198, 51, 100, 7]), 53): right,
        },
        {30053: right},
    )


def test_a_udp_service_that_is_gone_leads_nowhere() -> None:
    dns = ServicePortName("default", "dns", "", "UDP")
    delta = Delta(changed={dns}, before={dns: ServicePort(dns, "fd00::1", 53)})
    frontends = udp_frontends(delta, ServiceMap(), Family.IPV6)
    assert list(frontends.addresses.values()) == [frozenset()]
