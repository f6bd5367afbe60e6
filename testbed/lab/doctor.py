"""What this machine can do for the lab, kernel by kernel and mode by mode.

Every answer is tried out, not read off a version: a kernel is asked in the same kind of sandbox in which
it would be used. Only an emulated machine, whose boot takes a while, is not booted unless asked: till then
its answers are what can be told from the files that it would boot from.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from testbed.errors import TestbedError
from testbed.kernel import Kernel, QemuKernel, kernels
from testbed.kernel.features import MODES, Answer, Features, No, Yes
from testbed.spec.clock import INSTRUCTIONS, WALL, Clock


def examine(clock: Clock = WALL) -> list[dict[str, Any]]:
    """One finding a kernel: its name and release, and each mode's answer; a kernel that fails says why.

    For the clock that counts instructions the emulated machine is booted, the others are not asked.
    """
    findings = []
    for kernel in kernels():
        try:
            if isinstance(kernel, QemuKernel):
                findings.append(_calibrated(kernel) if clock == INSTRUCTIONS else _unbooted(kernel))
            elif clock == WALL:
                findings.append(_finding(kernel))
        except TestbedError as error:
            findings.append({"kernel": kernel.name, "error": str(error)})
    return findings


def _unbooted(kernel: QemuKernel) -> dict[str, Any]:
    release, refusals = kernel.image.release, kernel.lacking(MODES)
    return {
        "kernel": kernel.name,
        "release": release,
        "booted": False,
        "modes": {mode: _words(refusals.get(mode, Yes())) for mode in MODES},
    }


def _calibrated(kernel: QemuKernel) -> dict[str, Any]:
    vector, features = kernel.calibrate()
    identity = dict(kernel.identity(INSTRUCTIONS))
    return _answers(features) | {"identity": identity, "calibration": dict(vector)}


def _finding(kernel: Kernel) -> dict[str, Any]:
    return _answers(kernel.features())


def _answers(features: Features) -> dict[str, Any]:
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
        if not finding.get("booted", True):
            console.print("Not booted: `testbed doctor --clock instructions` tries it out.\n", markup=False)
            continue
        schedulers = ", ".join(finding["schedulers"]) or "none"
        console.print(f"IPVS schedulers: {schedulers}\n", markup=False)
        if "calibration" in finding:
            _render_calibration(finding, console)


def _render_calibration(finding: dict[str, Any], console: Console) -> None:
    table = Table(title="Instructions that fixed operations take", title_justify="left")
    table.add_column("operation")
    table.add_column("instructions", justify="right")
    for name, count in finding["calibration"].items():
        table.add_row(name, f"{count:,.1f}")
    console.print(table)
    for name, fact in finding["identity"].items():
        console.print(f"{name}: {fact}", markup=False, highlight=False)


def _rows(finding: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    modes = [(f"mode {mode}", answer) for mode, answer in finding["modes"].items()]
    if not finding.get("booted", True):
        return modes
    return [
        *modes,
        *((f"iptables-{name}", answer) for name, answer in finding["iptables_variants"].items()),
        ("link delay and loss (netem)", finding["netem"]),
        ("ipset", finding["ipset"]),
    ]
