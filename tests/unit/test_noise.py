"""The record of the host's noise is readable as it grows."""

import csv
import time
from pathlib import Path

from testbed.lab.noise import COLUMNS, NoiseRecorder, sample


def test_a_sample_has_one_field_per_column_and_counts_busy_ticks() -> None:
    row = dict(zip(COLUMNS, sample(), strict=True))
    assert int(row["busy_ticks"]) > 0
    assert abs(int(row["time_ns"]) - time.time_ns()) < 5e9


def test_the_recorder_appends_rows_until_its_context_ends(tmp_path: Path) -> None:
    path = tmp_path / "noise.csv"
    for wanted_rows in (2, 4):
        with NoiseRecorder(path):
            deadline = time.monotonic() + 30
            while _rows(path) < wanted_rows:
                assert time.monotonic() < deadline, "no sample was written"
    with path.open() as lines:
        rows = list(csv.DictReader(lines))
    assert tuple(rows[0]) == COLUMNS
    assert [row["time_ns"] for row in rows] == sorted(row["time_ns"] for row in rows)


def _rows(path: Path) -> int:
    return max(0, len(path.read_text().splitlines()) - 1) if path.exists() else 0
