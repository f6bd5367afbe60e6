"""The client of the load process, for the bench. Must not import locust.

Owns the load process from its start to its end and turns blocks into messages.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from testbed.errors import ProcessDied, TestbedError, WaitTimeout
from testbed.load.block import SECOND, Block, BlockResult
from testbed.load.lines import Lines
from testbed.net import process

if TYPE_CHECKING:
    from testbed.net.process import Child

READY_TIMEOUT_S = 120.0
"""Importing locust takes half a second on a host and up to 17 s in an emulated kernel."""

GRACE_S = 30.0
"""How much longer than its duration and one timeout a block may take before the process counts as stuck."""


END_TIMEOUT_S = 2.0


class BlockRefused(TestbedError):
    """The load process could not run a block: a namespace that is gone, a kind of user it does not know."""


class LoadProcess:
    """A running load process; a context manager that ends it."""

    def __init__(self, child: Child, wire: Lines) -> None:
        self._child = child
        self._wire = wire

    @classmethod
    def start(cls, *, log: Path | None = None) -> Self:
        """Start the process without waiting for it: it imports locust while the lanes are built."""
        ours, theirs = socket.socketpair()
        with theirs:
            child = process.spawn(
                [sys.executable, "-m", "testbed.load.worker", "--fd", str(theirs.fileno())],
                name="load",
                env={**os.environ, "PYTHONHASHSEED": "0"},
                log=log,
                pass_fds=(theirs.fileno(),),
            )
        return cls(child, Lines(ours))

    @property
    def pid(self) -> int:
        return self._child.pid

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until blocks can be run; call it once. Raises WaitTimeout or ProcessDied."""
        self._receive(timeout_s, "the load process to be ready")

    def run(self, block: Block) -> BlockResult:
        """Run one block. Raises BlockRefused, WaitTimeout, or ProcessDied with the process's last words."""
        self.send(block)
        return self.receive(block)

    def send(self, block: Block) -> None:
        """Start a block and return at once; `receive` collects it."""
        try:
            self._wire.send({"block": block.to_json()})
        except OSError as error:
            raise self._died() from error

    def receive(self, block: Block) -> BlockResult:
        """The result of the block that was sent."""
        limit_s = (block.duration_ns + block.timeout_ns) / SECOND + GRACE_S
        answer = self._receive(limit_s, f"block {block.id} of {block.user} to end")
        if "refused" in answer:
            raise BlockRefused(f"block {block.id}: {answer['refused']}")
        return BlockResult.from_json(answer["done"])

    def close(self) -> None:
        """End the process: end of file first, SIGKILL after two seconds."""
        self._wire.close()
        self._child.wait(END_TIMEOUT_S)
        self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self, timeout_s: float, what: str) -> dict[str, Any]:
        try:
            answer = self._wire.receive(timeout_s)
        except TimeoutError as error:
            raise WaitTimeout(what, timeout_s) from error
        if answer is None:
            raise self._died()
        return answer

    def _died(self) -> ProcessDied:
        status = self._child.wait(1.0)
        return ProcessDied("the load process", status, self._child.evidence())
