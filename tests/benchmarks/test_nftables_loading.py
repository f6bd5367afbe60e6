"""What nftables mode costs: a load from nothing, one endpoint's swap, beside bare `nft -f` of the same text.

`whole` is a load by nft in one transaction, as kube-proxy does it: the kernel's time for that grows with its
square. `pieces` is nft with the proxier's bounded transactions. Of a swap, `nft` reads back all there is
before it sends the change. `rule` is the least that any change of a rule costs: one that nothing leads to,
sent as the proxier sends, after which the kernel still walks all chains that a packet can reach. Without
--benchmark-enable a few Services show that every way works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from sandboxed import Puppet

from testbed.net.process import run
from testbed.proxy.model import Endpoint, ServicePort, ServicePortName
from testbed.proxy.nftables import base
from testbed.proxy.nftables.book import Book
from testbed.proxy.nftables.kernel import NfTables
from testbed.proxy.nftables.proxier import NftablesProxier
from testbed.proxy.nftables.render import Piece, render_port
from testbed.proxy.proxier import ProxySettings
from testbed.proxy.servicemap import ServiceMap

SETTINGS = ProxySettings(cluster_cidr="10.244.0.0/16", node_ips=("192.0.2.1",))
ENDPOINTS = 10
ONE_RULE = "".join(
    f"{command} {base.table(SETTINGS.family)} apart{rule}\n"
    for command, rule in (("add chain", ""), ("flush chain", ""), ("add rule", " meta l4proto tcp"))
)

# What the process inside the sandbox keeps from one call to the next.
_services: ServiceMap = ServiceMap()
_steps: list[Callable[[], object]] = []


@pytest.fixture
def puppet() -> Iterator[Puppet]:
    with Puppet() as puppet:
        yield puppet


@pytest.mark.parametrize("way", ["whole", "pieces", "proxier"])
@pytest.mark.parametrize("services", [100, 1000, 5000])
def test_load(benchmark: BenchmarkFixture, puppet: Puppet, services: int, way: str) -> None:
    services = services if benchmark.enabled else services // 50
    benchmark.group = f"load {services} x {ENDPOINTS}"
    rounds = 1 if services > 1000 or not benchmark.enabled else 3
    setup = partial(puppet.call, prepare_load, services, way)
    benchmark.pedantic(lambda: puppet.call(step), setup=setup, rounds=rounds)
    assert puppet.call(count_elements) == services


@pytest.mark.parametrize("way", ["nft", "rule", "proxier"])
@pytest.mark.parametrize("services", [100, 1000, 5000])
def test_change(benchmark: BenchmarkFixture, puppet: Puppet, services: int, way: str) -> None:
    services = services if benchmark.enabled else services // 50
    benchmark.group = f"swap one endpoint of {services} x {ENDPOINTS}"
    rounds = 10 if benchmark.enabled else 1
    puppet.call(prepare_changes, services, way, rounds)
    benchmark.pedantic(lambda: puppet.call(step), rounds=rounds)
    assert puppet.call(count_elements) == services


def prepare_load(services: int, way: str) -> None:
    """Make the next step a load into no table; rendering is part of the proxier's time only."""
    _announce_all(services)
    apply(base.render_removal(SETTINGS.family))
    texts = [] if way == "proxier" else list(Book(SETTINGS).load(pieces(), fresh=True))
    ways = {
        "whole": lambda: apply("".join(texts)),
        "pieces": lambda: list(map(apply, texts)),
        "proxier": partial(NftablesProxier(SETTINGS).sync, _services, None),
    }
    _steps[:] = [ways[way]]


def prepare_changes(services: int, way: str, rounds: int) -> None:
    """Load, and make the next steps one swap each."""
    _announce_all(services)
    proxier = NftablesProxier(SETTINGS)
    proxier.sync(_services, None)
    book = Book(SETTINGS)
    list(book.load(pieces()))
    _steps.clear()
    for turn in range(rounds):
        changed = _announce(services // 2, first=1 + turn % 2)
        if way == "nft":
            text = book.change((name, piece) for name, piece in pieces() if name in changed)
            _steps.insert(0, partial(apply, text))
        elif way == "rule":
            _steps.insert(0, partial(_kernel().apply, ONE_RULE))
        else:
            _steps.insert(0, partial(swap, proxier, services // 2, 1 + turn % 2))
    if way == "proxier":
        _announce(services // 2, first=0)


@cache
def _kernel() -> NfTables:
    return NfTables(SETTINGS.family)


def swap(proxier: NftablesProxier, number: int, first: int) -> None:
    """One change as the proxy sees it."""
    proxier.sync(_services, _announce(number, first))


def step() -> None:
    """Do the next thing prepared."""
    _steps.pop()()


def apply(text: str) -> None:
    """Bare nft."""
    run(["nft", "-f", "-"], input=text, timeout_s=600)


def count_elements() -> int:
    """ClusterIPs in the kernel."""
    return run(["nft", "list", "set", "ip", "kube-proxy", "cluster-ips"]).stdout.count("10.96.")


def pieces() -> Iterator[tuple[ServicePortName, Piece]]:
    """Every Service's piece, rendered now."""
    return ((name, render_port(_services[name], _services.choice(name), SETTINGS)) for name in _services)


def _announce_all(services: int) -> None:
    global _services
    _services = ServiceMap()
    for number in range(services):
        _announce(number, first=0)


def _announce(number: int, first: int) -> set[ServicePortName]:
    key = ("default", f"service{number}")
    name = ServicePortName(*key, "")
    places = range(number * 10 + first, number * 10 + first + ENDPOINTS)
    endpoints = tuple(Endpoint(f"10.244.{place >> 8 & 255}.{place & 255}", 8000) for place in places)
    changed = _services.set_service(key, [ServicePort(name, f"10.96.{number >> 8}.{number & 255}", 80)])
    return changed | _services.set_slice(key, "slice", {name: endpoints})
