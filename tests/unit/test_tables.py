"""Tables: every documented word stands beside its evidence, in every form, from any prefix of a run."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from synthetic import FOUR_LANES, SLOPES, blocks, write_run

from testbed.analysis.comparison import DOCUMENTED, NO_EVIDENCE, comparison
from testbed.analysis.report import CSV_FILE, JSON_FILE, MARKDOWN_FILE, Tables, write_tables
from testbed.errors import BadResults


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    records = blocks(fixed_ns=FOUR_LANES, slope_ns=SLOPES)
    records += blocks(fixed_ns=dict.fromkeys(FOUR_LANES, 200.0), traffic="keepalive", services=(1, 10000))
    write_run(directory, records)
    return directory


@pytest.fixture(scope="module")
def tables(run_dir: Path) -> Tables:
    return write_tables(run_dir)


def test_all_five_rows_have_evidence_for_every_measured_mode(tables: Tables) -> None:
    rows = comparison(tables.findings)

    assert [row.feature for row in rows] == list(DOCUMENTED)
    for row in rows:
        assert list(row.cells) == ["userspace", "iptables", "ipvs"]
        for mode, cell in row.cells.items():
            assert cell.documented == DOCUMENTED[row.feature][mode]
            assert cell.measured != (NO_EVIDENCE,), (row.feature, mode)


def cell_text(tables: Tables, feature: str, mode: str) -> str:
    row = next(row for row in comparison(tables.findings) if row.feature == feature)
    return "\n".join(row.cells[mode].measured)


def test_speed_names_the_added_time_at_both_ends_of_the_sizes(tables: Tables) -> None:
    text = cell_text(tables, "Speed", "iptables")

    assert "a new connection at 1 Service" in text
    assert "a new connection at 10,000 Services" in text
    assert "not resolvable" in text.splitlines()[-1]
    assert "open connection" in text.splitlines()[-1]


def test_scalability_tells_a_slope_from_a_flat_line(tables: Tables) -> None:
    assert "per 1,000 Services for the last one" in cell_text(tables, "Scalability", "iptables")
    assert cell_text(tables, "Scalability", "ipvs").startswith("flat: ")


def test_load_balancing_lists_the_schedulers_that_kept_their_word(tables: Tables) -> None:
    text = cell_text(tables, "Load balancing", "ipvs")

    assert "rr: exact rotation, 33/33/33 % of 120 connections" in text
    assert "2 schedulers behave as named: rr sh" in text
    assert "wrr does not" in text
    assert "random" in cell_text(tables, "Load balancing", "iptables")


def test_kernel_level_shows_the_proxys_cpu(tables: Tables) -> None:
    assert "100 µs" in cell_text(tables, "Kernel-level processing", "userspace")
    assert "proxy process: 0 µs" in cell_text(tables, "Kernel-level processing", "ipvs")


def test_best_for_shows_start_to_traffic_and_where_a_mode_is_cheapest(tables: Tables) -> None:
    assert "310 ms at 1 Service" in cell_text(tables, "Best for", "iptables").replace("0.310 s", "310 ms")
    assert "never the cheapest" in cell_text(tables, "Best for", "userspace")
    assert "10,000 Services" in cell_text(tables, "Best for", "ipvs")


def test_the_caption_names_kernel_and_clock_and_disclaims_uml_times(tables: Tables) -> None:
    text = tables.markdown()

    assert "Kernel under test: uml 6.1.0; clock: wall" in text
    assert "no time here is the time of a native host" in text
    assert "Two identical lanes (iptables-twin and iptables)" in text


def test_markdown_tables_are_rectangular(tables: Tables) -> None:
    rows = [line for line in tables.markdown().splitlines() if line.startswith("|")]

    for before, line in pairwise(rows):
        if line.startswith(("| ---", "| ---:")):
            assert before.count("|") == line.count("|")
    assert len(rows) > 30


def test_csv_has_a_line_for_every_lane_of_every_cell(run_dir: Path, tables: Tables) -> None:
    frame = pd.read_csv(run_dir / CSV_FILE)

    assert len(frame) == 5 * 5
    assert set(frame["lane"]) == {"direct", *FOUR_LANES}
    assert frame.loc[frame["lane"] != "direct", "cost_us_low"].notna().all()


def test_json_is_strict_and_holds_the_same_numbers(run_dir: Path, tables: Tables) -> None:
    found = json.loads((run_dir / JSON_FILE).read_text())

    assert len(found["effects"]) == 25
    assert found["comparison"][0]["cells"]["ipvs"]["documented"] == "super fast"
    assert found["facts"]["kernel"]["name"] == "uml"


def test_rich_prints_every_lane(tables: Tables) -> None:
    text = io.StringIO()
    tables.print(Console(file=text, width=160))

    for word in ("super fast", "iptables-twin", "not resolvable", "Control plane"):
        assert word in text.getvalue()


@pytest.mark.parametrize("rounds", [0, 1, 2, 4])
def test_a_partial_run_gives_tables_that_say_so(tmp_path: Path, rounds: int) -> None:
    records = blocks(fixed_ns=FOUR_LANES, services=(1,), rounds=rounds)
    write_run(tmp_path, records, state="running")

    tables = write_tables(tmp_path)

    assert "stopped before its end" in tables.markdown()
    assert (tmp_path / MARKDOWN_FILE).exists()
    tables.print(Console(file=io.StringIO()))
    json.loads(tables.json_text())
    if 0 < rounds < 3:
        assert "too few rounds" in tables.markdown()


def test_a_directory_without_a_run_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BadResults, match="holds no run"):
        write_tables(tmp_path)
