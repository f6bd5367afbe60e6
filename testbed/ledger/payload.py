"""What a byte costs: echoes of messages of several sizes over one open connection.

Runs in the guest, in the client pod's namespace. The shared load has messages of one size; here the size is
all that changes.
"""

from __future__ import annotations

import socket
import time

SIZES = (64, 1024, 4096, 16384)
_REPEAT = 24
_WARM_UP = 4
_TIMEOUT_S = 30.0


def time_echoes(address: tuple[str, int]) -> dict[str, list[int]]:
    """Instructions from sending a message to having its whole echo, by size, one entry a repetition."""
    with socket.create_connection(address, timeout=_TIMEOUT_S) as connection:
        connection.setblocking(True)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found: dict[str, list[int]] = {str(size): [] for size in SIZES}
        for number in range(_WARM_UP + _REPEAT):
            for size in SIZES:
                took_ns = _echo(connection, b"." * (size - 1) + b"\n")
                if number >= _WARM_UP:
                    found[str(size)].append(took_ns)
    return found


def _echo(connection: socket.socket, message: bytes) -> int:
    missing = len(message)
    started_ns = time.perf_counter_ns()
    connection.sendall(message)
    while missing > 0:
        part = connection.recv(missing)
        if not part:
            raise ConnectionResetError("the backend closed before its whole answer")
        missing -= len(part)
    return time.perf_counter_ns() - started_ns
