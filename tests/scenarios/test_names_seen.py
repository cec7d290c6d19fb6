"""Names that events carry: taken up beside what is decided, bounded, kept over a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quell.controller import names_seen
from quell.controller.names_seen import NamesSeen
from quell.detectors import DETECTORS
from quell.model.event import Category, Event
from quell.storage.store import Store

Clock = Callable[[], float]


def event(name: str, **more: Any) -> Event:
    line = json.dumps({"name": name, "subject": {"node": "n"}} | more).encode()
    return DETECTORS["native"].decode(line, id=None, received=1000.0)


def names(seen: NamesSeen, category: Category = Category.SECURITY_EVENT) -> list[str]:
    return [each.name for each in seen.of(category)]


async def settle(seen: NamesSeen) -> None:
    """One round of its loop."""
    await seen.round()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "quell.db"


def test_what_is_in_no_catalogue_is_kept_by_category_with_who_sent_it(path: Path) -> None:
    async def scenario() -> None:
        with Store.open(path) as store:
            seen = NamesSeen(store, lambda: 1234.5)
            seen.note([event("Container.Start"), event("container.START"), event("ContainerScanReport")])
            seen.note([event("Terminal shell", category="incident"), event("DLP.cards.visa", category="threat")])
            seen.note([event("Terminal shell", category="incident"), event("bad\nname", category="incident")])
            seen.note([event("x" * 257, category="incident")])
            assert names(seen) == ["DLP.cards.visa", "Terminal shell"]
            [dlp, shell] = seen.of(Category.SECURITY_EVENT)
            assert (dlp.kind, shell.kind, shell.source, shell.seen) == ("threat", "incident", "native", 1234.5)
            assert names(seen, Category.EVENT) == []
            assert seen.words["terminal shell"] == "Terminal shell"
            await settle(seen)
        with Store.open(path) as store:
            again = NamesSeen(store, lambda: 2000.0)
            assert set(names(again)) == {"DLP.cards.visa", "Terminal shell"}
            again.note([event("Terminal shell", category="incident")])
            assert {each.seen for each in again.of(Category.SECURITY_EVENT)} == {1234.5}

    asyncio.run(scenario())


def test_numbers_and_custom_checks_of_compliance_reports(path: Path) -> None:
    async def scenario() -> None:
        items = [{"number": "D.5.12", "failed": True}, {"number": "nv.web/rootfs", "failed": False}]
        with Store.open(path) as store:
            seen = NamesSeen(store, lambda: 1.0)
            seen.note([event("Compliance.Container.Violation", details={"items": items})])
            assert names(seen, Category.COMPLIANCE) == []
            await settle(seen)
            assert set(names(seen, Category.COMPLIANCE)) == {"D.5.12", "nv.web/rootfs"}
            # A detector's own name for its reports is known from the first on, and they are looked into as well.
            own = {"category": "compliance", "details": {"items": [{"number": "K.1.1", "failed": True}]}}
            seen.note([event("Nightly check", **own)])
            await settle(seen)
            assert {"Nightly check", "K.1.1"} <= set(names(seen, Category.COMPLIANCE))

    asyncio.run(scenario())


def test_a_flood_of_names_is_bounded_in_a_second_and_in_all(path: Path) -> None:
    async def scenario() -> None:
        with Store.open(path) as store:
            seen = NamesSeen(store, lambda: 1.0)
            serial = 0
            for _ in range(8):
                batch = [event(f"made-up-{number}", category="incident") for number in range(serial, serial + 500)]
                serial += 500
                before = len(names(seen))
                seen.note(batch)
                seen.note(batch)
                assert len(names(seen)) == min(before + names_seen.NEW_A_SECOND, names_seen.KEPT)
                await settle(seen)
            assert len(names(seen)) == names_seen.KEPT
            newest = names(seen)
            assert newest[0].startswith("made-up-36")
        with Store.open(path) as store:
            assert set(names(NamesSeen(store, lambda: 1.0))) == set(newest)

    asyncio.run(scenario())


def test_what_was_pushed_out_is_news_when_it_comes_again(path: Path) -> None:
    async def scenario() -> None:
        with Store.open(path) as store:
            seen = NamesSeen(store, lambda: 1.0)
            seen.note([event("the first", category="incident")])
            for start in range(0, names_seen.KEPT, names_seen.NEW_A_SECOND):
                await settle(seen)
                seen.note(
                    [
                        event(f"n{number}", category="incident")
                        for number in range(start, start + names_seen.NEW_A_SECOND)
                    ]
                )
            assert "the first" not in names(seen)
            await settle(seen)
            seen.note([event("the first", category="incident")])
            assert names(seen)[0] == "the first"

    asyncio.run(scenario())
