"""The tables of a run as rows of text, and how they become Markdown.

Owns which columns there are. Pure: findings in, text out; must not compute anything, print or open files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from testbed.analysis import wording
from testbed.analysis.comparison import SOURCE, comparison, cost_words
from testbed.analysis.effects import LaneEffect
from testbed.analysis.findings import Findings
from testbed.analysis.rounds import DIRECT
from testbed.analysis.statistics import Interval
from testbed.analysis.unit import Unit
from testbed.results.format import CellKey
from testbed.results.identity import identities


@dataclass(frozen=True)
class Table:
    """A titled table of text; a cell may hold several lines. `sections` are rows that start a new group."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()
    sections: frozenset[int] = frozenset()


def all_tables(findings: Findings) -> list[Table]:
    """Every table that this run gives rise to, the documented comparison first."""
    further = (
        pair_table(findings),
        kernel_table(findings),
        control_plane_table(findings),
        interference_table(findings),
        peak_table(findings),
    )
    compared = [comparison_table(findings, release) for release in findings.releases if findings.modes]
    return [*compared, cost_table(findings), *(table for table in further if table.rows)]


def comparison_table(findings: Findings, release: str) -> Table:
    """The five documented rows, each word with its measured evidence under one kernel."""
    return Table(
        title="The documented comparison, measured" + (f" on Linux {release}" if release else ""),
        columns=("", *findings.modes),
        rows=tuple(
            (
                row.feature,
                *(
                    "\n".join([f'"{cell.documented}"' if cell.documented else "-", *cell.measured])
                    for cell in row.cells.values()
                ),
            )
            for row in comparison(findings.of_kernel(release))
        ),
        sections=frozenset(range(5)),
    )


def cost_table(findings: Findings) -> Table:
    """Every lane of every cell with intervals."""
    unit = findings.unit
    cells = [effect.cell for effect in findings.effects]
    starts = {number for number, cell in enumerate(cells) if number == 0 or cell != cells[number - 1]}
    return Table(
        title="Cost of each lane against direct, to the first byte",
        columns=(
            "Services",
            "traffic",
            "lane",
            f"first byte {unit.name}",
            f"over direct {unit.name} [95 %]",
            "ratio [95 %]",
            f"last Service {unit.name}",
            f"p99 {unit.name}",
            f"requests/{unit.rate}",
            f"proxy CPU {unit.name}",
        ),
        rows=tuple(_cost_row(unit, effect) for effect in findings.effects),
        numeric=frozenset({0, *range(3, 10)}),
        sections=frozenset(starts),
    )


def _cost_row(unit: Unit, effect: LaneEffect) -> tuple[str, ...]:
    if effect.lane == DIRECT:
        over = ratio = last = ""
    else:
        over = cost_words(unit, effect.cost, effect.resolvable, None) if effect.cost else "?"
        ratio = unit.factor(effect.ratio) if effect.ratio else "?"
        last = unit.signed(effect.last_cost.value) if effect.last_cost else "?"
    return (
        f"{effect.cell.services:,}",
        _traffic(effect.cell),
        effect.lane,
        unit.number(effect.first_byte.value),
        over,
        ratio,
        last,
        unit.number(effect.p99.value),
        wording.number(effect.request_rate.value),
        unit.number(effect.proxy_cpu.value) if effect.proxy_cpu else "",
    )


def _traffic(cell: CellKey) -> str:
    """`new-connection to 3`, with the number of users where there are several."""
    users = f" x{cell.connections}" if cell.connections > 1 else ""
    kernel = f" on {cell.kernel}" if cell.kernel else ""
    return f"{cell.traffic}{users} to {cell.endpoints}{kernel}"


