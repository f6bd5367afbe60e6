"""The table of a run of switches, for people, pages and programs. Pure.

Owns how repeats of one pair become a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from statistics import median
from typing import Any

COLUMNS = (
    "from",
    "to",
    "switches",
    "connections",
    "failed",
    "SYN again",
    "over 10 medians",
    "begun late",
    "outage",
    "kept open, broken",
    "switch took",
)
CAPTION = (
    "Connections arrive at a constant rate, whatever becomes of the earlier ones, and count from the "
    "moment at which they were to begin. Counts are sums over the switches. `SYN again` were answered "
    "over a second after they were begun: their first packet met with silence. `Begun late` are those "
    "for which the client itself got no CPU for 100 ms: many of them mean a busy machine. An outage is "
    "the longest time in which every connection failed or had to send its SYN again: median [least, "
    "most] of the switches. A switch takes from the edit of the ConfigMap to the last node's being "
    "ready in its new mode. A row from a mode to itself is a restart: what a switch does beyond it, the "
    "change of mode does."
)


def rows(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a pair, in the order in which the pairs came; failed switches are counted under `errors`."""
    order = {(event["old"], event["new"]): None for event in events}
    places = {pair: number for number, pair in enumerate(order)}
    by_place = sorted(events, key=lambda event: places[event["old"], event["new"]])
    return [_row(*pair, list(some)) for pair, some in groupby(by_place, lambda e: (e["old"], e["new"]))]


def _row(old: str, new: str, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = [event["outage"] for event in events if "outage" in event]
    failed: dict[str, int] = {}
    for outage in found:
        for why, count in outage["failed"].items():
            failed[why] = failed.get(why, 0) + count
    return {
        "from": old,
        "to": new,
        "switches": len(found),
        "connections": sum(outage["connections"] for outage in found),
        "failed": failed,
        "failed_before": sum(outage["failed_before"] for outage in found),
        "delayed": sum(outage["delayed"] for outage in found),
        "slow": sum(outage["slow"] for outage in found),
        "late": sum(outage["late"] for outage in found),
        "median_ns": [outage["median_ns"] for outage in found],
        "outage_ns": [outage["outage_ns"] for outage in found],
        "switch_ns": [outage["switch_ns"] for outage in found],
        "kept": sum(outage["kept"] for outage in found),
        "broken": sum(outage["broken"] for outage in found),
        "errors": [event["error"] for event in events if "error" in event],
    }


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row as text, in the order of COLUMNS."""
    failed = sum(row["failed"].values())
    reasons = ", ".join(f"{why} {count}" for why, count in sorted(row["failed"].items()))
    return [
        row["from"],
        row["to"],
        str(row["switches"]),
        f"{row['connections']:,}",
        f"{failed} ({reasons})" if failed else "0",
        str(row["delayed"]),
        str(row["slow"]),
        str(row["late"]),
        _spread(row["outage_ns"], 1e6, "ms"),
        f"{row['broken']} of {row['kept']}",
        _spread(row["switch_ns"], 1e9, "s"),
    ]


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown, with its caption and what went wrong."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "| --- | --- |" + " ---: |" * (len(COLUMNS) - 2)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in table]
    lines += ["", CAPTION, *remarks(table)]
    return "\n".join(lines) + "\n"


def remarks(table: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a reader must know besides: switches that did not come about, failures before the switch."""
    found = []
    for row in table:
        pair = f"{row['from']} to {row['to']}"
        found += [f"{pair}: {error}" for error in row["errors"]]
        if row["failed_before"]:
            found.append(f"{pair}: {row['failed_before']} connections failed before the switch")
    return found


def _spread(values: Sequence[int], unit: float, name: str) -> str:
    if not values:
        return "-"
    digits = 0 if unit == 1e6 else 2
    middle, least, most = (
        f"{value / unit:.{digits}f}" for value in (median(values), min(values), max(values))
    )
    return f"{middle} {name}" if least == most else f"{middle} [{least}, {most}] {name}"
