"""A follower knows what there is, whatever happens to its watch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from testbed.cluster.apiclient import ApiClient, Listing, WatchEvent
from testbed.cluster.following import Follower
from testbed.errors import ApiError

Object = dict[str, Any]


def pod(name: str, uid: str = "", **status: str) -> Object:
    return {"metadata": {"namespace": "default", "name": name, "uid": uid or name}, "status": status}


class FakeWatch:
    """Events, and then an end: by the server (None) or with an error."""

    def __init__(self, events: list[WatchEvent], end: Exception | None) -> None:
        self._events = events
        self._end = end

    def __enter__(self) -> FakeWatch:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[WatchEvent]:
        yield from self._events
        if self._end:
            raise self._end

    def close(self) -> None:
        pass


class FakeApi:
    """Answers each list and watch with the next of what it was given; stops the follower after the last."""

    def __init__(self, *script: tuple[list[Object], FakeWatch]) -> None:
        self._script = list(script)
        self.follower: Follower | None = None

    def list(self, kind: str) -> Listing:
        listing = Listing(self._script[0][0])
        listing.resource_version = "7"
        return listing

    def watch(self, kind: str, *, resource_version: str) -> FakeWatch:
        assert resource_version == "7"
        _, watch = self._script.pop(0)
        if not self._script and self.follower:
            self.follower._stopped.set()
        return watch


def told_by(*script: tuple[list[Object], FakeWatch]) -> list[str]:
    told: list[str] = []
    api = FakeApi(*script)
    api.follower = Follower(
        cast(ApiClient, api),
        "pods",
        lambda obj: told.append(f"changed {obj['metadata']['uid']}"),
        lambda obj: told.append(f"gone {obj['metadata']['uid']}"),
        lambda: told.append("settled"),
    )
    api.follower.follow()
    return told


EXPIRED = ApiError(410, "Expired", "the watch lags too far behind")
NOTHING = FakeWatch([], None)


def test_it_tells_of_what_is_there_and_then_of_what_happens() -> None:
    events = [WatchEvent("ADDED", pod("b")), WatchEvent("DELETED", pod("a")), WatchEvent("BOOKMARK", {})]
    told = told_by(([pod("a")], FakeWatch(events, EXPIRED)), ([pod("b")], NOTHING))
    assert told[:6] == ["changed a", "settled", "changed b", "settled", "gone a", "settled"]


def test_after_410_it_lists_anew_and_tells_what_it_missed() -> None:
    told = told_by(
        ([pod("a"), pod("b"), pod("c")], FakeWatch([], EXPIRED)),
        ([pod("b"), pod("c", uid="c2"), pod("d")], NOTHING),
    )
    missed = told[4:]
    assert missed == ["gone a", "changed b", "gone c", "changed c2", "changed d", "settled"]


def test_a_watch_that_the_server_ends_is_followed_by_another() -> None:
    assert told_by(([pod("a")], NOTHING), ([pod("a")], NOTHING)).count("settled") == 2


def test_one_object_that_cannot_be_handled_costs_nothing_else() -> None:
    told: list[str] = []

    def fail_on_a(obj: Object) -> None:
        if obj["metadata"]["name"] == "a":
            raise ApiError(409, "Conflict", "changed meanwhile")
        told.append(obj["metadata"]["name"])

    api = FakeApi(([pod("a"), pod("b")], NOTHING))
    follower = api.follower = Follower(cast(ApiClient, api), "pods", fail_on_a, fail_on_a, lambda: None)
    follower.follow()
    assert told == ["b"]