def pair_table(findings: Findings) -> Table:
    """The modes against each other."""
    unit = findings.unit
    return Table(
        title="Modes against each other, paired by round",
        columns=("cell", "difference", f"{unit.name} [95 %]", "p (Holm)", "verdict"),
        rows=tuple(
            (
                str(pair.cell),
                f"{pair.ours} - {pair.theirs}",
                f"{unit.signed(pair.difference.value)} {unit.bounds(pair.difference, sign=True)}",
                "?" if math.isnan(pair.p_holm) else f"{pair.p_holm:.2g}",
                _verdict(pair.ours, pair.theirs, pair.difference, pair.resolvable),
            )
            for pair in findings.pairs
        ),
        numeric=frozenset({2, 3}),
    )


def control_plane_table(findings: Findings) -> Table:
    """What a start with so many Services took, and one more Service."""
    return Table(
        title="Control plane",
        columns=("lane", "event", "Services", "to traffic", "sync", "rules", "proxy CPU", "proxy RSS"),
        rows=tuple(
            (
                lane.lane
                + (f" (beside {DIRECT} only)" if lane.company else "")
                + (f" on {lane.kernel}" if lane.kernel else ""),
                lane.event + (f" ({lane.start})" if lane.start else ""),
                f"{lane.services:,}",
                lane.reason.partition("\n")[0]
                if lane.to_traffic_ns is None
                else _duration(findings.unit, lane.to_traffic_ns),
                _duration(findings.unit, lane.sync_ns),
                "" if lane.rules is None else f"{lane.rules:,}",
                _duration(findings.unit, lane.proxy_cpu_ns),
                "" if lane.rss_bytes is None else f"{lane.rss_bytes / 1e6:.0f} MB",
            )
            for lane in findings.lanes
            if lane.mode != DIRECT
        ),
        numeric=frozenset(range(2, 8)),
    )


def interference_table(findings: Findings) -> Table:
    """What the lanes did to each other, where that was measured."""
    unit = findings.unit
    return Table(
        title="Interference: a lane beside all others against the lane alone",
        columns=(
            "cell",
            "lane",
            f"alone {unit.name}",
            f"beside all {unit.name}",
            f"shift {unit.name} [95 %]",
            "verdict",
        ),
        rows=tuple(
            (
                str(found.cell),
                found.lane,
                unit.number(found.alone.value),
                unit.number(found.together.value),
                f"{unit.signed(found.shift.value)} {unit.bounds(found.shift, sign=True)}",
                _judged(found.shift, found.disturbed) or "disturbed",
            )
            for found in findings.interferences
        ),
        numeric=frozenset({2, 3, 4}),
    )


def kernel_table(findings: Findings) -> Table:
    """Every mode under each kernel against the first one, where several were booted."""
    unit = findings.unit
    return Table(
        title="Kernels side by side: a mode's cost over direct (direct: its first byte)",
        columns=(
            "cell",
            "lane",
            "from",
            f"{unit.name}",
            "to",
            f"{unit.name}",
            f"change {unit.name} [95 %]",
            "verdict",
        ),
        rows=tuple(
            (
                str(found.cell),
                found.lane,
                found.kernels[0],
                unit.number(found.before.value),
                found.kernels[1],
                unit.number(found.after.value),
                f"{unit.signed(found.difference.value)} {unit.bounds(found.difference, sign=True)}",
                _verdict(*found.kernels[::-1], found.difference, found.resolvable),
            )
            for found in findings.kernels
        ),
        numeric=frozenset({3, 5, 6}),
    )


def peak_table(findings: Findings) -> Table:
    """The sharp peaks of each distribution: which paths requests took, and how many took each."""
    unit = findings.unit
    return Table(
        title="Peaks of the distribution to the first byte: position and share of the requests",
        columns=("cell", "lane", f"{unit.name} (share)", "spread out", "timer interrupts a request"),
        rows=tuple(
            (
                str(found.cell),
                found.lane,
                ", ".join(f"{unit.number(peak.position)} ({peak.share:.0%})" for peak in found.peaks),
                f"{found.spread:.0%}",
                "" if found.interrupts is None else wording.number(found.interrupts),
            )
            for found in findings.peaks
        ),
        numeric=frozenset({3, 4}),
    )


def caption(findings: Findings) -> list[str]:
    """What a reader must know beside the numbers, a sentence a line."""
    return list(_caption(findings))


