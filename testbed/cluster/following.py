"""Following one kind of object of the lab's API, in a thread, until told to stop.

Owns listing anew when a watch ends, lags too far behind (410) or breaks. Must not know what the objects mean.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from testbed.cluster.apiclient import ApiClient, Object, Watch
from testbed.errors import ApiError, TestbedError

_log = logging.getLogger(__name__)

_GONE = 410
_PAUSE_S = 0.2
_STOP_TIMEOUT_S = 30.0

Key = tuple[str, str]


class Follower:
    """Calls `changed` with each object when it is listed and when it changes, `gone` with its last state.

    `settled` is called after each list and each single event. What these raise of TestbedError and OSError
    is told in the log. A context manager; `follow` may also be run in a thread of one's own.
    """

    def __init__(
        self,
        api: ApiClient,
        kind: str,
        changed: Callable[[Object], None],
        gone: Callable[[Object], None],
        settled: Callable[[], None],
    ) -> None:
        self._api = api
        self._kind = kind
        self._changed = changed
        self._gone = gone
        self._settled = settled
        self._known: dict[Key, Object] = {}
        self._watch: Watch | None = None
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.follow, name=f"following {kind}", daemon=True)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End; returns once no function of ours is being called any more."""
        with self._lock:
            self._stopped.set()
            if self._watch is not None:
                self._watch.close()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_STOP_TIMEOUT_S)
            if self._thread.is_alive():
                _log.error("waited %g s for the last event of %s to be handled", _STOP_TIMEOUT_S, self._kind)

    def follow(self) -> None:
        """List and watch, again and again, until stopped."""
        while not self._stopped.is_set():
            try:
                self._follow_from(self._list())
            except ApiError as error:
                if error.code == _GONE:
                    _log.info("%s: %s; listing anew", self._kind, error)
                    continue
                _log.warning("%s: %s", self._kind, error)
            except OSError as error:
                if not self._stopped.is_set():
                    _log.warning("the API does not answer for %s: %s", self._kind, error)
            self._stopped.wait(_PAUSE_S)

    def _list(self) -> str:
        """Tell of everything there is, and of what is no longer; the version from which to watch."""
        listing = self._api.list(self._kind)
        there = {_key(obj): obj for obj in listing}
        for key in self._known.keys() - there.keys():
            self._tell(self._gone, self._known[key])
        for key, obj in there.items():
            known = self._known.get(key)
            if known is not None and known["metadata"]["uid"] != obj["metadata"]["uid"]:
                self._tell(self._gone, known)
            self._tell(self._changed, obj)
        self._known = there
        self._tell_settled()
        return listing.resource_version

    def _follow_from(self, version: str) -> None:
        with self._api.watch(self._kind, resource_version=version) as watch:
            with self._lock:
                if self._stopped.is_set():
                    return
                self._watch = watch
            try:
                for kind, obj in watch:
                    self._take(kind, obj)
            finally:
                with self._lock:
                    self._watch = None

    def _take(self, kind: str, obj: Object) -> None:
        if kind == "BOOKMARK" or self._stopped.is_set():
            return
        if kind == "DELETED":
            self._known.pop(_key(obj), None)
            self._tell(self._gone, obj)
        else:
            self._known[_key(obj)] = obj
            self._tell(self._changed, obj)
        self._tell_settled()

    def _tell(self, whom: Callable[[Object], None], obj: Object) -> None:
        try:
            whom(obj)
        except ApiError as error:
            _log.warning("the object changed meanwhile: %s", error)
        except (TestbedError, OSError):
            _log.exception("could not follow %s %s", self._kind, obj["metadata"].get("name"))

    def _tell_settled(self) -> None:
        with suppress(ApiError, OSError):
            self._settled()


def _key(obj: Object) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
