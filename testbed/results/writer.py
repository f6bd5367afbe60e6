"""The writer of a run's directory: append-only, flushed as asked, readable at every moment.

Owns the open files of one run. A run that stops at any point leaves whole lines and at most one torn end,
which the reader drops. Imports neither numpy nor pandas.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from testbed.errors import BadResults
from testbed.results.format import (
    BALANCE_FILE,
    BLOCKS_FILE,
    LANES_FILE,
    RUN_FILE,
    SAMPLES_FILE,
    SAMPLES_LIMIT_BYTES,
    VERSION,
    BalanceRecord,
    BlockRecord,
    LaneRecord,
    Record,
)
from testbed.results.sample import RECORD


class RunWriter:
    """Writes one run; a context manager. Several writers may follow each other on one directory."""

    def __init__(self, directory: Path, *, samples_limit_bytes: int = SAMPLES_LIMIT_BYTES) -> None:
        """Open the files. Raises BadResults when the directory cannot be written."""
        self.directory = directory
        self._limit = samples_limit_bytes
        self._files: dict[str, IO[str]] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for name in (BLOCKS_FILE, LANES_FILE, BALANCE_FILE):
                _drop_torn_line(directory / name)
                self._files[name] = (directory / name).open("a", encoding="utf-8")
            _drop_torn_sample(self.samples_path)
        except OSError as error:
            self.close()
            raise BadResults(
                f"{directory}: cannot be written ({error.strerror}): choose another with --out"
            ) from error

    @property
    def samples_path(self) -> Path:
        return self.directory / SAMPLES_FILE

    def next_block_id(self) -> int:
        """The first id that no block of this run has."""
        self.flush()
        last = (self.directory / BLOCKS_FILE).read_bytes().rstrip(b"\n").rpartition(b"\n")[2]
        return int(json.loads(last)["id"]) + 1 if last else 1

    def room_for_samples(self) -> bool:
        """Whether raw samples of another block may be kept under the size limit."""
        return self.samples_path.stat().st_size + RECORD.size < self._limit

    def describe(self, **facts: Any) -> None:
        """Merge facts into run.json; it is replaced in one step, so it is never half written."""
        describe(self.directory, samples_limit_bytes=self._limit, **facts)

    def described(self) -> dict[str, Any]:
        """All facts that run.json holds so far."""
        return _described(self.directory)

    def block(self, record: BlockRecord) -> None:
        self._append(BLOCKS_FILE, record)

    def lane(self, record: LaneRecord) -> None:
        self._append(LANES_FILE, record)
        self._files[LANES_FILE].flush()

    def balance(self, record: BalanceRecord) -> None:
        self._append(BALANCE_FILE, record)
        self._files[BALANCE_FILE].flush()

    def flush(self) -> None:
        """Hand all lines to the file system: after every round."""
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, name: str, record: Record) -> None:
        self._files[name].write(json.dumps(record.to_json(), separators=(",", ":")) + "\n")


def describe(directory: Path, **facts: Any) -> None:
    """Merge facts into a run's run.json; it is replaced in one step, so it is never half written."""
    facts = {"format": VERSION} | _described(directory) | facts
    path = directory / RUN_FILE
    fresh = path.with_suffix(".json.new")
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(facts, file, indent=1, default=str)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _described(directory: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((directory / RUN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return facts


def _drop_torn_line(path: Path) -> None:
    """End the file after its last whole line, in case an earlier writer was stopped within one."""
    with path.open("a+b") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)


def _drop_torn_sample(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(file.tell() // RECORD.size * RECORD.size)
