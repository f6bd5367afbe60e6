"""What to measure: the factors of a sweep and the cells that they span."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, model_validator

from testbed.spec import quantities
from testbed.spec.base import Model
from testbed.spec.clock import WALL, Clock
from testbed.spec.fields import AsList, Count, Duration, ImagePath, LaneMode, Positive, Traffic
from testbed.spec.mistakes import Mistake, Mistakes, show

DIRECT = "direct"
_FACTORS = ("modes", "services", "endpoints", "traffic", "connections", "kernels")


class Cell(NamedTuple):
    """One combination of a sweep's factors, measured in all lanes side by side.

    `services` copies of the first Service with `endpoints` endpoints each, met with `traffic` over
    `connections` connections at a time.
    """

    services: int
    endpoints: int
    traffic: Traffic
    connections: int


class Sweep(Model):
    """The factors, and how long and how carefully to measure each cell.

    Left out, `endpoints` is what the first Service has, and `twin` (the mode that gets a second lane, which
    tells how small a difference can be seen) is iptables where that is measured, else the last mode.

    `kernels` are images of Linux: each is booted once and measures every cell. By the instruction clock a
    millisecond of `block_ms` is a million instructions, and `budget` does not count: how many rounds there
    are must not depend on the machine.
    """

    modes: Annotated[tuple[LaneMode, ...], AsList, Field(min_length=1)] = ("userspace", "iptables", "ipvs")
    twin: LaneMode | None = None
    services: Annotated[tuple[Positive, ...], AsList, Field(min_length=1)] = (1, 1000, 10000)
    endpoints: Annotated[tuple[Positive, ...], AsList] = ()
    traffic: Annotated[tuple[Traffic, ...], AsList, Field(min_length=1)] = ("new-connection", "keepalive")
    connections: Annotated[tuple[Positive, ...], AsList, Field(min_length=1)] = (1,)
    rounds: Positive = 15
    warmup_rounds: Count = 2
    block_ms: Positive = 150
    budget: Duration = "240s"
    clock: Clock = WALL
    kernels: Annotated[tuple[ImagePath, ...], AsList] = ()
    seed: Count = 1

    @model_validator(mode="before")
    @classmethod
    def _twin_unless_said(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "twin" in value:
            return value
        modes = value.get("modes", ("iptables",))
        modes = [modes] if isinstance(modes, str) else modes
        if not isinstance(modes, list | tuple) or not modes:
            return value
        return {**value, "twin": "iptables" if "iptables" in modes else modes[-1]}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if found := list(_mistakes(self)):
            raise Mistakes(found)
        return self

    @property
    def budget_s(self) -> float:
        """Wall-clock time for measuring, in seconds."""
        return quantities.nanoseconds(self.budget) / 1e9

    def lanes(self) -> tuple[str, ...]:
        """The lanes of every cell: `direct`, the modes, and the twin as `<mode>-twin`."""
        twin = (f"{self.twin}-twin",) if self.twin else ()
        return (DIRECT, *self.modes, *twin)

    def cells(self) -> Iterator[Cell]:
        """All combinations, Services growing outermost, so that what a lane has loaded is only added to."""
        for services, endpoints, traffic, connections in product(
            sorted(self.services), self.endpoints, self.traffic, self.connections
        ):
            yield Cell(services, endpoints, traffic, connections)


def _mistakes(sweep: Sweep) -> Iterator[Mistake]:
    for factor in _FACTORS:
        seen: set[object] = set()
        for index, value in enumerate(getattr(sweep, factor)):
            if value in seen:
                yield Mistake((factor, index), f"{show(value)} is given twice", "remove one")
            seen.add(value)
    if sweep.twin is not None and sweep.twin not in sweep.modes:
        yield Mistake(
            ("twin",),
            f"{show(sweep.twin)} is not among the modes",
            f"one of {', '.join(sweep.modes)}, or null",
            beside=frozenset({"modes"}),
        )
