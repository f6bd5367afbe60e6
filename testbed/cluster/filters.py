"""Rules that stand in a packet's way and match nothing, as a network policy's do. Pure."""

from __future__ import annotations

CHAIN = "TESTBED-FILTER"
# RFC 2544 reserves 198.18.0.0/15 for benchmarks: no packet of the lab comes from there.
_SOURCE = "198.18.{}.{}"
_PER_BLOCK = 254 * 254


def filter_rules_text(count: int) -> str:
    """`iptables-restore --noflush` input that puts `count` rules in front of forwarded traffic."""
    rules = (f"-A {CHAIN} -s {_source(index)}/32 -j DROP" for index in range(count))
    return "\n".join(
        (
            "*filter",
            f":{CHAIN} - [0:0]",
            *rules,
            f'-I FORWARD 1 -m comment --comment "network policies" -j {CHAIN}',
            "COMMIT\n",
        )
    )


def _source(index: int) -> str:
    high, low = divmod(index % _PER_BLOCK, 254)
    return _SOURCE.format(high + 1, low + 1)
