"""Random sequences of API events about a few Services, for properties that hold in every mode."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import strategies as st

from testbed.proxy.changes import ChangeTracker

SERVICES = 2


class Event(NamedTuple):
    """A Service or a slice of one (numbers tell which); no content means that it is gone."""

    service: int
    slice: int
    content: dict[str, Any] | None


def _services(number: int) -> st.SearchStrategy[dict[str, Any]]:
    """Contents of one Service: a ClusterIP that others may claim too, other ways that are its own."""
    policies = st.sampled_from(["Cluster", "Local"])
    external, balancing = f"198.51.100.{number}", f"203.0.113.{number}"
    http, dns = {"port": 80}, {"port": 53, "protocol": "UDP"}
    named = [{"name": "a", "nodePort": 30080 + number, **http}, {"name": "b", "protocol": "UDP", **http}]
    spec = st.fixed_dictionaries(
        {
            "clusterIP": st.sampled_from([f"10.96.0.{number}"] * 4 + ["10.96.0.1", "None"]),
            "ports": st.sampled_from([[http], [{"nodePort": 30080 + number, **http}], [dns], named]),
            "type": st.just("LoadBalancer"),
            "externalIPs": st.sampled_from([[], [external], [balancing, external]]),
            "loadBalancerSourceRanges": st.sampled_from([[], ["192.168.0.0/24"]]),
            "sessionAffinity": st.sampled_from(["None", "ClientIP"]),
            "sessionAffinityConfig": st.sampled_from([{}, {"clientIP": {"timeoutSeconds": 60}}]),
            "externalTrafficPolicy": policies,
            "internalTrafficPolicy": policies,
        }
    )
    status = st.sampled_from([{}, {"loadBalancer": {"ingress": [{"ip": balancing}]}}])
    return st.fixed_dictionaries({"spec": spec, "status": status})


_conditions = st.sampled_from(
    [{}, {}, {"ready": False}, {"ready": False, "terminating": True}, {"terminating": True}]
)
_endpoints = st.builds(
    lambda last, node, conditions, zone: {
        "addresses": [f"10.244.1.{last}"],
        "nodeName": node,
        "conditions": conditions,
        "hints": {"forZones": [{"name": zone}]} if zone else None,
    },
    st.integers(1, 4),
    st.sampled_from(["node1", "node2"]),
    _conditions,
    st.sampled_from(["", "", "a", "b"]),
)
_EVERY_PORT = [
    {"name": name, "protocol": kind, "port": 8080} for name in ("", "a", "b") for kind in ("TCP", "UDP")
]
_slices = st.lists(_endpoints, max_size=3).map(
    lambda endpoints: {"addressType": "IPv4", "endpoints": endpoints, "ports": _EVERY_PORT}
)


def _mostly(content: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any] | None]:
    return st.integers(0, 4).flatmap(lambda chance: content if chance else st.none())


_events = st.integers(1, SERVICES).flatmap(
    lambda number: (
        st.builds(Event, st.just(number), st.just(0), _mostly(_services(number)))
        | st.builds(Event, st.just(number), st.integers(1, 2), _mostly(_slices))
    )
)
batches = st.lists(st.lists(_events, min_size=1, max_size=4), min_size=4, max_size=8)
"""Events in the groups in which syncs take them."""


def tell(tracker: ChangeTracker, event: Event) -> None:
    """What a watch would make of an event."""
    service = f"svc-{event.service}"
    name = f"{service}-{event.slice}" if event.slice else service
    meta = {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": service}}
    if event.content is None:
        (tracker.remove_slice if event.slice else tracker.remove_service)(("default", name))
    else:
        (tracker.update_slice if event.slice else tracker.update_service)({"metadata": meta, **event.content})
