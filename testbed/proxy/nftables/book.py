"""What the table holds, and the transactions that bring it where it should be.

Owns the order of commands inside a transaction, and who an element belongs to when several want it. Pure:
text comes out, nothing is run. Must not know Services' semantics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from testbed.proxy.model import ServicePortName
from testbed.proxy.nftables import base
from testbed.proxy.nftables.render import Element, Piece
from testbed.proxy.proxier import ProxySettings

_ELEMENTS_A_LINE = 200


@dataclass(slots=True)
class _Delta:
    """Commands of one transaction, by the phase in which they have to come."""

    new_sets: list[str] = field(default_factory=list)
    new_chains: list[str] = field(default_factory=list)
    gone_elements: dict[Element, None] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)
    new_elements: dict[Element, str] = field(default_factory=dict)
    gone_chains: list[str] = field(default_factory=list)
    gone_sets: list[str] = field(default_factory=list)


class Book:
    """The pieces in the table by Service port, and the elements with everyone who wants them."""

    def __init__(self, settings: ProxySettings) -> None:
        self._settings = settings
        self._table = f"{base.ip(settings.family)} {base.TABLE}"
        self._pieces: dict[ServicePortName, Piece] = {}
        self._claims: dict[Element, dict[ServicePortName, str]] = {}

    def names(self) -> Iterable[ServicePortName]:
        """The Service ports that have a piece."""
        return self._pieces.keys()

    def whole(self, pieces: Iterable[tuple[ServicePortName, Piece]]) -> str:
        """Start again with these pieces: the transaction replaces the table, whatever it held."""
        self._pieces, self._claims = {}, {}
        delta = self._delta(pieces)
        return _text([*base.render_base(self._settings), *self._commands(delta)])

    def change(self, pieces: Iterable[tuple[ServicePortName, Piece | None]]) -> str:
        """Replace some pieces (None: removed) by a transaction of what differs; empty if nothing does."""
        return _text(self._commands(self._delta(pieces)))

    def _delta(self, pieces: Iterable[tuple[ServicePortName, Piece | None]]) -> _Delta:
        delta = _Delta()
        touched: dict[Element, str | None] = {}
        for name, piece in pieces:
            before, after = self._pieces.pop(name, _NOTHING), piece or _NOTHING
            if piece is not None:
                self._pieces[name] = piece
            self._change_chains(before, after, delta)
            self._change_claims(name, before, after, touched)
        for element, held in touched.items():
            claims = self._claims.get(element)
            wanted = next(iter(claims.values())) if claims else None
            if wanted == held:
                continue
            if held is not None:
                delta.gone_elements[element] = None
            if wanted is not None:
                delta.new_elements[element] = wanted
        return delta

    def _change_chains(self, before: Piece, after: Piece, delta: _Delta) -> None:
        table = self._table
        for name, declaration in after.sets.items():
            held = before.sets.get(name)
            if held is None:
                delta.new_sets.append(f"add set {table} {name} {{ {declaration} ; }}")
        for name, rules in after.chains.items():
            held_rules = before.chains.get(name)
            if held_rules == rules:
                continue
            if held_rules is None:
                delta.new_chains.append(f"add chain {table} {name}")
            else:
                delta.rules.append(f"flush chain {table} {name}")
            delta.rules += [f"add rule {table} {name} {rule}" for rule in rules]
        delta.gone_chains += [name for name in before.chains if name not in after.chains]
        delta.gone_sets += [name for name in before.sets if name not in after.sets]

    def _change_claims(
        self, name: ServicePortName, before: Piece, after: Piece, touched: dict[Element, str | None]
    ) -> None:
        """Withdraw and enter claims; `touched` keeps what each element was before this transaction."""
        for element in (*before.elements, *after.elements):
            claims = self._claims.setdefault(element, {})
            touched.setdefault(element, next(iter(claims.values()), None))
        for element in before.elements:
            if element not in after.elements:
                del self._claims[element][name]
                if not self._claims[element]:
                    del self._claims[element]
        for element, verdict in after.elements.items():
            self._claims[element][name] = verdict

    def _commands(self, delta: _Delta) -> Iterator[str]:
        """New containers, then elements leave, rules change, elements come, and what nothing leads to goes."""
        table = self._table
        yield from delta.new_sets
        yield from delta.new_chains
        yield from self._elements("delete", dict.fromkeys(delta.gone_elements, ""))
        yield from delta.rules
        yield from self._elements("add", delta.new_elements)
        for chain in delta.gone_chains:
            yield f"flush chain {table} {chain}"
        for chain in delta.gone_chains:
            yield f"delete chain {table} {chain}"
        for name in delta.gone_sets:
            yield f"delete set {table} {name}"

    def _elements(self, verb: str, elements: dict[Element, str]) -> Iterator[str]:
        by_container: dict[str, list[str]] = {}
        for (container, key), verdict in elements.items():
            by_container.setdefault(container, []).append(f"{key} : {verdict}" if verdict else key)
        for container, listed in by_container.items():
            for start in range(0, len(listed), _ELEMENTS_A_LINE):
                some = ", ".join(listed[start : start + _ELEMENTS_A_LINE])
                yield f"{verb} element {self._table} {container} {{ {some} }}"


_NOTHING = Piece()


def _text(commands: Iterable[str]) -> str:
    return "".join(f"{command}\n" for command in commands)
