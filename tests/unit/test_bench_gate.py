"""The noise gate: which blocks must not count, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from testbed.bench.gate import objections
from testbed.bench.meters import Reading
from testbed.load.block import MS, Block, BlockResult, Quantiles, TargetSummary

BLOCK = Block(1, "/run/netns/client", "new-connection", (("10.96.0.1", 80), ("10.96.0.2", 80)), 150 * MS)
GOOD = BlockResult(
    id=1,
    started_ns=0,
    ended_ns=151 * MS,
    unix_ns=0,
    requests=100,
    errors={},
    endpoints={"pod-1-1": 100},
    client_cpu_ns=50 * MS,
    connect=Quantiles(),
    first_byte=Quantiles(),
    targets=(TargetSummary(50, 1, 2), TargetSummary(50, 1, 2)),
    samples_written=100,
)
ANSWERED = TargetSummary(9, 1, 1)
QUIET = Reading(
    syn_retransmits=0, conntrack_losses=0, proxy_cpu_ns=None, proxy_switches=None, cpu_ns={"user": 10}
)


def test_a_good_block_meets_no_objection() -> None:
    assert objections(BLOCK, GOOD, QUIET) == []


def test_a_kernel_without_conntrack_counters_is_no_objection() -> None:
    assert objections(BLOCK, GOOD, replace(QUIET, conntrack_losses=None)) == []


@pytest.mark.parametrize(
    ("result", "counted", "said"),
    [
        (
            replace(GOOD, errors={"timeout": 2, "EADDRNOTAVAIL": 1}),
            QUIET,
            "errors: timeout x2, EADDRNOTAVAIL x1",
        ),
        (replace(GOOD, requests=0, targets=()), QUIET, "no request was answered"),
        (GOOD, replace(QUIET, syn_retransmits=3), "SYN retransmits: 3"),
        (GOOD, replace(QUIET, conntrack_losses=1), "conntrack drops: 1"),
        (replace(GOOD, ended_ns=400 * MS), QUIET, "overrun: 400 ms instead of 150"),
        (
            replace(GOOD, targets=(TargetSummary(), TargetSummary(9, 1, 1))),
            QUIET,
            "target without an answer: 0",
        ),
    ],
)
def test_every_disturbance_is_named(result: BlockResult, counted: Reading, said: str) -> None:
    assert objections(BLOCK, result, counted) == [said]


def test_by_the_instruction_clock_a_block_that_idled_does_not_count() -> None:
    idled = replace(GOOD, idle_ns=4 * MS, timer_interrupts=2)

    assert objections(BLOCK, idled, QUIET) == []
    assert objections(BLOCK, idled, QUIET, "instructions") == ["idle: nothing to run for 4.0 M instr."]
    assert objections(BLOCK, replace(GOOD, idle_ns=MS // 2), QUIET, "instructions") == []


def test_by_the_instruction_clock_an_overrun_is_told_in_instructions() -> None:
    late = replace(GOOD, ended_ns=400 * MS)

    assert objections(BLOCK, late, QUIET, "instructions") == ["overrun: 400 M instr. instead of 150"]
