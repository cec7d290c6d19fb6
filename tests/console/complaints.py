"""What a browser complains of while a test looks at pages."""

from __future__ import annotations

from playwright.sync_api import ConsoleMessage, Page, Request, Response

#: A stream, and what a page asked for before it was left, end like this.
_LEFT = "net::ERR_ABORTED"


class Complaints:
    """Errors and warnings of the console (violations of the policy among them), exceptions, and requests that failed."""

    def __init__(self) -> None:
        self._found: list[str] = []
        self._expected: list[str] = []

    def watch(self, page: Page) -> None:
        page.on("console", self._said)
        page.on("pageerror", lambda error: self._found.append(f"exception: {error}"))
        page.on("requestfailed", self._failed)
        page.on("response", self._answered)

    def expect(self, *parts: str) -> None:
        """Complaints that have this text are part of the test."""
        self._expected += parts

    def unexpected(self) -> list[str]:
        return [told for told in self._found if not any(part in told for part in self._expected)]

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._found.append(f"console: {message.text}")

    def _failed(self, request: Request) -> None:
        if request.failure != _LEFT:
            self._found.append(f"failed: {request.url} {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self._found.append(f"status {response.status}: {response.url}")
