"""Blocks as messages."""

from __future__ import annotations

import json

import pytest

from testbed.load.block import Block


def a_block() -> Block:
    return Block(
        id=1,
        namespace="/run/netns/client",
        user="udp",
        targets=(("10.96.0.1", 80), ("fd00::1", 80)),
        duration_ns=150_000_000,
    )


def test_a_block_survives_its_message() -> None:
    assert Block.from_json(json.loads(json.dumps(a_block().to_json()))) == a_block()


@pytest.mark.parametrize(
    ("field", "value"), [("user", "carrier-pigeon"), ("targets", []), ("users", 0), ("processes", 0)]
)
def test_a_block_that_cannot_be_run_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"user|target"):
        Block.from_json(a_block().to_json() | {field: value})
