"""Screenshots of every page, filled with example data: `python -m tests.console.screenshots FOLDER [ADDRESS ...]`.

Each in light and dark, wide and narrow. Without addresses: those of tests/console/addresses.py.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from tests.console.addresses import addresses
from tests.console.example_data import filled
from tests.system.live import live

PASSWORD = "a slow green tin roof"
SIZES = {"wide": (1366, 860), "narrow": (390, 800)}


def main(folder: Path, wanted: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as state, live(Path(state) / "s") as server, server.client() as admin:
        admin.post("/v1/users", json={"name": "alice", "role": "admin", "password": PASSWORD}).raise_for_status()
        with filled(admin), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            for colours in ("light", "dark"):
                for size, (width, height) in SIZES.items():
                    context = browser.new_context(
                        base_url=server.url,
                        viewport={"width": width, "height": height},
                        color_scheme="dark" if colours == "dark" else "light",
                        reduced_motion="reduce",
                    )
                    page = context.new_page()
                    page.goto("/login")
                    page.screenshot(path=folder / f"login-{colours}-{size}.png")
                    log_in(page)
                    for address in wanted or addresses():
                        page.goto(address)
                        if page.locator(".live").count():
                            page.locator(".live[data-state=on]").wait_for()
                        page.screenshot(path=folder / f"{_name(address)}-{colours}-{size}.png", full_page=True)
                    context.close()
            browser.close()


def chromium() -> str:
    found = shutil.which("chromium")
    if found is None:
        sys.exit("chromium is not on this machine: deploy/setup.sh test installs it")
    return found


def log_in(page: Page) -> None:
    """As alice, to the overview."""
    page.goto("/login")
    page.get_by_label("Name").fill("alice")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/console/overview")


def _name(address: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", address.removeprefix("/console/").lower()).strip("-")[:60]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
