"""The tables of a run as rows of text, and how they become Markdown, CSV and JSON.

Owns which columns there are. Pure: findings in, text out; must not compute anything, print or open files.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from testbed.analysis import wording
from testbed.analysis.comparison import SOURCE, comparison, cost_words
from testbed.analysis.effects import LaneEffect
from testbed.analysis.findings import Findings
from testbed.analysis.rounds import DIRECT
from testbed.analysis.statistics import Interval
from testbed.results.format import CellKey


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
    further = (pair_table(findings), control_plane_table(findings), interference_table(findings))
    compared = [comparison_table(findings)] if findings.modes else []
    return [*compared, cost_table(findings), *(table for table in further if table.rows)]


def comparison_table(findings: Findings) -> Table:
    """The five documented rows, each word with its measured evidence."""
    return Table(
        title="The documented comparison, measured",
        columns=("", *findings.modes),
        rows=tuple(
            (
                row.feature,
                *(
                    "\n".join([f'"{cell.documented}"' if cell.documented else "-", *cell.measured])
                    for cell in row.cells.values()
                ),
            )
            for row in comparison(findings)
        ),
        sections=frozenset(range(5)),
    )


def cost_table(findings: Findings) -> Table:
    """Every lane of every cell with intervals."""
    cells = [effect.cell for effect in findings.effects]
    starts = {number for number, cell in enumerate(cells) if number == 0 or cell != cells[number - 1]}
    return Table(
        title="Cost of each lane against direct, to the first byte",
        columns=(
            "Services",
            "traffic",
            "lane",
            "first byte µs",
            "over direct µs [95 %]",
            "ratio [95 %]",
            "last Service µs",
            "p99 µs",
            "requests/s",
            "proxy CPU µs",
        ),
        rows=tuple(map(_cost_row, findings.effects)),
        numeric=frozenset({0, *range(3, 10)}),
        sections=frozenset(starts),
    )


def _cost_row(effect: LaneEffect) -> tuple[str, ...]:
    if effect.lane == DIRECT:
        over = ratio = last = ""
    else:
        over = cost_words(effect.cost_us, effect.resolvable, None) if effect.cost_us else "?"
        ratio = wording.factor(effect.ratio) if effect.ratio else "?"
        last = wording.signed(effect.last_cost_us.value) if effect.last_cost_us else "?"
    return (
        f"{effect.cell.services:,}",
        _traffic(effect.cell),
        effect.lane,
        wording.number(effect.first_byte_us.value),
        over,
        ratio,
        last,
        wording.number(effect.p99_us.value),
        wording.number(effect.requests_per_s.value),
        wording.number(effect.proxy_cpu_us.value) if effect.proxy_cpu_us else "",
    )


def _traffic(cell: CellKey) -> str:
    """`new-connection to 3`, with the number of users where there are several."""
    users = f" x{cell.connections}" if cell.connections > 1 else ""
    return f"{cell.traffic}{users} to {cell.endpoints}"


def pair_table(findings: Findings) -> Table:
    """The modes against each other."""
    return Table(
        title="Modes against each other, paired by round",
        columns=("cell", "difference", "µs [95 %]", "p (Holm)", "verdict"),
        rows=tuple(
            (
                str(pair.cell),
                f"{pair.ours} - {pair.theirs}",
                f"{wording.signed(pair.difference_us.value)} {wording.bounds(pair.difference_us, sign=True)}",
                "?" if math.isnan(pair.p_holm) else f"{pair.p_holm:.2g}",
                _verdict(pair.ours, pair.theirs, pair.difference_us, pair.resolvable),
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
                lane.lane + (f" (beside {DIRECT} only)" if lane.company else ""),
                lane.event + (f" ({lane.start})" if lane.start else ""),
                f"{lane.services:,}",
                lane.reason.partition("\n")[0]
                if lane.to_traffic_ns is None
                else _duration(lane.to_traffic_ns),
                _duration(lane.sync_ns),
                "" if lane.rules is None else f"{lane.rules:,}",
                _duration(lane.proxy_cpu_ns),
                "" if lane.rss_bytes is None else f"{lane.rss_bytes / 1e6:.0f} MB",
            )
            for lane in findings.lanes
            if lane.mode != DIRECT
        ),
        numeric=frozenset(range(2, 8)),
    )


def interference_table(findings: Findings) -> Table:
    """What the lanes did to each other, where that was measured."""
    return Table(
        title="Interference: a lane beside all others against the lane alone",
        columns=("cell", "lane", "alone µs", "beside all µs", "shift µs [95 %]", "verdict"),
        rows=tuple(
            (
                str(found.cell),
                found.lane,
                wording.number(found.alone_us.value),
                wording.number(found.together_us.value),
                f"{wording.signed(found.shift_us.value)} {wording.bounds(found.shift_us, sign=True)}",
                _judged(found.shift_us, found.disturbed) or "disturbed",
            )
            for found in findings.interferences
        ),
        numeric=frozenset({2, 3, 4}),
    )


def caption(findings: Findings) -> list[str]:
    """What a reader must know beside the numbers, a sentence a line."""
    return list(_caption(findings))


def _caption(findings: Findings) -> Iterator[str]:
    kernel: Mapping[str, Any] = findings.facts.get("kernel") or {}
    clock = findings.facts.get("clock", "wall")
    name = " ".join(str(part) for part in (kernel.get("name"), kernel.get("release")) if part) or "unknown"
    yield f"Kernel under test: {name}; clock: {clock}, read inside that kernel."
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
            f"{wording.factor(pair.ratio)}, {state}; effects below {wording.number(pair.visible_us)} µs "
            f"are {wording.NOT_RESOLVABLE}."
        )
    yield "Intervals: 95 %, bootstrap over rounds, paired by round; requests are never pooled over rounds."
    yield f"Documented words: {SOURCE}."


def markdown(findings: Findings) -> str:
    """All tables as GitHub's Markdown, with the caption."""
    parts = ["# " + str(findings.facts.get("name", "Results")), *caption(findings)]
    for table in all_tables(findings):
        parts += [f"## {table.title}", _markdown_table(table)]
    return "\n\n".join(parts) + "\n"


