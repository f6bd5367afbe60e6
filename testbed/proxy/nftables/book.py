"""What the table holds, and the transactions that bring it where it should be.

Owns the order of commands, and who an element belongs to when several want it. Pure: text comes out, nothing
is run. Must not know what Services mean.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from testbed.proxy.model import ServicePortName
from testbed.proxy.nftables import base
from testbed.proxy.nftables.render import Element, Piece
from testbed.proxy.proxier import ProxySettings

TRANSACTION_CHARACTERS = 1 << 20
"""A transaction of a load is at most so long: the kernel's time grows with its square."""
_ELEMENTS_A_LINE = 200

Pieces = Iterable[tuple[ServicePortName, Piece]]


@dataclass(slots=True)
class _Held:
    """What is remembered of a piece: rules by their hash, since their text would take most of the memory."""

    chains: dict[str, int] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)
    elements: tuple[Element, ...] = ()
    rules: int = 0


@dataclass(slots=True)
class _Delta:
    """Commands of one transaction, by the phase in which they have to come."""

    replaced: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    gone_elements: dict[Element, str] = field(default_factory=dict)
    new_elements: dict[Element, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)


class Book:
    """The table's contents by Service port, and the elements with everyone who wants them."""

    def __init__(self, settings: ProxySettings, most_characters: int = TRANSACTION_CHARACTERS) -> None:
        """Transactions of a load are at most `most_characters` long, as far as that interrupts nothing."""
        self._settings = settings
        self._most_characters = min(most_characters, TRANSACTION_CHARACTERS)
        self._table = base.table(settings.family)
        self._held: dict[ServicePortName, _Held] = {}
        self._claims: dict[Element, dict[ServicePortName, str]] = {}
        self._base = base.count_base(settings)
        self._rules = 0

    @property
    def total(self) -> int:
        """How many rules and elements the table has."""
        return self._base + self._rules + len(self._claims)

    def names(self) -> Collection[ServicePortName]:
        """The Service ports that have a piece."""
        return self._held.keys()

    def load(self, pieces: Pieces, *, fresh: bool = False) -> Iterator[str]:
        """Transactions that make these pieces all there is, whatever the table holds, interrupting nothing.

        A chain is written after those that it leads to, in one transaction; the last one switches every
        element at once. Chains that nothing leads to any more are left over, see `leftovers`. With `fresh`
        there is no table yet: no chain has to be emptied first, and elements may come one after another.
        """
        self._held, self._claims, self._rules = {}, {}, 0
        yield _text(base.render_base(self._settings))
        yield from self._packed(self._loading(pieces, fresh))
        if fresh:
            yield from self._packed([line] for line in self._all_elements())
        else:
            flushed = (f"flush {kind} {self._table} {name}" for name, kind in base.CONTAINERS.items())
            yield _text([*flushed, *self._all_elements()])

    def leftovers(self, chains: Iterable[str], sets: Iterable[str]) -> Iterator[str]:
        """Transactions that remove those of the existing `chains` and affinity `sets` that no piece has.

        All chains are emptied before the first goes, since they lead to each other.
        """
        kept_chains = {name for held in self._held.values() for name in held.chains}
        kept_sets = {name for held in self._held.values() for name in held.sets}
        gone_chains = [name for name in chains if name not in kept_chains]
        gone_sets = [name for name in sets if name not in kept_sets]
        yield from self._packed([line] for line in self._deletion(gone_chains, gone_sets))

    def change(self, pieces: Iterable[tuple[ServicePortName, Piece | None]]) -> str:
        """Replace some pieces (None: removed) by a transaction of what differs; empty if nothing does."""
        delta = _Delta()
        touched: dict[Element, str | None] = {}
        for name, piece in pieces:
            before, after = self._held.pop(name, None) or _Held(), piece or Piece()
            self._rules -= before.rules
            if piece is not None:
                self._remember(name, piece)
            self._change_chains(before, after, delta)
            self._change_claims(name, before.elements, after.elements, touched)
        for element, held in touched.items():
            wanted = self._owned(element)
            if wanted != held and held is not None:
                delta.gone_elements[element] = ""
            if wanted != held and wanted is not None:
                delta.new_elements[element] = wanted
        return _text(self._commands(delta))

    def _remember(self, name: ServicePortName, piece: Piece) -> None:
        hashes = {chain: hash(rules) for chain, rules in piece.chains.items()}
        count = sum(map(len, piece.chains.values()))
        self._held[name] = _Held(hashes, piece.sets, tuple(piece.elements), count)
        self._rules += count

    def _loading(self, pieces: Pieces, fresh: bool) -> Iterator[list[str]]:
        """Chains and sets of some pieces, refreshed where they exist; what belongs together in one list."""
        table = self._table
        for name, piece in pieces:
            self._remember(name, piece)
            self._change_claims(name, (), piece.elements, {})
            for container, declaration in piece.sets.items():
                yield [f"add set {table} {container} {{ {declaration} ; }}"]
            for chain in piece.chains:
                yield [f"add chain {table} {chain}"]
            for chain, rules in reversed(piece.chains.items()):
                emptied = [] if fresh else [f"flush chain {table} {chain}"]
                yield emptied + [f"add rule {table} {chain} {rule}" for rule in rules]

    def _packed(self, parts: Iterable[Sequence[str]]) -> Iterator[str]:
        """Transactions of as many parts as may go into one."""
        some: list[str] = []
        length = 0
        for part in parts:
            more = sum(map(len, part)) + len(part)
            if some and length + more > self._most_characters:
                yield _text(some)
                some, length = [], 0
            some += part
            length += more
        if some:
            yield _text(some)

    def _all_elements(self) -> Iterator[str]:
        """What leads to the chains."""
        owned = {element: next(iter(claims.values())) for element, claims in self._claims.items()}
        yield from self._elements("add", owned)

    def _change_chains(self, before: _Held, after: Piece, delta: _Delta) -> None:
        table, chains, sets = self._table, before.chains, before.sets
        remade = [name for name, declared in after.sets.items() if sets.get(name, declared) != declared]
        if remade:
            # A set cannot change its timeout: it is made anew, and so are the rules that refer to it.
            delta.replaced += [f"flush chain {table} {name}" for name in chains]
            delta.replaced += [f"delete set {table} {name}" for name in remade]
            chains = dict.fromkeys(chains, 0)
            sets = {name: declared for name, declared in sets.items() if name not in remade}
        for name, declaration in after.sets.items():
            if name not in sets:
                delta.new.append(f"add set {table} {name} {{ {declaration} ; }}")
        for name, rules in after.chains.items():
            if chains.get(name) == hash(rules):
                continue
            if name in chains:
                delta.rules.append(f"flush chain {table} {name}")
            else:
                delta.new.append(f"add chain {table} {name}")
            delta.rules += [f"add rule {table} {name} {rule}" for rule in rules]
        gone_chains = [name for name in chains if name not in after.chains]
        gone_sets = [name for name in sets if name not in after.sets]
        delta.gone += self._deletion(gone_chains, gone_sets)

    def _change_claims(
        self,
        name: ServicePortName,
        before: Collection[Element],
        after: dict[Element, str],
        touched: dict[Element, str | None],
    ) -> None:
        """Withdraw and enter claims; `touched` keeps what each element was before this transaction."""
        for element in (*before, *after):
            touched.setdefault(element, self._owned(element))
        for element in before:
            if element not in after:
                del self._claims[element][name]
                if not self._claims[element]:
                    del self._claims[element]
        for element, verdict in after.items():
            self._claims.setdefault(element, {})[name] = verdict

    def _owned(self, element: Element) -> str | None:
        """The verdict of the first that claims an element; None if nobody does."""
        claims = self._claims.get(element)
        return next(iter(claims.values())) if claims else None

    def _commands(self, delta: _Delta) -> Iterator[str]:
        """New containers; then elements leave, rules change, elements come; last what nothing leads to."""
        yield from delta.replaced
        yield from delta.new
        yield from self._elements("delete", delta.gone_elements)
        yield from delta.rules
        yield from self._elements("add", delta.new_elements)
        yield from delta.gone

    def _deletion(self, chains: Iterable[str], sets: Iterable[str]) -> list[str]:
        """All chains are emptied before the first goes, since they lead to each other."""
        names = list(chains)
        return [
            *(f"flush chain {self._table} {name}" for name in names),
            *(f"delete chain {self._table} {name}" for name in names),
            *(f"delete set {self._table} {name}" for name in sets),
        ]

    def _elements(self, verb: str, elements: dict[Element, str]) -> Iterator[str]:
        by_container: dict[str, list[str]] = {}
        for (container, key), verdict in elements.items():
            by_container.setdefault(container, []).append(f"{key} : {verdict}" if verdict else key)
        for container, listed in by_container.items():
            for start in range(0, len(listed), _ELEMENTS_A_LINE):
                some = ", ".join(listed[start : start + _ELEMENTS_A_LINE])
                yield f"{verb} element {self._table} {container} {{ {some} }}"


def _text(commands: Iterable[str]) -> str:
    return "".join(f"{command}\n" for command in commands)
