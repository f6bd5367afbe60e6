"""A loaded node is taken from mode to mode, and what that does to its connections is counted."""

from __future__ import annotations

from typing import Any

from testbed import Service, Topology
from testbed.scenario.switch import main
from testbed.scenario.table import rows

TOPOLOGY = Topology(services=[Service(name="web", port=80, endpoints=2)])


class Wire:
    """A launcher that lets everybody measure at once."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.events.append(message)

    def receive(self, timeout_s: float | None = None) -> dict[str, Any] | None:
        return {"locked": True}


def switched(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    wire = Wire()
    arguments = {
        "topology": TOPOLOGY.model_dump(mode="json"),
        "pairs": pairs,
        "repeat": 1,
        "services": 5,
        "rate_hz": 50.0,
    }
    assert main(arguments, wire) == 0
    return [event for event in wire.events if event["event"] == "switched"]


def test_the_userspace_proxys_connections_end_with_it_and_the_kernels_do_not() -> None:
    userspace, restart = rows(switched(("userspace", "iptables"), ("iptables", "iptables")))
    assert (userspace["errors"], restart["errors"]) == ([], [])
    assert userspace["broken"] == userspace["kept"] == 10
    assert sum(userspace["failed"].values()) > 0
    assert userspace["outage_ns"][0] > 0
    assert (restart["failed"], restart["broken"]) == ({}, 0)
    assert restart["connections"] > 50


def test_a_switch_that_fails_is_told_and_costs_the_others_nothing() -> None:
    failed, fine = switched(("iptables", "nosuchmode"), ("iptables", "iptables"))
    assert "'nosuchmode' is not one of" in failed["error"]
    assert fine["outage"]["connections"] > 0
