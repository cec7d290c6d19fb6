"""The nearest valid word to one that is not, for messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from functools import lru_cache

#: How many words are compared letter by letter; the others share too few pairs of letters.
_CANDIDATES = 4
_NEAR = 0.6


def nearest(word: str, words: Iterable[str]) -> str:
    """The one of words most like word, whatever the case; "" if none is near."""
    folded = word.casefold()
    pairs = _pairs(folded)
    table = _table(tuple(words))
    ranked = sorted(table, key=lambda entry: -len(pairs & entry[1]) / (len(pairs) + len(entry[1])))
    best, nearness = "", _NEAR
    for candidate, _, original in ranked[:_CANDIDATES]:
        ratio = SequenceMatcher(None, folded, candidate).ratio()
        if ratio >= nearness and (not best or ratio > nearness):
            best, nearness = original, ratio
    return best


@lru_cache(maxsize=64)
def _table(words: tuple[str, ...]) -> tuple[tuple[str, frozenset[str], str], ...]:
    return tuple((word.casefold(), _pairs(word.casefold()), word) for word in words)


def _pairs(word: str) -> frozenset[str]:
    padded = f" {word} "
    return frozenset(padded[place : place + 2] for place in range(len(padded) - 1))
