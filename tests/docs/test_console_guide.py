"""The console's guide: its images are there, described and made by the script, and its table has the console's pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from guide import ROOT
from tests.console.guide_images import FOLDER, IMAGES

from quell.console.registry import PAGES as REGISTERED

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [image.name for image in IMAGES]


@dataclass(frozen=True)
class Shown:
    page: str
    alternative: str
    file: Path


def shown(page: Path) -> list[Shown]:
    found = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text())
    return [Shown(page.name, alternative, (page.parent / target).resolve()) for alternative, target in found]


SHOWN = [each for page in PAGES for each in shown(page)]


@pytest.mark.parametrize("each", SHOWN, ids=lambda each: f"{each.page}:{each.file.name}")
def test_an_image_is_there_and_says_in_words_what_it_shows(each: Shown) -> None:
    assert each.file.is_file(), f"{each.page} shows {each.file.name}: run make screenshots"
    assert len(each.alternative.split()) >= 4, f"{each.page} does not say what {each.file.name} shows"


def test_the_table_has_what_pages_show_and_nothing_else() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert {each.file.stem for each in SHOWN if each.file.parent == FOLDER} == set(NAMES)
    assert {path.stem for path in FOLDER.glob("*.png")} == set(NAMES)


def test_they_are_small() -> None:
    """All of them are in every checkout."""
    assert sum(path.stat().st_size for path in FOLDER.glob("*.png")) < 2_000_000


def test_the_index_has_a_row_for_each_page_of_the_console() -> None:
    index = (ROOT / "docs" / "console.md").read_text()
    rows = re.findall(r"^\| ([A-Z][^|]*) \| (?:`g` `(.)`)? *\|", index, flags=re.MULTILINE)
    assert sorted(rows) == sorted((page.title, page.key or "") for page in REGISTERED)


def test_no_two_pages_have_the_same_keys() -> None:
    keys = [page.key for page in REGISTERED if page.key]
    assert len(set(keys)) == len(keys)
