"""The proxy beside its floor, the bare restore of the same rules, in the same rounds.

`pytest --benchmark-enable -s tests/benchmarks/test_proxy_start.py` prints them and holds the limits.
Without benchmarking a small cluster is started and changed once, and only has to work.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import proxystart
import pytest
from sandboxed import Puppet

ROUNDS = 3
ENDPOINTS = 10
MOST_RSS_MB = 150.0
MIN_SYNC_S = 1.0  # the proxy's default minimum interval between syncs


@pytest.fixture
def puppet() -> Iterator[Puppet]:
    with Puppet() as made:
        yield made


@pytest.mark.parametrize("services", [1000, 5000])
def test_start_and_change_to_traffic(benchmark: Any, puppet: Puppet, services: int) -> None:
    if benchmark.disabled:
        services = 20
    puppet.call(proxystart.call, "build", services, ENDPOINTS)
    starts: list[proxystart.Started] = []
    floors, changes, change_floors, resident = [], [], [], []

    def one_round() -> None:
        floors.append(puppet.call(proxystart.call, "bare_restore", "legacy"))
        starts.append(puppet.call(proxystart.call, "start", "iptables", "legacy"))
        time.sleep(2 * MIN_SYNC_S + 0.2)  # a change is timed after an idle longer than the minimum interval
        changes.append(puppet.call(proxystart.call, "change"))
        resident.append(puppet.call(proxystart.call, "rss_mb"))
        change_floors.append(puppet.call(proxystart.call, "bare_change", "legacy"))
        puppet.call(proxystart.call, "stop")

    benchmark.pedantic(one_round, rounds=ROUNDS)
    start_s, floor_s = median(start.to_traffic_s for start in starts), median(floors)
    change_s, change_floor_s = median(changes), median(change_floors)
    peak_mb = max(start.peak_rss_mb for start in starts)
    print(f"\n{services} Services x {ENDPOINTS} endpoints, iptables legacy, medians of {ROUNDS}")
    print(f"  start to traffic   {start_s:.3f} s, bare restore {floor_s:.3f} s ({start_s / floor_s:.2f}x)")
    print(f"  change to traffic  {change_s:.3f} s, bare restore {change_floor_s:.3f} s")
    print(f"  memory             {median(resident):.0f} MB resident, {peak_mb:.0f} MB at most")
    benchmark.extra_info.update(start_s=start_s, floor_s=floor_s, change_s=change_s, peak_mb=peak_mb)
    assert peak_mb <= MOST_RSS_MB
    if not benchmark.disabled:
        assert start_s <= 1.5 * floor_s + 0.3
        assert change_s <= 1.2 * change_floor_s + 0.05
