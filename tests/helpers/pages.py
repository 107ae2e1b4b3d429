"""Pages of `avfuse report`, read as a browser reads them."""

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


@dataclass
class ReadPage(HTMLParser):
    """text: what stands in the document outside of scripts and styles. addresses: of every src, href and the like;
    islands: data by name; scripts, styles: their texts; headings: their levels, in order."""

    text: str = ""
    addresses: list[str] = field(default_factory=list)
    islands: dict[str, Any] = field(default_factory=dict)
    scripts: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    headings: list[int] = field(default_factory=list)
    policy: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._inside: tuple[str, dict[str, str | None]] | None = None
        self._pieces: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.addresses += [
            named[key] or "" for key in ("src", "href", "srcset", "action", "data", "poster") if key in named
        ]
        if tag in ("script", "style"):
            self._inside, self._pieces = (tag, named), []
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append(int(tag[1]))
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        if self._inside is None or self._inside[0] != tag:
            return
        text, named = "".join(self._pieces), self._inside[1]
        self._inside = None
        if tag == "style":
            self.styles.append(text)
        elif named.get("type") == "application/json":
            self.islands[(named["id"] or "").removeprefix("data-")] = json.loads(text)
        else:
            self.scripts.append(text)

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self._pieces.append(data)
        else:
            self.text += data


def read_page(path: Path) -> ReadPage:
    page = ReadPage()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return page
