"""What a shell is offered: words of rules, from the controller's options, or from the tables where none answers."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import typer

from quell.cli.connection import Connection, authority_of, token_of

if TYPE_CHECKING:
    from quell.client import Client
    from quell.documents.options import CategoryOption, RuleOptions

#: Seconds that somebody who pressed a key waits for a controller.
_PATIENCE = 1.0
_MODE = "_QUELL_COMPLETE"
_HELP = 60

Offered = Iterator[tuple[str, str]]


def categories(context: typer.Context) -> Offered:
    for option in _options(context).categories:
        yield option.category, option.description
        for word in option.words:
            yield word, option.description


def criteria(context: typer.Context, incomplete: str) -> Offered:
    """Types, and after the colon their values: names, levels, kinds, reports and detectors."""
    type_, colon, _ = incomplete.partition(":")
    for option in _of_category(context):
        for criterion in option.criteria:
            word = criterion.type.removesuffix(":")
            if not colon:
                yield f"{word}:", criterion.description
            elif word != type_:
                continue
            elif criterion.form == "name":
                yield from _prefixed(word, ((name.name, name.description) for name in option.names))
                yield from _prefixed(word, ((name.name, name.source or name.origin) for name in option.dynamic))
            elif word == "source":
                from quell.detectors import DETECTORS

                yield from _prefixed(word, ((name, "") for name in DETECTORS))
            else:
                yield from _prefixed(word, ((value, "") for value in criterion.values))


def actions(context: typer.Context) -> Offered:
    for option in _of_category(context):
        for action in option.actions:
            condition = "" if action.condition == "yes" else f" ({action.condition})"
            yield action.word, f"{action.description}{condition}"


def groups(context: typer.Context) -> Offered:
    return ((group.name, group.comment or group.kind) for group in _options(context).groups)


def webhooks(context: typer.Context) -> Offered:
    return ((webhook.name, webhook.type) for webhook in _options(context).webhooks)


def rules(context: typer.Context) -> Offered:
    """Ids and names."""

    def ask(client: Client) -> Iterable[tuple[str, str]]:
        for rule in client.rules.all():
            yield str(rule.id), rule.name
            yield rule.name, str(rule.id)

    return _asked(context, ask)


def policies(context: typer.Context) -> Offered:
    """Names; nothing where no controller answers."""
    return _asked(context, lambda client: ((each.name, each.type) for each in client.policies.all()))


def rulesets(context: typer.Context) -> Offered:
    return _asked(context, lambda client: ((each.name, each.type) for each in client.rulesets.all()))


def images(context: typer.Context) -> Offered:
    """Those of which something was seen."""
    return _seen(context, "image")


def services(context: typer.Context) -> Offered:
    return _seen(context, "service")


def _seen(context: typer.Context, kind: str) -> Offered:
    return _asked(
        context,
        lambda client: ((each.name, f"{each.processes} processes") for each in client.policies.fingerprints(kind=kind)),
    )


def deviations(context: typer.Context) -> Offered:
    """Checksums of those that are open, of the policy that the command line names."""
    policy = context.params.get("policy")

    def ask(client: Client) -> Iterable[tuple[str, str]]:
        found = client.deviations.all(200, policy=[str(policy)] if policy else (), status=["open"])
        return ((each.checksum, each.message[:_HELP]) for each in found)

    return _asked(context, ask)


def _asked(context: typer.Context, ask: Callable[[Client], Iterable[tuple[str, str]]]) -> Offered:
    """What a controller offers; nothing where none answers."""
    from quell.client import Client
    from quell.errors import QuellError

    connection = _connection(context)
    with (
        contextlib.suppress(QuellError),
        Client(connection.url, token_of(connection), timeout=_PATIENCE, ca_file=authority_of(connection)) as client,
    ):
        yield from ask(client)


def in_bash(run: Callable[[], object]) -> None:
    """Run the program for bash, which takes a word with a colon or an equals sign apart: put the words together before,
    and give back only what is to stand after the last of these signs.
    """
    words, count = os.environ.get("COMP_WORDS", "").split("\n"), int(os.environ.get("COMP_CWORD") or 0)
    if len(words) <= count:
        # Not taken apart: words in one line, as scripts give them.
        run()
        return
    joined = _joined(words[: count + 1])
    os.environ |= {"COMP_WORDS": "\n".join(joined), "COMP_CWORD": str(len(joined) - 1)}
    last = joined[-1] if len(joined) <= count else ""
    before = max(last.rfind(":"), last.rfind("=")) + 1
    # After an equals sign the option's name is gone already; what is offered begins with the value.
    prefix = last[:before].rpartition("=")[2] if last.startswith("--") else last[:before]
    answer = io.StringIO()
    try:
        with contextlib.redirect_stdout(answer):
            run()
    finally:
        offered = dict.fromkeys(line.removeprefix(prefix) for line in answer.getvalue().splitlines())
        sys.stdout.write("\n".join(offered))


def _joined(words: Iterable[str]) -> list[str]:
    joined: list[str] = []
    glue = False
    for word in words:
        sign = word.startswith(":") or (word == "=" and bool(joined) and joined[-1].startswith("--"))
        if joined and (glue or sign):
            joined[-1] += word
        else:
            joined.append(word)
        glue = sign
    return joined


def wanted_in_bash() -> bool:
    return os.environ.get(_MODE) == "complete_bash"


def _prefixed(word: str, values: Iterable[tuple[str, str]]) -> Offered:
    return ((f"{word}:{value}", text) for value, text in values)


def _of_category(context: typer.Context) -> Iterable[CategoryOption]:
    """The category that the command line names, or all."""
    from quell.documents.rule import category_of

    found = category_of(str(context.params.get("event") or ""))
    every = _options(context).categories
    return every if found is None else [option for option in every if option.category == found[0]]


def _options(context: typer.Context) -> RuleOptions:
    from quell.client import Client
    from quell.documents.options import rule_options
    from quell.errors import QuellError

    connection = _connection(context)
    try:
        with Client(
            connection.url, token_of(connection), timeout=_PATIENCE, ca_file=authority_of(connection)
        ) as client:
            return client.rules.options()
    except QuellError:
        return rule_options()


def _connection(context: typer.Context) -> Connection:
    """As the options before the command say; the program itself does not run."""
    said = context.find_root().params
    return Connection(
        url=said.get("url") or Connection().url,
        token=said.get("token") or "",
        state=said.get("state") or None,
        ca_file=said.get("ca_file") or None,
    )
