"""The gate's verdicts on runs with known truths: what passes, what fails, what is skipped, and how loudly."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import synthetic

from testbed.cli import main
from testbed.errors import BadResults
from testbed.gate import render
from testbed.gate.baseline import Baseline, costs_of, identity_of, read_baseline, write_baseline
from testbed.gate.verdict import FAILED, PASSED, SKIPPED, Verdict, judge
from testbed.results.identity import Identity
from testbed.results.run import Run, read_run
from testbed.results.writer import describe

IDENTITY = Identity({"kernel": "6.1.0-56-amd64", "emulator": "QEMU 7.2"}, {"Python": "3.11.2"})
OTHER_KERNEL = Identity({**IDENTITY.kernel_path, "kernel": "6.12.0-1-amd64"}, IDENTITY.full)
OTHER_PYTHON = Identity(IDENTITY.kernel_path, {"Python": "3.12.1"})

COSTS = {"userspace": 258_000.0, "iptables": 31_000.0, "ipvs": 68_000.0}
"""Instructions of a connection beyond the direct lane's, about as measured."""


def a_run(
    directory: Path,
    costs: Mapping[str, float] = COSTS,
    *,
    twin: float = 0.0,
    injected: float = 2_600.0,
    identity: Identity | None = IDENTITY,
    rounds: int = 9,
) -> Run:
    """A run of the gate in which each lane costs what `costs` says over direct, but for some noise."""
    plain = costs.get("iptables", 0.0)
    lanes = {**costs, "iptables-twin": plain + twin, "iptables-injected": plain + injected}
    records = synthetic.blocks(fixed_ns=lanes, services=(1,), rounds=rounds, noise_ns=30.0, drift_ns=3_000.0)
    named = [replace(one, mode=one.mode.removesuffix("-injected")) for one in records]
    synthetic.write_run(directory, named, clock="instructions")
    if identity is not None:
        describe(directory, identity={"6.1.0": identity.to_json()})
    return read_run(directory)


@pytest.fixture
def baseline(tmp_path: Path) -> Baseline:
    run = a_run(tmp_path / "before")
    return Baseline(costs_of(run), identity_of(run), budget=0.02, measured="2026-11-25")


def states(verdict: Verdict) -> dict[str, str]:
    return {one.lane: one.state for one in verdict.comparisons}


def test_the_same_costs_pass(tmp_path: Path, baseline: Baseline) -> None:
    verdict = judge(a_run(tmp_path / "now"), baseline)

    assert states(verdict) == dict.fromkeys(COSTS, PASSED)
    assert not verdict.failed
    assert render.headline(verdict) == "The gate passed: 3 costs are what the baseline says."


@pytest.mark.parametrize("lane", COSTS)
@pytest.mark.parametrize(
    ("moved", "state"), [(0.019, PASSED), (-0.019, PASSED), (0.021, FAILED), (-0.021, FAILED)]
)
def test_a_cost_may_move_by_the_budget_of_two_percent_and_no_more(
    tmp_path: Path, lane: str, moved: float, state: str
) -> None:
    old = a_run(tmp_path / "before")
    kept = Baseline(costs_of(old), IDENTITY, budget=0.02, measured="")
    exact = next(cost.instructions for cost in kept.costs if cost.lane == lane)
    new = a_run(tmp_path / "now", {**COSTS, lane: COSTS[lane] + exact * moved})

    verdict = judge(new, kept)

    assert states(verdict) == {**dict.fromkeys(COSTS, PASSED), lane: state}
    assert verdict.failed == (state == FAILED)


def test_a_failure_names_lane_cell_old_and_new(tmp_path: Path, baseline: Baseline) -> None:
    verdict = judge(a_run(tmp_path / "now", COSTS | {"ipvs": 70_000.0}), baseline)

    (check,) = [check for check in verdict.checks if check.state == FAILED]
    assert check.name == "ipvs costs what it did at 1 Service, 3 endpoints, new-connection"
    assert check.detail.startswith("old 68,0")
    assert "new +70,0" in check.detail
    assert "budget 2.0%" in check.detail
    assert check.name in render.headline(verdict)


def test_another_kernel_is_never_compared_and_said_so_loudly(tmp_path: Path, baseline: Baseline) -> None:
    run = a_run(tmp_path / "now", dict.fromkeys(COSTS, 40_000.0), identity=OTHER_KERNEL)
    verdict = judge(run, baseline)

    assert states(verdict) == dict.fromkeys(COSTS, SKIPPED)
    assert verdict.compared == 0
    assert not verdict.failed
    for written in (render.text(verdict), render.markdown(verdict), render.junit(verdict)):
        assert "kernel: 6.12.0-1-amd64 instead of 6.1.0-56-amd64" in written
    assert "compared NOTHING" in render.headline(verdict)


