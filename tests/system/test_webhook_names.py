"""Where names lead: a name server that gives several addresses, changes its mind, fails and falls silent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

GOOD = "203.0.113.5"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if os.geteuid() != 0:
        pytest.skip("needs root for a network and a mount namespace")
    resolver = tmp_path_factory.mktemp("names") / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:10 attempts:1\n")
    script = Path(__file__).with_name("names_scenario.py")
    done = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, str(script), str(resolver)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_of_several_addresses_only_the_permitted_are_tried(told: dict[str, Any]) -> None:
    (answer,) = told["several"]
    assert (answer["verdict"], answer["at"]) == ("delivered", [GOOD])


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("bad", ("127.0.0.1 is loopback", "169.254.169.254 is link-local", "::1 is loopback")),
        ("mapped", ("127.0.0.1",)),
    ],
)
def test_a_name_that_leads_only_to_forbidden_addresses_is_not_followed(
    told: dict[str, Any], name: str, reasons: tuple[str, ...]
) -> None:
    (answer,) = told[name]
    assert (answer["verdict"], answer["at"]) == ("never", [])
    assert all(reason in answer["told"] for reason in reasons), answer


def test_a_name_that_leads_elsewhere_a_moment_later_changes_nothing(told: dict[str, Any]) -> None:
    first, second = told["rebinds"]
    assert (first["verdict"], first["at"]) == ("delivered", [GOOD])
    assert (second["verdict"], second["at"]) == ("never", [])
    assert told["asked when it rebound"] == 2, "one question a connection: what was judged is what was connected to"


def test_every_hop_of_a_redirect_is_judged_by_where_its_name_leads(told: dict[str, Any]) -> None:
    (bad,) = told["redirect to bad"]
    (here,) = told["redirect to here"]
    (good,) = told["redirect to several"]
    assert (bad["verdict"], bad["at"]) == ("never", [GOOD])
    assert (here["verdict"], here["at"]) == ("never", [GOOD])
    assert (good["verdict"], good["at"]) == ("delivered", [GOOD, GOOD])


def test_a_name_that_does_not_resolve_yet_is_tried_again_and_never_a_dead_letter(told: dict[str, Any]) -> None:
    flaky = told["flaky"]
    assert flaky["letters"] == 0
    *failed, last = flaky["attempts"]
    assert last[0] is True
    assert len(failed) == 3
    assert all("does not resolve" in explanation for _, explanation in failed), failed


def test_names_that_nobody_answers_for_hold_up_no_other(told: dict[str, Any]) -> None:
    (answer,) = told["beside silence"]
    assert answer["verdict"] == "delivered"
    assert told["silent"] == [0] * 8, "they were still being looked up"
