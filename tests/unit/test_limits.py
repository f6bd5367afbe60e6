"""What will not fit is refused before anything is built, with the remedy."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.errors import MachineLacks, UserError
from testbed.net import limits


@pytest.fixture
def file_limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_names_are_used_once() -> None:
    limits.check_names(["a", "b", "a-b"])
    with pytest.raises(UserError, match="a, b: used twice"):
        limits.check_names(["a", "b", "c", "a", "b"])


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b"])
def test_a_name_stays_inside_its_directory(name: str) -> None:
    with pytest.raises(UserError, match="cannot name a network namespace"):
        limits.check_names([name])


def test_a_bridge_has_1023_ports() -> None:
    limits.check_ports({"node1": 1023})
    with pytest.raises(MachineLacks, match=r"node2 needs a bridge with 1024 ports.*more nodes"):
        limits.check_ports({"node1": 1, "node2": 1024})


def test_memory_is_estimated() -> None:
    limits.check_memory(1)
    with pytest.raises(MachineLacks, match=r"400000 MB of memory and \d+ MB are free"):
        limits.check_memory(1_000_000)


def test_the_limit_on_open_files_is_raised_as_far_as_needed(file_limits: tuple[int, int]) -> None:
    _, hard = file_limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + 10, hard))
    limits.allow_open_files(500)
    soft, still_hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert open_files() + 500 <= soft < open_files() + 1000
    assert still_hard == hard


def test_a_sufficient_limit_is_left_alone(file_limits: tuple[int, int]) -> None:
    limits.allow_open_files(1)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == file_limits


def test_more_files_than_any_process_may_open_are_refused(file_limits: tuple[int, int]) -> None:
    ceiling = int(Path("/proc/sys/fs/nr_open").read_text())
    with pytest.raises(MachineLacks, match=r"open files and the limit is \d+: raise it: `ulimit -Hn"):
        limits.allow_open_files(ceiling)
