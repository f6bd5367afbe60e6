"""Inside the sandbox of the harness's benchmark: a whole sweep, and what its blocks tell."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from testbed.analysis.findings import analyse
from testbed.bench.sweep import main
from testbed.results.format import BlockRecord, CellKey
from testbed.results.run import read_run
from testbed.spec import Topology


class Swept(NamedTuple):
    """Figures of one sweep: share of wall time outside blocks by cell, iptables slope, A/A ratios."""

    outside: dict[str, float]
    slope_us: tuple[float, float, float]
    identical: dict[str, tuple[float, float, float]]


class _Wire:
    """A launcher that always gives the turn to measure."""

    def send(self, message: dict[str, Any]) -> None:
        """Nobody watches."""

    def receive(self, timeout_s: float | None = None) -> dict[str, Any]:
        return {"locked": True}


def sweep(services: Sequence[int], rounds: int, block_ms: int) -> Swept:
    """Measure iptables and its twin beside direct."""
    topology = Topology(
        nodes=2,
        pods_per_node=3,
        services=[{"name": "web", "port": 80, "endpoints": 3}],
        sweep={
            "modes": ["iptables"],
            "services": list(services),
            "traffic": ["new-connection"],
            "rounds": rounds,
            "block_ms": block_ms,
        },
        proxy={"iptables_variant": "legacy"},
    )
    with tempfile.TemporaryDirectory() as directory:
        main({"topology": topology.model_dump(mode="json"), "run_dir": directory}, _Wire())
        run = read_run(Path(directory))
        findings = analyse(run)
    slope = next(one.last_slope for one in findings.scalings if one.lane == "iptables")
    return Swept(
        outside={str(cell): share for cell, share in outside_blocks(run.blocks).items()},
        slope_us=(slope.value, slope.low, slope.high),
        identical={
            str(pair.cell): (pair.ratio.value, pair.ratio.low, pair.ratio.high)
            for pair in findings.identicals
        },
    )


def outside_blocks(blocks: Sequence[BlockRecord]) -> dict[CellKey, float]:
    """For each cell, the share of its wall time in which no block ran."""
    cells: dict[CellKey, list[BlockRecord]] = {}
    for block in blocks:
        cells.setdefault(block.cell, []).append(block)
    return {
        cell: 1
        - sum(block.ended_ns - block.started_ns for block in inside)
        / (inside[-1].ended_ns - inside[0].started_ns)
        for cell, inside in cells.items()
    }
