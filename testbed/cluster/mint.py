"""What every new object is stamped with: unique ids, name suffixes and times.

Ids and suffixes are drawn from a seed, so that two runs of one experiment name things alike.
"""

from __future__ import annotations

import hashlib
import random
import time

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # Kubernetes' safe alphabet: no vowels, no words


class Mint:
    """The source of ids, suffixes and times of one control plane."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 (names, not secrets)
        self._second = 0
        self._stamp = ""

    def uid(self) -> str:
        """Return a new id in the form of a version 4 UUID."""
        digits = f"{self._random.getrandbits(128):032x}"
        variant = "89ab"[int(digits[16], 16) % 4]
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"

    def suffix(self) -> str:
        """Return five characters to end a generated name with."""
        return _letters(self._random.randrange(len(_ALPHABET) ** 5), 5)

    def now(self, after_s: float = 0) -> str:
        """Return the time `after_s` from now by RFC 3339, in whole seconds."""
        return self._at(int(time.time() + after_s))

    def _at(self, second: int) -> str:
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
        return self._stamp

    def now_ns(self) -> str:
        """Return the time by RFC 3339 with nine decimals."""
        second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        return f"{self._at(second)[:-1]}.{nanoseconds:09d}Z"


def hash_suffix(value: bytes) -> str:
    """Return ten characters that stand for `value`, as the hash in the names of a Deployment's pods."""
    number = int.from_bytes(hashlib.blake2b(value, digest_size=8).digest())
    return _letters(number, 10)


def _letters(number: int, count: int) -> str:
    letters = ""
    for _ in range(count):
        number, place = divmod(number, len(_ALPHABET))
        letters += _ALPHABET[place]
    return letters
