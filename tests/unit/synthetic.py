"""Runs with known truths: blocks as a bench would record them, from a model of what each lane costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from testbed.results.format import BalanceRecord, BlockRecord, LaneRecord
from testbed.results.writer import RunWriter

ENDPOINTS = ("pod-1-1", "pod-2-1", "pod-1-2")
BASE_NS = 400_000.0


def positions_of(services: int) -> tuple[int, ...]:
    return tuple(sorted({1, (services + 1) // 2, services}))


def blocks(
    *,
    fixed_ns: Mapping[str, float],
    slope_ns: Mapping[str, float] | None = None,
    services: Sequence[int] = (1, 1000, 10000),
    traffic: str = "new-connection",
    rounds: int = 15,
    noise_ns: float = 4_000.0,
    drift_ns: float = 60_000.0,
    company: str = "",
    kernel: str = "",
    seed: int = 1,
) -> list[BlockRecord]:
    """A run in which lane L costs `fixed_ns[L]` over direct and `slope_ns[L]` for each Service before.

    Every round is shifted by its own `drift_ns`, far larger than the effects: only pairing sees through it.
    """
    rng = np.random.default_rng(seed)
    found: list[BlockRecord] = []
    for count in services:
        for number in range(1, rounds + 1):
            shift = rng.normal(0, drift_ns)
            for lane in ("direct", *fixed_ns):
                places = () if lane == "direct" else positions_of(count)
                slope = (slope_ns or {}).get(lane, 0.0)
                medians = tuple(
                    int(BASE_NS + shift + fixed_ns.get(lane, 0.0) + slope * place + rng.normal(0, noise_ns))
                    for place in places or (0, 0, 0)
                )
                drawn = rng.multinomial(300, [1 / 3] * 3)
                found.append(
                    BlockRecord(
                        id=len(found) + 1,
                        lane=lane,
                        mode=lane.removesuffix("-twin"),
                        services=count,
                        endpoints=3,
                        traffic=traffic,
                        connections=1,
                        round=number,
                        attempt=1,
                        status="ok",
                        company=company,
                        kernel=kernel,
                        started_ns=0,
                        ended_ns=150_000_000,
                        requests=300,
                        first_byte_p50_ns=medians[0],
                        first_byte_p99_ns=2 * medians[0],
                        positions=places,
                        position_requests=(100,) * len(medians),
                        position_connect_ns=tuple(median // 4 for median in medians),
                        position_first_byte_ns=medians,
                        endpoint_requests=dict(zip(ENDPOINTS, drawn.tolist(), strict=True)),
                        proxy_cpu_ns=None if lane == "direct" else 30_000_000 if lane == "userspace" else 0,
                        proxy_switches=None if lane == "direct" else 600 if lane == "userspace" else 0,
                    )
                )
    return found


FOUR_LANES = {"userspace": 2_400_000.0, "iptables": 12_000.0, "ipvs": 14_000.0, "iptables-twin": 12_000.0}
SLOPES = {"iptables": 7.0, "iptables-twin": 7.0}
"""µs per 1,000 Services, the same as ns per Service."""


def write_run(
    directory: Path, records: Sequence[BlockRecord], *, state: str = "complete", clock: str = "wall"
) -> None:
    with RunWriter(directory) as writer:
        writer.describe(
            state=state, name="synthetic", kernel={"name": "uml", "release": "6.1.0"}, clock=clock
        )
        for record in records:
            writer.block(record)
        for lane in ("userspace", "iptables", "ipvs"):
            start = LaneRecord(lane, lane, "start", 1, 3, unix_ns=1, start="fork", to_traffic_ns=310_000_000)
            writer.lane(start)
            writer.lane(
                LaneRecord(
                    lane,
                    lane,
                    "start",
                    10000,
                    3,
                    unix_ns=2,
                    to_traffic_ns=2_500_000_000,
                    sync_ns=2_500_000_000,
                    rules=9,
                )
            )
        for scheduler, sequence in (
            ("rr", ENDPOINTS * 40),
            ("sh", ENDPOINTS[:1] * 120),
            ("wrr", (ENDPOINTS[0], *ENDPOINTS) * 30),
        ):
            counts = {name: sequence.count(name) for name in dict.fromkeys(sequence)}
            record = BalanceRecord(
                lane="ipvs",
                mode="ipvs",
                scheduler=scheduler,
                services=1,
                endpoints=3,
                unix_ns=3,
                requests=120,
                endpoint_requests=counts,
                sequence=tuple(sequence),
            )
            writer.balance(record)
