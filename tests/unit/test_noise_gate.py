"""The host's noise, matched to blocks by time, and the blocks it disqualifies."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import FOUR_LANES, blocks, write_run

from testbed.analysis.findings import analyse
from testbed.analysis.noise import quiet_blocks, read_noise
from testbed.analysis.report import write_tables
from testbed.results.format import BlockRecord
from testbed.results.run import read_run

MS = 1_000_000
HEADER = "time_ns,psi_cpu_us,psi_io_us,psi_memory_us,busy_ticks,steal_ticks,load1\n"


def one_after_another() -> list[BlockRecord]:
    """Blocks of 150 ms, a fifth of a second apart on the wall clock."""
    records = blocks(fixed_ns=FOUR_LANES, services=(1,), rounds=12)
    return [replace(record, unix_ns=number * 200 * MS) for number, record in enumerate(records)]


def a_record(directory: Path, until_ns: int, loud: Container[int] = (), steal: Container[int] = ()) -> None:
    """Samples every 50 ms: 10 % pressure, all the time within `loud`; half a CPU stolen within `steal`."""
    lines, pressure_us, steal_ticks = [HEADER], 0.0, 0.0
    for time_ns in range(0, until_ns, 50 * MS):
        lines.append(f"{time_ns},{pressure_us:.0f},0,0,{time_ns * 1.5 / 1e7:.0f},{steal_ticks:.0f},1.00\n")
        pressure_us += 50_000 * (1.0 if time_ns in loud else 0.1)
        steal_ticks += 2.5 if time_ns in steal else 0
    (directory / "noise.csv").write_text("".join(lines))


def test_a_quiet_host_leaves_every_block_in_and_is_summed_up(tmp_path: Path) -> None:
    records = one_after_another()
    a_record(tmp_path, 60_000 * MS)

    kept, summary = quiet_blocks(records, read_noise(tmp_path))

    assert kept == records
    assert summary is not None
    assert summary.pressure == pytest.approx(0.1, abs=0.01)
    assert summary.busy_cpus == pytest.approx(1.5, abs=0.1)
    assert summary.left_out == 0


@pytest.mark.parametrize("kind", ["loud", "steal"])
def test_blocks_in_a_noisy_stretch_are_left_out_and_no_others(tmp_path: Path, kind: str) -> None:
    records = one_after_another()
    stretch = range(2000 * MS, 4000 * MS, 50 * MS)
    a_record(tmp_path, 60_000 * MS, **{kind: stretch})

    kept, summary = quiet_blocks(records, read_noise(tmp_path))

    assert {record.id for record in records} - {record.id for record in kept} == {
        record.id for record in records if 2000 * MS <= record.unix_ns < 4000 * MS
    }
    assert summary is not None
    assert summary.left_out == 10


def test_a_host_that_is_always_busy_is_no_reason_to_leave_everything_out(tmp_path: Path) -> None:
    records = one_after_another()
    a_record(tmp_path, 60_000 * MS, loud=range(0, 60_000 * MS, 50 * MS))

    kept, summary = quiet_blocks(records, read_noise(tmp_path))

    assert kept == records
    assert summary is not None
    assert summary.worst_pressure == pytest.approx(1.0, abs=0.01)


def test_a_lane_that_makes_pressure_itself_is_not_left_out_for_it(tmp_path: Path) -> None:
    records = one_after_another()
    own = [
        block.unix_ns + step * 50 * MS for block in records if block.lane == "userspace" for step in range(3)
    ]
    a_record(tmp_path, 60_000 * MS, loud=own)

    kept, _ = quiet_blocks(records, read_noise(tmp_path))

    assert kept == records


def test_the_report_says_what_the_host_did(tmp_path: Path) -> None:
    write_run(tmp_path, one_after_another())
    a_record(tmp_path, 60_000 * MS, loud=range(2000 * MS, 4000 * MS, 50 * MS))

    assert analyse(read_run(tmp_path)).noise is not None
    text = write_tables(tmp_path).markdown()
    assert "The host meanwhile: CPU pressure 10% (worst block 100%)" in text
    assert "10 blocks left out for it" in text


@pytest.mark.parametrize("text", ["", HEADER, HEADER + "1,2,3,4,5,6,1.0\n", HEADER + "1,2,3"])
def test_a_record_too_short_to_tell_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "noise.csv").write_text(text)

    assert read_noise(tmp_path) is None


def test_fields_that_this_host_does_not_offer_count_as_quiet(tmp_path: Path) -> None:
    rows = "".join(f"{time * 50 * MS},,,,{time * 10},0,1.0\n" for time in range(1200))
    (tmp_path / "noise.csv").write_text(HEADER + rows + "77,1")

    kept, summary = quiet_blocks(one_after_another(), read_noise(tmp_path))

    assert len(kept) == 60
    assert summary is not None
    assert summary.pressure == 0