def test_another_python_matters_to_the_mode_that_runs_in_it_alone(tmp_path: Path, baseline: Baseline) -> None:
    verdict = judge(a_run(tmp_path / "now", identity=OTHER_PYTHON), baseline)

    assert states(verdict) == {"userspace": SKIPPED, "iptables": PASSED, "ipvs": PASSED}
    assert "1 could not be compared" in render.headline(verdict)
    assert "NOT COMPARED with the baseline: userspace: another identity: Python: 3.12.1" in render.text(
        verdict
    )


@pytest.mark.parametrize("identity", [None, Identity()], ids=["not recorded", "empty"])
def test_an_unknown_identity_is_like_no_other(
    tmp_path: Path, baseline: Baseline, identity: Identity | None
) -> None:
    run = a_run(tmp_path / "now", identity=identity)

    assert judge(run, baseline).compared == 0
    nameless = replace(baseline, identity=Identity())
    assert judge(run, nameless).compared == 0


def test_a_required_gate_fails_where_nothing_is_comparable(tmp_path: Path, baseline: Baseline) -> None:
    run = a_run(tmp_path / "now", identity=OTHER_KERNEL)

    assert not judge(run, baseline).failed
    assert judge(run, baseline, required=True).failed
    assert not judge(a_run(tmp_path / "same"), baseline, required=True).failed


def test_a_mode_that_was_not_measured_fails(tmp_path: Path, baseline: Baseline) -> None:
    rest = {lane: cost for lane, cost in COSTS.items() if lane != "ipvs"}
    verdict = judge(a_run(tmp_path / "now", rest), baseline)

    assert states(verdict) == {"userspace": PASSED, "iptables": PASSED, "ipvs": FAILED}
    assert "ipvs" in render.headline(verdict)


def test_a_mode_that_the_baseline_does_not_know_is_told_and_not_judged(
    tmp_path: Path, baseline: Baseline
) -> None:
    known = tuple(cost for cost in baseline.costs if cost.lane != "ipvs")
    verdict = judge(a_run(tmp_path / "now"), replace(baseline, costs=known))

    assert states(verdict)["ipvs"] == SKIPPED
    assert "NOT COMPARED with the baseline: ipvs: not in the baseline" in render.text(verdict)


def test_plain_lanes_that_differ_fail(tmp_path: Path, baseline: Baseline) -> None:
    verdict = judge(a_run(tmp_path / "now", twin=4_000.0), baseline)

    assert [check.state for check in verdict.control] == [FAILED, FAILED]
    assert verdict.failed


def test_injected_rules_that_are_not_seen_fail(tmp_path: Path, baseline: Baseline) -> None:
    verdict = judge(a_run(tmp_path / "now", injected=0.0), baseline)

    assert [check.state for check in verdict.control] == [PASSED, FAILED]
    assert verdict.failed
    assert "ten injected rules are seen" in render.headline(verdict)


def test_too_few_rounds_prove_nothing_and_fail(tmp_path: Path, baseline: Baseline) -> None:
    verdict = judge(a_run(tmp_path / "now", rounds=2), baseline)

    assert {check.state for check in verdict.control} == {FAILED}
    assert "too few rounds" in render.text(verdict)


def test_a_run_without_cells_cannot_be_judged(tmp_path: Path, baseline: Baseline) -> None:
    synthetic.write_run(tmp_path / "now", [], clock="instructions")

    with pytest.raises(BadResults, match="no cell of it has a mode beside a direct lane"):
        judge(read_run(tmp_path / "now"), baseline)


@pytest.mark.parametrize(
    ("facts", "said"),
    [({"state": "running"}, "stopped before its end"), ({"clock": "wall"}, "measured by the clock 'wall'")],
)
def test_half_a_run_and_one_by_another_clock_cannot_be_judged(
    tmp_path: Path, baseline: Baseline, facts: dict[str, str], said: str
) -> None:
    a_run(tmp_path / "now")
    describe(tmp_path / "now", **facts)

    with pytest.raises(BadResults, match=said):
        judge(read_run(tmp_path / "now"), baseline)


