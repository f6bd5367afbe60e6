"""The analysis of one run, whole or partial: everything the tables print, as values.

`analyse` reads as the list of questions asked of a run. Must not render.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from testbed.analysis.balance import Balance, of_cell, of_record
from testbed.analysis.effects import Identical, LaneEffect, PairEffect, identical, lane_effects, pair_effects
from testbed.analysis.interference import Interference, interferences
from testbed.analysis.kernels import KernelEffect, kernel_effects
from testbed.analysis.noise import NoiseSummary, quiet_blocks, read_noise
from testbed.analysis.peaks import Peaks, peaks_of
from testbed.analysis.rounds import DIRECT, cells_of
from testbed.analysis.scaling import Scaling, scalings
from testbed.analysis.unit import Unit, unit_of
from testbed.results.format import FAILED, REJECTED, LaneRecord
from testbed.results.run import Run
from testbed.spec.clock import INSTRUCTIONS


@dataclass(frozen=True)
class Findings:
    """What a run showed. `rejected` and `failed` count blocks by reason; `modes` are those measured."""

    facts: Mapping[str, Any]
    complete: bool
    modes: tuple[str, ...]
    effects: tuple[LaneEffect, ...]
    identicals: tuple[Identical, ...]
    pairs: tuple[PairEffect, ...]
    scalings: tuple[Scaling, ...]
    balances: tuple[Balance, ...]
    spreads: tuple[Balance, ...]
    interferences: tuple[Interference, ...]
    kernels: tuple[KernelEffect, ...]
    peaks: tuple[Peaks, ...]
    lanes: tuple[LaneRecord, ...]
    blocks: int
    noise: NoiseSummary | None
    rejected: Mapping[str, int]
    failed: Mapping[str, int]

    @property
    def releases(self) -> tuple[str, ...]:
        """The kernels that were booted; "" where there was but one."""
        return tuple(dict.fromkeys(effect.cell.kernel for effect in self.effects)) or ("",)

    def of_kernel(self, release: str) -> Findings:
        """What was found under one of the kernels."""
        return replace(
            self,
            effects=tuple(one for one in self.effects if one.cell.kernel == release),
            identicals=tuple(one for one in self.identicals if one.cell.kernel == release),
            pairs=tuple(one for one in self.pairs if one.cell.kernel == release),
            scalings=tuple(one for one in self.scalings if one.kernel == release),
            balances=tuple(one for one in self.balances if one.kernel == release),
            spreads=tuple(one for one in self.spreads if one.kernel == release),
            lanes=tuple(one for one in self.lanes if one.kernel == release),
        )

    @property
    def unit(self) -> Unit:
        """What every quantity here is in."""
        return unit_of(self.facts)

    def visible(self, effect: LaneEffect) -> float | None:
        """The smallest effect that can be seen in this lane's cell."""
        return next((pair.visible for pair in self.identicals if pair.cell == effect.cell), None)


def analyse(run: Run) -> Findings:
    """Ask everything of a run; a run that was stopped gives the answers it holds."""
    by_instructions = unit_of(run.facts).clock == INSTRUCTIONS
    # What else the host did is nothing to a clock that counts what the guest executed.
    record = None if by_instructions else read_noise(run.directory)
    quiet, noise = quiet_blocks(run.blocks, record)
    cells = cells_of(quiet)
    effects = [effect for cell in cells for effect in lane_effects(cell)]
    lanes_of_modes = dict.fromkeys(effect.lane for effect in effects if effect.lane == effect.mode)
    return Findings(
        facts=run.facts,
        complete=run.complete,
        modes=tuple(mode for mode in lanes_of_modes if mode != DIRECT),
        effects=tuple(effects),
        identicals=tuple(pair for cell in cells if (pair := identical(cell)) is not None),
        pairs=tuple(pair_effects(cells)),
        scalings=tuple(scalings(cells)),
        balances=tuple(of_record(record) for record in run.balance),
        spreads=tuple(
            spread
            for cell in cells
            for lane in cell.lanes
            if lane != DIRECT and (spread := of_cell(cell, lane)) is not None
        ),
        interferences=tuple(interferences(cells)),
        kernels=tuple(kernel_effects(cells, _releases(run))),
        peaks=tuple(peaks_of(cells, run.samples())) if by_instructions else (),
        lanes=run.lanes,
        blocks=len(run.blocks),
        noise=noise,
        rejected=Counter(_short(block.reason) for block in run.blocks if block.status == REJECTED),
        failed=Counter(_short(block.reason) for block in run.blocks if block.status == FAILED),
    )


def _releases(run: Run) -> list[str]:
    """The kernels of the run in the order in which they were booted."""
    return list(dict.fromkeys(block.kernel for block in run.blocks))


def _short(reason: str) -> str:
    """The kind of a reason: its first line without the numbers that differ from block to block."""
    return reason.partition("\n")[0].partition(":")[0]
