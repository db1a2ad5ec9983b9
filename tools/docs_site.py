"""The documentation as a site: a Sphinx extension for docs/conf.py, and a check of the built pages.

Pages stay plain Markdown that a code host shows as well. So the navigation is not written a second
time: a page of `NAVIGATION` gets a table of contents from its list items that begin with a link,
and beside a picture of the light scheme stands that of the dark one; the theme shows one of them. A
Mermaid diagram, which a code host draws, is shown as its text: the script that draws it has 2.5 MB.

`python -m tools.docs_site FOLDER` names every script, style, font and picture that a built page
loads from another origin, and every line of prose that is too long. Exit status: 0 nothing, 1 at
least one, 2 usage.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from tools.generate.page import BEGIN, END

ROOT = Path(__file__).parents[1]
# Pages whose lists are the navigation, as names of documents.
NAVIGATION = ("index", "use/index", "run", "doctor", "build", "work", "design/index")
# Pages in the root of the repository, and the pages in docs/ that include them in the site.
ROOT_PAGES = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security-policy.md",
}
# Characters of a line in a paragraph or a list item; headings, tables, code and addresses may be
# longer.
LINE_LENGTH = 120

# Pixels of a picture for each pixel of the page.
PICTURE_SCALE = 2

_LIGHT_PICTURE = re.compile(
    r"^!\[(?P<alt>[^\]]+)\]\((?P<stem>[\w./-]+)-light\.png\)$", re.MULTILINE
)
_ENTRY = re.compile(r"^- \[([^\]]+)\]\(([\w./-]+)\.md\)", re.MULTILINE)
_LOADING_ATTRIBUTES = ("src", "srcset", "poster", "data")
_LOADING_RELATIONS = {
    "stylesheet",
    "icon",
    "preload",
    "prefetch",
    "preconnect",
    "dns-prefetch",
    "modulepreload",
    "manifest",
}
_EXTERNAL = re.compile(r"(?:^|[\s,])((?:https?:)?//[^\s,]+)")
_ADDRESS = re.compile(r"\]\([^)\s]*\)|\]:\s+\S+|<?https?://\S+")
_GENERATED_PART = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
_GENERATED_PAGE = "<!-- Generated "
_CSS_LOAD = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s;]+)""")


def setup(app: Any) -> dict[str, bool]:
    """What Sphinx calls to add the extension."""
    app.connect("source-read", _prepare)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _prepare(_app: Any, page: str, source: list[str]) -> None:
    text = source[0].replace("```mermaid\n", "```text\n")
    source[0] = with_navigation(page, with_dark_pictures(page, replace_root_links(page, text)))


def with_navigation(page: str, text: str) -> str:
    """The text of a page, with a hidden table of contents if it is a navigation page."""
    if page not in NAVIGATION:
        return text
    entries = [f"{title} <{document}>" for title, document in navigation_entries(text)]
    return "\n".join([text, "```{toctree}", ":hidden:", "", *entries, "```", ""])


def navigation_entries(text: str) -> list[tuple[str, str]]:
    """What a navigation page lists: the text of the link, and the document, relative to the
    page.
    """
    return _ENTRY.findall(text)


def replace_root_links(page: str, text: str) -> str:
    """The text, with links to pages of the repository's root turned into links to their copies in
    the site.
    """
    depth = page.count("/")
    for name, copy in ROOT_PAGES.items():
        text = text.replace(f"]({'../' * (depth + 1)}{name}", f"]({'../' * depth}{copy}")
    return text


def with_dark_pictures(page: str, text: str) -> str:
    """The text, with both schemes of each picture, as wide as it was on the screen."""
    return _LIGHT_PICTURE.sub(lambda found: _both_schemes(page, found["alt"], found["stem"]), text)


def _both_schemes(page: str, alt: str, stem: str) -> str:
    lines = []
    for scheme in ("light", "dark"):
        file = f"{stem}-{scheme}.png"
        width = png_width((ROOT / "docs" / page).parent / file) // PICTURE_SCALE
        options = [f":alt: {' '.join(alt.split())}", f":width: {width}px", f":class: only-{scheme}"]
        lines += [f"```{{image}} {file}", *options, "```", ""]
    return "\n".join(lines)


def png_width(path: Path) -> int:
    """Pixels, as the header has them."""
    return int.from_bytes(path.read_bytes()[16:20])


def markdown_pages() -> list[Path]:
    """Every page that people write: in docs/, and in the root of the repository."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def long_lines(text: str) -> Iterator[int]:
    """The numbers of lines of prose that are longer than `LINE_LENGTH`, outside what `make
    generate` writes.
    """
    if text.startswith(_GENERATED_PAGE):
        return
    text = _GENERATED_PART.sub(lambda part: "\n" * part[0].count("\n"), text)
    lines = text.splitlines()
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "paragraph_open" and token.map:
            for number in range(*token.map):
                if len(_ADDRESS.sub("", lines[number])) > LINE_LENGTH:
                    yield number + 1


class _Loads(HTMLParser):
    """Collects what a browser loads for a page without being asked."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        self.found += _CSS_LOAD.findall(values.get("style", ""))
        loaded = [values[name] for name in _LOADING_ATTRIBUTES if name in values]
        if tag == "link" and _LOADING_RELATIONS & set(values.get("rel", "").lower().split()):
            loaded.append(values.get("href", ""))
        self.found += [address for value in loaded for address in _EXTERNAL.findall(value)]

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.found += _CSS_LOAD.findall(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_style = self._in_style and tag != "style"


def external_loads(folder: Path) -> Iterator[str]:
    """What pages and style sheets in the folder load from another origin: "FILE loads ADDRESS"."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".html":
            page = _Loads()
            page.feed(path.read_text())
            addresses = page.found
        elif path.suffix == ".css":
            addresses = _CSS_LOAD.findall(path.read_text())
        else:
            continue
        yield from (f"{path.relative_to(folder)} loads {address}" for address in addresses)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the built pages, and the lines of their sources."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.docs_site", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path, help="where the built pages are, such as build/docs")
    folder = parser.parse_args(arguments).folder
    if not any(folder.rglob("*.html")):
        parser.error(f"folder {folder} has no built page; build them with `make docs`")
    problems = list(external_loads(folder))
    for path in markdown_pages():
        place = path.relative_to(ROOT)
        problems += [
            f"{place}:{line} is longer than {LINE_LENGTH} characters"
            for line in long_lines(path.read_text())
        ]
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
