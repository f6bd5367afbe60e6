"""A run's directory: what is written comes back, whenever the writing stops."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from testbed.errors import BadResults
from testbed.results.format import BLOCKS_FILE, RUN_FILE, SAMPLES_FILE, BalanceRecord, BlockRecord, LaneRecord
from testbed.results.run import read_run
from testbed.results.sample import RECORD
from testbed.results.writer import RunWriter


def block(number: int, **fields: object) -> BlockRecord:
    facts: dict[str, object] = {
        "id": number,
        "lane": "ipvs",
        "mode": "ipvs",
        "services": 1000,
        "endpoints": 3,
        "traffic": "new-connection",
        "connections": 1,
        "round": number,
        "attempt": 1,
        "status": "ok",
        "positions": (1, 500, 1000),
        "position_first_byte_ns": (1, 2, 3),
        "errors": {"timeout": 1},
    }
    return BlockRecord.from_json(facts | fields)


def a_run(directory: Path, blocks: int = 3) -> None:
    with RunWriter(directory) as writer:
        writer.describe(state="running", kernel={"name": "uml"})
        for number in range(1, blocks + 1):
            writer.block(block(number))
        writer.lane(LaneRecord("ipvs", "ipvs", "start", 1, 3, unix_ns=5, to_traffic_ns=9))
        writer.balance(BalanceRecord("ipvs", "ipvs", "rr", 1, 3, unix_ns=6, sequence=("a", "b")))
        writer.samples_path.write_bytes(b"".join(RECORD.pack(n, 0, 0, n, 1, 2) for n in range(blocks)))


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    a_run(tmp_path)

    run = read_run(tmp_path)

    assert [record.id for record in run.blocks] == [1, 2, 3]
    assert run.blocks[0].cell.services == 1000
    assert list(run.blocks[0].position_first_byte_ns) == [1, 2, 3]
    assert run.lanes[0].to_traffic_ns == 9
    assert list(run.balance[0].sequence) == ["a", "b"]
    assert run.samples()["first_byte_ns"].tolist() == [2, 2, 2]
    assert not run.torn
    assert not run.complete


@pytest.mark.parametrize("lost", range(1, 40, 6))
def test_a_torn_last_line_and_half_a_sample_are_dropped_and_said(tmp_path: Path, lost: int) -> None:
    a_run(tmp_path)
    for name, cut in ((BLOCKS_FILE, lost), (SAMPLES_FILE, 1 + lost % 23)):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[:-cut])

    run = read_run(tmp_path)

    assert [record.id for record in run.blocks] == [1, 2]
    assert len(run.samples()) == 2
    assert run.torn


def test_a_run_that_stopped_before_its_first_block_is_readable(tmp_path: Path) -> None:
    RunWriter(tmp_path).describe(state="running")

    run = read_run(tmp_path)

    assert run.blocks == ()
    assert len(run.samples()) == 0


def test_a_second_writer_goes_on_after_the_torn_end_of_the_first(tmp_path: Path) -> None:
    a_run(tmp_path)
    data = (tmp_path / BLOCKS_FILE).read_bytes()
    (tmp_path / BLOCKS_FILE).write_bytes(data[:-5])
    with (tmp_path / SAMPLES_FILE).open("ab") as file:
        file.write(b"half")

    with RunWriter(tmp_path) as writer:
        assert writer.next_block_id() == 3
        writer.block(block(3))

    run = read_run(tmp_path)
    assert [record.id for record in run.blocks] == [1, 2, 3]
    assert not run.torn
    assert (tmp_path / SAMPLES_FILE).stat().st_size == 3 * RECORD.size


def test_damage_in_the_middle_is_refused_with_file_and_line(tmp_path: Path) -> None:
    a_run(tmp_path)
    lines = (tmp_path / BLOCKS_FILE).read_text().splitlines()
    (tmp_path / BLOCKS_FILE).write_text("\n".join([lines[0], "{broken", lines[2]]) + "\n")

    with pytest.raises(BadResults, match=r"blocks\.jsonl:2: "):
        read_run(tmp_path)


def test_facts_are_merged_and_the_file_is_always_whole(tmp_path: Path) -> None:
    with RunWriter(tmp_path, samples_limit_bytes=1000) as writer:
        writer.describe(state="running", seed=7)
        writer.describe(state="complete")

    facts = json.loads((tmp_path / RUN_FILE).read_text())
    assert facts["seed"] == 7
    assert facts["state"] == "complete"
    assert facts["samples_limit_bytes"] == 1000
    assert read_run(tmp_path).complete


def test_there_is_no_room_for_samples_beyond_the_limit(tmp_path: Path) -> None:
    with RunWriter(tmp_path, samples_limit_bytes=3 * RECORD.size) as writer:
        assert writer.room_for_samples()
        writer.samples_path.write_bytes(bytes(3 * RECORD.size))
        assert not writer.room_for_samples()


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadResults, match=r"holds no run"):
        read_run(tmp_path)


def test_a_newer_format_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text('{"format": 2}')
    with pytest.raises(BadResults, match="update testbed"):
        read_run(tmp_path)


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadResults, match="--out"):
        RunWriter(tmp_path / "file" / "run")


def test_pandas_reads_the_blocks_as_they_are(tmp_path: Path) -> None:
    a_run(tmp_path)

    frame = pd.read_json(tmp_path / BLOCKS_FILE, lines=True)

    assert list(frame["round"]) == [1, 2, 3]
    assert set(frame["lane"]) == {"ipvs"}
