"""Of all commands only the one that is asked for is made."""

from __future__ import annotations

import pytest
import typer

from quell.cli.main import _WITH_VALUE, app, asked_for


def test_the_options_before_a_noun_that_take_a_value_are_known() -> None:
    taking = [option for option in typer.main.get_command(app).params if not getattr(option, "is_flag", True)]
    named = {
        name for option in taking for name in option.opts if name not in ("--install-completion", "--show-completion")
    }
    assert named == _WITH_VALUE


@pytest.mark.parametrize("group", [str(group.name) for group in app.registered_groups])
def test_of_a_noun_only_its_commands_are_made(group: str) -> None:
    for words in ([group], ["--url", "rules", "--state=x", group, "list"], [group, "--help"]):
        made = typer.main.get_command(asked_for(words))
        assert list(getattr(made, "commands", ())) == [group]


@pytest.mark.parametrize("words", [[], ["--help"], ["apply", "-f", "rules"], ["rule", "list"], ["--url", "rules"]])
def test_all_else_is_asked_of_the_whole(words: list[str]) -> None:
    assert asked_for(words) is app
