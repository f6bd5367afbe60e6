"""The verdict: what the gate finds in a run, check by check.

Pure; owns the rules. Must not read files, measure, or lay out text for people beyond one sentence a check.

Two kinds of checks. The control is within the run: a second lane of plain iptables must cost the same, and a
lane with ten further rules must not, else the instrument cannot be trusted and says nothing of a baseline.
The baseline is beside it: the cost of each mode may not move by more than the budget, under one identity.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from testbed.analysis import rounds, statistics
from testbed.analysis.rounds import Cell, cells_of
from testbed.analysis.statistics import Interval
from testbed.errors import BadResults
from testbed.gate.baseline import Baseline, Cost, costs_of, identity_of
from testbed.gate.plan import INJECTED, PLAIN, TWIN
from testbed.results.identity import Identity, Level
from testbed.results.run import Run

State = Literal["passed", "failed", "skipped"]
PASSED: State = "passed"
FAILED: State = "failed"
SKIPPED: State = "skipped"

TOLERANCE = 0.005
"""The share of an identical lane's cost to first byte by which it may seem to differ. Boots showed intervals
that reach to 0.3 %: where the addresses of a lane fall in hash tables is luck. Ten rules are 1.4 %."""

IN_PYTHON = frozenset({"userspace"})
"""Modes whose connections pass through a Python process: their cost depends on the full identity."""


@dataclass(frozen=True)
class Check:
    """One thing that was judged: its name reads as a sentence, `detail` holds the numbers."""

    name: str
    state: State
    detail: str


@dataclass(frozen=True)
class Comparison:
    """One cost beside the baseline's; `new` is None where the run lacks it, `old` where the baseline does."""

    lane: str
    cell: str
    old: Cost | None
    new: Cost | None
    state: State
    detail: str

    @property
    def moved(self) -> float:
        """By which share of the old cost the new one is off; NaN unless both are there."""
        if self.old is None or self.new is None:
            return math.nan
        if not self.old.instructions:
            return 0.0 if not self.new.instructions else math.inf
        return (self.new.instructions - self.old.instructions) / abs(self.old.instructions)


@dataclass(frozen=True)
class Verdict:
    """Everything that was judged; `differences` says what tells the run's identity from the baseline's."""

    control: tuple[Check, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    differences: tuple[str, ...] = ()
    skipped: str = ""
    required: bool = False

    @property
    def compared(self) -> int:
        """How many costs could be compared with the baseline."""
        return sum(one.state != SKIPPED for one in self.comparisons)

    @property
    def checks(self) -> tuple[Check, ...]:
        """All that was judged, in one form."""
        return (*self.control, *(_as_check(one) for one in self.comparisons), *self._requirement())

    @property
    def failed(self) -> bool:
        return any(check.state == FAILED for check in self.checks)

    def _requirement(self) -> Iterator[Check]:
        """The gate itself, where it could not be held."""
        if not self.compared:
            state = FAILED if self.required else SKIPPED
            detail = self.skipped or "nothing was comparable: " + "; ".join(self.differences)
            yield Check("the gate has something to compare", state, detail)


def judge(run: Run, baseline: Baseline, *, required: bool = False) -> Verdict:
    """Judge a run of the gate's sweep.

    `required` makes a gate fail that had nothing to compare. Raises BadResults for a run without costs.
    """
    costs = costs_of(run)
    ours = identity_of(run)
    return Verdict(
        control=tuple(control_checks(run)),
        comparisons=tuple(compare(costs, ours, baseline)),
        differences=differences(ours, baseline.identity, "full"),
        required=required,
    )


def control_checks(run: Run) -> Iterator[Check]:
    """Whether identical lanes agree and injected rules are seen, in every cell that has the lanes.

    Raises BadResults where no cell has them.
    """
    cells = [cell for cell in cells_of(run.blocks) if {PLAIN, TWIN, INJECTED} <= set(cell.lanes)]
    if not cells:
        raise BadResults(
            f"{run.directory}: no cell has {PLAIN}, {TWIN} and {INJECTED} side by side: nothing can be judged"
        )
    for cell in cells:
        twin = _difference(cell, TWIN)
        allowed = TOLERANCE * float(statistics.centre(cell.values(PLAIN, rounds.first_byte_ns)))
        agree = -allowed <= twin.low and twin.high <= allowed
        yield Check(
            f"two plain lanes agree at {cell.key}",
            PASSED if agree else FAILED,
            f"{TWIN} - {PLAIN}: {words(twin)}, allowed ±{allowed:,.0f}",
        )
        injected = _difference(cell, INJECTED)
        visible = max(allowed, statistics.smallest_visible(twin))
        caught = injected.low > visible
        yield Check(
            f"ten injected rules are seen at {cell.key}",
            PASSED if caught else FAILED,
            f"{INJECTED} - {PLAIN}: {words(injected)}, seen if all above {visible:,.0f}",
        )


def compare(costs: Sequence[Cost], ours: Identity, baseline: Baseline) -> Iterator[Comparison]:
    """Each cost beside the baseline's, skipped where the identities differ in what it depends on."""
    new = {(cost.lane, cost.cell): cost for cost in costs}
    old = {(cost.lane, cost.cell): cost for cost in baseline.costs}
    for key in dict.fromkeys((*old, *new)):
        bare = Comparison(*key, old.get(key), new.get(key), SKIPPED, "")
        if reasons := differences(ours, baseline.identity, level_of(key[0])):
            yield replace(bare, detail="another identity: " + "; ".join(reasons))
        elif bare.old is None:
            yield replace(bare, detail="not in the baseline")
        else:
            yield _judged(bare, baseline.budget)


def level_of(lane: str) -> Level:
    """Which identity a lane's cost over direct depends on: of the client, only direct's share cancels out."""
    return "full" if lane in IN_PYTHON else "kernel_path"


def differences(ours: Identity, theirs: Identity, level: Level) -> tuple[str, ...]:
    """Why costs under two identities must not be compared; an unknown identity is like no other."""
    unknown = [
        f"{whose} kernel, emulator and CPU are not recorded"
        for whose, one in (("this run's", ours), ("the baseline's", theirs))
        if not one.kernel_path
    ]
    return tuple(unknown) or tuple(str(difference) for difference in ours.differences(theirs, level))


def words(found: Interval) -> str:
    """`+1,690 [+1,540, +1,810] instructions`."""
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return f"{found.value:+,.0f} [too few rounds] instructions"
    return f"{found.value:+,.0f} [{found.low:+,.0f}, {found.high:+,.0f}] instructions"


def _judged(bare: Comparison, budget: float) -> Comparison:
    assert bare.old is not None
    if bare.new is None:
        return replace(bare, state=FAILED, detail="was not measured, though the baseline holds it")
    moved = bare.moved
    if not math.isfinite(moved):
        return replace(bare, state=FAILED, detail=f"is no number: {words(bare.new.interval)}")
    within = abs(moved) <= budget
    detail = (
        f"old {bare.old.instructions:,.0f}, new {words(bare.new.interval)}: {moved:+.2%}, budget {budget:.1%}"
    )
    return replace(bare, state=PASSED if within else FAILED, detail=detail)


def _as_check(one: Comparison) -> Check:
    return Check(f"{one.lane} costs what it did at {one.cell}", one.state, one.detail)


def _difference(cell: Cell, lane: str) -> Interval:
    return statistics.interval(cell.differences(lane, PLAIN, rounds.first_byte_ns))
