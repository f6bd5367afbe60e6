"""The ledger as tables, for a terminal, for pages and for programs. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from testbed.analysis.rounds import DIRECT
from testbed.analysis.statistics import Interval
from testbed.analysis.tables import Table, markdown_table
from testbed.analysis.unit import KILO_INSTRUCTIONS
from testbed.ledger.account import UNACCOUNTED, Column, Ledger
from testbed.ledger.phases import PHASES

_THINGS = {"new-connection": "one new connection", "keepalive": "one request on an open connection"}
_TOTAL = "measured total"


def all_tables(ledger: Ledger) -> list[Table]:
    """One table a kind of traffic, and what one more of something costs."""
    tables = [_traffic_table(ledger, traffic) for traffic in ledger.traffics]
    if ledger.units:
        tables.append(_unit_table(ledger))
    return tables


def markdown(ledger: Ledger) -> str:
    parts = ["# Cost ledger", *caption(ledger)]
    for table in all_tables(ledger):
        parts += [f"## {table.title}", markdown_table(table)]
    return "\n\n".join(parts) + "\n"


def json_text(ledger: Ledger) -> str:
    """Everything in instructions."""
    document: dict[str, Any] = {
        "kernel": ledger.facts.get("kernel"),
        "identity": ledger.facts.get("identity"),
        "absent": ledger.facts.get("absent", []),
        "tracer": asdict(ledger.overhead) if ledger.overhead else None,
        "columns": [asdict(column) for column in ledger.columns],
        "units": [asdict(unit) for unit in ledger.units],
    }
    return json.dumps(document, indent=2) + "\n"


def caption(ledger: Ledger) -> Iterator[str]:
    """What a reader must know beside the numbers."""
    yield (
        "Executed instructions, no times. The total is all that the one CPU executed from one connection, or "
        "request, to the next, closing included; each process's own row is what the kernel accounts to it "
        "without the kernel's phases, and so holds its entries into the kernel, too. Packets are received in "
        "the context of whoever sent them: phases are summed over all processes."
    )
    if ledger.overhead is None:
        yield "The kernel has no function graph tracer: its phases are part of each process's row."
    else:
        yield (
            "The phases come from a traced pass of their own; a traced call costs "
            f"{ledger.overhead.per_call:,.0f} instructions of tracing, which are taken off. What then is off "
            "stands in the last line: the traced total, so corrected, against the untraced one."
        )
    if absent := ledger.facts.get("absent"):
        yield f"This kernel lacks or has inlined, so that they count for their callers: {', '.join(absent)}."
    if ledger.facts.get("state") != "complete":
        yield "The run was stopped before its end: the tables hold what it had measured."


def _traffic_table(ledger: Ledger, traffic: str) -> Table:
    columns = ledger.of(traffic)
    names = [name for name in _row_names(columns) if name != UNACCOUNTED]
    direct = next((column for column in columns if column.lane == DIRECT), None)
    rows = [(name, *(_cell(column, direct, name) for column in columns)) for name in names]
    rows.append((UNACCOUNTED, *(_share(column) for column in columns)))
    rows.append((_TOTAL, *(_total(column) for column in columns)))
    rows.append(("of it to the first byte", *(_interval(column.first_byte) for column in columns)))
    rows.append(("traced calls", *(f"{column.calls:,.0f}" for column in columns)))
    rows.append(("traced total, corrected", *(_check(column) for column in columns)))
    first_phase = next((n for n, row in enumerate(rows) if row[0] in PHASES), 0)
    return Table(
        title=f"Where the thousands of instructions of {_THINGS.get(traffic, traffic)} go (over direct)",
        columns=("", *(column.lane for column in columns)),
        rows=tuple(rows),
        numeric=frozenset(range(1, len(columns) + 1)),
        sections=frozenset({first_phase, len(names), len(names) + 1, len(names) + 2}),
    )


def _unit_table(ledger: Ledger) -> Table:
    return Table(
        title="What one more costs, in instructions",
        columns=("one more", "instructions [95 %]"),
        rows=tuple(
            (unit.what, f"{unit.cost.value:+,.2f} [{unit.cost.low:+,.2f}, {unit.cost.high:+,.2f}]")
            for unit in ledger.units
        ),
        numeric=frozenset({1}),
    )


def _row_names(columns: tuple[Column, ...]) -> list[str]:
    """All rows of all lanes, in the order of the account."""
    known = {name: None for column in columns for name in column.rows}
    phases = [name for name in PHASES if name in known]
    return [*(name for name in known if name not in PHASES), *phases]


def _cell(column: Column, direct: Column | None, name: str) -> str:
    value = column.rows.get(name, 0.0)
    if not value and name not in column.rows:
        return ""
    text = _kilo(value)
    if direct is None or column.lane == DIRECT:
        return text
    over = value - direct.rows.get(name, 0.0)
    return f"{text} ({KILO_INSTRUCTIONS.signed(over / 1000)})"


def _share(column: Column) -> str:
    value = column.rows[UNACCOUNTED]
    return f"{_kilo(value)} ({value / column.total.value:.1%})"


def _total(column: Column) -> str:
    return _interval(column.total)


def _interval(found: Interval) -> str:
    thousands = found.scaled(1 / 1000)
    return f"{KILO_INSTRUCTIONS.number(thousands.value)} {KILO_INSTRUCTIONS.bounds(thousands)}"


def _check(column: Column) -> str:
    if column.check is None:
        return ""
    return f"{_kilo(column.check)} ({column.check / column.total.value - 1:+.1%})"


def _kilo(instructions: float) -> str:
    return KILO_INSTRUCTIONS.number(instructions / 1000)
