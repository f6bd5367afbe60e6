"""The store keeps order and versions, and tells watchers everything exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.cluster.resources import PODS, SERVICES
from testbed.cluster.selectors import Selection, parse_fields, parse_labels
from testbed.cluster.store import Page, Record, Store, Watch
from testbed.errors import ApiError


def pod(name: str, **more: Any) -> dict[str, Any]:
    labels = more.pop("labels", {})
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "labels": labels},
        **more,
    }


def names(records: Sequence[Record] | Page) -> list[str]:
    return [record.name for record in (records.records if isinstance(records, Page) else records)]


def follow(store: Store, selection: Selection | None = None, since: int | None = None) -> Watch:
    return store.watch(PODS, selection or Selection(), since=since, notify=lambda: None)


def seen(watch: Watch) -> list[tuple[str, str, int]]:
    return [(kind, record.name, record.version) for kind, record in watch.take()]


def test_lists_come_in_order_of_creation_whatever_was_changed_since() -> None:
    store = Store()
    for name in ("c", "a", "b"):
        store.create(PODS, pod(name))
    store.update(PODS, pod("c", spec={"nodeName": "n"}))
    assert names(store.list(PODS)) == ["c", "a", "b"]


def test_every_write_takes_the_next_version_of_all_resources() -> None:
    store = Store()
    assert store.create(PODS, pod("a")).version == 1
    assert store.create(SERVICES, pod("a")).version == 2
    assert store.update(PODS, pod("a")).version == 3
    assert store.delete(PODS, "default", "a").version == 4
    assert store.get(SERVICES, "default", "a").parsed()["metadata"]["resourceVersion"] == "2"


def test_a_name_is_taken_once() -> None:
    store = Store()
    store.create(PODS, pod("a"))
    with pytest.raises(ApiError, match='pods "a" already exists') as caught:
        store.create(PODS, pod("a"))
    assert (caught.value.code, caught.value.reason) == (409, "AlreadyExists")


def test_what_is_not_there_is_not_found() -> None:
    store = Store()
    for call in (
        lambda: store.get(PODS, "default", "a"),
        lambda: store.update(PODS, pod("a")),
        lambda: store.delete(PODS, "default", "a"),
    ):
        with pytest.raises(ApiError, match='pods "a" not found') as caught:
            call()
        assert (caught.value.code, caught.value.reason) == (404, "NotFound")


def test_a_write_based_on_an_old_version_is_a_conflict() -> None:
    store = Store()
    old = store.create(PODS, pod("a"))
    store.update(PODS, pod("a"), expected=old.version)
    with pytest.raises(ApiError, match="the object has been modified") as caught:
        store.update(PODS, pod("a"), expected=old.version)
    assert (caught.value.code, caught.value.reason) == (409, "Conflict")


def test_pages_show_the_list_as_it_stood_when_the_first_was_read() -> None:
    store = Store()
    for name in "abcde":
        store.create(PODS, pod(name, labels={"v": "old"}))
    first = store.list(PODS, limit=2)
    store.delete(PODS, "default", "d")
    store.update(PODS, pod("c", labels={"v": "new"}))
    store.create(PODS, pod("f"))
    assert (names(first), first.remaining) == (["a", "b"], 3)
    second = store.list(PODS, version=first.version, position=first.position or 0, limit=2)
    assert names(second) == ["c", "d"]
    assert second.records[0].labels == {"v": "old"}
    last = store.list(PODS, version=first.version, position=second.position or 0, limit=2)
    assert (names(last), last.position, last.remaining) == (["e"], None, 0)
    assert names(store.list(PODS)) == ["a", "b", "c", "e", "f"]


def test_a_version_that_history_has_forgotten_is_expired() -> None:
    store = Store(history=4)
    for number in range(20):
        store.create(PODS, pod(f"p{number}"))
    for call in (lambda: store.list(PODS, version=3), lambda: follow(store, since=3)):
        with pytest.raises(ApiError, match="too old resource version: 3") as caught:
            call()
        assert (caught.value.code, caught.value.reason) == (410, "Expired")
    assert seen(follow(store, since=18)) == [("ADDED", "p18", 19), ("ADDED", "p19", 20)]


def test_a_version_that_was_never_given_out_is_expired_too() -> None:
    with pytest.raises(ApiError, match="too large resource version") as caught:
        follow(Store(), since=7)
    assert caught.value.code == 410


def test_a_watch_without_a_version_begins_with_the_present_objects() -> None:
    store = Store()
    store.create(PODS, pod("a"))
    watch = follow(store)
    store.create(PODS, pod("b"))
    assert seen(watch) == [("ADDED", "a", 1), ("ADDED", "b", 2)]
    assert seen(watch) == []


def test_a_watch_replays_what_came_after_its_version_and_goes_on() -> None:
    store = Store()
    store.create(PODS, pod("a"))
    store.create(PODS, pod("b"))
    watch = follow(store, since=1)
    store.delete(PODS, "default", "a")
    assert seen(watch) == [("ADDED", "b", 2), ("DELETED", "a", 3)]


def test_a_deleted_object_carries_the_version_of_its_deletion() -> None:
    store = Store()
    store.create(PODS, pod("a"))
    watch = follow(store, since=1)
    store.delete(PODS, "default", "a")
    [(_, record)] = watch.take()
    assert record.parsed()["metadata"]["resourceVersion"] == "2"


def test_an_object_that_leaves_the_selection_looks_deleted_and_one_that_enters_looks_new() -> None:
    store = Store()
    watch = follow(store, Selection(labels=parse_labels("app=web")))
    store.create(PODS, pod("a", labels={"app": "web"}))
    store.create(PODS, pod("b", labels={"app": "db"}))
    store.update(PODS, pod("a", labels={"app": "db"}))
    store.update(PODS, pod("b", labels={"app": "web"}))
    store.update(PODS, pod("b", labels={"app": "web"}, spec={}))
    store.delete(PODS, "default", "a")
    events = watch.take()
    assert [(kind, record.name, record.version) for kind, record in events] == [
        ("ADDED", "a", 1),
        ("DELETED", "a", 3),
        ("ADDED", "b", 4),
        ("MODIFIED", "b", 5),
    ]
    gone = events[1][1].parsed()
    assert gone["metadata"]["labels"] == {"app": "web"}
    assert gone["metadata"]["resourceVersion"] == "3"


def test_fields_of_the_kind_are_selected_by() -> None:
    store = Store()
    store.create(PODS, pod("a", spec={"nodeName": "n1"}))
    store.create(PODS, pod("b", spec={"nodeName": "n2"}))
    selection = Selection(fields=parse_fields("spec.nodeName=n2", PODS))
    assert names(store.list(PODS, selection)) == ["b"]


def test_watchers_are_woken_once_until_they_take() -> None:
    store = Store()
    calls: list[None] = []
    watch = store.watch(PODS, since=0, notify=lambda: calls.append(None))
    store.create(PODS, pod("a"))
    store.create(PODS, pod("b"))
    assert len(calls) == 1
    watch.take()
    store.create(PODS, pod("c"))
    assert len(calls) == 2


def test_a_watcher_that_lags_too_far_is_told_so() -> None:
    store = Store()
    watch = store.watch(PODS, notify=lambda: None, backlog=3)
    for number in range(4):
        store.create(PODS, pod(f"p{number}"))
    assert watch.overrun


def test_a_forgotten_watch_hears_nothing_more() -> None:
    store = Store()
    watch = follow(store)
    store.unwatch(PODS, watch)
    store.create(PODS, pod("a"))
    assert seen(watch) == []


@given(
    st.lists(st.tuples(st.sampled_from("cud"), st.sampled_from("abcd"), st.sampled_from(["x", "y"]))),
    st.integers(min_value=0, max_value=30),
)
def test_a_list_and_the_events_after_it_always_give_the_present_state(
    writes: list[tuple[str, str, str]], at: int
) -> None:
    """For any history: the selected list at some version, with the watch's events since, is today's list."""
    store = Store()
    selection = Selection(labels=parse_labels("v=x"))
    for action, name, value in writes:
        exists = store.find(PODS, "default", name) is not None
        if action == "c" and not exists:
            store.create(PODS, pod(name, labels={"v": value}))
        elif action == "u" and exists:
            store.update(PODS, pod(name, labels={"v": value}))
        elif action == "d" and exists:
            store.delete(PODS, "default", name)
    version = min(at, store.version)
    state = {record.name: record.version for record in store.list(PODS, selection, version=version).records}
    for kind, record in follow(store, selection, since=version).take():
        assert (record.name in state) is (kind != "ADDED")
        if kind == "DELETED":
            del state[record.name]
        else:
            state[record.name] = record.version
    present = store.list(PODS, selection).records
    assert state == {record.name: record.version for record in present}
