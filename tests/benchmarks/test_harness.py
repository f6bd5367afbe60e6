"""The instrument itself: what it sees, and how much of the time it measures.

`pytest --benchmark-enable -s tests/benchmarks/test_harness.py` prints the figures and holds the limits.
Without benchmarking a tiny sweep is measured once, and only has to work.
"""

from __future__ import annotations

from typing import Any

import smallsweep
from sandboxed import Puppet

MOST_OUTSIDE = 0.30


def test_the_iptables_slope_is_seen_and_identical_lanes_are_not_told_apart(benchmark: Any) -> None:
    services, rounds, block_ms = ((1, 20), 3, 30) if benchmark.disabled else ((1, 10000), 40, 50)
    found: list[smallsweep.Swept] = []
    with Puppet() as puppet:
        benchmark.pedantic(
            lambda: found.append(puppet.call(smallsweep.sweep, services, rounds, block_ms)), rounds=1
        )
    (swept,) = found
    slope, low, high = swept.slope_us
    print(f"\niptables: {slope:+.2f} µs per 1,000 Services [{low:+.2f}, {high:+.2f}]")
    for cell, (ratio, ratio_low, ratio_high) in swept.identical.items():
        print(f"identical lanes at {cell}: x{ratio:.3f} [{ratio_low:.3f}, {ratio_high:.3f}]")
    for cell, share in swept.outside.items():
        print(f"outside of blocks at {cell}: {share:.0%}")
    benchmark.extra_info.update(slope_us=slope, outside=max(swept.outside.values()))
    if not benchmark.disabled:
        assert low > 0
        assert all(ratio_low <= 1 <= ratio_high for _, ratio_low, ratio_high in swept.identical.values())
        assert max(swept.outside.values()) <= MOST_OUTSIDE
