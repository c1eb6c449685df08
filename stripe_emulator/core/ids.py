"""Ids with Stripe's prefixes, the same ones for the same seed."""

import hashlib
import random
import string

_ALPHABET = string.ascii_letters + string.digits


class Ids:
    """Draw ids from a seeded stream, so that a failing run can be had again."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def new(self, prefix: str, length: int = 24) -> str:
        """Return `prefix_` and `length` characters; never parse it."""
        return f"{prefix}_{self.characters(length)}"

    def meter(self, *, livemode: bool) -> str:
        """Meters carry their mode in the id, unlike most objects."""
        return self.new("mtr" if livemode else "mtr_test", 38)

    def characters(self, length: int) -> str:
        """Return random letters and digits."""
        return "".join(self._random.choices(_ALPHABET, k=length))


def derived(prefix: str, *parts: object) -> str:
    """Return the same id for the same parts, for things computed on each read."""
    digest = hashlib.blake2b("\x00".join(map(str, parts)).encode(), digest_size=16).hexdigest()
    return f"{prefix}_{digest}"
