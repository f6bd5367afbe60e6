"""The crew: a long-lived Locust environment whose users play one block after another.

Owns Locust's Environment and LocalRunner, the number of live users, and what surrounds a block: the
namespace, the garbage collector, the client's CPU time. Runs only inside the load process.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gevent.event import Event
from locust.env import Environment
from locust.event import EventHook

from testbed.load.block import Block
from testbed.load.cpu import read_cpu
from testbed.load.recorder import Recorder, Taken
from testbed.load.users import CLASSES, BlockUser, Turn, open_blocking, open_cooperative
from testbed.net.namespace import enter


@dataclass
class _Attendance:
    """Opens its door when as many users have finished as were counted."""

    missing: int
    door: Event = field(default_factory=Event)

    def one_is_done(self) -> None:
        self.missing -= 1
        if not self.missing:
            self.door.set()


class Crew:
    """Locust users that live as long as the load process and wait at their gates between blocks."""

    def __init__(self) -> None:
        self.environment = Environment(user_classes=list(CLASSES.values()))
        self.runner = self.environment.create_local_runner()
        # Locust's own counting rounds to milliseconds and reads the clock twice a request, two system calls
        # in user-mode Linux: it is left out. Whoever listens to `request` hears of every sample.
        self.environment.events.request = EventHook()
        self.environment.events.init.fire(environment=self.environment, runner=self.runner, web_ui=None)
        self.environment.events.test_start.fire(environment=self.environment)
        self._users: dict[str, list[BlockUser]] = {kind: [] for kind in CLASSES}

    def play(self, block: Block) -> Recorder:
        """Run the block with `block.users` users of this process."""
        users = self._gather(block.user, block.users)
        recorder = Recorder(block.id, len(block.targets))
        attendance = _Attendance(len(users))
        # A single user may block the process; several must take turns.
        open_socket = open_blocking if len(users) == 1 else open_cooperative
        with enter(block.namespace):
            gc.disable()
            before = read_cpu()
            try:
                recorder.unix_ns, cpu_ns = time.time_ns(), time.process_time_ns()
                recorder.started_ns = time.perf_counter_ns()
                for number, user in enumerate(users):
                    user.gate.put(
                        Turn(
                            targets=block.targets,
                            ends_ns=recorder.started_ns + block.duration_ns,
                            timeout_ns=block.timeout_ns,
                            seed=block.seed + number,
                            open_socket=open_socket,
                            recorder=recorder,
                            done=attendance.one_is_done,
                            drain=block.drain,
                        )
                    )
                attendance.door.wait()
                recorder.ended_ns = time.perf_counter_ns()
                recorder.client_cpu_ns = time.process_time_ns() - cpu_ns
                after = read_cpu()
            finally:
                gc.enable()
        recorder.idle_ns, recorder.timer_interrupts = after.idle_ns(before), after.interrupts(before)
        if block.user != "http":
            self._tell_locust(block, recorder.taken)
        return recorder

    def quit(self) -> None:
        self.environment.events.test_stop.fire(environment=self.environment)
        self.runner.quit()

    def _gather(self, kind: str, count: int) -> Sequence[BlockUser]:
        """At least `count` live users of this kind; spawning happens outside of any block's time."""
        users = self._users[kind]
        if (missing := count - len(users)) > 0:
            users.extend(self.runner.spawn_users({CLASSES[kind].__name__: missing}))
        return users[:count]

    def _tell_locust(self, block: Block, taken: Sequence[Taken]) -> None:
        """Report the samples to Locust's listeners, in float milliseconds, after the block."""
        fire: Any = self.environment.events.request.fire
        names = [f"{host}:{port}" for host, port in block.targets]
        for target, start, _, first_byte, answer in taken:
            fire(
                request_type=block.user,
                name=names[target],
                response_time=(first_byte - start) / 1e6,
                response_length=len(answer),
                exception=None,
                context={},
            )
