"""Markdown that people write into rules, as HTML that is safe to put into a page.

Its text can hold what an attacker chose: HTML in it is shown as it was written, links lead to other sites and mail
only, images are left out, and what would hide or turn text around is made visible.
"""

from __future__ import annotations

import re
from functools import lru_cache

import nh3
from markdown_it import MarkdownIt

_TAGS = {
    *("p", "br", "hr", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6"),
    *("em", "strong", "s", "code", "pre", "a", "ul", "ol", "li"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
_LINK = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)
#: Control characters, and those that change the direction in which text is read.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
#: What people may write has 10,000 characters; other sources of flags are ours.
_LONGEST = 20_000

_markdown = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


def _attribute(tag: str, name: str, value: str) -> str | None:
    if tag == "a" and name == "href" and not _LINK.match(value):
        return None
    return value


@lru_cache(maxsize=256)
def safe_html(text: str) -> str:
    """The same text gives the same HTML; longer text is cut."""
    rendered = _markdown.render(_HIDDEN.sub("\ufffd", text[:_LONGEST]))
    cleaned = nh3.clean(
        rendered,
        tags=_TAGS,
        attributes={"a": {"href", "title"}, "ol": {"start"}},
        attribute_filter=_attribute,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    # A reference such as &#x202e; is a character only now.
    return _HIDDEN.sub("\ufffd", cleaned)
