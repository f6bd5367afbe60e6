"""The baseline: what a connection cost in each mode when somebody last said that this is how it should be.

Owns the file, which is small, committed and made by a run: cost of a lane over direct, with its interval, the
identity under which it holds, and why it was taken. Must not judge.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from testbed.analysis import rounds, statistics
from testbed.analysis.rounds import DIRECT, TWIN_SUFFIX, Cell, cells_of
from testbed.analysis.statistics import Floats, Interval
from testbed.errors import BadResults
from testbed.gate.plan import MODES
from testbed.results.identity import Identity, identities
from testbed.results.run import Run
from testbed.spec.clock import INSTRUCTIONS

DIRECTORY = Path("results/reference/qemu-instructions")
FILE = "baseline.json"
FORMAT = 1
REMEDY = 'measure it anew with `testbed baseline refresh --why "..."`'


@dataclass(frozen=True)
class Cost:
    """Instructions that a connection costs in a lane beyond the direct lane's, with the 95 % interval."""

    lane: str
    cell: str
    instructions: float
    low: float
    high: float

    @property
    def interval(self) -> Interval:
        return Interval(self.instructions, self.low, self.high)


@dataclass(frozen=True)
class Change:
    """What a refresh changed: the old costs beside the new run's, and why; `old` is empty the first time."""

    why: str
    measured: str
    differences: tuple[str, ...]
    old: tuple[Cost, ...]
    new: tuple[Cost, ...]


@dataclass(frozen=True)
class Baseline:
    """The costs that hold, the budget (a share of a cost) by which they may move, and how they came about."""

    costs: tuple[Cost, ...]
    identity: Identity
    budget: float
    measured: str
    history: tuple[Change, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "clock": INSTRUCTIONS,
            "measured": self.measured,
            "budget": self.budget,
            "identity": self.identity.to_json(),
            "costs": [asdict(cost) for cost in self.costs],
            "history": [asdict(change) for change in self.history],
        }


def read_baseline(directory: Path) -> Baseline:
    """Read the baseline of a directory. Raises BadResults when there is none, or one that says nothing."""
    path = directory / FILE
    try:
        found = _parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise BadResults(f"{path}: there is no baseline: {REMEDY}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadResults(f"{path}: is not a readable baseline ({error!r}): {REMEDY}") from error
    if not found.costs:
        raise BadResults(f"{path}: holds no costs, so that nothing could ever fail: {REMEDY}")
    return found


def write_baseline(directory: Path, baseline: Baseline) -> Path:
    """Write the file and return its path. Raises BadResults when that is not allowed."""
    path = directory / FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(baseline.to_json(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadResults(f"{path}: cannot be written ({error.strerror})") from error
    return path


def costs_of(run: Run, modes: Sequence[str] = MODES) -> tuple[Cost, ...]:
    """What the run shows of each mode.

    Raises BadResults for a run that was stopped, that did not count instructions, or that holds no cost.
    """
    if run.facts.get("clock") != INSTRUCTIONS:
        clock = run.facts.get("clock", "wall")
        raise BadResults(f"{run.directory}: was measured by the clock {clock!r}, not by instructions")
    if not run.complete:
        raise BadResults(f"{run.directory}: was stopped before its end, and half a run is no evidence")
    found = tuple(_costs(run, modes))
    if not found:
        raise BadResults(f"{run.directory}: no cell of it has a mode beside a direct lane")
    return found


def identity_of(run: Run) -> Identity:
    """The identity of the run's one kernel; an empty one where it recorded none."""
    found = list(identities(run.facts).values())
    return found[0] if len(found) == 1 else Identity()


def _costs(run: Run, modes: Sequence[str]) -> Iterator[Cost]:
    for cell in cells_of(run.blocks):
        for lane in cell.lanes:
            if lane in modes and (over := _over_direct(cell, lane)).size:
                cost = statistics.interval(over)
                yield Cost(lane, str(cell.key), cost.value, cost.low, cost.high)


def _over_direct(cell: Cell, lane: str) -> Floats:
    """What a mode costs over direct, round by round; of a lane and its twin the mean.

    Where a lane's addresses fall in the kernel's hash tables is luck, and two lanes have half as much of it.
    """
    lanes = [one for one in (lane, lane + TWIN_SUFFIX) if one in cell.lanes]
    found = [cell.differences(one, DIRECT, rounds.first_byte_ns) for one in lanes]
    shared = min(one.size for one in found)
    mean: Floats = np.mean([one[:shared] for one in found], axis=0)
    return mean


def _parse(value: Mapping[str, Any]) -> Baseline:
    if value["format"] != FORMAT or value["clock"] != INSTRUCTIONS:
        raise ValueError(f"format {value['format']!r} by clock {value['clock']!r} is not known here")
    return Baseline(
        costs=_parse_costs(value["costs"]),
        identity=Identity.from_json(value["identity"]),
        budget=float(value["budget"]),
        measured=str(value["measured"]),
        history=tuple(
            Change(
                why=str(change["why"]),
                measured=str(change["measured"]),
                differences=tuple(change["differences"]),
                old=_parse_costs(change["old"]),
                new=_parse_costs(change["new"]),
            )
            for change in value["history"]
        ),
    )


def _parse_costs(values: Sequence[Mapping[str, Any]]) -> tuple[Cost, ...]:
    return tuple(
        Cost(
            lane=str(value["lane"]),
            cell=str(value["cell"]),
            instructions=float(value["instructions"]),
            low=float(value["low"]),
            high=float(value["high"]),
        )
        for value in values
    )
