"""What a flag's content may do to who reads it: nothing. In a page, and on a terminal."""

from __future__ import annotations

import io
import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from quell.cli.markdown import SafeMarkdown
from quell.controller.markdown import safe_html

PAYLOADS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe src='javascript:alert(1)'></iframe>",
    "<a href='javascript:alert(1)' onclick=alert(1)>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](vbscript:msgbox(1))",
    "[x](//evil.example/x)",
    "[x](/v1/pause)",
    "[x](https://a.example 'x\" onmouseover=alert(1) y=\"')",
    '<https://a.example/"onmouseover=alert(1)//>',
    "![x](https://track.example/pixel.png)",
    "![x](x' onerror='alert(1))",
    "```html\n</code></pre><script>alert(1)</script>\n```",
    "`<script>alert(1)</script>`",
    "x <style>*{display:none}</style>",
    "<math><mtext><table><mglyph><style><img src onerror=alert(1)>",
    "<form action=/v1/pause method=post><input type=submit></form>",
    "[ref]\n\n[ref]: javascript:alert(1)",
    "| a |\n|---|\n| <b onclick=alert(1)>x</b> |",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\x1b]8;;https://evil.example\x07text\x1b]8;;\x07",
    "a\u202egnp.exe",
    "a&#x202e;gnp.exe &#x1b;[2J",
)
ALLOWED = {
    *("p", "br", "hr", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "em", "strong", "s", "code", "pre"),
    *("a", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td"),
}


class Read(HTMLParser):
    """The elements of a piece of HTML, as a browser would find them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def check(html: str) -> None:
    for tag, attributes in Read(html).found:
        assert tag in ALLOWED, html
        assert set(attributes) <= {"href", "title", "rel", "start"}, html
        if "href" in attributes:
            assert re.match(r"(https?://|mailto:)", attributes["href"] or ""), html
            assert attributes["rel"] == "noopener noreferrer nofollow"
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html), html


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_stays_text(payload: str) -> None:
    check(safe_html(payload))
    check(safe_html(f"**See**\n\n> - {payload}\n"))


@given(st.lists(st.sampled_from((*PAYLOADS, "\n\n", "*", "[", "](", "<", ">", "`", "|", "&", '"')), max_size=8))
def test_pieces_of_payloads_stay_text(pieces: list[str]) -> None:
    check(safe_html("".join(pieces)))


def test_what_is_meant_is_kept() -> None:
    html = safe_html(
        "# Runbook\n\nStop **it**, see [the page](https://wiki.example/nc?a=1&b=2).\n\n1. look\n2. ask\n\n`nc -l`"
    )
    assert html.splitlines() == [
        "<h1>Runbook</h1>",
        '<p>Stop <strong>it</strong>, see <a href="https://wiki.example/nc?a=1&amp;b=2" rel="noopener noreferrer nofollow">the page</a>.</p>',
        "<ol>",
        "<li>look</li>",
        "<li>ask</li>",
        "</ol>",
        "<p><code>nc -l</code></p>",
    ]
    assert safe_html("") == ""


@pytest.mark.parametrize("piece", ["[", "*_`", "> ", "- ", "![](", "a\n|-|-\n", "<", "&"])
def test_a_hard_text_is_no_hard_work(piece: str) -> None:
    started = time.monotonic()
    safe_html(piece * (10_000 // len(piece)))
    assert time.monotonic() - started < 10


def printed(text: str, *, terminal: bool) -> str:
    file = io.StringIO()
    Console(file=file, width=80, force_terminal=terminal, color_system="truecolor" if terminal else None).print(
        SafeMarkdown(text)
    )
    return file.getvalue()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_of_it_controls_a_terminal(payload: str) -> None:
    plain = printed(payload, terminal=False)
    assert all(character.isprintable() or character == "\n" for character in plain), plain
    coloured = printed(payload, terminal=True)
    # Colours and attributes are rich's own; no other escape sequence is.
    assert "\x1b" not in re.sub(r"\x1b\[[0-9;]*m", "", coloured)


def test_html_is_shown_and_not_left_out() -> None:
    assert "<b>not</b>" in printed("it is <b>not</b> safe", terminal=False)


def test_a_link_shows_where_it_leads() -> None:
    assert "https://wiki.example/nc" in printed("[the page](https://wiki.example/nc)", terminal=False)
