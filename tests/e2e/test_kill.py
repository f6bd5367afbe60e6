"""However and whenever the outermost process ends, nothing of its session stays."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from other_users import reachable_directory, without_user_namespaces

from testbed.net.wait import wait_until

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SEED = 20260
# What a session takes to be complete on an idle machine; the moments of death are spread over twice that.
USUAL_S = {"host": 0.25, "uml": 2.5, "qemu": 12.0}
ROUNDS = {"host": 6, "uml": 2, "qemu": 1}
KERNELS = ("host", pytest.param("uml", marks=pytest.mark.guest))
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
GONE_TIMEOUT_S = 20.0


@dataclass
class Victim:
    """A launcher in a process of its own, recognised by a token in the environment of all it starts."""

    kernel: str
    home: Path
    wrapper: tuple[str, ...] = ()
    seen: dict[int, str] = field(default_factory=dict)
    namespaces: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.token = f"mess{random.SystemRandom().getrandbits(48):012x}"
        self.temporary, self.writable = self.home / "tmp", self.home / "results"
        for directory in (self.home, self.temporary, self.writable):
            directory.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [
                *self.wrapper,
                sys.executable,
                HERE / "session_launcher.py",
                self.kernel,
                self.token,
                self.writable,
            ],
            env=os.environ
            | {
                "TESTBED_TEST_TOKEN": self.token,
                "PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE))),
                "TMPDIR": str(self.temporary),
                "HOME": str(self.home),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def die(self, number: int) -> None:
        self.look()
        os.kill(self.process.pid, number)
        self.process.wait(GONE_TIMEOUT_S)

    def look(self) -> None:
        """Remember the living processes of the session, and the pid namespaces they are in."""
        parents = dict(_parents())
        family = {self.process.pid}
        while grown := {pid for pid, parent in parents.items() if parent in family} - family:
            family |= grown
        for pid in parents:
            if pid in family or self._bears_token(pid) or _namespace(pid, "pid") in self.namespaces:
                with suppress(OSError):
                    self.seen[pid] = _start_time(pid)
                    self.namespaces |= {_namespace(pid, "pid")} - {_namespace(os.getpid(), "pid"), ""}

    def survivors(self) -> list[int]:
        self.look()
        return [pid for pid, started in self.seen.items() if _lives(pid, started) and pid != self.process.pid]

    def assert_nothing_stays(self) -> None:
        wait_until(lambda: not self.survivors(), f"the end of {self.seen}", GONE_TIMEOUT_S)
        mounts = Path("/proc/self/mountinfo").read_text()
        assert self.token not in mounts
        assert str(self.home) not in mounts
        assert not [path for path in Path("/run/netns").glob("*") if self.token in path.name]
        assert list(self.temporary.iterdir()) == []
        assert list(self.writable.iterdir()) == []
        assert sorted(path.name for path in self.home.iterdir()) == ["results", "tmp"]

    def _bears_token(self, pid: int) -> bool:
        with suppress(OSError):
            return self.token.encode() in Path(f"/proc/{pid}/environ").read_bytes()
        return False


@pytest.fixture(autouse=True)
def _interrupts_are_heard() -> Iterator[None]:
    """Children inherit an ignored SIGINT, as a shell gives it to what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("kernel", [*KERNELS, pytest.param("qemu", marks=pytest.mark.validate)])
def test_nothing_stays_whenever_the_launcher_is_killed(kernel: str, number: int, tmp_path: Path) -> None:
    chance = random.Random(f"{SEED} {kernel} {number}")
    for turn in range(ROUNDS[kernel]):
        victim = Victim(kernel, tmp_path / str(turn))
        time.sleep(chance.uniform(0, 2 * USUAL_S[kernel]))  # the random moment, not a wait for something
        victim.die(number)
        victim.assert_nothing_stays()


@pytest.mark.parametrize("kernel", [*KERNELS, "qemu"])
def test_nothing_stays_when_the_session_is_complete(kernel: str, tmp_path: Path) -> None:
    victim = Victim(kernel, tmp_path / "home")
    assert victim.process.stdout is not None
    assert victim.process.stdout.readline() == b"messy\n"
    victim.look()
    assert len(victim.seen) >= 3
    victim.die(signal.SIGKILL)
    victim.assert_nothing_stays()


@pytest.mark.parametrize("kernel", [KERNELS[1], pytest.param("qemu", marks=pytest.mark.validate)])
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_nothing_stays_of_a_guest_where_user_namespaces_are_forbidden(
    kernel: str, number: int, forbidden_home: Path
) -> None:
    victim = Victim(kernel, forbidden_home, wrapper=without_user_namespaces())
    assert victim.process.stdout is not None
    assert victim.process.stdout.readline() == b"messy\n"
    victim.die(number)
    victim.assert_nothing_stays()


@pytest.fixture
def forbidden_home() -> Iterator[Path]:
    with reachable_directory() as home:
        yield home


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                yield int(entry.name), int(_stat(int(entry.name))[1])


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _start_time(pid: int) -> str:
    return _stat(pid)[19]


def _lives(pid: int, started: str) -> bool:
    """Whether this very process runs; a zombie is only a line in a table that its parent has not read."""
    with suppress(OSError):
        fields = _stat(pid)
        return fields[0] not in "ZX" and fields[19] == started
    return False


def _namespace(pid: int, kind: str) -> str:
    with suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    return ""
