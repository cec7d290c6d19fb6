"""The images of the guide: `make screenshots`, or `python -m tests.console.guide_images [NAME ...]` for some of them.

A page shows `images/console/NAME.png`; tests/docs/test_console_guide.py holds pages, table and files together. The example data is
the same each time, spread over the hour before; times are those of the day.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.console.example_policies import NIGHT

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "images" / "console"


@dataclass(frozen=True)
class Image:
    """width, height: of the window, in pixels; what is below is cut off, what is empty below the content as well.

    part: a CSS selector of what is cut out; "body": the whole window.
    checks: a box that is checked before, by its label.
    """

    name: str
    address: str
    part: str = "body"
    look: str = "light"
    width: int = 1280
    height: int = 800
    checks: str = ""


IMAGES: tuple[Image, ...] = (
    Image("overview", "/console/overview", height=1000),
    Image("overview-dark", "/console/overview", look="dark", height=640),
    Image("notifications", "/console/notifications/security-events?level=%3E%3DError"),
    Image("event", "/console/notifications/event/incident-0?near=1", height=1100),
    Image("rules", "/console/rules"),
    Image("rule-from-event", "/console/rules/new?from=incident-0", height=1060, checks="quarantine"),
    Image("rule-delete", "/console/rules/8/delete", part="main"),
    Image("observed", "/console/policies/observed", part="main"),
    Image("policy", "/console/policies/policy/shop-web", height=1000),
    Image("policy-text", "/console/policies/text/shop-web", height=900),
    Image("policy-enforce", "/console/policies/switch/shop-web?mode=enforce", part="main"),
    Image("deviations", "/console/deviations"),
    Image("ruleset", "/console/rulesets/ruleset/prod-images", part="main"),
    Image("quarantine", "/console/quarantine"),
    Image("quarantine-new", "/console/quarantine/new?pod=uid-checkout&node=edge-1", part="main"),
    Image("quarantine-one", "/console/quarantine/of/uid-checkout", part="main"),
    Image("approvals", "/console/approvals"),
    Image("approve", "/console/approvals/decide/incident-2/0?verdict=approve", part="main"),
    Image("pause", "/console/settings/pause", part="main"),
    Image("flags", "/console/flags"),
    Image("flag", "/console/flags/night-0/0", part="main"),
    Image("traces", "/console/traces", part="main"),
    Image("trace", f"/console/traces/{NIGHT}", height=1000),
    Image("webhooks", "/console/webhooks", part="main"),
    Image("webhook", "/console/webhooks/of/archive", part="main", height=1040),
    Image("dead-letters", "/console/webhooks/dead-letters", part="main"),
    Image("agents", "/console/agents", part="main"),
    Image("workloads", "/console/workloads"),
    Image("group", "/console/groups/of/shop", part="main"),
    Image("group-edit", "/console/groups/edit/shop", part="main"),
    Image("users", "/console/users", part="main"),
    Image("tokens", "/console/tokens", part="main"),
    Image("audit", "/console/audit"),
    Image("settings", "/console/settings", height=1000),
    Image("setting", "/console/settings/edit/safety.breaker", part="main"),
)


class Clock:
    """Stands for time.time in this process, the controller and its agent with it: behind, and set forward by hand."""

    def __init__(self, behind: float) -> None:
        self._real, self._behind = time.time, behind
        self._pick = random.Random(11)  # noqa: S311 - the same hour each time, no secret

    def __call__(self) -> float:
        return self._real() - self._behind

    def forward(self, seconds: float) -> None:
        """By about so much, and never beyond the real time."""
        self._behind = max(0.0, self._behind - self._pick.uniform(0, 2 * seconds))

    def now(self) -> None:
        self._behind = 0.0


def main(names: list[str]) -> None:
    """Without names: all, and files that the table does not name are taken away."""
    if unknown := set(names) - {image.name for image in IMAGES}:
        sys.exit(f"no such image: {', '.join(sorted(unknown))}")
    clock = Clock(behind=3300.0)
    time.time = clock
    from tests.console import guide_camera  # after the clock: defaults in Quell hold the function

    guide_camera.take([image for image in IMAGES if not names or image.name in names], FOLDER, clock)
    if not names:
        for path in FOLDER.glob("*.png"):
            if path.stem not in {image.name for image in IMAGES}:
                path.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
