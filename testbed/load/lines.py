"""JSON lines over a stream socket: the wire between the bench, the load process and its forks."""

from __future__ import annotations

import json
import socket
from typing import Any


class Lines:
    """Owns one end of the socket. Works on a gevent socket as on a plain one."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._rest = b""

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Send one message. Raises BrokenPipeError when the other side is gone."""
        self._end.settimeout(None)
        self._end.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def receive(self, timeout_s: float | None = None) -> dict[str, Any] | None:
        """The next message, or None when the other side has ended. Raises TimeoutError."""
        self._end.settimeout(timeout_s)
        parts = [self._rest]
        while b"\n" not in parts[-1]:
            try:
                received = self._end.recv(1 << 20)
            except ConnectionResetError:
                return None
            if not received:
                return None
            parts.append(received)
        line, _, self._rest = b"".join(parts).partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        self._end.close()
