"""Hold the gate: measure its sweep, or take a run that is there, judge it, and tell everybody who must know.

Owns the files that are written: the JUnit report, the comment, the baseline. What is judged and how is the
business of `testbed.gate`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from testbed.errors import BadResults, MachineLacks, TestbedError, UserError
from testbed.gate import render
from testbed.gate.baseline import (
    DIRECTORY,
    FILE,
    Baseline,
    Change,
    costs_of,
    identity_of,
    read_baseline,
    write_baseline,
)
from testbed.gate.plan import INJECTED, gate_topology
from testbed.gate.verdict import FAILED, Verdict, control_checks, differences, judge
from testbed.lab.launch import RunOptions, run_sweep
from testbed.lab.progress import Display
from testbed.results.run import read_run

BUDGET = 0.02
"""By which share of itself a cost may move: twice what boots of one identity were seen to differ by."""

GATE_FAILED = 1


@dataclass(frozen=True)
class GateOptions:
    """How the gate is held.

    `run` is the directory of a run to judge, None to measure one in `out`; `required` makes a gate fail that
    had nothing to compare; `junit` and `comment` are files to write.
    """

    baseline: Path = DIRECTORY
    run: Path | None = None
    out: Path | None = None
    required: bool = False
    junit: Path | None = None
    comment: Path | None = None
    seed: int = 1


def hold_gate(options: GateOptions, display: Display) -> Verdict:
    """Measure, judge and report.

    Raises:
        BadResults: the baseline or the run cannot be read or holds no costs.
        TestbedError: the run failed. In either case the reports say so, too.
    """
    try:
        verdict = _judge(options, display)
    except TestbedError as error:
        _write(options.junit, render.junit_error(str(error)))
        _write(options.comment, render.markdown_error(str(error)))
        raise
    _write(options.junit, render.junit(verdict))
    _write(options.comment, render.markdown(verdict))
    return verdict


def refresh_baseline(options: GateOptions, why: str, display: Display, tell: Callable[[str], None]) -> Path:
    """Measure anew, show old and new side by side, and write the baseline with the reason for it.

    Raises:
        UserError: there is no reason, or the instrument cannot be trusted: plain lanes differ, or injected
            rules are not seen.
        BadResults: the baseline that is there cannot be read, or the new one cannot be written.
    """
    if not why.strip():
        raise UserError('a baseline needs its reason: --why "what made the costs change"')
    old = read_baseline(options.baseline) if (options.baseline / FILE).exists() else None
    run = read_run(_run_dir(options, display))
    costs, identity = costs_of(run), identity_of(run)
    if wrong := [check for check in control_checks(run) if check.state == FAILED]:
        raise UserError(
            "the baseline stays as it is, the instrument cannot be trusted: "
            + "; ".join(f"not true: {check.name} ({check.detail})" for check in wrong)
        )
    change = Change(
        why=why.strip(),
        measured=f"{datetime.now(UTC):%Y-%m-%d}",
        differences=differences(identity, old.identity, "full") if old else (),
        old=old.costs if old else (),
        new=costs,
    )
    tell(render.side_by_side(change.old, change.new))
    for difference in change.differences:
        tell(f"the old baseline held under another identity: {difference}")
    fresh = Baseline(costs, identity, old.budget if old else BUDGET, change.measured)
    return write_baseline(options.baseline, replace(fresh, history=(*(old.history if old else ()), change)))


def show(verdict: Verdict, as_json: bool) -> None:
    """Print the verdict."""
    print(json.dumps(render.as_json(verdict), indent=2) if as_json else render.text(verdict))


def _judge(options: GateOptions, display: Display) -> Verdict:
    """Read the baseline before anything is measured: an unreadable one must not cost a boot."""
    baseline = read_baseline(options.baseline)
    try:
        directory = _run_dir(options, display)
    except MachineLacks as lacking:
        return Verdict(
            skipped=f"this machine cannot count instructions: {lacking}", required=options.required
        )
    return judge(read_run(directory), baseline, required=options.required)


def _run_dir(options: GateOptions, display: Display) -> Path:
    if options.run is not None:
        return options.run
    topology = gate_topology(seed=options.seed)
    return run_sweep(topology, RunOptions(kernel="qemu", out=options.out, further_lanes=(INJECTED,)), display)


def _write(path: Path | None, content: str) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise BadResults(f"{path}: cannot be written ({error.strerror})") from error
