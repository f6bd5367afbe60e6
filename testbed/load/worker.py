"""The load process: `python -m testbed.load.worker --fd N`.

Answers JSON lines on an inherited stream socket: `{"block": {...}}` with `{"done": {...}}` or
`{"refused": "why"}`; says `{"ready": true}` first and ends at end of file. A block of several processes is
shared with forks of itself, which answer `{"share": {...}}` with what they recorded. Nothing here is timed:
`crew` and `users` do that.
"""

from __future__ import annotations

import argparse
import gc
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import locust  # noqa: F401 - patches sockets before anything below opens one

from testbed.load.block import Block, BlockResult
from testbed.load.crew import Crew
from testbed.load.lines import Lines
from testbed.load.recorder import Recorder, append_samples
from testbed.net.syscalls import die_with_parent


class Worker:
    """Plays blocks with its own crew and, when a block wants more processes, with forks of itself."""

    def __init__(self, wire: Lines) -> None:
        self._wire = wire
        self._crew = Crew()
        self._forks: list[Lines] = []

    def serve(self) -> int:
        """Answer commands until the other side ends; the exit status."""
        gc.collect()
        gc.freeze()
        self._wire.send({"ready": True})
        while (command := self._wire.receive()) is not None:
            self._wire.send(self._answer(command))
        self._crew.quit()
        return 0

    def _answer(self, command: dict[str, Any]) -> dict[str, Any]:
        try:
            if "share" in command:
                return {"recorded": self._crew.play(Block.from_json(command["share"])).to_json()}
            return {"done": self._play(Block.from_json(command["block"])).to_json()}
        except (KeyError, TypeError, ValueError, OSError) as error:
            return {"refused": f"{type(error).__name__}: {error}"}

    def _play(self, block: Block) -> BlockResult:
        shares = split(block)
        while len(self._forks) < len(shares) - 1:
            self._forks.append(self._fork())
        helpers = self._forks[: len(shares) - 1]
        for helper, share in zip(helpers, shares[1:], strict=True):
            helper.send({"share": share.to_json()})
        recorder = self._crew.play(shares[0])
        for helper in helpers:
            answer = helper.receive()
            if answer is None or "recorded" not in answer:
                raise OSError(f"a forked load process failed: {answer}")
            recorder.merge(Recorder.from_json(answer["recorded"]))
        result = recorder.summary()
        if block.samples_path is None:
            return result
        append_samples(block.samples_path, recorder.packed(list(result.endpoints)))
        return replace(result, samples_written=result.requests)

    def _fork(self) -> Lines:
        ours, theirs = socket.socketpair()
        self_pidfd = os.pidfd_open(os.getpid())
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                die_with_parent(self_pidfd)
                ours.close()
                self._wire.close()
                for sibling in self._forks:
                    sibling.close()
                status = Worker(Lines(theirs)).serve()
            finally:
                os._exit(status)
        os.close(self_pidfd)
        theirs.close()
        helper = Lines(ours)
        if helper.receive(timeout_s=60) is None:
            raise OSError("a forked load process ended at once")
        return helper


def split(block: Block) -> list[Block]:
    """The block's users spread evenly over its processes; never more processes than users."""
    processes = min(block.processes, block.users)
    fewer, more = divmod(block.users, processes)
    shares = []
    first = 0
    for number in range(processes):
        users = fewer + (number < more)
        shares.append(replace(block, users=users, processes=1, samples_path=None, seed=block.seed + first))
        first += users
    return shares


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="testbed.load.worker")
    parser.add_argument("--fd", type=int, required=True, help="an inherited stream socket")
    arguments = parser.parse_args(argv)
    return Worker(Lines(socket.socket(fileno=arguments.fd))).serve()


if __name__ == "__main__":
    sys.exit(main())
