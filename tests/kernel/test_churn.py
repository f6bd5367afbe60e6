"""A thousand changes while connections flow: none fails, and the end is what a fresh start would write."""

from __future__ import annotations

import random
from typing import Any

import pytest
from modesunderproof import ONCE, unfailing_client
from proxynode import NODE_PORT, End, Node, balancer, both


@pytest.mark.parametrize("mode", ONCE)
def test_a_thousand_changes_fail_no_connection_and_end_in_the_state_of_a_fresh_start(node: Node) -> None:
    chance = random.Random(7)
    node.serve("a", "c", **_ways(chance, 1))
    left = 1000
    with unfailing_client(node):
        while left:
            batch = min(left, chance.randint(1, 60))
            for _ in range(batch):
                _change_something(node, chance)
            node.sync()
            left -= batch
    incremental = node.dump()
    node.close()
    node.restart()
    node.sync()
    assert node.dump() == incremental


def _change_something(node: Node, chance: random.Random) -> None:
    """Change the Service that is asked, or one beside it; every pod is alive all the time."""
    number = chance.randrange(1, 12)
    if number == 1:
        node.service(*chance.sample("abcd", chance.randint(1, 4)), **_ways(chance, 1))
    elif chance.random() < 0.2:
        node.delete(f"s{number}")
    else:
        ends = [
            End(pod, ready=chance.random() < 0.8, terminating=chance.random() < 0.2)
            for pod in chance.sample("abcd", chance.randrange(5))
        ]
        node.service(*ends, name=f"s{number}", vip=f"10.96.0.{number}", **_ways(chance, number))


def _ways(chance: random.Random, number: int) -> dict[str, Any]:
    """Ways to the Service of that number, and how they are to be taken."""
    spec: dict[str, Any] = {
        "type": "LoadBalancer",
        "node_port": chance.choice([0, NODE_PORT + number]),
        "balancer": chance.choice([[], balancer(f"203.0.113.{number}")]),
        "loadBalancerSourceRanges": chance.choice([[], ["10.0.0.0/8", "fd00::/16"]]),
        "externalTrafficPolicy": chance.choice(["Cluster", "Local"]),
        "externalIPs": chance.choice([[], both(f"198.51.100.{number}")]),
    }
    if number > 1:
        spec["internalTrafficPolicy"] = chance.choice(["Cluster", "Local"])
        spec |= chance.choice([{}, {"sessionAffinity": "ClientIP"}])
    return spec
