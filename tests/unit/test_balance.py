"""Distributions over endpoints, judged by what their scheduler promises."""

from __future__ import annotations

import random

import pytest

from testbed.analysis.balance import of_record, shape_of
from testbed.results.format import BalanceRecord

THREE = ("a", "b", "c")


def judged(scheduler: str, sequence: tuple[str, ...], **fields: object):
    record = BalanceRecord(
        lane="ipvs",
        mode="ipvs",
        scheduler=scheduler,
        services=1,
        endpoints=3,
        unix_ns=0,
        requests=len(sequence),
        endpoint_requests={name: sequence.count(name) for name in dict.fromkeys(sequence)},
        sequence=sequence,
    )
    return of_record(BalanceRecord.from_json(record.to_json() | fields))


CHANCE = tuple(random.Random(1).choices(THREE, k=300))


@pytest.mark.parametrize(
    ("scheduler", "sequence", "shape", "kept"),
    [
        ("rr", THREE * 40, "exact rotation", True),
        ("rr", CHANCE, "random", False),
        ("lc", ("a", "b", "c", "c", "b", "a") * 20, "even", True),
        ("sh", ("b",) * 90, "one endpoint", True),
        ("sh", THREE * 30, "exact rotation", False),
        ("lc", ("a",) * 90, "one endpoint", False),
        ("", CHANCE, "random", None),
        ("lc", ("a", "a", "a", "b", "c", "a", "a", "b") * 30, "uneven", False),
    ],
)
def test_a_scheduler_is_held_to_its_name(
    scheduler: str, sequence: tuple[str, ...], shape: str, kept: bool | None
) -> None:
    found = judged(scheduler, sequence)

    assert (found.shape, found.as_promised) == (shape, kept)


def test_an_endpoint_that_never_answered_counts_as_zero() -> None:
    assert judged("lc", ("a", "b") * 50).counts == (50, 50, 0)
    assert judged("lc", ("a", "b") * 50).shape == "uneven"


def test_errors_are_a_failure_with_their_reason() -> None:
    found = judged("rr", THREE * 40, errors={"timeout": 2})

    assert (found.shape, found.as_promised, found.reason) == ("failed", False, "timeout x2")


def test_rotation_needs_two_whole_turns() -> None:
    assert shape_of((1, 1, 1), THREE) != "exact rotation"
