"""What this machine can do for the lab, kernel by kernel and mode by mode.

Every answer is tried out, not read off a version: a kernel is asked in the same kind of sandbox in which
it would be used.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from testbed.errors import TestbedError
from testbed.kernel import kernels
from testbed.kernel.features import MODES, Answer, Features, No


def examine() -> list[dict[str, Any]]:
    """One finding a kernel: its name and release, and each mode's answer; a kernel that fails says why."""
    findings = []
    for kernel in kernels():
        try:
            findings.append(_finding(kernel.features()))
        except TestbedError as error:
            findings.append({"kernel": kernel.name, "error": str(error)})
    return findings


def _finding(features: Features) -> dict[str, Any]:
    return {
        "kernel": features.kernel,
        "release": features.release,
        "modes": {mode: _words(features.modes[mode]) for mode in MODES},
        "iptables_variants": {name: _words(answer) for name, answer in features.iptables_variants.items()},
        "schedulers": list(features.schedulers),
        "netem": _words(features.netem),
        "ipset": _words(features.ipset),
    }


def _words(answer: Answer) -> dict[str, Any]:
    if isinstance(answer, No):
        return {"can": False, "reason": answer.reason, "remedy": answer.remedy}
    return {"can": True}


def render(findings: list[dict[str, Any]], console: Console) -> None:
    """Print the findings as a table a kernel."""
    for finding in findings:
        if "error" in finding:
            console.print(f"{finding['kernel']}: {finding['error']}", markup=False)
            continue
        table = Table(title=f"{finding['kernel']} kernel, Linux {finding['release']}", title_justify="left")
        for column in ("what", "here", "why not, and what helps"):
            table.add_column(column, overflow="fold")
        for name, answer in _rows(finding):
            why = "" if answer["can"] else f"{answer['reason']}: {answer['remedy']}"
            table.add_row(name, "yes" if answer["can"] else "no", why)
        console.print(table)
        schedulers = ", ".join(finding["schedulers"]) or "none"
        console.print(f"IPVS schedulers: {schedulers}\n", markup=False)


def _rows(finding: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        *((f"mode {mode}", answer) for mode, answer in finding["modes"].items()),
        *((f"iptables-{name}", answer) for name, answer in finding["iptables_variants"].items()),
        ("link delay and loss (netem)", finding["netem"]),
        ("ipset", finding["ipset"]),
    ]
