"""A verdict for people, for pages and for programs: text, a Markdown comment, JUnit XML, JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree

from testbed.gate.baseline import Cost
from testbed.gate.verdict import FAILED, PASSED, SKIPPED, Comparison, Verdict, words

_SUITE = "instruction gate"
_MARKS = {PASSED: "✅", FAILED: "❌", SKIPPED: "⚠️ skipped"}


def headline(verdict: Verdict) -> str:
    """The one line that must be read."""
    if verdict.failed:
        names = "; ".join(check.name for check in verdict.checks if check.state == FAILED)
        return f"The gate FAILED. Not true: {names}."
    if not verdict.compared:
        return "The gate compared NOTHING with the baseline: " + nothing_compared(verdict)
    skipped = sum(one.state == SKIPPED for one in verdict.comparisons)
    beside = f" {skipped} could not be compared." if skipped else ""
    return f"The gate passed: {verdict.compared} costs are what the baseline says.{beside}"


def nothing_compared(verdict: Verdict) -> str:
    """Why there was no comparison."""
    if verdict.skipped:
        return verdict.skipped
    listed = "; ".join(verdict.differences) or "the baseline has none of these costs"
    return f"it holds under another identity ({listed})."


def text(verdict: Verdict) -> str:
    """All checks, a line each, and the headline last."""
    lines = [f"{check.state:8}{check.name}: {check.detail}" for check in verdict.checks]
    return "\n".join([*lines, *_warning(verdict), headline(verdict)])


def markdown(verdict: Verdict) -> str:
    """The comment for a change under review."""
    parts = ["## Instruction gate", f"**{headline(verdict)}**"]
    if verdict.comparisons:
        rows = [_cells(one) for one in verdict.comparisons]
        columns = ("", "lane", "cell", "old", "new [95 %]", "moved")
        parts.append(_table(columns, rows))
    if verdict.control:
        rows = [(_MARKS[one.state], one.name, one.detail) for one in verdict.control]
        parts.append(_table(("", "control within the run", "instructions to the first byte"), rows))
    parts += _warning(verdict)
    if not verdict.skipped:
        parts.append(
            "Costs are instructions of one new connection beyond the direct lane's; they are no times."
        )
    return "\n\n".join(parts) + "\n"


def junit(verdict: Verdict) -> str:
    """JUnit XML: a test case a check; what was skipped is a skipped case with its reason."""
    return _junit([(check.name, check.state, check.detail) for check in verdict.checks])


def junit_error(message: str) -> str:
    """JUnit XML of a gate that could not judge: unreadable or empty results."""
    suite = ElementTree.Element("testsuite", name=_SUITE, tests="1", failures="0", errors="1", skipped="0")
    case = ElementTree.SubElement(suite, "testcase", classname=_SUITE, name="the gate can judge")
    ElementTree.SubElement(case, "error", message=message).text = message
    return _document(suite)


def markdown_error(message: str) -> str:
    """The comment of a gate that could not judge."""
    return f"## Instruction gate\n\n**The gate FAILED: it could not judge.** {message}\n"


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "failed": verdict.failed,
        "compared": verdict.compared,
        "headline": headline(verdict),
        "differences": list(verdict.differences),
        "checks": [asdict(check) for check in verdict.checks],
        "comparisons": [asdict(one) for one in verdict.comparisons],
    }


def side_by_side(old: tuple[Cost, ...], new: tuple[Cost, ...]) -> str:
    """Old and new costs as a Markdown table, for a refresh."""
    was = {(cost.lane, cost.cell): cost for cost in old}
    rows = []
    for cost in new:
        before = was.pop((cost.lane, cost.cell), None)
        rows.append(_cells(Comparison(cost.lane, cost.cell, before, cost, PASSED, ""))[1:])
    rows += [_cells(Comparison(*key, cost, None, PASSED, ""))[1:] for key, cost in was.items()]
    return _table(("lane", "cell", "old", "new [95 %]", "moved"), rows)


def _junit(cases: list[tuple[str, str, str]]) -> str:
    def count(state: str) -> str:
        return str(sum(found == state for _, found, _ in cases))

    suite = ElementTree.Element(
        "testsuite",
        name=_SUITE,
        tests=str(len(cases)),
        failures=count(FAILED),
        errors="0",
        skipped=count(SKIPPED),
    )
    for name, state, detail in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=_SUITE, name=name)
        if state == FAILED:
            ElementTree.SubElement(case, "failure", message=detail).text = detail
        elif state == SKIPPED:
            ElementTree.SubElement(case, "skipped", message=detail)
        ElementTree.SubElement(case, "system-out").text = detail
    return _document(suite)


def _document(suite: ElementTree.Element) -> str:
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _warning(verdict: Verdict) -> Iterator[str]:
    """What must not be overlooked beside a verdict that is none, or half of one."""
    reasons = dict.fromkeys(one.detail for one in verdict.comparisons if one.state == SKIPPED)
    for reason in reasons:
        lanes = ", ".join(one.lane for one in verdict.comparisons if one.detail == reason)
        yield f"NOT COMPARED with the baseline: {lanes}: {reason}."


def _cells(one: Comparison) -> tuple[str, ...]:
    old = f"{one.old.instructions:,.0f}" if one.old else "-"
    new = words(one.new.interval).removesuffix(" instructions") if one.new else "not measured"
    moved = f"{one.moved:+.2%}" if one.old and one.new and one.state != SKIPPED else "-"
    return (_MARKS[one.state], one.lane, one.cell, old, new, moved)


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
