"""Which endpoints traffic may reach on a node."""

from __future__ import annotations

import pytest

from testbed.proxy.model import Endpoint, EndpointChoice, ServicePort, ServicePortName, choose_endpoints

NAME = ServicePortName("default", "web", "http")
CLUSTER = ServicePort(NAME, "10.96.0.1", 80, node_port=30080)
LOCAL = ServicePort(NAME, "10.96.0.1", 80, node_port=30080, external_local=True)
INTERNAL = ServicePort(NAME, "10.96.0.1", 80, internal_local=True)

here = Endpoint("10.0.1.1", 80, local=True)
there = Endpoint("10.0.2.1", 80)
starting = Endpoint("10.0.2.2", 80, ready=False, serving=False)
here_leaving = Endpoint("10.0.1.3", 80, local=True, ready=False, terminating=True)
there_leaving = Endpoint("10.0.2.3", 80, ready=False, terminating=True)
there_gone = Endpoint("10.0.2.4", 80, ready=False, serving=False, terminating=True)


def zoned(endpoint: Endpoint, *zones: str) -> Endpoint:
    return endpoint._replace(zones=zones)


def test_names_read_as_in_rule_comments() -> None:
    assert str(NAME) == "default/web:http"
    assert str(ServicePortName("default", "web", "")) == "default/web"
    assert there.key == "10.0.2.1:80"
    assert Endpoint("fd00::1", 80).key == "[fd00::1]:80"


def test_only_ready_endpoints_are_used_while_there_is_one() -> None:
    choice = choose_endpoints(CLUSTER, [here, there, starting, here_leaving])
    assert choice == EndpointChoice((here, there), (), (here, there), True)


def test_without_ready_endpoints_those_that_leave_but_serve_are_used_whatever_their_zone() -> None:
    leaving = zoned(there_leaving, "a")
    choice = choose_endpoints(CLUSTER, [starting, leaving, there_gone], zone="b")
    assert choice.cluster == (leaving,)


def test_without_any_usable_endpoint_there_is_none_anywhere() -> None:
    assert choose_endpoints(CLUSTER, [starting, there_gone]) == EndpointChoice((), (), (), False)
    assert choose_endpoints(LOCAL, [starting, there_gone]) == EndpointChoice((), (), (), False)
    assert choose_endpoints(INTERNAL, []) == EndpointChoice((), (), (), False)


def test_policy_local_separates_what_is_on_the_node() -> None:
    choice = choose_endpoints(LOCAL, [here, there])
    assert choice == EndpointChoice((here, there), (here,), (here, there), True)
    assert choice.external(LOCAL) == (here,)
    assert choice.internal(LOCAL) == (here, there)


def test_policy_local_without_local_endpoints_still_knows_of_the_others() -> None:
    choice = choose_endpoints(INTERNAL, [there])
    assert choice == EndpointChoice((), (), (), True)


def test_local_traffic_falls_back_to_leaving_endpoints_by_itself() -> None:
    choice = choose_endpoints(LOCAL, [there, here_leaving])
    assert choice.cluster == (there,)
    assert choice.local == (here_leaving,)
    assert choice.reachable == (there, here_leaving)


def test_an_external_policy_without_outside_access_is_no_policy() -> None:
    port = ServicePort(NAME, "10.96.0.1", 80, external_local=True)
    assert choose_endpoints(port, [here, there]).local == ()


@pytest.mark.parametrize(
    ("zones", "node_zone", "expected"),
    [
        ((("a",), ("b",)), "a", {0}),
        ((("a",), ("a", "b")), "a", {0, 1}),
        ((("a",), ()), "a", {0, 1}),
        ((("b",), ("b",)), "a", {0, 1}),
        ((("a",), ("b",)), "", {0, 1}),
    ],
    ids=["match", "several zones", "one without hint", "none matches", "zone of node unknown"],
)
def test_hints_narrow_the_choice_only_if_all_have_one_and_one_matches(
    zones: tuple[tuple[str, ...], ...], node_zone: str, expected: set[int]
) -> None:
    endpoints = [zoned(end, *hint) for end, hint in zip((here, there), zones, strict=True)]
    chosen = choose_endpoints(CLUSTER, endpoints, node_zone).cluster
    assert set(chosen) == {endpoints[index] for index in expected}


def test_hints_do_not_narrow_local_traffic() -> None:
    local, remote = zoned(here, "b"), zoned(there, "a")
    choice = choose_endpoints(LOCAL, [local, remote], zone="a")
    assert choice.cluster == (remote,)
    assert choice.local == (local,)
    assert choice.reachable == (local, remote)


def test_an_unready_endpoint_without_a_hint_does_not_stop_narrowing() -> None:
    choice = choose_endpoints(CLUSTER, [zoned(here, "a"), zoned(there, "b"), starting], zone="a")
    assert choice.cluster == (zoned(here, "a"),)
