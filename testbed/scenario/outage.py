"""What a change did to the connections that arrived around it. Pure: arrivals in, counts and times out.

Owns what counts as delayed and what as an outage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from testbed.scenario.arrivals import Arrival, Record

LATE_NS = 100_000_000
"""A client that begins so much late got no CPU: the machine was busy, whatever the network did."""

SLOW = 10
"""So many times the median is slow without having been lost."""


@dataclass(frozen=True)
class Outage:
    """One change under load.

    `median_ns` is of the answers before the change. `delayed` were answered after a SYN was sent again,
    `slow` took longer than ten medians without that, `late` were begun late by a client without CPU; `failed`
    are counted by what they failed of. `outage_ns` is the longest time in which every connection was lost,
    `switch_ns` is from the request to the last node's being ready in its new mode. Of `kept` connections
    `broken` did not survive.
    """

    connections: int
    median_ns: int
    failed: dict[str, int]
    delayed: int
    slow: int
    late: int
    outage_ns: int
    switch_ns: int
    kept: int
    broken: int
    failed_before: int

    @property
    def all_failed(self) -> int:
        return sum(self.failed.values())

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def outage_of(record: Record, *, switched_ns: int, ready_ns: int, kept: int) -> Outage:
    """Judge the arrivals of one change, asked for at `switched_ns` and complete at `ready_ns`.

    Raises ValueError when nothing was answered before it: there is nothing to compare with.
    """
    arrivals = sorted(record.arrivals)
    before = [arrival for arrival in arrivals if arrival.at_ns + arrival.latency_ns < switched_ns]
    after = [arrival for arrival in arrivals if arrival.at_ns + arrival.latency_ns >= switched_ns]
    answered = [arrival.latency_ns for arrival in before if not arrival.failure]
    if not answered:
        raise ValueError("no connection was answered before the change")
    usual_ns = round(median(answered))
    good = [arrival for arrival in after if not arrival.failure]
    return Outage(
        connections=len(after),
        median_ns=usual_ns,
        failed=dict(Counter(arrival.failure for arrival in after if arrival.failure)),
        delayed=sum(arrival.lost for arrival in good),
        slow=sum(arrival.latency_ns > SLOW * usual_ns and not arrival.lost for arrival in good),
        late=sum(arrival.late_ns > LATE_NS for arrival in after),
        outage_ns=longest_outage_ns(after),
        switch_ns=ready_ns - switched_ns,
        kept=kept,
        broken=len(record.broken),
        failed_before=sum(bool(arrival.failure) for arrival in before),
    )


def longest_outage_ns(arrivals: Sequence[Arrival]) -> int:
    """From the first to beyond the last of the most that follow each other and were lost; 0 if none was."""
    longest = 0
    for run_begins, run_ends in _lost_runs(arrivals):
        longest = max(longest, run_ends - run_begins)
    return longest


def _lost_runs(arrivals: Iterable[Arrival]) -> Iterable[tuple[int, int]]:
    begins: int | None = None
    latest = 0
    for arrival in arrivals:
        latest = arrival.at_ns
        if arrival.lost and begins is None:
            begins = arrival.at_ns
        elif not arrival.lost and begins is not None:
            yield begins, arrival.at_ns
            begins = None
    if begins is not None:
        yield begins, latest
