"""A namespace is private, has a name for people, and ends with its owner."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from testbed.errors import SysctlRefused
from testbed.net.namespace import Namespace, enter, in_own_thread


def here() -> int:
    """Which namespace the calling thread is in."""
    return Path("/proc/thread-self/ns/net").stat().st_ino


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_the_callers_thread_stays_where_it_is() -> None:
    before = here()
    with Namespace.create("a") as namespace:
        inside = namespace.run(here)
        assert inside == os.fstat(namespace.fd).st_ino != before
    assert here() == before


def test_what_goes_wrong_inside_comes_out_unchanged() -> None:
    def fail() -> None:
        raise KeyError("inside")

    with Namespace.create("a") as namespace, pytest.raises(KeyError, match="inside"):
        namespace.run(fail)


def test_ip_netns_knows_it_by_name_until_it_is_closed() -> None:
    with Namespace.create("node1") as namespace:
        shown = subprocess.run(
            ["ip", "netns", "exec", "node1", "readlink", "/proc/self/ns/net"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert shown.strip() == f"net:[{os.fstat(namespace.fd).st_ino}]"
        assert "node1" in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert list(Path("/run/netns").iterdir()) == []


def test_a_name_is_taken_once_and_the_loser_leaves_no_descriptor() -> None:
    with Namespace.create("a"):
        before = open_descriptors()
        with pytest.raises(FileExistsError):
            Namespace.create("a")
        assert open_descriptors() == before


def test_loopback_is_up_and_ipv6_is_off_unless_asked_for() -> None:
    def addresses() -> str:
        return subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout

    with Namespace.create("four") as four, Namespace.create("six", ipv6=True) as six:
        assert "127.0.0.1/8" in four.run(addresses)
        assert "inet6" not in four.run(addresses)
        assert "::1/128" in six.run(addresses)


def test_a_socket_belongs_to_the_namespace_it_was_made_in() -> None:
    stream = (socket.AF_INET, socket.SOCK_STREAM)
    with Namespace.create("a") as a, Namespace.create("b") as b, a.socket(*stream) as listener:
        listener.bind(("127.0.0.1", 80))
        listener.listen()
        with b.socket(*stream) as client, pytest.raises(ConnectionRefusedError):
            client.connect(("127.0.0.1", 80))
        with a.socket(*stream) as client:
            client.connect(("127.0.0.1", 80))


def test_entering_lasts_for_the_scope_even_when_it_ends_badly() -> None:
    def fail_inside(target: str | int, seen: list[int]) -> None:
        with enter(target):
            seen.append(here())
            raise KeyError(target)

    before = here()
    seen: list[int] = []
    with Namespace.create("a") as namespace:
        for target in (namespace.path, namespace.fd):
            with pytest.raises(KeyError):
                fail_inside(target, seen)
            assert here() == before
        assert seen == [os.fstat(namespace.fd).st_ino] * 2


def test_sysctls_are_set_in_the_namespace_alone() -> None:
    def forwarding() -> str:
        return Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()

    with Namespace.create("a") as a, Namespace.create("b") as b:
        a.sysctl("net.ipv4.ip_forward", 1)
        a.sysctl("net.ipv4.ip_local_port_range", "1024 65000")
        assert (a.run(forwarding), b.run(forwarding)) == ("1", "0")


@pytest.mark.parametrize(
    ("key", "value"),
    [("net.ipv4.no_such_thing", 1), ("net.ipv4.ip_forward", "nonsense"), ("net.core.rmem_max", 1)],
)
def test_a_sysctl_that_does_not_take_the_value_is_refused(key: str, value: str | int) -> None:
    with Namespace.create("a") as namespace, pytest.raises(SysctlRefused, match=key):
        namespace.sysctl(key, value)


def test_under_greenlets_the_callers_thread_is_not_moved_by_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    class Greenlet:
        def __init__(self, target, name):  # type: ignore[no-untyped-def]
            self.start = target

        def join(self) -> None:
            """Has run already."""

    monkeypatch.setattr(threading, "Thread", Greenlet)
    with pytest.raises(RuntimeError, match="greenlets"):
        in_own_thread(here)
