"""How long iptables mode computes, apart from what the kernel's tools take."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.proxy.iptables.transaction import Book
from testbed.proxy.model import Endpoint, ServicePort, ServicePortName
from testbed.proxy.proxier import ProxySettings
from testbed.proxy.servicemap import ServiceMap

SETTINGS = ProxySettings(cluster_cidr="10.244.0.0/16")
NOTHING_THERE = {"nat": "", "filter": ""}


def services_of(count: int, endpoints: int) -> ServiceMap:
    services = ServiceMap()
    for number in range(count):
        name = ServicePortName("default", f"svc-{number}", "http")
        vip = f"10.96.{1 + number // 250}.{1 + number % 250}"
        services.set_service(("default", name.name), [ServicePort(name, vip, 80)])
        set_endpoints(services, name, endpoints)
    return services


def set_endpoints(services: ServiceMap, name: ServicePortName, endpoints: int) -> None:
    number = int(name.name.removeprefix("svc-"))
    parts = tuple(Endpoint(f"10.244.{10 + index}.{number % 250}", 8080) for index in range(endpoints))
    services.set_slice(("default", name.name), "slice", {name: parts})


@pytest.mark.parametrize(("count", "endpoints"), [(10_000, 3), (5_000, 10)])
def test_rendering_everything(benchmark: Any, count: int, endpoints: int) -> None:
    count = 100 if benchmark.disabled else count
    services, book = services_of(count, endpoints), Book(SETTINGS)
    draft = benchmark(book.draft_full, services, NOTHING_THERE)
    assert draft.rules["nat"] == 5 + count * (2 + 3 * endpoints)
    if not benchmark.disabled:
        assert benchmark.stats.stats.median < 1.0


@pytest.mark.parametrize("count", [100, 10_000])
def test_rendering_one_change(benchmark: Any, count: int) -> None:
    count = 100 if benchmark.disabled else count
    services, book = services_of(count, 3), Book(SETTINGS)
    book.commit(book.draft_full(services, NOTHING_THERE))
    name = ServicePortName("default", "svc-0", "http")
    set_endpoints(services, name, 4)
    draft = benchmark(book.draft_partial, services, [name])
    assert draft.rules["nat"] == 13
    if not benchmark.disabled:
        assert benchmark.stats.stats.median < 0.001
