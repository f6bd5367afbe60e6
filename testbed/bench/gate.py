"""The noise gate: why a block must not count.

Pure; owns the rules. Host noise (PSI, steal) is recorded by the launcher, which alone can see it.
"""

from __future__ import annotations

from collections.abc import Iterator

from testbed.bench.meters import Reading
from testbed.load.block import MS, Block, BlockResult
from testbed.spec.clock import INSTRUCTIONS, WALL, Clock

LONGEST_OVERRUN_NS = 200 * MS
"""A block that took so much longer than its duration was held up by something."""

LONGEST_IDLE_NS = MS
"""By the instruction clock a CPU with nothing to run counts on at the pace of the machine outside: whoever
waited for a timer waited for millions of instructions, and less than this is the readings' own
uncertainty."""


def objections(block: Block, result: BlockResult, counted: Reading, clock: Clock = WALL) -> list[str]:
    """What was wrong with a block; empty for a good one. What precedes the colon is the kind."""
    return list(_objections(block, result, counted, clock))


def _objections(block: Block, result: BlockResult, counted: Reading, clock: Clock) -> Iterator[str]:
    size = "M instr." if clock == INSTRUCTIONS else "ms"
    if result.errors:
        yield "errors: " + ", ".join(f"{reason} x{count}" for reason, count in result.errors.items())
    if not result.requests:
        yield "no request was answered"
    if counted.syn_retransmits > 0:
        yield f"SYN retransmits: {counted.syn_retransmits}"
    if counted.conntrack_losses:
        yield f"conntrack drops: {counted.conntrack_losses}"
    took_ns = result.ended_ns - result.started_ns
    if took_ns > block.duration_ns + LONGEST_OVERRUN_NS:
        yield f"overrun: {took_ns / 1e6:.0f} {size} instead of {block.duration_ns / 1e6:.0f}"
    if clock == INSTRUCTIONS and result.idle_ns is not None and result.idle_ns > LONGEST_IDLE_NS:
        yield f"idle: nothing to run for {result.idle_ns / 1e6:.1f} M instr."
    missed = [str(place) for place, target in enumerate(result.targets) if not target.requests]
    if result.requests and missed:
        yield f"target without an answer: {', '.join(missed)}"
