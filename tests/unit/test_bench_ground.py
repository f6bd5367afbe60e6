"""Level ground: unlucky lanes are built anew until all cost the same; load and lanes are made up."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from testbed.bench.ground import MOST_BUILDS, TOLERANCE_NS, Ground
from testbed.load.block import Block


class Place:
    """Builds lanes whose cost is the next of a list."""

    def __init__(self, **costs_ns: list[int]) -> None:
        self._costs: dict[str, Iterator[int]] = {name: iter(costs) for name, costs in costs_ns.items()}
        self.stages: list[str] = []
        launcher = SimpleNamespace(stage=self.stages.append)
        self.bench: Any = SimpleNamespace(load=self, launcher=launcher)

    def build(self, name: str) -> Any:
        cost_ns = next(self._costs[name])
        return SimpleNamespace(client=SimpleNamespace(path=str(cost_ns)), pods=lambda: (("10.0.0.1", 80),))

    def run(self, block: Block) -> Any:
        return SimpleNamespace(first_byte=SimpleNamespace(p50=int(block.namespace)))

    def level(self) -> Ground:
        ground = Ground(self.bench)
        ground.level({name: self.build(name) for name in self._costs}, self.build)
        return ground


def test_lanes_that_cost_the_same_stay_as_they_are() -> None:
    place = Place(direct=[52_000], iptables=[52_000 + TOLERANCE_NS])

    assert place.level().builds == {"direct": 1, "iptables": 1}
    assert place.stages == []


def test_an_unlucky_lane_is_built_again_until_it_costs_what_the_luckiest_does() -> None:
    place = Place(direct=[52_000], iptables=[52_230, 52_130, 52_010])

    ground = place.level()

    assert ground.facts() == {
        "direct": {"keepalive_instr": 52_000, "builds": 1},
        "iptables": {"keepalive_instr": 52_010, "builds": 3},
    }


def test_a_luckier_lane_moves_the_ground_for_all() -> None:
    place = Place(direct=[52_100, 52_001], iptables=[52_200, 52_000])

    assert place.level().costs_ns == {"direct": 52_001, "iptables": 52_000}


def test_a_lane_has_so_many_chances_and_then_stands_as_it_is() -> None:
    place = Place(direct=[52_000], iptables=[52_130] * MOST_BUILDS)

    assert place.level().facts()["iptables"] == {"keepalive_instr": 52_130, "builds": MOST_BUILDS}
