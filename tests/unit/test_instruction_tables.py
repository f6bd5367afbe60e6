"""Tables by the instruction clock: never a time, every kernel beside the others, the peaks of each lane."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from synthetic import FOUR_LANES, SLOPES, blocks, write_run

from testbed.analysis.findings import analyse
from testbed.analysis.peaks import find_peaks
from testbed.analysis.report import CSV_FILE, JSON_FILE, Tables, write_tables
from testbed.results.format import SAMPLES_FILE
from testbed.results.run import read_run
from testbed.results.sample import RECORD

A_TIME = re.compile(r"µs|\d ms\b|\d s\b|requests/s\b")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    records = blocks(fixed_ns=FOUR_LANES, slope_ns=SLOPES, services=(1, 1000), noise_ns=50.0, rounds=9)
    write_run(directory, [replace(one, timer_interrupts=3) for one in records], clock="instructions")
    with (directory / SAMPLES_FILE).open("ab") as samples:
        for block in records:
            for number in range(20):
                reading = block.first_byte_p50_ns + 9_000 * (number % 4 == 0)
                samples.write(RECORD.pack(block.id, 0, 0, 0, 0, reading))
    return directory


@pytest.fixture(scope="module")
def tables(run_dir: Path) -> Tables:
    return write_tables(run_dir)


def test_no_table_and_no_sentence_speaks_of_time(tables: Tables) -> None:
    text = io.StringIO()
    tables.print(Console(file=text, width=200))

    assert not A_TIME.findall(tables.markdown())
    assert not A_TIME.findall(text.getvalue())
    assert "first byte k instr." in tables.markdown()
    assert "requests/G instr." in tables.markdown()
    assert "310 M instr." in tables.markdown()


def test_the_caption_says_what_this_clock_cannot_see(tables: Tables) -> None:
    assert "no caches, no branch prediction" in tables.markdown()
    assert "a lower bound on time" in tables.markdown()


def test_columns_and_keys_name_instructions(run_dir: Path, tables: Tables) -> None:
    columns = set(pd.read_csv(run_dir / CSV_FILE).columns)
    found = json.loads((run_dir / JSON_FILE).read_text())

    assert {"cost_kinstr", "cost_kinstr_low", "requests_per_ginstr", "smallest_visible_kinstr"} <= columns
    assert found["unit"] == "k instr."
    assert "last_slope_kinstr" in found["scalings"][0]
    assert "to_traffic_instr" in found["lanes"][0]
    keys = json.dumps([found[name] for name in found if name != "facts"])
    assert not re.findall(r'"\w+_(?:us|ns|s|seconds)"', keys.replace('"unix_ns"', ""))


def test_costs_are_printed_as_finely_as_the_clock_repeats_itself(tables: Tables) -> None:
    cost = next(one.cost for one in tables.findings.effects if one.lane == "ipvs")

    assert cost is not None
    assert tables.findings.unit.added(cost).startswith(f"+{cost.value:.3f} k instr. [+")


def test_the_peaks_of_a_lane_are_found_with_their_shares(tables: Tables) -> None:
    peaks = next(one for one in tables.findings.peaks if one.lane == "userspace" and one.cell.services == 1)

    assert sum(peak.share for peak in peaks.peaks) + peaks.spread == pytest.approx(1)
    assert peaks.interrupts == pytest.approx(3 / 300)
    assert peaks.samples == 9 * 20


def test_sharp_peaks_are_told_apart_and_the_rest_is_spread() -> None:
    rng = np.random.default_rng(1)
    readings = np.concatenate(
        [rng.normal(230_000, 60, 700), rng.normal(241_000, 60, 200), rng.uniform(300_000, 900_000, 100)]
    )

    found = find_peaks(np.sort(readings.astype(np.int64)))

    assert [round(peak.position) for peak in found] == [230, 241]
    assert [round(peak.share, 1) for peak in found] == [0.7, 0.2]


def test_what_the_host_did_meanwhile_leaves_no_block_out(run_dir: Path, tmp_path: Path) -> None:
    records = blocks(fixed_ns=FOUR_LANES, services=(1,), rounds=9)
    write_run(tmp_path, records, clock="instructions")
    rows = [f"{time},{time // 1000},0,0,0,{time // 10**6},9.0" for time in range(0, 10**9, 5 * 10**7)]
    (tmp_path / "noise.csv").write_text(
        "\n".join(["time_ns,psi_cpu_us,psi_io_us,psi_memory_us,busy_ticks,steal_ticks,load1", *rows, ""])
    )

    findings = analyse(read_run(tmp_path))

    assert findings.noise is None
    assert all(effect.rounds == 9 for effect in findings.effects)


def test_kernels_stand_side_by_side_each_with_a_comparison_of_its_own(tmp_path: Path) -> None:
    older = blocks(fixed_ns=FOUR_LANES, services=(1,), kernel="6.1.0", noise_ns=50.0)
    dearer = {**FOUR_LANES, "ipvs": FOUR_LANES["ipvs"] + 2_000}
    newer = blocks(fixed_ns=dearer, services=(1,), kernel="6.12.0", noise_ns=50.0, seed=2)
    newer = [replace(one, id=one.id + len(older)) for one in newer]
    write_run(tmp_path, older + newer, clock="instructions")

    found = write_tables(tmp_path)

    change = {one.lane: one for one in found.findings.kernels}
    assert change["ipvs"].kernels == ("6.1.0", "6.12.0")
    assert change["ipvs"].difference.value == pytest.approx(2, abs=0.2)
    assert change["ipvs"].resolvable is True
    assert change["iptables"].resolvable is False
    text = found.markdown()
    assert "The documented comparison, measured on Linux 6.1.0" in text
    assert "6.1.0 is cheaper" in text