def _caption(findings: Findings) -> Iterator[str]:
    kernel: Mapping[str, Any] = findings.facts.get("kernel") or {}
    clock = findings.facts.get("clock", "wall")
    several = findings.facts.get("kernels") or {"": kernel}
    names = wording.listing([_kernel_name(one) for one in several.values()])
    yield f"Kernel{'s' * (len(several) > 1)} under test: {names}; clock: {clock}, read inside that kernel."
    if findings.unit.caveat:
        yield findings.unit.caveat
        for release, identity in identities(findings.facts).items():
            holds = ", ".join(f"{name} {value}" for name, value in identity.kernel_path.items())
            yield f"Costs over direct hold for {holds or release or 'an unknown kernel'}."
    if kernel.get("name") == "uml":
        yield (
            "User-mode Linux makes system calls and the clock itself many times dearer than a native kernel: "
            "compare lanes with each other; no time here is the time of a native host."
        )
    if not findings.complete:
        yield "The run was stopped before its end: the tables hold what it had measured."
    for lane in findings.lanes:
        if lane.event == "died":
            reason = lane.reason.partition("\n")[0].rstrip(":")
            place = wording.services(lane.services)
            yield f"Lane {lane.lane} ended at {place} and is measured no further: {reason}."
    kept = f"{findings.blocks:,} blocks, {_reasons('rejected and redone', findings.rejected)}"
    yield f"{kept}, {_reasons('failed', findings.failed)}."
    if noise := findings.noise:
        yield (
            f"The host meanwhile: CPU pressure {noise.pressure:.0%} (worst block "
            f"{noise.worst_pressure:.0%}), {noise.busy_cpus:.1f} CPUs busy, steal {noise.steal:.1%}; "
            f"{noise.left_out} blocks left out for it."
        )
    for pair in findings.identicals:
        state = "covers 1.00" if pair.unbiased else "MISSES 1.00: the instrument is biased there"
        yield (
            f"Two identical lanes ({pair.lanes[0]} and {pair.lanes[1]}) at {pair.cell}: "
            f"{findings.unit.factor(pair.ratio)}, {state}; "
            f"effects below {findings.unit.amount(pair.visible)} are {wording.NOT_RESOLVABLE}."
        )
    yield "Intervals: 95 %, bootstrap over rounds, paired by round; requests are never pooled over rounds."
    yield f"Documented words: {SOURCE}."


def _kernel_name(kernel: Mapping[str, Any]) -> str:
    return " ".join(str(part) for part in (kernel.get("name"), kernel.get("release")) if part) or "unknown"


def markdown(findings: Findings) -> str:
    """All tables as GitHub's Markdown, with the caption."""
    parts = ["# " + str(findings.facts.get("name", "Results")), *caption(findings)]
    for table in all_tables(findings):
        parts += [f"## {table.title}", markdown_table(table)]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    align = ["---:" if number in table.numeric else "---" for number in range(len(table.columns))]
    lines = [table.columns, tuple(align), *table.rows]
    return "\n".join("| " + " | ".join(_markdown_cell(cell) for cell in line) + " |" for line in lines)


def _markdown_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def _verdict(ours: str, theirs: str, difference: Interval, resolvable: bool | None) -> str:
    return _judged(difference, resolvable) or f"{ours if difference.value < 0 else theirs} is cheaper"


def _judged(effect: Interval, resolvable: bool | None) -> str:
    """Why an effect is none, or nothing where it is one."""
    if not math.isfinite(effect.half_width):
        return "too few rounds"
    if resolvable is None:
        return "no twin to judge by"
    return "" if resolvable else wording.NOT_RESOLVABLE


def _duration(unit: Unit, reading: int | None) -> str:
    return "" if reading is None else unit.duration(reading)


def _reasons(kind: str, counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    detail = ", ".join(f"{reason} x{count}" for reason, count in counts.items())
    return f"{total} {kind}" + (f" ({detail})" if detail else "")
