"""Label and field selectors mean what they mean in Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pytest

from testbed.cluster.resources import PODS, SERVICES
from testbed.cluster.selectors import (
    Selection,
    from_object,
    matches_labels,
    parse_fields,
    parse_labels,
)
from testbed.errors import ApiError


class Item(NamedTuple):
    name: str = "web"
    namespace: str = "default"
    labels: Mapping[str, str] = {}
    fields: Mapping[str, str] = {}


WEB = {"app": "web", "tier": "front", "weight": "7", "example.com/team": "a"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "app",
        "app=web",
        "app==web",
        "app!=db",
        "absent!=anything",
        "!absent",
        "tier in (front, back)",
        "tier notin (back)",
        "absent notin (x)",
        "app=web,tier in (front,back),!old",
        "example.com/team=a",
        "weight>6",
        "weight < 8",
        "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless",
    ],
)
def test_a_selector_that_holds_matches(text: str) -> None:
    assert matches_labels(parse_labels(text), WEB)


@pytest.mark.parametrize(
    "text",
    [
        "absent",
        "app=db",
        "app=",
        "app!=web",
        "!app",
        "tier in (back)",
        "absent in (front)",
        "tier notin (front,back)",
        "app=web,tier=back",
        "weight>7",
        "app>3",
        "absent<3",
    ],
)
def test_a_selector_that_does_not_hold_matches_not(text: str) -> None:
    assert not matches_labels(parse_labels(text), WEB)


@pytest.mark.parametrize(
    "text", ["=x", "app=web,", "a b", "app in web", "app in (a", "app=a=b", "-a", "app>x", "!", "app=a b"]
)
def test_a_malformed_label_selector_is_a_bad_request(text: str) -> None:
    with pytest.raises(ApiError, match="unable to parse requirement") as caught:
        parse_labels(text)
    assert caught.value.code == 400


def test_a_selector_object_joins_labels_and_expressions() -> None:
    selector = from_object(
        {
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["front"]},
                {"key": "old", "operator": "DoesNotExist"},
                {"key": "weight", "operator": "Exists"},
            ],
        }
    )
    assert matches_labels(selector, WEB)
    assert not matches_labels(selector, {**WEB, "old": ""})


def test_fields_select_by_name_namespace_and_the_fields_of_the_kind() -> None:
    pod = Item("web-1", "shop", fields={"spec.nodeName": "node1", "status.phase": "Running"})
    assert Selection(fields=parse_fields("metadata.name=web-1,metadata.namespace==shop", PODS)).matches(pod)
    assert Selection(fields=parse_fields("spec.nodeName=node1,status.phase!=Pending", PODS)).matches(pod)
    assert not Selection(fields=parse_fields("spec.nodeName!=node1", PODS)).matches(pod)
    assert Selection(fields=parse_fields("status.podIP=", PODS)).matches(pod)


@pytest.mark.parametrize("text", ["spec.nodeName=x", "metadata.uid=1", "nonsense", "=a"])
def test_a_field_that_a_kind_cannot_be_selected_by_is_a_bad_request(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_fields(text, SERVICES)
    assert caught.value.code == 400


def test_a_namespace_narrows_a_selection() -> None:
    assert Selection("default").matches(Item())
    assert not Selection("other").matches(Item())
    assert Selection().everything
    assert not Selection("default").everything
