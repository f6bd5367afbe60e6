"""Network namespaces: how one is made, named, entered for a moment and let go.

Owns the file descriptor that keeps a namespace alive, its name under /run/netns and its sysctls. Must not
know links, addresses or what a namespace stands for.

A name is a symlink to the owner's descriptor (/proc/<pid>/fd/<n>), not a bind mount: `ip netns exec NAME`
follows it just as well, it costs 7 µs instead of 39 + 95 (mount + unmount), it does not slow down every later
unshare(CLONE_NEWNS) by copying one more mount, and it can never keep a namespace alive after its owner.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from testbed.errors import MachineLacks, SysctlRefused
from testbed.net import syscalls
from testbed.net.sandbox import set_loopback_up

NAMES = Path("/run/netns")
_THREAD_NAMESPACE = "/proc/thread-self/ns/net"

P = ParamSpec("P")
T = TypeVar("T")


class Namespace:
    """An open network namespace; it lives as long as this object (or a process or socket inside) does.

    `name` is a label for people, `fd` the open descriptor, `path` what other processes open to enter it.
    A process forked later holds the descriptor too: the namespace then ends when the last holder does.
    """

    def __init__(self, name: str, fd: int, path: str) -> None:
        self.name = name
        self.fd = fd
        self.path = path

    @classmethod
    def create(cls, name: str, *, ipv6: bool = False) -> Namespace:
        """Make a namespace with loopback up, known to `ip netns exec` as `name`.

        Without `ipv6` the protocol is off before any device exists, which halves the price of every link.
        Raises FileExistsError if the name is taken, MachineLacks if the kernel refuses one more namespace.
        """

        def build() -> Namespace:
            namespace = become(name, ipv6=ipv6)
            set_loopback_up()
            return namespace

        return in_own_thread(build)

    @classmethod
    def here(cls) -> Namespace:
        """The namespace that the calling thread is in."""
        fd = os.open(_THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        return cls("here", fd, _descriptor_path(fd))

    def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `fn` inside the namespace, in a short-lived thread; the caller's thread never moves.

        Costs about 0.4 ms, so do several things in one call. Exceptions of `fn` come out unchanged.
        """

        def inside() -> T:
            syscalls.setns(self.fd, syscalls.CLONE_NEWNET)
            return fn(*args, **kwargs)

        return in_own_thread(inside)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket that belongs to this namespace, wherever it is used."""
        return self.run(socket.socket, family, kind, protocol)

    def sysctl(self, key: str, value: str | int) -> None:
        """Set one sysctl of this namespace (`net.ipv4.ip_forward`) and read it back.

        Raises SysctlRefused if it does not exist here, is read-only, or keeps another value.
        """
        self.sysctls({key: value})

    def sysctls(self, values: Mapping[str, str | int]) -> None:
        """Set several sysctls in order, in one visit; raises as `sysctl` does."""

        def write_all() -> None:
            for key, value in values.items():
                write_sysctl(key, value)

        self.run(write_all)

    def close(self) -> None:
        """Give up the name and the descriptor; harmless when done twice."""
        if self.fd < 0:
            return
        if self.path.startswith(f"{NAMES}/"):
            Path(self.path).unlink(missing_ok=True)
        os.close(self.fd)
        self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Namespace({self.name!r}, fd={self.fd})"


def become(name: str, *, ipv6: bool = False) -> Namespace:
    """Move the calling thread into a new namespace, for good; only for threads made for that purpose.

    Loopback is left down: a builder raises it in a batch of its own. Raises as `Namespace.create`.
    """
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise MachineLacks(
            f"the kernel makes no more network namespaces ({name} was refused)",
            "raise the sysctl user.max_net_namespaces",
        ) from error
    _prepare_ipv6(ipv6)
    fd = os.open(_THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        path = _publish(name, fd)
    except OSError:
        os.close(fd)
        raise
    return Namespace(name, fd, path)


@contextmanager
def enter(target: str | int) -> Iterator[None]:
    """Move the calling thread into a namespace (path or descriptor) for a scope, and back.

    For single-purpose processes that make many sockets (15 µs a switch); elsewhere use `Namespace.run`.
    """
    home = os.open(_THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC) if isinstance(target, str) else target
        try:
            syscalls.setns(fd, syscalls.CLONE_NEWNET)
        finally:
            if isinstance(target, str):
                os.close(fd)
        try:
            yield
        finally:
            syscalls.setns(home, syscalls.CLONE_NEWNET)
    finally:
        os.close(home)


def in_own_thread(fn: Callable[[], T]) -> T:
    """Call `fn` in a kernel thread of its own and wait for it: what it does to its thread ends there."""
    caller = threading.get_native_id()
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            if threading.get_native_id() == caller:
                raise RuntimeError("threads are greenlets here (gevent's patch): use namespace.enter")
            results.append(fn())
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
            errors.append(error)

    thread = threading.Thread(target=body, name="namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors.pop()
    return results.pop()


@cache  # parsing a path costs more than reading the file
def sysctl_path(key: str) -> Path:
    """Where a sysctl lives under /proc; `/` may separate where a name has dots in it."""
    return Path("/proc/sys") / (key if "/" in key else key.replace(".", "/"))


def write_sysctl(key: str, value: str | int) -> None:
    """Set a sysctl of the calling thread's namespace and read it back; raises SysctlRefused."""
    path = sysctl_path(key)
    wanted = " ".join(str(value).split())
    with suppress(OSError):
        path.write_text(wanted)
    try:
        found = " ".join(path.read_text().split())
    except OSError as error:
        raise SysctlRefused(key, wanted, error.strerror or str(error)) from error
    if found != wanted:
        raise SysctlRefused(key, wanted, found)


def _prepare_ipv6(wanted: bool) -> None:
    """Before any device exists: IPv6 off, or on without anything that sends packets by itself."""
    if not sysctl_path("net.ipv6.conf.all.disable_ipv6").exists():
        return
    if not wanted:
        write_sysctl("net.ipv6.conf.all.disable_ipv6", 1)  # also sets conf.default and loopback
        return
    for key, value in (
        ("accept_dad", 0),
        ("accept_ra", 0),
        ("router_solicitations", 0),
        ("addr_gen_mode", 1),
    ):
        write_sysctl(f"net.ipv6.conf.default.{key}", value)


def _publish(name: str, fd: int) -> str:
    """Let `ip netns` and other processes find a descriptor of ours under a name."""
    path = NAMES / name
    try:
        path.symlink_to(_descriptor_path(fd))
    except FileNotFoundError:
        NAMES.mkdir(mode=0o755, exist_ok=True)
        path.symlink_to(_descriptor_path(fd))
    return str(path)


def _descriptor_path(fd: int) -> str:
    return f"/proc/{os.getpid()}/fd/{fd}"
