"""Takes the images of tests/console/guide_images.py from a controller with example data."""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from PIL import Image as Picture
from playwright.sync_api import Browser, Page, sync_playwright
from tests.console.example_data import filled
from tests.console.screenshots import PASSWORD, chromium, log_in
from tests.system.live import Live, live
from tests.system.running import Receiver, wait_for

if TYPE_CHECKING:
    from tests.console.guide_images import Clock, Image

USERS = (("alice", "admin"), ("bob", "operator"), ("carol", "author"), ("dave", "viewer"))
#: One that answers, beside those of the example data, which do not.
PAGER = """
apiVersion: quell.dev/v1
kind: Webhook
metadata: {{name: pager}}
spec: {{url: "{url}", allow_http: true, allow_private: true, filter: {{flags: true}}}}
"""
#: Around what is cut out, in pixels.
MARGIN = 12
#: Between two events of the example data, on average, in seconds: there are some hundred.
STEP = 29.0


def take(images: list[Image], folder: Path, clock: Clock) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with _example(clock) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for look in dict.fromkeys(image.look for image in images):
            _take(browser, server.url, look, [image for image in images if image.look == look], folder)
        browser.close()


@contextlib.contextmanager
def _example(clock: Clock) -> Iterator[Live]:
    with tempfile.TemporaryDirectory() as state, live(Path(state) / "s") as server, server.client() as admin:
        for name, role in USERS:
            admin.post("/v1/users", json={"name": name, "role": role, "password": PASSWORD}).raise_for_status()
        admin.post("/v1/tokens", json={"name": "falco", "role": "ingest", "detectors": ["falco"]}).raise_for_status()
        with contextlib.closing(Receiver()) as pager:
            admin.post("/v1/documents", content=PAGER.format(url=pager.url)).raise_for_status()
            with filled(admin, before=_forward(admin, clock)):
                clock.now()
                yield server


def _forward(admin: httpx.Client, clock: Clock) -> Callable[[], None]:
    def idle() -> bool:
        return not any(agent["waiting"] for agent in admin.get("/v1/agents").json()["items"])

    def forward() -> None:
        # A command that is under way would run out.
        wait_for(idle, 60, "the end of what the agent was told")
        clock.forward(STEP)

    return forward


def _take(browser: Browser, url: str, look: str, images: list[Image], folder: Path) -> None:
    scheme = "dark" if look == "dark" else "light"
    context = browser.new_context(base_url=url, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    log_in(page)
    for image in images:
        page.set_viewport_size({"width": image.width, "height": image.height})
        page.goto(image.address)
        if page.locator(".live").count():
            page.locator(".live[data-state=on]").wait_for()
        if image.checks:
            page.get_by_label(image.checks).first.check()
            page.wait_for_load_state("networkidle")
        (folder / f"{image.name}.png").write_bytes(_small(_cut(page, image)))
    context.close()


def _cut(page: Page, image: Image) -> bytes:
    """The window, or the part of it, down to where its content ends."""
    box = page.locator(image.part).first.bounding_box()
    end = page.locator("main > :last-child").last.bounding_box()
    if box is None or end is None:
        sys.exit(f"{image.name}: nothing at {image.address} is {image.part}")
    whole = image.part == "body"
    left, top = (0.0, 0.0) if whole else (box["x"], box["y"])
    bottom = end["y"] + end["height"] + MARGIN if image.part in {"body", "main"} else box["y"] + box["height"]
    width = image.width if whole else box["width"]
    return page.screenshot(clip={"x": left, "y": top, "width": width, "height": min(float(image.height), bottom) - top})


def _small(png: bytes) -> bytes:
    """The same with at most 255 colours, which is a third of the size."""
    written = io.BytesIO()
    with Picture.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").quantize(255, dither=Picture.Dither.NONE).save(written, "PNG", optimize=True)
    return written.getvalue()
