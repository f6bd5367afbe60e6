"""How each mode, and each scheduler of IPVS, spreads connections over endpoints.

Owns the number of connections asked and which schedulers are met with held ones. Judging is the analysis's.
"""

from __future__ import annotations

import time
from collections import Counter

from testbed.bench.lane import Lane
from testbed.bench.probe import Target, ask_many
from testbed.errors import TestbedError
from testbed.results.format import FAILED, OK, BalanceRecord

CONNECTIONS_AN_ENDPOINT = 40

LEAST_CONNECTION = frozenset({"lc", "wlc", "sed", "nq"})
"""These look at open connections, so theirs are held open until all have been answered."""

MOST_SERVICES_TO_RESTART = 10
"""Every scheduler costs a restart of the proxy: only done while that is quick."""


def measure_balance(lane: Lane, schedulers: tuple[str, ...]) -> list[BalanceRecord]:
    """The lane's own way of spreading first, then for IPVS every other scheduler in `schedulers`.

    A failing scheduler is a record, not an exception. The lane runs with its own scheduler again afterwards;
    raises ProcessDied or WaitTimeout when that fails.
    """
    records = [_measure(lane, lane.scheduler)]
    if lane.mode != "ipvs" or lane.services > MOST_SERVICES_TO_RESTART:
        return records
    others = [scheduler for scheduler in schedulers if scheduler != lane.scheduler]
    records += [_measure_restarted(lane, scheduler) for scheduler in others]
    lane.use_scheduler(lane.scheduler)
    return records


def _measure_restarted(lane: Lane, scheduler: str) -> BalanceRecord:
    try:
        lane.use_scheduler(scheduler)
    except TestbedError as error:
        return _record(lane, scheduler, status=FAILED, reason=str(error))
    return _measure(lane, scheduler)


def _measure(lane: Lane, scheduler: str) -> BalanceRecord:
    target: Target = lane.targets("new-connection")[0][0]
    count = CONNECTIONS_AN_ENDPOINT * lane.endpoints
    names, errors = ask_many(lane.client, target, count, hold=scheduler in LEAST_CONNECTION)
    return _record(
        lane,
        scheduler,
        requests=len(names),
        endpoint_requests=dict(Counter(names)),
        sequence=tuple(names),
        errors=errors,
        status=FAILED if errors else OK,
    )


def _record(lane: Lane, scheduler: str, **facts: object) -> BalanceRecord:
    record = {
        "lane": lane.name,
        "mode": lane.mode,
        "scheduler": scheduler,
        "services": lane.services,
        "endpoints": lane.endpoints,
        "unix_ns": time.time_ns(),
    }
    return BalanceRecord.from_json(record | facts)