def csv_text(findings: Findings) -> str:
    """One line for each lane of each cell, every number with its interval."""
    text = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for effect in findings.effects:
        line = _flat({"smallest_visible_us": findings.visible_us(effect), **_plain(effect)})
        if writer is None:
            writer = csv.DictWriter(text, list(line), lineterminator="\n", restval="")
            writer.writeheader()
        writer.writerow(line)
    return text.getvalue()


def json_text(findings: Findings) -> str:
    """Everything that was found, with the comparison's rows; infinite bounds are null."""
    found = {"comparison": _plain(comparison(findings)), "caption": caption(findings), **_plain(findings)}
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def _markdown_table(table: Table) -> str:
    align = ["---:" if number in table.numeric else "---" for number in range(len(table.columns))]
    lines = [table.columns, tuple(align), *table.rows]
    return "\n".join("| " + " | ".join(_markdown_cell(cell) for cell in line) + " |" for line in lines)


def _markdown_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


_INTERVALS = (
    "first_byte_us",
    "connect_us",
    "p99_us",
    "requests_per_s",
    "cost_us",
    "connect_cost_us",
    "last_cost_us",
    "ratio",
    "proxy_cpu_us",
    "proxy_switches",
)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Intervals as three columns each, also where there is none, so that all lines have the same."""
    line: dict[str, Any] = {}
    for name, value in values.items():
        if name in _INTERVALS:
            bounds = value or {}
            line |= {
                name: bounds.get("value"),
                f"{name}_low": bounds.get("low"),
                f"{name}_high": bounds.get("high"),
            }
        elif isinstance(value, Mapping):
            line |= value
        else:
            line[name] = value
    return line


def _plain(value: Any) -> Any:
    """Values as JSON has them."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _verdict(ours: str, theirs: str, difference: Interval, resolvable: bool | None) -> str:
    return _judged(difference, resolvable) or f"{ours if difference.value < 0 else theirs} is cheaper"


def _judged(effect: Interval, resolvable: bool | None) -> str:
    """Why an effect is none, or nothing where it is one."""
    if not math.isfinite(effect.half_width):
        return "too few rounds"
    if resolvable is None:
        return "no twin to judge by"
    return "" if resolvable else wording.NOT_RESOLVABLE


def _duration(duration_ns: int | None) -> str:
    return "" if duration_ns is None else wording.seconds(duration_ns)


def _reasons(kind: str, counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    detail = ", ".join(f"{reason} x{count}" for reason, count in counts.items())
    return f"{total} {kind}" + (f" ({detail})" if detail else "")
