"""What the bench asks of the load process, and what it gets back: one block of load.

Owns the two messages and their JSON form. Must not know lanes, modes or Services.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

USERS = ("new-connection", "keepalive", "udp", "http")
"""Kinds of users: three over raw sockets, and `http`, Locust's own HTTP user as the application's view."""

MS = 1_000_000
SECOND = 1_000_000_000


@dataclass(frozen=True)
class Block:
    """A stretch of load from one network namespace on some targets.

    `users` run a closed loop each; with `processes` above 1 they are spread over forked processes (for
    throughput only: several users in one process wait for each other). `targets` are visited in a new order
    drawn from `seed` each time around. Raw samples are appended to the file `samples_path` unless it is None.
    With `drain` a connection is closed only once the other side has closed it, too, so that the end of one
    connection is no part of the next one's time.
    """

    id: int
    namespace: str
    user: str
    targets: tuple[tuple[str, int], ...]
    duration_ns: int
    users: int = 1
    processes: int = 1
    samples_path: str | None = None
    seed: int = 0
    timeout_ns: int = 2 * SECOND
    drain: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Block:
        """Read a block from its message. Raises ValueError for one that cannot be run."""
        block = cls(**{**value, "targets": tuple((host, port) for host, port in value["targets"])})
        if block.user not in USERS:
            raise ValueError(f"user {block.user!r} is none of {', '.join(USERS)}")
        if not block.targets or block.users < 1 or block.processes < 1:
            raise ValueError("a block needs at least one target, one user and one process")
        return block


@dataclass(frozen=True)
class Quantiles:
    """Times of one kind over a block, in nanoseconds; all 0 when there was no sample."""

    p50: int = 0
    p90: int = 0
    p99: int = 0
    lowest: int = 0
    highest: int = 0


@dataclass(frozen=True)
class TargetSummary:
    """What one target of a block showed: medians in nanoseconds."""

    requests: int = 0
    connect_p50_ns: int = 0
    first_byte_p50_ns: int = 0


@dataclass(frozen=True)
class BlockResult:
    """What a block showed.

    `endpoints` counts requests by the endpoint that answered, in the order of the samples' endpoint index.
    `errors` counts failed requests by reason (an errno's name, `timeout`, `closed`, or an HTTP status).
    Times on `started_ns` .. `ended_ns` are the monotonic clock; `unix_ns` is the wall clock at the start. For
    `idle_ns` and `timer_interrupts` see `cpu`; None where the kernel does not tell.
    """

    id: int
    started_ns: int
    ended_ns: int
    unix_ns: int
    requests: int
    errors: Mapping[str, int]
    endpoints: Mapping[str, int]
    client_cpu_ns: int
    connect: Quantiles
    first_byte: Quantiles
    targets: tuple[TargetSummary, ...]
    samples_written: int
    endpoint_by_target: tuple[Mapping[str, int], ...] = field(default=())
    idle_ns: int | None = None
    timer_interrupts: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BlockResult:
        return cls(
            **{
                **value,
                "connect": Quantiles(**value["connect"]),
                "first_byte": Quantiles(**value["first_byte"]),
                "targets": tuple(TargetSummary(**target) for target in value["targets"]),
                "endpoint_by_target": tuple(value["endpoint_by_target"]),
            }
        )
