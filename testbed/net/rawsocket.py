"""TCP sockets as bare file descriptors, with the fewest system calls that Linux allows.

Owns the three calls that Python's socket objects make dearer or impossible on a bare descriptor: an accept
that returns a non-blocking socket in one call (the standard library needs three), the half-close and
TCP_NODELAY. Where a system call costs tens of microseconds, as in user-mode Linux, this is what a
connection's price is made of. Must not know who talks to whom.
"""

from __future__ import annotations

import _socket
import ctypes
import errno
import os
import socket
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_accept4 = _libc.accept4
_shutdown = _libc.shutdown
_setsockopt = _libc.setsockopt

# The class in C, whose constructor is three times quicker than that of its subclass in `socket`.
_new_socket = _socket.socket

_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_UNDER_WAY = frozenset({0, errno.EINPROGRESS})
_STREAM = socket.SOCK_STREAM | _FLAGS
_ON = ctypes.c_int(1)
_ON_SIZE = ctypes.sizeof(_ON)
_ON_POINTER = ctypes.byref(_ON)
_NO_LINGER = struct.pack("ii", 1, 0)

_peer = ctypes.create_string_buffer(28)  # struct sockaddr_in6, the longer one
_peer_size = ctypes.c_uint32(28)
_peer_size_pointer = ctypes.byref(_peer_size)
_ipv4 = struct.Struct("!2xH4B").unpack_from
_ipv6 = struct.Struct("!2xH4x16s").unpack_from


def accept(listener: int) -> int:
    """Accept one connection; the descriptor returned is non-blocking and closes on exec.

    Raises BlockingIOError when no connection waits, another OSError as accept4(2) says.
    """
    fd: int = _accept4(listener, None, None, _FLAGS)
    if fd < 0:
        raise _error()
    return fd


def accept_ipv4(listener: int) -> tuple[int, str, int]:
    """Accept one connection on an IPv4 listener: descriptor, the peer's address and port.

    Not for several threads at once: they share one buffer.
    """
    _peer_size.value = 28
    fd: int = _accept4(listener, _peer, _peer_size_pointer, _FLAGS)
    if fd < 0:
        raise _error()
    port, a, b, c, d = _ipv4(_peer)
    return fd, f"{a}.{b}.{c}.{d}", port


def accept_ipv6(listener: int) -> tuple[int, str, int]:
    """Accept one connection on an IPv6 listener; otherwise as `accept_ipv4`."""
    _peer_size.value = 28
    fd: int = _accept4(listener, _peer, _peer_size_pointer, _FLAGS)
    if fd < 0:
        raise _error()
    port, address = _ipv6(_peer)
    return fd, socket.inet_ntop(socket.AF_INET6, address), port


def dial(address: tuple[str, int]) -> int:
    """Begin to connect to an IPv4 address; the descriptor returned is non-blocking and may not be connected.

    Raises OSError when the kernel refuses at once (no route, no free local port, no descriptor).
    """
    sock = _new_socket(socket.AF_INET, _STREAM, 0)
    status = sock.connect_ex(address)
    if status not in _UNDER_WAY:
        sock.close()
        raise OSError(status, os.strerror(status))
    return sock.detach()


def end_sending(fd: int) -> None:
    """Close the sending half: the peer reads an end of file. A connection that is gone is not an error."""
    _shutdown(fd, socket.SHUT_WR)


def send_at_once(fd: int) -> None:
    """Switch Nagle's algorithm off (TCP_NODELAY)."""
    _setsockopt(fd, socket.IPPROTO_TCP, socket.TCP_NODELAY, _ON_POINTER, _ON_SIZE)


def reset_on_close(fd: int) -> None:
    """Make close(2) reset the connection instead of ending it cleanly (SO_LINGER with no time)."""
    _setsockopt(fd, socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER, len(_NO_LINGER))


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
