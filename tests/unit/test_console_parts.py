"""The console's parts that need no server: addresses, routes, forms' errors, charts, what is said once."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from quell.api.problem import Refusal
from quell.console import charts, words
from quell.console.assets import assets
from quell.console.charts import Series
from quell.console.entrance import own_address
from quell.console.forms import by_field
from quell.console.page import Query, Route, address
from quell.console.registry import LIVE, PAGES
from quell.console.rendering import environment
from quell.errors import Problem


async def _nothing(_call: object) -> None: ...


@pytest.mark.parametrize(
    ("path", "asked", "parts"),
    [
        ("/rules", "/rules", {}),
        ("/rules/{id}", "/rules/7", {"id": "7"}),
        ("/rules/{id}", "/rules/7/edit", None),
        ("/rules/{id}/edit", "/rules/a.b/edit", {"id": "a.b"}),
        ("/events/{id:path}", "/events/a/b", {"id": "a/b"}),
        ("/a.b", "/axb", None),
    ],
)
def test_a_route_matches_whole_paths(path: str, asked: str, parts: dict[str, str] | None) -> None:
    assert Route(path=path, handler=_nothing).match(asked) == parts  # type: ignore[arg-type]


def test_an_address_keeps_its_filters_but_those_that_change() -> None:
    query = Query({"level": ["a", "b"], "cursor": ["9"], "text": [""]})
    assert query.changed(cursor=None, since="1h") == "?level=a&level=b&since=1h"
    assert (query.one("level"), query.all("level"), "text" in query) == ("a", ["a", "b"], False)
    assert address("x", "a/b?c") == "/console/x/a%2Fb%3Fc"
    with pytest.raises(Refusal):
        Query({"from": ["-1"]}).number("from", 0)


def test_problems_stand_at_their_fields() -> None:
    problems = [
        Problem(file="", path="spec.criteria[0]", message="bad", nearest="good"),
        Problem(file="", path="query.level", message="none"),
        Problem(file="", path="spec", message="of no field"),
    ]
    found, rest = by_field(problems, ("criteria", "level"))
    assert found == {"criteria": "bad; did you mean good?", "level": "none"}
    assert [one.message for one in rest] == ["of no field"]


@pytest.mark.parametrize(
    "elsewhere", ["", "https://x/", "//x", "/console\\x", "/console/\\x", "/v1/x", "/console/\n", "/consolex"]
)
def test_nobody_is_led_elsewhere(elsewhere: str) -> None:
    assert own_address(elsewhere) == "/console"


def test_a_chart_has_its_figures_in_words_and_as_a_table() -> None:
    drawn = charts.bars("<Events>", [0.0, 60.0], 60, [Series(name="a<b", tone="info", values=[0, 1500])])
    figure = ET.fromstring(str(drawn))  # noqa: S314 - our own
    svg = figure.find("svg")
    assert svg is not None
    assert (svg.findtext("title"), svg.findtext("desc")) == (
        "<Events>",
        "<Events>: 1,500 in 2 bars of 1 min, at most 1,500 in one.",
    )
    assert [cell.text for cell in figure.iter("td")] == ["1,500"]
    assert len([rect for rect in svg.iter("rect") if rect.get("class") == "info"]) == 1
    assert "Nothing" in charts.bars("E", [0.0], 60, [], empty="Nothing")


def test_times_are_told_as_people_do() -> None:
    told = [words.ago(100.0, now) for now in (100.0, 103.0, 100.0 + 130, 100.0 + 7300, 100.0 + 200_000, 40.0)]
    assert told == ["now", "3 s ago", "2 min ago", "2 h ago", "2 d ago", "in 1 min"]


def test_every_page_stands_once_with_a_letter_of_its_own_and_routes_below_its_name() -> None:
    assert len({page.name for page in PAGES}) == len(PAGES)
    keys = [page.key for page in PAGES if page.key]
    assert len(set(keys)) == len(keys)
    assert set(LIVE) <= {page.name for page in PAGES}
    for page in PAGES:
        assert all(re.match(rf"/{page.name}(/|$)", route.path) for route in page.routes)


def test_all_scripts_together_are_small() -> None:
    assert sum(len(asset.content) for asset in assets().values() if "javascript" in asset.kind) <= 150 * 1024


def test_no_template_has_anything_inline() -> None:
    loader = environment().loader
    assert loader is not None
    for name in environment().list_templates():
        text = loader.get_source(environment(), name)[0]
        assert not re.search(r"<script(?! src=)|<style|\sstyle=|\son[a-z]{3,}=|javascript:", text), name
