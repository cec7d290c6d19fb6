"""Passwords: what is taken as one (NIST SP 800-63B, section 3.1.1), and their argon2id hashes (RFC 9106).

There are no rules of composition and passwords do not run out: both make people choose worse ones.
"""

from __future__ import annotations

import asyncio
import hmac
import string
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import resources
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from quell.api.problem import Refusal

T = TypeVar("T")

#: Characters. A longer one gains nothing and costs whoever hashes it.
LONGEST = 1024
#: A hash takes 64 MiB and some 0.15 s of one core: one at a time, so that logins take one core at most.
_TIME, _MEMORY, _LANES, _AT_ONCE = 3, 64 << 10, 1, 1
#: Hashes that may wait for their turn: five seconds' worth.
_WAITING = 32
_RETRY = 2.0

_AROUND = string.digits + string.punctuation + string.whitespace
#: Neighbours in one of these, either way round, are no password however long.
_ROWS = ("abcdefghijklmnopqrstuvwxyz", "0123456789", "qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "yxcvbnm")


def objection(password: str, name: str, least: int) -> str:
    """Why this is not taken as the password of this user; "": it is. least: characters."""
    text = normal(password)
    if len(text) < least:
        return f"expected at least {least} characters, got {len(text)}; a few words are easy to remember"
    if len(text) > LONGEST:
        return f"expected at most {LONGEST} characters, got {len(text)}"
    cores = _cores(text.casefold())
    if name.casefold() in cores:
        return "it is the user's name; choose something that has nothing to do with it"
    if cores & _common() or any(map(_is_row, cores)):
        return "it is among the first that anybody would try; choose something else, such as four unrelated words"
    return ""


def normal(password: str) -> str:
    """The same text whatever keyboard it came from."""
    return unicodedata.normalize("NFKC", password)


class Passwords:
    """Hashes and checks, in a thread of its own."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=_TIME, memory_cost=_MEMORY, parallelism=_LANES)
        self._pool = ThreadPoolExecutor(_AT_ONCE, "quell-passwords")
        self._waiting = 0
        self._nobodys: str | None = None

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """In the PHC form. Refusal 429 if too much waits."""
        return await self._in_turn(lambda: self._hasher.hash(normal(password)))

    async def matches(self, kept: str | None, password: str) -> bool:
        """Whether the hash is this password's. None, of a user who is not there, takes as long. Refusal 429."""
        return await self._in_turn(lambda: self._matches(kept, password))

    def is_outdated(self, kept: str) -> bool:
        """Whether it was made at another cost than is used now."""
        return self._hasher.check_needs_rehash(kept)

    def _matches(self, kept: str | None, password: str) -> bool:
        if len(password) > LONGEST:
            # Normalising and hashing megabytes is work that only an attacker asks for.
            password = ""
        if self._nobodys is None:
            self._nobodys = self._hasher.hash("nobody")
        try:
            right = self._hasher.verify(self._nobodys if kept is None else kept, normal(password))
        except (VerificationError, InvalidHashError):
            return False
        return right and kept is not None

    async def _in_turn(self, work: Callable[[], T]) -> T:
        if self._waiting >= _WAITING:
            raise Refusal(429, "too many logins at once", retry_after=_RETRY)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._waiting -= 1


def is_same(one: str, other: str) -> bool:
    """Two texts typed by a person, compared in constant time."""
    return hmac.compare_digest(normal(one).encode(), normal(other).encode())


def _cores(text: str) -> set[str]:
    """The text, what is repeated in it, and both without digits and signs around."""
    unit = _unit(text)
    bare = text.strip(_AROUND)
    return {text, unit, bare, unit.strip(_AROUND), _unit(bare)} - {""}


def _unit(text: str) -> str:
    """What the text is a repetition of; itself if of nothing."""
    length = (text + text).find(text, 1) if text else 0
    return text[:length]


def _is_row(text: str) -> bool:
    """One character, or neighbours of the alphabet or the keyboard, from the end of a row on to its start."""
    return len(text) == 1 or any(
        text in endless or text[::-1] in endless for row in _ROWS for endless in (row * (2 + len(text) // len(row)),)
    )


@lru_cache(maxsize=1)
def _common() -> frozenset[str]:
    lines = resources.files("quell.api.accounts").joinpath("common_passwords.txt").read_text("utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))
