"""From blocks to findings: what a run with known truths is found to show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import FOUR_LANES, SLOPES, blocks, write_run

from testbed.analysis.findings import Findings, analyse
from testbed.results.format import BLOCKS_FILE
from testbed.results.run import read_run


def found_in(directory: Path, records: list, **facts: str) -> Findings:
    write_run(directory, records, **facts)
    return analyse(read_run(directory))


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return found_in(tmp_path_factory.mktemp("run"), blocks(fixed_ns=FOUR_LANES, slope_ns=SLOPES))


def effect_of(findings: Findings, lane: str, services: int):
    return next(one for one in findings.effects if one.lane == lane and one.cell.services == services)


def test_every_injected_cost_is_recovered(findings: Findings) -> None:
    for services, lane, truth in (
        (1, "userspace", 2400),
        (1, "iptables", 12.007),
        (10000, "iptables", 12 + 7 * (1 + 5000 + 10000) / 3 / 1000),
        (10000, "ipvs", 14),
    ):
        cost = effect_of(findings, lane, services).cost
        assert cost is not None
        assert cost.value == pytest.approx(truth, abs=4), (lane, services)
        assert cost.low - 1 <= truth <= cost.high + 1


def test_the_last_service_costs_what_its_position_says(findings: Findings) -> None:
    cost = effect_of(findings, "iptables", 10000).last_cost

    assert cost is not None
    assert cost.value == pytest.approx(82, abs=4)


def test_identical_lanes_cover_a_ratio_of_one_as_often_as_they_should(tmp_path: Path) -> None:
    pairs = [
        found_in(tmp_path / str(seed), blocks(fixed_ns=FOUR_LANES, services=(1,), seed=seed)).identicals[0]
        for seed in range(20)
    ]

    assert sum(pair.ratio.covers(1.0) for pair in pairs) >= 17
    assert all(0 < pair.visible < 10 for pair in pairs)


def test_the_slope_of_iptables_is_found_and_ipvs_is_flat(findings: Findings) -> None:
    iptables, ipvs = (
        next(one for one in findings.scalings if one.lane == lane) for lane in ("iptables", "ipvs")
    )

    assert iptables.last_slope.value == pytest.approx(7, abs=0.4)
    assert iptables.last_slope.low > 0
    assert iptables.resolvable is True
    assert ipvs.resolvable is False


def test_an_effect_below_what_twins_show_is_not_resolvable(tmp_path: Path) -> None:
    quiet = {"iptables": 500.0, "ipvs": 300.0, "iptables-twin": 500.0}
    findings = found_in(tmp_path, blocks(fixed_ns=quiet, noise_ns=8_000.0, rounds=9))

    assert effect_of(findings, "ipvs", 1).resolvable is False
    assert all(pair.resolvable is False for pair in findings.pairs)


def test_modes_that_differ_are_told_apart(findings: Findings) -> None:
    pair = next(
        one
        for one in findings.pairs
        if {one.ours, one.theirs} == {"ipvs", "iptables"} and one.cell.services == 10000
    )

    assert pair.resolvable is True
    assert pair.p_holm < 0.05


def test_warmup_rejected_and_failed_blocks_do_not_count(tmp_path: Path) -> None:
    records = blocks(fixed_ns=FOUR_LANES, services=(1,))
    wild = [
        replace(records[0], warmup=True, round=90, position_first_byte_ns=(9**9,) * 3),
        replace(records[0], status="rejected", reason="SYN retransmits: 3", round=91),
        replace(records[0], status="failed", reason="proxy of node1 exited with 1:\nTraceback", round=92),
    ]
    findings = found_in(tmp_path, records + wild)

    assert effect_of(findings, "direct", 1).rounds == 15
    assert findings.rejected == {"SYN retransmits": 1}
    assert findings.failed == {"proxy of node1 exited with 1": 1}


def test_a_round_without_one_of_the_lanes_is_left_out_of_their_pair(tmp_path: Path) -> None:
    records = [
        record
        for record in blocks(fixed_ns=FOUR_LANES, services=(1,))
        if not (record.lane == "ipvs" and record.round > 10)
    ]
    findings = found_in(tmp_path, records)

    cost = effect_of(findings, "ipvs", 1).cost
    assert cost is not None
    assert cost.value == pytest.approx(14, abs=5)


def test_every_prefix_of_a_run_can_be_analysed(tmp_path: Path) -> None:
    write_run(tmp_path, blocks(fixed_ns=FOUR_LANES, services=(1, 1000), rounds=3), state="running")
    data = (tmp_path / BLOCKS_FILE).read_bytes()
    for size in [0, 1, 700, 1500, 4000, *range(5000, len(data), len(data) // 9)]:
        (tmp_path / BLOCKS_FILE).write_bytes(data[:size])
        assert not analyse(read_run(tmp_path)).complete


def test_lanes_with_boots_of_their_own_are_compared_over_their_own_direct_lane(tmp_path: Path) -> None:
    records = []
    for seed, lane in enumerate(FOUR_LANES):
        cost = {lane: FOUR_LANES[lane]}
        records += blocks(fixed_ns=cost, services=(1,), company=lane, seed=seed, drift_ns=80_000.0)
    records += blocks(fixed_ns={}, services=(1,), company="direct")
    findings = found_in(tmp_path, records)

    assert findings.modes == ("userspace", "iptables", "ipvs")
    for lane, cost_ns in FOUR_LANES.items():
        cost = effect_of(findings, lane, 1).cost
        assert cost is not None
        assert cost.value == pytest.approx(cost_ns / 1000, abs=5)
    assert findings.identicals[0].difference.covers(0)


def test_interference_is_the_shift_of_a_lane_beside_all_others(tmp_path: Path) -> None:
    together = {**FOUR_LANES, "ipvs": FOUR_LANES["ipvs"] + 30_000}
    records = blocks(fixed_ns=together, services=(1,))
    for lane in ("iptables", "ipvs"):
        records += blocks(fixed_ns={lane: FOUR_LANES[lane]}, services=(1,), company=lane, seed=9)
    findings = found_in(tmp_path, records)

    by_lane = {found.lane: found for found in findings.interferences}
    assert by_lane["ipvs"].shift.value == pytest.approx(30, abs=4)
    assert by_lane["ipvs"].disturbed is True
    assert by_lane["iptables"].disturbed is False
