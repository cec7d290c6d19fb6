"""Criteria and actions: the tables, and what a value's text means."""

from __future__ import annotations

from typing import get_args

import pytest

from quell.catalogue.forms import Threshold, is_glob, levels, threshold
from quell.catalogue.table import ACTIONS, ALLOWED, CRITERIA, Form, allowed, criterion_spec
from quell.catalogue.words import nearest
from quell.model.action import Action, ActionClass, AgentAction, ReleaseQuarantine, word
from quell.model.event import Category, Level


def test_every_action_that_can_be_written_is_described() -> None:
    writable = {word(struct) for struct in get_args(Action) if struct is not ReleaseQuarantine}
    assert set(ACTIONS) == writable == set(ALLOWED)
    for action, spec in ACTIONS.items():
        assert spec.word == action == word(spec.struct)
        assert (spec.action_class is ActionClass.AGENT) == (spec.struct in get_args(AgentAction))
        assert action in spec.example


def test_the_table_has_every_cell() -> None:
    for cells in ALLOWED.values():
        assert set(cells) == set(Category)


@pytest.mark.parametrize(
    ("category", "refused"),
    [
        (
            Category.EVENT,
            {"agentKillProcess", "agentKillProcessGroup", "agentKillProcessTree", "agentReniceProcess"},
        ),
        (Category.SECURITY_EVENT, set()),
        (Category.DEVIATION, set()),
        (
            Category.ADMISSION_CONTROL,
            {
                "quarantine",
                "agentKillPod",
                "agentKillProcess",
                "agentKillProcessGroup",
                "agentKillProcessTree",
                "agentReniceProcess",
            },
        ),
    ],
)
def test_what_a_category_can_never_have(category: Category, refused: set[str]) -> None:
    assert {action for action in ACTIONS if not allowed(category, action)} == refused


def test_labels_share_one_entry() -> None:
    assert criterion_spec("label:app.kubernetes.io/name") is CRITERIA["label:"]
    assert criterion_spec("labels") is None


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (Form.COUNT, "5", Threshold(5)),
        (Form.COUNT, ">5", Threshold(6)),
        (Form.COUNT, ">=5", Threshold(5)),
        (Form.COUNT, ">0", Threshold(1)),
        (Form.COUNT, "0", None),
        (Form.COUNT, ">=0", None),
        (Form.COUNT, "5/30", None),
        (Form.COUNT, "-1", None),
        (Form.COUNT, "5.0", None),
        (Form.COUNT, "=5", None),
        (Form.COUNT, "> 5", None),
        (Form.COUNT, "", None),
        (Form.COUNT, "٣", None),
        (Form.FIXED_COUNT, "3", Threshold(4)),
        (Form.FIXED_COUNT, "0", Threshold(1)),
        (Form.FIXED_COUNT, ">3", Threshold(4)),
        (Form.FIXED_COUNT, ">=3", Threshold(3)),
        (Form.FIXED_COUNT, "3/30", Threshold(4, 30)),
        (Form.FIXED_COUNT, ">=3/30", Threshold(3, 30)),
        (Form.FIXED_COUNT, "3/0", None),
        (Form.FIXED_COUNT, "3/", None),
        (Form.FIXED_COUNT, "/3", None),
        (Form.FIXED_COUNT, "3/30/1", None),
    ],
)
def test_counts(form: Form, text: str, expected: Threshold | None) -> None:
    assert threshold(form, text) == expected


def test_levels() -> None:
    assert levels("critical") == (Level.CRITICAL,)
    assert levels(">=Error") == (Level.EMERGENCY, Level.ALERT, Level.CRITICAL, Level.ERROR)
    assert levels(">=debug") == tuple(Level)
    assert levels("High") == ()
    assert levels("<=Error") == ()


def test_globs() -> None:
    assert is_glob("D.[1-5].*")
    assert is_glob("ngin?")
    assert not is_glob("D.5.4")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("cve-hihg", "cve-high"), ("NAME", "name"), ("lable:", "label:"), ("qwertz", ""), ("", "")],
)
def test_nearest_word(written: str, meant: str) -> None:
    assert nearest(written, CRITERIA) == meant
