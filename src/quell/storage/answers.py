"""What events that are alike were answered with: each once, under a number by which rows of the journal name it.

Events are answered alike by the thousand, and an answer says more than its number does. Numbers rise and mean the same as
long as there is the store; they begin anew only where nothing is left that names any.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable

import msgspec

from quell.errors import StoreError
from quell.model.answer import NOTHING, Answer
from quell.storage import packed, schema, summary

#: Answers that are numbered; they get new numbers when there are more.
MOST = 8192
#: The number of no answer: nothing matched, or the event has a decision of its own.
NONE = 0

INSERT = packed.statement("INSERT INTO answers (number, body)", plain=1)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Answer).decode


class Numbered:
    """Answers and their numbers, from `first` on. It only grows, and only in the thread that makes chunks."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.numbers: dict[Answer | None, int] = {None: NONE, NOTHING: NONE}
        self._answers: list[Answer] = []
        #: References and names of the rules in answers, each set of them once; and by number, which of these sets.
        self._rules: list[frozenset[str]] = [frozenset()]
        self._places = {self._rules[0]: 0}
        self._place_of: dict[int, int] = {NONE: 0}

    def of(self, answers: Iterable[Answer | None]) -> list[int]:
        """Their numbers. An answer is known by its identity: the index gives the same to all events that are alike."""
        found = list(map(self.numbers.get, answers))
        if None not in found:
            return found  # type: ignore[return-value] # without None
        for answer in answers:
            if answer is not None and answer not in self.numbers:
                number = self.first + len(self._answers)
                self._answers.append(answer)
                rules = summary.rules(answer.matches)
                if rules not in self._places:
                    self._places[rules] = len(self._rules)
                    self._rules.append(rules)
                self._place_of[number] = self._places[rules]
                self.numbers[answer] = number
        return [self.numbers[answer] for answer in answers]

    @property
    def is_full(self) -> bool:
        return len(self._answers) >= MOST

    def following(self) -> Numbered:
        """With the numbers after these."""
        return Numbered(self.first + len(self._answers))

    def __getitem__(self, number: int) -> Answer:
        return self._answers[number - self.first]

    def rules(self, numbers: Iterable[int]) -> frozenset[str] | None:
        """References and names of the rules in these answers; None: they are of too many to be said with a row."""
        found = set(map(self._place_of.__getitem__, numbers))
        if len(found) > summary.MAX_RULES // 2:
            return None
        return frozenset().union(*[self._rules[place] for place in found])


def next_number(connection: sqlite3.Connection) -> int:
    """Higher than every number there is, and not lower than what the newest row says of its own."""
    (last,) = connection.execute("SELECT coalesce(max(number), 0) FROM answers").fetchone()
    (named,) = connection.execute("SELECT answers_from FROM journal ORDER BY seq DESC LIMIT 1").fetchone() or (0,)
    return int(max(last + 1, named))


def kept(connection: sqlite3.Connection) -> set[int]:
    """All numbers that are on disk."""
    return {number for (number,) in connection.execute("SELECT number FROM answers")}


def rows(found: Collection[tuple[int, Answer]]) -> tuple[str, bytes] | tuple[None, None]:
    """As values for INSERT."""
    return packed.pack(((number,), _encode(answer)) for number, answer in found)


def get(connection: sqlite3.Connection, number: int) -> Answer:
    """StoreError: it is not there, as only in a file that was changed by others."""
    known = connection.answers if isinstance(connection, schema.Connection) else {}
    answer = known.get(number)
    if answer is None:
        row = connection.execute("SELECT body FROM answers WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise StoreError(f"the journal is damaged: it names an answer {number} that is not there")
        if len(known) >= MOST:
            known.clear()
        answer = known[number] = _decode(row[0])
    return answer


def trim(connection: sqlite3.Connection, below: int) -> None:
    """In the transaction of the caller."""
    connection.execute("DELETE FROM answers WHERE number < ?", (below,))


def oldest_named(connection: sqlite3.Connection) -> int:
    """No row of the journal names a lower number."""
    (number,) = connection.execute("SELECT answers_from FROM journal ORDER BY seq LIMIT 1").fetchone() or (0,)
    return int(number)
