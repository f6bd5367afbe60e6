"""nftables transactions over netlink leave what `nft -f` leaves of the same text, or nothing at all."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from testbed.errors import MachineLacks, TransactionRefused
from testbed.net.process import run
from testbed.proxy.model import Endpoint, Family, ServicePort, ServicePortName, choose_endpoints
from testbed.proxy.nftables import base
from testbed.proxy.nftables.book import Book
from testbed.proxy.nftables.kernel import NfTables
from testbed.proxy.nftables.messages import encode
from testbed.proxy.nftables.proxier import NftablesProxier
from testbed.proxy.nftables.render import Piece, render_port
from testbed.proxy.nftables.transaction import TransactionSocket
from testbed.proxy.proxier import ProxySettings
from testbed.proxy.servicemap import ServiceMap

TABLE = base.table(Family.IPV4)
RANGES = {
    Family.IPV4: ("0.0.0.0/8", "10.0.0.0/8", "11.0.0.0/8", "192.0.2.7/32", "198.18.0.0/15", "224.0.0.0/3"),
    Family.IPV6: ("::/16", "fd00::/16", "fd01::/16", "2001:db8::7/128", "fe80::/10", "ff00::/8"),
}
NODE_IPS = {Family.IPV4: ("192.0.2.1", "198.18.0.1"), Family.IPV6: ("2001:db8::1",)}
CLUSTER_CIDRS = {
    Family.IPV4: (None, "10.244.0.0/16", "10.244.0.0/14", "10.244.7.0/25"),
    Family.IPV6: (None, "fd00:244::/48", "fd00:244::/45"),
}


@dataclass
class Cluster:
    """Services that come, change and go at random; the same for the same seed."""

    family: Family
    dice: random.Random
    ports: dict[ServicePortName, Piece] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = ProxySettings(
            family=self.family,
            node_ips=NODE_IPS[self.family],
            nodeport_addresses=self.dice.choice(((), NODE_IPS[self.family])),
            cluster_cidr=self.dice.choice(CLUSTER_CIDRS[self.family]),
            masquerade_all=self.dice.random() < 0.2,
            masquerade_bit=self.dice.choice((14, 31)),
        )

    def texts(self) -> Iterator[str]:
        """A load, some changes, another load as after a restart, and the removal of what that left over."""
        for _ in range(12):
            self._turn()
        book = Book(self.settings)
        yield from book.load(self.ports.items(), fresh=True)
        chains, sets = {}, {}
        for _ in range(6):
            yield book.change(dict(self._turn() for _ in range(4)).items())
        for piece in self.ports.values():
            chains |= piece.chains
            sets |= piece.sets
        for _ in range(4):
            self._turn()
        again = Book(self.settings)
        yield from again.load(self.ports.items())
        yield from again.leftovers(chains, sets)

    def _turn(self) -> tuple[ServicePortName, Piece | None]:
        """One Service port becomes another one, or goes."""
        dice = self.dice
        number = dice.randrange(16)
        name = ServicePortName("default", f"svc{number}", dice.choice(("", "http")), self._protocol(number))
        if dice.random() < 0.2:
            self.ports.pop(name, None)
            return name, None
        port = ServicePort(
            name,
            self._address(96, number),
            80,
            node_port=dice.choice((0, 30000 + number)),
            external_ips=tuple(self._address(100, number) for _ in range(dice.randrange(2))),
            load_balancer_ips=tuple(self._address(101, number + at) for at in range(dice.randrange(3))),
            source_ranges=tuple(dice.sample(RANGES[self.family], dice.randrange(5))),
            affinity_timeout_s=60 if number % 3 == 0 else None,
            external_local=dice.random() < 0.4,
            internal_local=dice.random() < 0.2,
        )
        behind = [
            Endpoint(self._address(244, place), dice.choice((80, 8080)), local=dice.random() < 0.5)
            for place in sorted(dice.sample(range(1, 40), dice.randrange(6)))
        ]
        self.ports[name] = render_port(port, choose_endpoints(port, behind), self.settings)
        return name, self.ports[name]

    @staticmethod
    def _protocol(number: int) -> str:
        return ("TCP", "UDP", "SCTP")[number % 3]

    def _address(self, net: int, number: int) -> str:
        return f"10.{net}.0.{number}" if self.family is Family.IPV4 else f"fd00:{net}::{number:x}"


def listed() -> list[object]:
    """Everything in nf_tables, without what the kernel numbers and in no order of its hashes."""
    found = json.loads(run(["nft", "-j", "list", "ruleset"]).stdout)["nftables"]
    return [_plain(each) for each in found if "metainfo" not in each]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        plain = {key: _plain(inner) for key, inner in value.items() if key != "handle"}
        for key in {"elem", "set"} & plain.keys():
            if isinstance(plain[key], list):
                plain[key].sort(key=json.dumps)
        return plain
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def by_nft(text: str) -> None:
    run(["nft", "-f", "-"], input=text)


@pytest.fixture
def kernel() -> Iterator[NfTables]:
    with NfTables(Family.IPV4) as kernel:
        yield kernel


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(more, marks=pytest.mark.validate) for more in range(1, 20))]
)
@pytest.mark.parametrize("family", Family)
def test_both_ways_leave_the_same_rules_sets_elements_and_comments(family: Family, seed: int) -> None:
    texts = list(Cluster(family, random.Random(seed)).texts())
    left = []
    with NfTables(family) as kernel:
        for apply in (kernel.apply, by_nft):
            states = []
            for text in texts:
                apply(text)
                states.append(listed())
            left.append(states)
            kernel.apply(base.render_removal(family))
            assert listed() == []
    for by_netlink, with_nft in zip(*left, strict=True):
        assert by_netlink == with_nft
    assert left[0][-1][0] == {"table": {"family": base.ip(family), "name": base.TABLE}}


def test_a_list_longer_than_an_attribute_is_split_among_messages(kernel: NfTables) -> None:
    name = ServicePortName("n" * 63, "s" * 63, "p" * 63)
    port = ServicePort(name, "10.96.0.1", 80)
    behind = [Endpoint(f"10.244.{place >> 8}.{place & 255}", 8000) for place in range(600)]
    piece = render_port(port, choose_endpoints(port, behind), ProxySettings())
    text = "".join(Book(ProxySettings()).load([(name, piece)], fresh=True))
    left = []
    for apply in (kernel.apply, by_nft):
        apply(text)
        left.append(listed())
        kernel.apply(base.render_removal(Family.IPV4))
    assert left[0] == left[1]


@pytest.mark.parametrize(
    "bad",
    [
        f"delete chain {TABLE} nowhere",
        f"add rule {TABLE} nowhere drop",
        f"add rule {TABLE} web goto nowhere",
        f"delete element {TABLE} cluster-ips {{ 10.96.0.9 }}",
        f"add rule {TABLE} web ip saddr @affinity-gone goto services",
    ],
)
def test_a_refusal_names_the_command_and_leaves_everything_as_it_was(kernel: NfTables, bad: str) -> None:
    kernel.apply("".join(Book(ProxySettings()).load([], fresh=True)))
    kernel.apply(f"add chain {TABLE} web\n")
    before = listed()
    with pytest.raises(TransactionRefused) as refused:
        kernel.apply(f"add chain {TABLE} new\nadd rule {TABLE} new drop\n{bad}\nadd rule {TABLE} new drop\n")
    assert str(refused.value) == f"{bad}: No such file or directory"
    assert refused.value.errno == errno.ENOENT
    assert listed() == before


def test_a_loop_is_refused_and_leaves_everything_as_it_was(kernel: NfTables) -> None:
    kernel.apply("".join(Book(ProxySettings()).load([], fresh=True)))
    before = listed()
    loop = "add chain {0} round\nadd rule {0} round jump services\nadd rule {0} services jump round\n"
    with pytest.raises(TransactionRefused, match=r"Too many (levels of symbolic )?links"):
        kernel.apply(loop.format(TABLE))
    assert listed() == before


def test_more_refusals_than_can_be_answered_still_name_the_first(kernel: NfTables) -> None:
    lines = [f"delete chain ip nowhere chain{number}\n" for number in range(5000)]
    with pytest.raises(TransactionRefused, match="delete chain ip nowhere chain0: No such file"):
        kernel.apply("".join(lines))
    kernel.apply(f"add table {TABLE}\n")
    assert kernel.exists()


def test_a_transaction_longer_than_the_socket_takes_says_what_to_raise() -> None:
    line = f"add chain {TABLE} " + "c" * 200
    with TransactionSocket(send_buffer_bytes=200_000) as transactions:
        enough = transactions.most_bytes // len(line) + 1
        messages = list(encode(Family.IPV4, [f"add table {TABLE}", *[line] * enough]))
        with pytest.raises(MachineLacks, match=r"longer than this socket takes.*net\.core\.wmem_max"):
            transactions.commit(messages)
        assert listed() == []
        transactions.commit(messages[: len(messages) // 4])
    assert len(listed()) == 2


@pytest.mark.parametrize("family", Family)
def test_loads_and_removals_fit_into_little_room_and_end_where_nft_does(family: Family) -> None:
    cluster = Cluster(family, random.Random(7))
    list(cluster.texts())
    with TransactionSocket(send_buffer_bytes=8_000) as transactions, NfTables(family) as kernel:
        most = transactions.most_bytes // 3
        book = Book(cluster.settings, most)
        texts = [*book.load(cluster.ports.items(), fresh=True), *Book(cluster.settings, most).load([])]
        chains = dict.fromkeys(chain for piece in cluster.ports.values() for chain in piece.chains)
        texts += Book(cluster.settings, most).leftovers(reversed(chains), [])
        assert len(texts) > 10
        looks = {len(texts) // 3, 2 * len(texts) // 3, len(texts) - 1}
        left = []
        for number, text in enumerate(texts):
            messages = list(encode(family, text.splitlines()))
            assert transactions.commit(messages) <= 3 * len(text)
            left += [listed()] if number in looks else []
        kernel.apply(base.render_removal(family))
        for number, text in enumerate(texts):
            by_nft(text)
            assert number not in looks or left.pop(0) == listed()


def test_a_change_too_long_for_the_socket_is_loaded_in_transactions_that_are_not() -> None:
    services = ServiceMap()

    def announce(number: int, address: str) -> set[ServicePortName]:
        key = ("default", f"svc{number}")
        name = ServicePortName(*key, "")
        changed = services.set_service(key, [ServicePort(name, f"10.96.0.{number}", 80)])
        return changed | services.set_slice(key, "slice", {name: (Endpoint(address, 8000),)})

    narrow = NfTables(Family.IPV4, TransactionSocket(send_buffer_bytes=8_000))
    proxier = NftablesProxier(ProxySettings(), narrow)
    names = set().union(*(announce(number, "10.244.0.1") for number in range(20)))
    assert proxier.sync(services, names).full
    assert not proxier.sync(services, announce(0, "10.244.0.2")).full
    assert proxier.sync(services, set().union(*(announce(number, "10.244.0.3") for number in range(20)))).full
    left = listed()
    proxier.close()
    assert listed() == []
    NftablesProxier(ProxySettings()).sync(services, None)
    assert sorted(left, key=json.dumps) == sorted(listed(), key=json.dumps)