def test_a_run_without_the_injected_lane_cannot_be_judged(tmp_path: Path, baseline: Baseline) -> None:
    records = synthetic.blocks(fixed_ns=COSTS, services=(1,))
    synthetic.write_run(tmp_path / "now", records, clock="instructions")

    with pytest.raises(BadResults, match="nothing can be judged"):
        judge(read_run(tmp_path / "now"), baseline)


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path, baseline: Baseline) -> None:
    write_baseline(tmp_path / "kept", baseline)

    assert read_baseline(tmp_path / "kept") == baseline


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "there is no baseline"),
        (lambda path: path.write_text("{"), "is not a readable baseline"),
        (lambda path: path.write_text("[]"), "is not a readable baseline"),
        (lambda path: edit(path, costs=[]), "holds no costs"),
        (lambda path: edit(path, costs=[{"lane": "ipvs"}]), "is not a readable baseline"),
        (lambda path: edit(path, clock="wall"), "by clock 'wall' is not known here"),
        (lambda path: edit(path, format=2), "format 2"),
    ],
)
def test_an_unreadable_baseline_fails_with_one_clear_message(
    tmp_path: Path,
    baseline: Baseline,
    spoil: Callable[[Path], object],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(write_baseline(tmp_path / "kept", baseline))
    a_run(tmp_path / "now")

    status = main(["gate", *options(tmp_path), "--junit", str(tmp_path / "j.xml")])

    assert status == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert "testbed baseline refresh" in line
    assert ElementTree.parse(tmp_path / "j.xml").getroot().get("errors") == "1"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def options(tmp_path: Path) -> list[str]:
    return ["--run", str(tmp_path / "now"), "--baseline", str(tmp_path / "kept")]


def test_unreadable_results_fail_with_one_clear_message(
    tmp_path: Path, baseline: Baseline, capsys: pytest.CaptureFixture[str]
) -> None:
    write_baseline(tmp_path / "kept", baseline)
    a_run(tmp_path / "now")
    (tmp_path / "now/blocks.jsonl").write_text("no record\n")

    status = main(["gate", *options(tmp_path), "--comment", str(tmp_path / "comment.md")])

    assert status == 2
    assert "blocks.jsonl:1: is not a record" in capsys.readouterr().err
    assert "it could not judge" in (tmp_path / "comment.md").read_text()


@pytest.mark.parametrize(
    ("identity", "more", "expected"),
    [(IDENTITY, [], 0), (OTHER_KERNEL, [], 0), (OTHER_KERNEL, ["--require-gate"], 1)],
)
def test_the_command_ends_with_one_where_the_gate_fails(
    tmp_path: Path, baseline: Baseline, identity: Identity, more: list[str], expected: int
) -> None:
    write_baseline(tmp_path / "kept", baseline)
    a_run(tmp_path / "now", identity=identity)

    assert main(["gate", *options(tmp_path), *more]) == expected


def test_a_cost_that_moved_ends_the_command_with_one_and_shows_in_both_reports(
    tmp_path: Path, baseline: Baseline
) -> None:
    write_baseline(tmp_path / "kept", baseline)
    a_run(tmp_path / "now", COSTS | {"iptables": 32_000.0})
    junit, comment = tmp_path / "reports/j.xml", tmp_path / "reports/c.md"

    assert main(["gate", *options(tmp_path), "--junit", str(junit), "--comment", str(comment)]) == 1

    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("5", "1", "0")
    assert "| ❌ | iptables | 1 Service, 3 endpoints, new-connection | 31,0" in comment.read_text()


def test_a_skip_shows_in_the_junit_file_and_in_the_comment(tmp_path: Path, baseline: Baseline) -> None:
    verdict = judge(a_run(tmp_path / "now", identity=OTHER_KERNEL), baseline)

    suite = ElementTree.fromstring(render.junit(verdict))
    skipped = [case for case in suite if case.find("skipped") is not None]
    assert len(skipped) == 4
    assert suite.get("skipped") == "4"
    assert "NOT COMPARED with the baseline: userspace, iptables, ipvs" in render.markdown(verdict) or (
        "⚠️ skipped" in render.markdown(verdict)
    )


def test_a_machine_that_cannot_count_says_so_and_fails_only_if_it_is_required() -> None:
    optional = Verdict(skipped="this machine cannot count instructions: qemu is missing")

    assert not optional.failed
    assert "qemu is missing" in render.markdown(optional)
    assert 'skipped message="this machine cannot count' in render.junit(optional)
    assert replace(optional, required=True).failed


def test_a_refresh_keeps_the_reason_and_the_old_costs_beside_the_new(
    tmp_path: Path, baseline: Baseline, capsys: pytest.CaptureFixture[str]
) -> None:
    write_baseline(tmp_path / "kept", baseline)
    a_run(tmp_path / "now", COSTS | {"ipvs": 75_000.0})

    assert main(["baseline", "refresh", *options(tmp_path), "--why", "one more hook"]) == 0

    kept = read_baseline(tmp_path / "kept")
    (change,) = kept.history
    assert (change.why, change.old, change.new) == ("one more hook", baseline.costs, kept.costs)
    shown = capsys.readouterr().out
    assert "| ipvs | 1 Service, 3 endpoints, new-connection | 68,0" in shown
    assert "+75,0" in shown
    assert not judge(read_run(tmp_path / "now"), kept).failed


def test_a_refresh_needs_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_run(tmp_path / "now")

    assert main(["baseline", "refresh", *options(tmp_path), "--why", " "]) == 2
    assert "needs its reason" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()


def test_a_refresh_by_an_instrument_that_cannot_be_trusted_changes_nothing(
    tmp_path: Path, baseline: Baseline, capsys: pytest.CaptureFixture[str]
) -> None:
    write_baseline(tmp_path / "kept", baseline)
    a_run(tmp_path / "now", injected=0.0)

    assert main(["baseline", "refresh", *options(tmp_path), "--why", "new kernel"]) == 2
    assert "stays as it is" in capsys.readouterr().err
    assert read_baseline(tmp_path / "kept") == baseline
