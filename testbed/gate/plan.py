"""What the gate measures: one small sweep by the instruction clock, all lanes in one boot.

Owns the topology, the names of the lanes that are compared, and the seed. Must not know verdicts.
"""

from __future__ import annotations

from testbed.bench.lane import INJECTED_SUFFIX, TWIN_SUFFIX
from testbed.spec import Topology
from testbed.spec.clock import INSTRUCTIONS

PLAIN = "iptables"
TWIN = PLAIN + TWIN_SUFFIX
INJECTED = PLAIN + INJECTED_SUFFIX
MODES = ("userspace", "iptables", "ipvs")
"""Whose cost per connection the baseline holds."""

ROUNDS = 9
"""The fewest that give a usable interval."""

BLOCK_MS = 20
"""20 million instructions: 40 to 70 connections."""


def gate_topology(*, seed: int = 1, rounds: int = ROUNDS) -> Topology:
    """One Service with three endpoints on one node, met with new connections.

    One node, so that all endpoints are equally far away: a connection's path differs by its mode only.
    """
    return Topology.model_validate(
        {
            "name": "gate",
            "nodes": 1,
            "pods_per_node": 3,
            "services": [{"name": "web", "port": 80, "endpoints": 3}],
            "sweep": {
                "clock": INSTRUCTIONS,
                "modes": list(MODES),
                "twin": PLAIN,
                "services": [1],
                "traffic": ["new-connection"],
                "rounds": rounds,
                "warmup_rounds": 1,
                "block_ms": BLOCK_MS,
                "seed": seed,
            },
        }
    )
