"""The analysis of one run, whole or partial: everything the tables print, as values.

`analyse` reads as the list of questions asked of a run. Must not render.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testbed.analysis.balance import Balance, of_cell, of_record
from testbed.analysis.effects import Identical, LaneEffect, PairEffect, identical, lane_effects, pair_effects
from testbed.analysis.interference import Interference, interferences
from testbed.analysis.noise import NoiseSummary, quiet_blocks, read_noise
from testbed.analysis.rounds import DIRECT, cells_of
from testbed.analysis.scaling import Scaling, scalings
from testbed.results.format import FAILED, REJECTED, LaneRecord
from testbed.results.run import Run


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
    lanes: tuple[LaneRecord, ...]
    blocks: int
    noise: NoiseSummary | None
    rejected: Mapping[str, int]
    failed: Mapping[str, int]

    def visible_us(self, effect: LaneEffect) -> float | None:
        """The smallest effect that can be seen in this lane's cell."""
        return next((pair.visible_us for pair in self.identicals if pair.cell == effect.cell), None)


def analyse(run: Run) -> Findings:
    """Ask everything of a run; a run that was stopped gives the answers it holds."""
    quiet, noise = quiet_blocks(run.blocks, read_noise(run.directory))
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
        lanes=run.lanes,
        blocks=len(run.blocks),
        noise=noise,
        rejected=Counter(_short(block.reason) for block in run.blocks if block.status == REJECTED),
        failed=Counter(_short(block.reason) for block in run.blocks if block.status == FAILED),
    )


def _short(reason: str) -> str:
    """The kind of a reason: its first line without the numbers that differ from block to block."""
    return reason.partition("\n")[0].partition(":")[0]
