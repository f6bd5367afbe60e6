"""Numbers and addresses to be given out in order, each to one holder at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address
from socket import AF_INET, AF_INET6, inet_ntop


class PoolExhausted(Exception):
    """Nothing is left to give out."""


class Taken(Exception):
    """The wanted one is in use."""


class OutOfRange(Exception):
    """The wanted one does not belong to the pool."""


class NumberPool:
    """The whole numbers from `first` to `last`, given out in ascending order, round and round.

    `held` numbers are not given out unasked: somebody is about to ask for them by name.
    """

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last
        self.held: Collection[int] = ()
        self._next = first
        self._used: set[int] = set()

    def claim(self) -> int:
        """Give out the next free number. Raises PoolExhausted."""
        for _ in range(2):
            for number in range(self._next, self.last + 1):
                if number not in self._used and number not in self.held:
                    self._used.add(number)
                    self._next = number + 1
                    return number
            self._next = self.first
        raise PoolExhausted

    def claim_exactly(self, number: int) -> None:
        """Give out this number. Raises OutOfRange or Taken."""
        if not self.first <= number <= self.last:
            raise OutOfRange
        if number in self._used:
            raise Taken
        self._used.add(number)

    def release(self, number: int) -> None:
        """Take a number back; one that is not out is no mistake."""
        self._used.discard(number)


class AddressPool:
    """The host addresses of a network, given out as text in ascending order."""

    def __init__(self, network: IPv4Network | IPv6Network) -> None:
        self.network = network
        self.family = f"IPv{network.version}"
        self._family = AF_INET if network.version == 4 else AF_INET6
        self._length = network.max_prefixlen // 8
        self._numbers = NumberPool(int(network[0]) + 1, int(network[-1]) - (network.version == 4))

    def hold(self, addresses: Iterable[str]) -> None:
        """Do not give out `addresses` unasked until the next call."""
        self._numbers.held = {int(address) for address in map(ip_address, addresses)}

    def claim(self) -> str:
        """Give out the next free address. Raises PoolExhausted."""
        return inet_ntop(self._family, self._numbers.claim().to_bytes(self._length))

    def claim_exactly(self, address: str) -> None:
        """Give out this address. Raises OutOfRange or Taken."""
        parsed = ip_address(address)
        if parsed.version != self.network.version:
            raise OutOfRange
        self._numbers.claim_exactly(int(parsed))

    def release(self, address: str) -> None:
        """Take an address back."""
        self._numbers.release(int(ip_address(address)))
