"""Level ground: by the instruction clock, lanes that differ in nothing yet must cost the same.

Linux keeps the addresses behind a bridge and its neighbours in small hash tables, seeded at random: an entry
that shares its bucket costs some ten instructions more with every packet, for as long as the lane stands.
That is luck of the lane and no property of its mode, several times what the clock can resolve, so an unlucky
lane is built anew. Owns how luck is seen and when it is good enough. Must not know modes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from testbed.bench.lane import Lane
from testbed.bench.rounds import TIMEOUT_NS, Bench
from testbed.load.block import MS, Block

TRAFFIC = "keepalive"
BLOCK_NS = 4 * MS
"""Some seventy requests: their median is good to about ten instructions."""

TOLERANCE_NS = 90
"""Of ten lanes, six were within 73 of the luckiest and four 167 to 220 above it: one shared bucket of a
bridge, in which each address is looked up twice, makes the gap."""

MOST_BUILDS = 4
"""Of one lane. A good half of all lanes is lucky at once; many lanes built and gone are a load of their
own."""


@dataclass
class Ground:
    """How the lanes of a company stand: `costs_ns` is a request on an open connection to a pod, by lane."""

    bench: Bench
    costs_ns: dict[str, int] = field(default_factory=dict)
    builds: dict[str, int] = field(default_factory=dict)

    def level(self, lanes: Mapping[str, Lane], rebuild: Callable[[str], Lane]) -> dict[str, Lane]:
        """Rebuild unlucky lanes until all cost what the luckiest one does, or have had their chances."""
        standing = dict(lanes)
        self.builds = dict.fromkeys(standing, 1)
        self.costs_ns = {name: self._cost_ns(lane) for name, lane in standing.items()}
        while unlucky := [name for name in standing if self._is_unlucky(name)]:
            for name in unlucky:
                above = f"{self._above_ns(name)} instructions above the luckiest one"
                self.bench.launcher.stage(f"building lane {name} again: {above}")
                standing[name] = rebuild(name)
                self.builds[name] += 1
                self.costs_ns[name] = self._cost_ns(standing[name])
        return standing

    def facts(self) -> dict[str, dict[str, int]]:
        """What run.json keeps: each lane's cost and how often it was built."""
        return {
            name: {"keepalive_instr": cost, "builds": self.builds[name]}
            for name, cost in self.costs_ns.items()
        }

    def _is_unlucky(self, name: str) -> bool:
        return self._above_ns(name) > TOLERANCE_NS and self.builds[name] < MOST_BUILDS

    def _above_ns(self, name: str) -> int:
        return self.costs_ns[name] - min(self.costs_ns.values())

    def _cost_ns(self, lane: Lane) -> int:
        """The median cost of a request straight to the lane's pods, in the second block.

        The first one pays for what a young process does for the first time.
        """
        block = Block(
            id=0,
            namespace=lane.client.path,
            user=TRAFFIC,
            targets=lane.pods(),
            duration_ns=BLOCK_NS,
            timeout_ns=TIMEOUT_NS,
        )
        self.bench.load.run(block)
        return self.bench.load.run(block).first_byte.p50
