"""The findings of a run for other programs: CSV and JSON.

Owns how values become columns and keys; those that depend on the run's clock say so in their names. Pure:
findings in, text out; must not compute anything.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from testbed.analysis.comparison import comparison
from testbed.analysis.findings import Findings
from testbed.analysis.tables import caption
from testbed.analysis.unit import Unit

_INTERVALS = (
    "first_byte",
    "connect",
    "p99",
    "request_rate",
    "cost",
    "connect_cost",
    "last_cost",
    "ratio",
    "proxy_cpu",
    "proxy_switches",
)


def csv_text(findings: Findings) -> str:
    """One line for each lane of each cell, every number with its interval."""
    text = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for effect in findings.effects:
        values = {"smallest_visible": findings.visible(effect), **asdict(effect)}
        line = _flat(values, findings.unit)
        if writer is None:
            writer = csv.DictWriter(text, list(line), lineterminator="\n", restval="")
            writer.writeheader()
        writer.writerow(line)
    return text.getvalue()


def json_text(findings: Findings) -> str:
    """Everything that was found, with the comparison's rows; infinite bounds are null."""
    unit = findings.unit
    found = {
        "unit": unit.name,
        "comparison": _plain(comparison(findings), unit),
        "caption": caption(findings),
        **_plain(findings, unit),
        "facts": findings.facts,
    }
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def _flat(values: Mapping[str, Any], unit: Unit) -> dict[str, Any]:
    """Intervals as three columns each, also where there is none, so that all lines have the same."""
    line: dict[str, Any] = {}
    for name, value in values.items():
        column = unit.column(name)
        if name in _INTERVALS:
            bounds = _plain(value or {}, unit)
            line |= {
                column: bounds.get("value"),
                f"{column}_low": bounds.get("low"),
                f"{column}_high": bounds.get("high"),
            }
        elif isinstance(value, Mapping):
            line |= value
        else:
            line[column] = _plain(value, unit)
    return line


def _plain(value: Any, unit: Unit) -> Any:
    """Values as JSON has them, under names that tell their unit."""
    if is_dataclass(value) and not isinstance(value, type):
        shallow = {name: entry for name, entry in vars(value).items() if name != "facts"}
        return _plain(shallow, unit)
    if isinstance(value, Mapping):
        return {unit.column(str(name)): _plain(entry, unit) for name, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry, unit) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
