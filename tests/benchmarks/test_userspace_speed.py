"""The userspace relay beside a direct connection and HAProxy, in interleaved rounds.

`pytest --benchmark-enable tests/benchmarks/test_userspace_speed.py -s` prints shares of the direct lane.
Without benchmarking each lane is driven once and only has to work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter
from typing import Any

import pytest
import relays
from sandboxed import Puppet

from testbed.net.process import run
from testbed.proxy.iptables.restore import Iptables
from testbed.proxy.model import Endpoint, Family, ServicePort, ServicePortName
from testbed.proxy.proxier import ProxySettings
from testbed.proxy.servicemap import ServiceMap
from testbed.proxy.userspace.proxier import UserspaceProxier

ROUNDS = 5
LEAST_SHARE_OF_CONNECTIONS = 0.45
SERVICES = 10_000

needs_tools = pytest.mark.skipif(
    bool(relays.missing_packages()), reason=f"apt-get install {' '.join(relays.missing_packages())}"
)


@pytest.fixture(scope="module")
def node() -> Iterator[Puppet]:
    with Puppet() as puppet:
        puppet.call(relays.build)
        yield puppet


def side_by_side(benchmark: Any, what: str, measure: Callable[[str], float]) -> dict[str, float]:
    """Measure every lane in every round; each lane's median share of the direct lane of the same round."""
    rounds: list[dict[str, float]] = []

    def one_round() -> None:
        rounds.append({lane: measure(lane) for lane in relays.LANES})

    benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=1)
    kept = rounds[1:] or rounds
    shares = {lane: median(row[lane] / row["direct"] for row in kept) for lane in relays.LANES}
    benchmark.extra_info.update(shares)
    print(f"\n{what}")
    for lane in relays.LANES:
        lowest, highest = (pick(row[lane] for row in kept) for pick in (min, max))
        print(f"  {lane:<10} {lowest:>10,.1f} - {highest:<10,.1f} share of direct {shares[lane]:.2f}")
    return shares


@needs_tools
def test_new_connections(benchmark: Any, node: Puppet) -> None:
    count = 8000 if not benchmark.disabled else 400
    shares = side_by_side(
        benchmark,
        "new connections per s",
        lambda lane: node.call(relays.connections_per_s, lane, count, keep_alive=False),
    )
    assert shares["userspace"] >= LEAST_SHARE_OF_CONNECTIONS or benchmark.disabled


@needs_tools
def test_requests_on_kept_connections(benchmark: Any, node: Puppet) -> None:
    count = 20_000 if not benchmark.disabled else 400
    side_by_side(
        benchmark,
        "keepalive requests per s",
        lambda lane: node.call(relays.connections_per_s, lane, count, keep_alive=True),
    )


@needs_tools
def test_one_stream(benchmark: Any, node: Puppet) -> None:
    shares = side_by_side(
        benchmark, "one stream, Gb/s", lambda lane: node.call(relays.stream_gbit_per_s, lane, 1)
    )
    assert shares["userspace"] >= shares["haproxy"] or benchmark.disabled


def test_start_of_ten_thousand_services(benchmark: Any) -> None:
    """Sockets, endpoints and rules from nothing, beside a bare restore of the same rules."""
    with Puppet() as puppet:
        puppet.call(announce, SERVICES if not benchmark.disabled else 100)
        benchmark.pedantic(lambda: puppet.call(start), setup=lambda: puppet.call(stop), rounds=3)
        floor_s, change_ms = puppet.call(bare_restore_s), puppet.call(endpoint_change_ms)
    benchmark.extra_info.update(bare_restore_s=floor_s, endpoint_change_ms=change_ms)
    print(f"\na bare restore of the same rules {floor_s:.2f} s; one endpoint change {change_ms:.2f} ms")
    assert change_ms < 100


SETTINGS = ProxySettings(node_ips=("10.0.1.1",), iptables_variant="legacy")
services = ServiceMap()
proxiers: list[UserspaceProxier] = []


def announce(count: int) -> None:
    for number in range(count):
        name = ServicePortName("default", f"s{number}", "")
        place = f"{number // 250 % 250}.{number % 250}"
        services.set_service(name[:2], [ServicePort(name, f"10.96.{place}", 80)])
        services.set_slice(name[:2], "slice", {name: (Endpoint(f"10.97.{place}", 80),)})


def start() -> None:
    proxiers.append(UserspaceProxier(SETTINGS))
    proxiers[0].sync(services, None)


def stop() -> None:
    while proxiers:
        proxiers.pop().close()


def bare_restore_s() -> float:
    text = Iptables(Family.IPV4, "legacy").save("nat")
    started_s = perf_counter()
    run(["iptables-legacy-restore"], input=text)
    return perf_counter() - started_s


def endpoint_change_ms() -> float:
    name = next(iter(services))
    changed = services.set_slice(name[:2], "slice", {name: (Endpoint("10.97.255.1", 80),)})
    started_s = perf_counter()
    assert proxiers[0].sync(services, changed).rules_written == 0
    return (perf_counter() - started_s) * 1000
