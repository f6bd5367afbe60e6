"""The reader of a run's directory.

Reads complete and interrupted runs alike: a torn last line or half a sample is dropped, and `Run.torn` says
that something was. Must not import pandas.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from testbed.errors import BadResults
from testbed.results.format import (
    BALANCE_FILE,
    BLOCKS_FILE,
    LANES_FILE,
    RUN_FILE,
    SAMPLES_FILE,
    VERSION,
    BalanceRecord,
    BlockRecord,
    LaneRecord,
    Record,
)
from testbed.results.sample import SAMPLE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Run:
    """One run as far as it got. `facts` is run.json."""

    directory: Path
    facts: Mapping[str, Any]
    blocks: tuple[BlockRecord, ...]
    lanes: tuple[LaneRecord, ...]
    balance: tuple[BalanceRecord, ...]
    torn: bool

    @property
    def complete(self) -> bool:
        return self.facts.get("state") == "complete"

    def samples(self) -> NDArray[np.void]:
        """All raw samples as a structured array (`results.sample.SAMPLE`); a torn last one is left out."""
        import numpy as np

        layout = np.dtype(SAMPLE)
        path = self.directory / SAMPLES_FILE
        whole = path.stat().st_size // layout.itemsize if path.exists() else 0
        return np.fromfile(path, dtype=layout, count=whole) if whole else np.empty(0, dtype=layout)


def read_run(directory: Path) -> Run:
    """Read a run. Raises BadResults when the directory holds none, or one of a newer format."""
    try:
        facts = json.loads((directory / RUN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadResults(f"{directory}: holds no run ({RUN_FILE} is missing)") from error
    except (OSError, ValueError) as error:
        raise BadResults(f"{directory / RUN_FILE}: cannot be read ({error})") from error
    version = facts.get("format")
    if not isinstance(version, int) or version > VERSION:
        raise BadResults(
            f"{directory / RUN_FILE}: format {version!r} is not known here (up to {VERSION}): update testbed"
        )
    torn: list[str] = []
    return Run(
        directory=directory,
        facts=facts,
        blocks=tuple(_read(directory / BLOCKS_FILE, BlockRecord, torn)),
        lanes=tuple(_read(directory / LANES_FILE, LaneRecord, torn)),
        balance=tuple(_read(directory / BALANCE_FILE, BalanceRecord, torn)),
        torn=bool(torn),
    )


def _read(path: Path, kind: type[R], torn: list[str]) -> Iterator[R]:
    """The whole lines of a file; an unfinished last line is dropped and noted."""
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    unfinished = lines.pop()
    if unfinished:
        torn.append(path.name)
    for number, line in enumerate(lines, start=1):
        try:
            yield kind.from_json(json.loads(line))
        except (ValueError, TypeError) as error:
            raise BadResults(f"{path}:{number}: is not a record of this format ({error})") from error
