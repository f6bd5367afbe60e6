"""The identity of a run: everything that its counts of instructions depend on.

Owns the two levels and their comparison. Two runs of one identity repeat each other; runs of different ones
are never compared without saying what differs. Must not know how the facts are found.

`kernel_path` is what the cost of a mode over the direct lane depends on: the kernel, the emulator, the CPU
model. `full` adds what the absolute cost of a lane depends on: Python, libc, the packages, what a few fixed
loops cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["kernel_path", "full"]

CALIBRATION = "calibration "
"""Prefix of the facts that are counts of instructions: equal if they differ by no more than `TOLERANCE`."""

TOLERANCE = 0.03


@dataclass(frozen=True)
class Difference:
    """One fact that two identities do not share; "" where one has no such fact."""

    fact: str
    ours: str
    theirs: str

    def __str__(self) -> str:
        return f"{self.fact}: {self.ours or 'unknown'} instead of {self.theirs or 'unknown'}"


@dataclass(frozen=True)
class Identity:
    """What the counts of one kernel of a run depend on, as named facts; `full` holds only what it adds."""

    kernel_path: Mapping[str, str] = field(default_factory=dict)
    full: Mapping[str, str] = field(default_factory=dict)

    def differences(self, other: Identity, level: Level = "full") -> tuple[Difference, ...]:
        """What tells this identity from another, in the order of its facts; nothing for the same identity."""
        found = _differences(self.kernel_path, other.kernel_path)
        return found if level == "kernel_path" else found + _differences(self.full, other.full)

    def to_json(self) -> dict[str, Any]:
        return {"kernel_path": dict(self.kernel_path), "full": dict(self.full)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Identity:
        return cls(value.get("kernel_path", {}), value.get("full", {}))


def identities(facts: Mapping[str, Any]) -> dict[str, Identity]:
    """The identity of each kernel of a run, by its release, from run.json; none in older runs."""
    return {release: Identity.from_json(value) for release, value in (facts.get("identity") or {}).items()}


def incomparable(ours: Mapping[str, Any], theirs: Mapping[str, Any], level: Level) -> tuple[str, ...]:
    """Why the numbers of two runs (their run.json) must not be compared, a sentence each; empty if they may.

    By the wall clock nothing but the machine would do, so only runs by the same clock and, for instructions,
    of the same identity may be. Several kernels are matched by their order.
    """
    clocks = [str(facts.get("clock", "wall")) for facts in (ours, theirs)]
    if clocks[0] != clocks[1]:
        return (f"clock: {clocks[0]} instead of {clocks[1]}",)
    ours_all, theirs_all = list(identities(ours).values()), list(identities(theirs).values())
    if not ours_all or len(ours_all) != len(theirs_all):
        return (f"identity: known of {len(ours_all)} kernels here and of {len(theirs_all)} there",)
    return tuple(
        str(difference)
        for one, other in zip(ours_all, theirs_all, strict=True)
        for difference in one.differences(other, level)
    )


def _differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> tuple[Difference, ...]:
    return tuple(
        Difference(name, ours.get(name, ""), theirs.get(name, ""))
        for name in dict.fromkeys((*ours, *theirs))
        if not _same(name, ours.get(name, ""), theirs.get(name, ""))
    )


def _same(name: str, ours: str, theirs: str) -> bool:
    if ours == theirs:
        return True
    if not name.startswith(CALIBRATION) or not ours or not theirs:
        return False
    one, other = float(ours), float(theirs)
    return abs(one - other) <= TOLERANCE * max(abs(one), abs(other))
