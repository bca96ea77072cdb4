"""A model card's Markdown as HTML that fetches nothing, runs nothing, and covers nothing else of the page."""

from __future__ import annotations

import re
from html import escape
from html.parser import HTMLParser

MOST = 100_000  # characters; a card of more is no card
DEEPEST = 30  # tags in one another
TAGS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "em", "strong", "b", "i", "s", "del", "sub", "sup", "small", "code"}
TAGS |= {"pre", "kbd", "blockquote", "ul", "ol", "li", "hr", "br", "a", "details", "summary", "dl", "dt", "dd"}
TAGS |= {"table", "thead", "tbody", "tr", "th", "td"}
EMPTY = {"hr", "br"}
UNSEEN = {"script", "style", "template"}  # whose text is no text
ALIGNED = re.compile(r"text-align:(left|right|center)")  # as markdown-it writes it


def card_html(markdown: str) -> str:
    """The card, of which only letters, headings, lists, tables and links to other pages are left; "" of an empty one.

    A card is anybody's. So what comes out is written anew, from a short list of tags, rather than cleared of what is
    known to be bad; of pictures, which would be fetched from elsewhere, the words that stand for them are left.
    """
    from markdown_it import MarkdownIt  # gradio brings it along

    if len(markdown) > MOST:
        return f"<p>This card has {len(markdown):,} characters, and {MOST:,} are shown at most.</p>"
    writer = _Writer()
    writer.feed(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown))
    writer.close()
    return writer.written()


class _Writer(HTMLParser):
    """Writes again what it reads, as far as it is allowed; every tag is closed, and none that was not opened."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._open: list[str] = []
        self._unseen = 0

    def written(self) -> str:
        return "".join(self._parts + [f"</{tag}>" for tag in reversed(self._open)])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self._unseen += tag in UNSEEN
        if tag == "img" and found.get("alt") and not self._unseen:
            self._parts.append(f"<em>{escape(found['alt'])}</em>")
        kept = _kept(tag, found)
        if tag not in TAGS or (tag == "a" and not kept) or len(self._open) >= DEEPEST:
            return
        self._parts.append(f"<{tag}{kept}>")
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._unseen = max(0, self._unseen - (tag in UNSEEN))
        while tag in self._open:
            self._parts.append(f"</{(last := self._open.pop())}>")
            if last == tag:
                return

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self._parts.append(escape(data))


def _kept(tag: str, found: dict[str, str]) -> str:
    """The attributes that stay."""
    if tag == "a" and re.match(r"https?://", found.get("href", "")):
        return f' href="{escape(found["href"])}" target="_blank" rel="noopener nofollow"'
    if tag in ("th", "td") and (side := ALIGNED.fullmatch(found.get("style", ""))):
        return f' style="text-align:{side[1]}"'
    if tag == "ol" and re.fullmatch(r"\d{1,9}", found.get("start", "")):
        return f' start="{found["start"]}"'
    return ""
