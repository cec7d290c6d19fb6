"""What is taken as a password, and how it is kept and checked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from argon2 import PasswordHasher, extract_parameters

from quell.api.accounts.passwords import LONGEST, Passwords, objection
from quell.api.problem import Refusal


@pytest.mark.parametrize(
    "password",
    [
        "a slow green tin roof",
        "tin roof, rusted",
        "korrekt-Pferd-Batterie",
        "пароль не из списка",
        "x" * 5 + "quite different" + "y" * 5,
        "k3J!wq0-Zp9x",
        "a" * 500 + "b" * (LONGEST - 500),
    ],
)
def test_what_is_taken(password: str) -> None:
    assert objection(password, "alice", 12) == ""


@pytest.mark.parametrize(
    ("password", "because"),
    [
        ("eleven char", "at least 12 characters, got 11"),
        ("", "at least 12 characters, got 0"),
        ("a" + "bc" * LONGEST, f"at most {LONGEST} characters"),
        ("alicealicealice", "the user's name"),
        ("--Alice--2026--", "the user's name"),
        ("password1234", "anybody would try"),
        ("Password!!!!2026", "anybody would try"),
        ("correct horse battery staple", "anybody would try"),
        ("changemechangeme", "anybody would try"),
        ("2026-kubernetes", "anybody would try"),
        ("aaaaaaaaaaaaaaaa", "anybody would try"),
        ("123456789012", "anybody would try"),
        ("210987654321", "anybody would try"),
        ("abcdefghijklmno", "anybody would try"),
        ("qwertyuiopqw", "anybody would try"),
        # Full-width letters are the same letters.
        ("".join(chr(ord(char) + 0xFEE0) for char in "passwordpassword"), "anybody would try"),
    ],
)
def test_what_is_not(password: str, because: str) -> None:
    assert because in objection(password, "alice", 12)


def test_the_least_length_is_a_setting() -> None:
    assert "at least 20" in objection("a slow green tin", "alice", 20)
    assert objection("slow tin", "alice", 8) == ""


def test_a_password_is_kept_as_argon2id_and_matches_however_it_is_typed() -> None:
    async def tried() -> None:
        passwords = Passwords()
        kept = await passwords.hash("ein grüner Wal im See")
        told = extract_parameters(kept)
        assert kept.startswith("$argon2id$")
        # RFC 9106, section 4, the second recommendation, with one lane.
        assert (told.time_cost, told.memory_cost, told.parallelism) == (3, 65536, 1)
        assert await passwords.matches(kept, "ein gru\u0308ner Wal im See")
        assert not await passwords.matches(kept, "ein gruner Wal im See")
        assert not await passwords.matches("not a hash", "ein grüner Wal im See")
        assert not passwords.is_outdated(kept)
        assert passwords.is_outdated(PasswordHasher(memory_cost=1024).hash("x"))
        passwords.close()

    asyncio.run(tried())


class Counting(PasswordHasher):
    """Argon2 itself, and how often it was asked to check."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=1024, parallelism=1)
        self.checked = 0

    def verify(self, *args: Any, **kwargs: Any) -> Any:
        self.checked += 1
        return super().verify(*args, **kwargs)


def test_an_unknown_users_password_is_checked_like_any_other() -> None:
    async def tried() -> None:
        passwords = Passwords()
        passwords._hasher = hasher = Counting()
        kept = hasher.hash("right")
        for known, shown, expected in ((kept, "right", True), (kept, "wrong", False), (None, "nobody", False)):
            before = hasher.checked
            assert await passwords.matches(known, shown) is expected
            assert hasher.checked == before + 1
        passwords.close()

    asyncio.run(tried())


def test_a_storm_of_logins_waits_for_one_core_and_is_bounded() -> None:
    async def tried() -> None:
        passwords = Passwords()
        passwords._hasher = Counting()
        turns = [asyncio.create_task(passwords.matches(None, "guess")) for _ in range(100)]
        results = await asyncio.gather(*turns, return_exceptions=True)
        refused = [result for result in results if isinstance(result, Refusal)]
        assert {refusal.status for refusal in refused} == {429}
        assert len(refused) == 100 - 32
        assert not await passwords.matches(None, "later")
        passwords.close()

    asyncio.run(tried())
