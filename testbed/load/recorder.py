"""The recorder of one block: raw nanoseconds in, a summary and packed samples out.

Taking a sample is one list append; naming endpoints, sorting and packing wait until the block is over.
Must not know how the samples came about, nor import locust or numpy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.load.block import BlockResult, Quantiles, TargetSummary
from testbed.results.sample import LONGEST_NS, RECORD, UNKNOWN_ENDPOINT

Taken = tuple[int, int, int, int, bytes]
"""Target index, start, connected and first byte on the monotonic clock in ns, and the answer's bytes."""


@dataclass
class Recorder:
    """Collects what one process sees of one block; those of several processes can be merged."""

    block_id: int
    target_count: int
    taken: list[Taken] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    started_ns: int = 0
    ended_ns: int = 0
    unix_ns: int = 0
    client_cpu_ns: int = 0
    idle_ns: int | None = None
    timer_interrupts: int | None = None

    def merge(self, other: Recorder) -> None:
        """Take in what another process saw of the same block at the same time."""
        self.taken += other.taken
        self.errors += other.errors
        self.started_ns = min(self.started_ns, other.started_ns)
        self.ended_ns = max(self.ended_ns, other.ended_ns)
        self.unix_ns = min(self.unix_ns, other.unix_ns)
        self.client_cpu_ns += other.client_cpu_ns

    def summary(self) -> BlockResult:
        """Reduce the samples to the block's result; `samples_written` is filled in by who writes them."""
        by_target: list[list[Taken]] = [[] for _ in range(self.target_count)]
        for sample in self.taken:
            by_target[sample[0]].append(sample)
        return BlockResult(
            id=self.block_id,
            started_ns=self.started_ns,
            ended_ns=self.ended_ns,
            unix_ns=self.unix_ns,
            requests=len(self.taken),
            errors=dict(self.errors),
            endpoints=dict(Counter(endpoint_name(answer) for *_, answer in self.taken)),
            client_cpu_ns=self.client_cpu_ns,
            connect=quantiles([connected - start for _, start, connected, _, _ in self.taken]),
            first_byte=quantiles([first - start for _, start, _, first, _ in self.taken]),
            targets=tuple(_summarise(samples) for samples in by_target),
            samples_written=0,
            endpoint_by_target=tuple(
                dict(Counter(endpoint_name(answer) for *_, answer in samples)) for samples in by_target
            ),
            idle_ns=self.idle_ns,
            timer_interrupts=self.timer_interrupts,
        )

    def to_json(self) -> dict[str, Any]:
        """The recorder as a message from a forked process to its parent."""
        return {
            **vars(self),
            "taken": [(*times, answer.decode("latin-1")) for *times, answer in self.taken],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recorder:
        taken = [(*times, answer.encode("latin-1")) for *times, answer in value["taken"]]
        return cls(**{**value, "taken": taken, "errors": Counter(value["errors"])})

    def packed(self, endpoints: Sequence[str]) -> bytes:
        """Pack the samples as `results.sample.RECORD`; an endpoint's index is its place in `endpoints`."""
        index = {name: number for number, name in enumerate(endpoints)}
        return b"".join(
            RECORD.pack(
                self.block_id,
                target,
                index.get(endpoint_name(answer), UNKNOWN_ENDPOINT),
                start,
                min(connected - start, LONGEST_NS),
                min(first - start, LONGEST_NS),
            )
            for target, start, connected, first, answer in self.taken
        )


def endpoint_name(answer: bytes) -> str:
    """The pod's name at the head of a backend's answer."""
    return answer.partition(b" ")[0].decode("utf-8", "replace").strip()


def quantiles(times_ns: list[int]) -> Quantiles:
    """Order statistics by linear interpolation, as `numpy.quantile` computes them by default."""
    if not times_ns:
        return Quantiles()
    ordered = sorted(times_ns)
    return Quantiles(
        p50=quantile(ordered, 0.5),
        p90=quantile(ordered, 0.9),
        p99=quantile(ordered, 0.99),
        lowest=ordered[0],
        highest=ordered[-1],
    )


def quantile(ordered: Sequence[int], share: float) -> int:
    """The value below which `share` of the `ordered`, non-empty values lie."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return round(ordered[below] + (ordered[above] - ordered[below]) * (place - below))


def append_samples(path: str, packed: bytes) -> None:
    """Append whole records to the samples' file, in one write."""
    with Path(path).open("ab", buffering=0) as file:
        file.write(packed)


def _summarise(samples: Sequence[Taken]) -> TargetSummary:
    return TargetSummary(
        requests=len(samples),
        connect_p50_ns=quantiles([connected - start for _, start, connected, _, _ in samples]).p50,
        first_byte_p50_ns=quantiles([first - start for _, start, _, first, _ in samples]).p50,
    )
