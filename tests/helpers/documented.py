"""The documentation as it is written: blocks of code, commands in running text, links and headings of a page."""

import re
from dataclasses import dataclass
from itertools import pairwise

from checkout import ROOT
from markdown_it import MarkdownIt
from markdown_it.token import Token

SHELL = ("sh", "bash", "console")
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:make|avfuse|\.venv/bin/avfuse) \S")
_MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


@dataclass(frozen=True)
class Block:
    """A fenced block. language: its first word, such as `sh` or `{code-cell}`; empty where none is given."""

    page: str
    line: int
    language: str
    text: str

    @property
    def is_transcript(self) -> bool:
        """Whether commands stand in it after `$ `, with what they print below."""
        return self.language in ("", *SHELL) and self.text.startswith("$ ")

    def commands(self) -> list[str]:
        """Lines of shell, those that a backslash continues in one piece, without what a transcript prints."""
        found = []
        for line in re.findall(r"(?:[^\n]*\\\n)*[^\n]*\n", self.text):
            if not self.is_transcript:
                found.append(line.rstrip("\n"))
            elif line.startswith("$ "):
                found.append(line.removeprefix("$ ").rstrip("\n"))
        return found

    def headings(self) -> list[list[str]]:
        """Columns of printed tables: the lines that have a line of dashes below."""
        lines = self.text.splitlines()
        return [columns(line) for line, below in pairwise(lines) if is_rule(below) and line.strip()]


@dataclass(frozen=True)
class Mention:
    """A command in running text or in a cell of a table."""

    page: str
    line: int
    text: str


@dataclass(frozen=True)
class Link:
    line: int
    address: str


def pages() -> list[str]:
    """Paths of all pages whose commands are run, from the checkout's root."""
    found = (str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
    return ["README.md", "CONTRIBUTING.md", *sorted(page for page in found if not page.startswith("docs/_"))]


def pieces(page: str) -> list[Block | Mention]:
    """What a page tells its reader to type, and what it shows, in order."""
    found: list[Block | Mention] = []
    for token in _tokens(page):
        if token.type == "fence":
            found.append(Block(page, _line(token), (token.info.split() or [""])[0], token.content))
        for child in token.children or []:
            if child.type == "code_inline" and COMMAND.match(child.content):
                found.append(Mention(page, _line(token), child.content))
    return found


def words_in_code(page: str) -> list[Mention]:
    """Every piece of code in running text."""
    return [
        Mention(page, _line(token), child.content)
        for token in _tokens(page)
        for child in token.children or []
        if child.type == "code_inline"
    ]


def links(page: str) -> list[Link]:
    """Addresses of links and pictures."""
    found = []
    for token in _tokens(page):
        for child in token.children or []:
            address = child.attrGet({"link_open": "href", "image": "src"}.get(child.type, ""))
            if address is not None:
                found.append(Link(_line(token), str(address)))
    return found


def anchors(page: str) -> set[str]:
    """Headings as GitHub names them in addresses."""
    tokens = _tokens(page)
    titles = [inline for head, inline in pairwise(tokens) if head.type == "heading_open"]
    named: dict[str, int] = {}
    for title in titles:
        text = "".join(child.content for child in title.children or [])
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        named[slug] = named.get(slug, -1) + 1
    return {slug if again == 0 else f"{slug}-{again}" for slug, times in named.items() for again in range(times + 1)}


def without_comment(line: str) -> str:
    """A line of shell on one line, with single spaces and no comment behind it."""
    return " ".join(re.sub(r"(^|\s)#.*$", "", line.replace("\\\n", " ")).split())


def columns(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def is_rule(line: str) -> bool:
    return re.fullmatch(r"\s*-{5,}\s*", line) is not None


def _tokens(page: str) -> list[Token]:
    return _MARKDOWN.parse((ROOT / page).read_text(encoding="utf-8"))


def _line(token: Token) -> int:
    return (token.map or [0])[0] + 1
