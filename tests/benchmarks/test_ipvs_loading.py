"""What it costs to load Services into IPVS, beside the same netlink messages sent bare, in user-mode Linux.

All ways run in one guest, turn by turn. `bare` has the last of a hundred messages acknowledged, as the
proxier does; `acknowledged` every one, as netlink libraries do. The proxier's time holds everything from a
filled service map to traffic: planning, comparing, virtual and real servers, addresses, ipsets and rules. The
second group is one endpoint's swap: it must not depend on the number of Services. Without --benchmark-enable
a few Services show that all ways work.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from testbed.kernel import Job, UmlKernel

pytestmark = pytest.mark.guest

ANSWER_S = 240.0
# Multiples of a batch, so that its last message is the one that is acknowledged.
SIZES = [(1000, 10), (5000, 10), (10000, 3)]


class Loader:
    """The other side of the line: has one thing done and waits until it is."""

    def __init__(self, session: Any) -> None:
        self._session = session
        assert self.receive()["ready"]

    def __call__(self, do: str, **arguments: Any) -> dict[str, Any]:
        self._session.line.send({"do": do, **arguments})
        return self.receive()

    def receive(self) -> dict[str, Any]:
        answer: dict[str, Any] | None = self._session.line.receive(ANSWER_S)
        assert answer is not None, f"the guest ended with {self._session.wait()}"
        return answer


@pytest.fixture(scope="module")
def loader() -> Iterator[Loader]:
    job = Job("ipvs_loading:main", {}, modes=frozenset({"ipvs"}), memory_mb=1024)
    with UmlKernel().start(job) as session:
        yield Loader(session)


@pytest.mark.parametrize("way", ["bare", "acknowledged", "proxier"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_load(benchmark: BenchmarkFixture, loader: Loader, size: tuple[int, int], way: str) -> None:
    services, endpoints = size if benchmark.enabled else (100, 2)
    benchmark.group = f"load {services} x {endpoints}"
    written = []

    def prepare() -> None:
        loader("prepare", way=way, services=services, endpoints=endpoints)

    def load() -> None:
        written.append(loader("load")["written"])

    benchmark.pedantic(load, setup=prepare, rounds=3 if benchmark.enabled else 1)
    benchmark.extra_info.update(loader("end"), written=written[0])
    assert way != "proxier" or min(written) >= services * (endpoints + 2)


@pytest.mark.parametrize("services", [100, 5000])
def test_change(benchmark: BenchmarkFixture, loader: Loader, services: int) -> None:
    services = services if benchmark.enabled else services // 50
    benchmark.group = "swap one endpoint"
    loader("prepare", way="proxier", services=services, endpoints=3)
    loader("load")
    result = benchmark.pedantic(lambda: loader("change"), rounds=20 if benchmark.enabled else 2)
    loader("end")
    assert result["written"] <= 4
