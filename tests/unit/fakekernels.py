"""What a kernel would make of the text that modes write: tables with chains, rules, sets and elements."""

from __future__ import annotations

import itertools
from collections.abc import Iterable


class FakeIptables:
    """Stands in for `Iptables`: per table the rules of each chain, as restore input leads to them."""

    variant = "legacy"

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, list[str]]] = {table: {} for table in ("mangle", "nat", "filter")}

    def restore(self, text: bytes | str) -> None:
        """Apply restore input. Raises AssertionError for what iptables-restore would refuse."""
        table: dict[str, list[str]] = {}
        for line in (text if isinstance(text, str) else text.decode()).splitlines():
            command, _, rest = line.partition(" ")
            chain, _, rule = rest.partition(" ")
            if line.startswith("*"):
                table = self.tables[line[1:]]
            elif line.startswith(":"):
                table[command[1:]] = []
            elif command == "-A":
                table.setdefault(chain, []).append(rule)
            elif command == "-I":
                table.setdefault(chain, []).insert(0, rule.removeprefix("1 "))
            elif command == "-D":
                table[chain].remove(rule)
            elif command == "-X":
                assert table.pop(chain) == [], f"{chain} is not empty"
        self._check_jumps()

    def save(self, table: str) -> str:
        """The table as iptables-save prints it."""
        chains = self.tables[table]
        rules = (f"-A {chain} {rule}" for chain, rules in chains.items() for rule in rules)
        return "\n".join([*(f":{chain} - [0:0]" for chain in chains), *rules])

    def remove_chains(self, table: str, chains: Iterable[str], prefixes: tuple[str, ...] = ()) -> None:
        """Nothing is left to be looked at."""

    def content(self) -> dict[str, dict[str, list[str]]]:
        """Everything, with rules of common chains sorted, where Services stand in order of creation."""
        own = ("KUBE-SVC", "KUBE-SVL", "KUBE-EXT", "KUBE-FW", "KUBE-SEP")
        return {
            table: {
                chain: rules if chain.startswith(own) else sorted(rules) for chain, rules in chains.items()
            }
            for table, chains in self.tables.items()
        }

    def _check_jumps(self) -> None:
        """No rule leads to a chain that is not there."""
        for chains in self.tables.values():
            for rules in chains.values():
                for rule in rules:
                    target = rule.rpartition("-j ")[2].split(" ")[0]
                    assert not target.startswith("KUBE-") or target in chains, rule


class FakeNft:
    """Stands in for nf_tables: one table, as transactions lead to it."""

    def __init__(self) -> None:
        self.chains: dict[str, list[str]] = {}
        self.containers: dict[str, tuple[str, dict[str, str]]] = {}

    def apply(self, transaction: str) -> None:
        """Apply commands. Raises KeyError or AssertionError for what nft would refuse."""
        for line in transaction.splitlines():
            verb, kind, rest = line.split(" ", 2)
            if kind == "table":
                continue
            name, _, body = rest.removeprefix("ip kube-proxy ").partition(" ")
            getattr(self, f"_{verb}_{kind}".replace("_map", "_set"))(name, body)
        self._check()

    def content(self) -> object:
        return self.chains, self.containers

    def _add_chain(self, name: str, _: str) -> None:
        self.chains.setdefault(name, [])

    def _flush_chain(self, name: str, _: str) -> None:
        self.chains[name].clear()

    def _delete_chain(self, name: str, _: str) -> None:
        del self.chains[name]

    def _add_rule(self, chain: str, rule: str) -> None:
        self.chains[chain].append(rule)

    def _add_set(self, name: str, declaration: str) -> None:
        held = self.containers.setdefault(name, (declaration, {}))
        assert held[0] == declaration, f"{name} is declared otherwise"

    def _flush_set(self, name: str, _: str) -> None:
        self.containers[name][1].clear()

    def _delete_set(self, name: str, _: str) -> None:
        del self.containers[name]

    def _add_element(self, name: str, body: str) -> None:
        for element in body.strip("{ }").split(", "):
            key, _, verdict = element.partition(" : ")
            assert self.containers[name][1].setdefault(key, verdict) == verdict, f"{key} is there already"

    def _delete_element(self, name: str, body: str) -> None:
        for key in body.strip("{ }").split(", "):
            del self.containers[name][1][key]

    def _check(self) -> None:
        """Nothing leads to a chain or set that is not there."""
        verdicts = [verdict for _, elements in self.containers.values() for verdict in elements.values()]
        rules = [rule for rules in self.chains.values() for rule in rules]
        for text in (*verdicts, *rules):
            words = text.replace(",", " ").split()
            for word, following in itertools.pairwise(words):
                assert word not in ("goto", "jump") or following in self.chains, text
            for word in words:
                assert not word.startswith("@") or word[1:] in self.containers, text
