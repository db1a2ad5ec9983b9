"""The documentation's site: navigation comes from the pages' own lists, and pages load nothing from elsewhere."""

import re
from pathlib import Path

import pytest

from tools.docs_site import (
    NAVIGATION,
    ROOT,
    external_loads,
    navigation_entries,
    replace_root_links,
    with_navigation,
)

DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md"))
USE_PAGES = sorted((DOCS / "use").glob("*.md"))


def test_every_page_is_in_the_navigation_once() -> None:
    entries = [
        str((DOCS / page).parent.joinpath(entry).resolve().relative_to(DOCS))
        for page in NAVIGATION
        for _, entry in navigation_entries(replace_root_links(page, (DOCS / f"{page}.md").read_text()))
    ]
    assert sorted([*entries, "index"]) == PAGES


def test_a_navigation_page_gets_the_list_items_that_begin_with_a_link() -> None:
    text = "# Run it\n- [Install](install.md): see [values](values.md)\n- text [b](b.md)\n- [Nodes](design/nodes.md)\n"
    assert navigation_entries(text) == [("Install", "install"), ("Nodes", "design/nodes")]
    assert with_navigation("run", text) == (
        f"{text}\n```{{toctree}}\n:hidden:\n\nInstall <install>\nNodes <design/nodes>\n```\n"
    )


def test_a_page_that_is_no_navigation_page_stays_as_it_is() -> None:
    assert with_navigation("install", "- [API](api.md)\n") == "- [API](api.md)\n"


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("api", "../SECURITY.md", "project/security-policy.md"),
        ("design/edge", "../../CONTRIBUTING.md#tests", "../project/contributing.md#tests"),
        ("design/edge", "../login.md", "../login.md"),
    ],
)
def test_links_to_pages_of_the_root_lead_to_their_copy_in_the_site(page: str, link: str, expected: str) -> None:
    assert replace_root_links(page, f"see [it]({link}).") == f"see [it]({expected})."


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example.com/a.js"></script>',
        '<link rel="stylesheet" href="//fonts.example.com/inter.css">',
        '<link rel="preconnect" href="https://fonts.example.com">',
        '<img srcset="small.png 1x, https://example.com/big.png 2x">',
        '<iframe src="http://example.com/"></iframe>',
        "<video><source src=https://example.com/a.mp4></video>",
        "<div style=\"background: url('https://example.com/a.png')\"></div>",
        "<style>@import 'https://example.com/a.css';</style>",
    ],
)
def test_a_page_that_loads_from_elsewhere_is_found(text: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(f"<!doctype html><body>{text}</body>")
    assert len(list(external_loads(tmp_path))) == 1


def test_style_sheets_are_searched_and_links_that_people_follow_are_not(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        '<a href="https://example.com">out</a><link rel="next" href="https://example.com/2"><script src="_static/a.js">'
        "</script><pre>url(https://example.com)</pre>"
    )
    (tmp_path / "site.css").write_text("a { src: url(data:font/woff2;base64,AAAA) } b { src: url(//example.com/x) }")
    assert list(external_loads(tmp_path)) == ["site.css loads //example.com/x"]


@pytest.mark.parametrize("path", USE_PAGES, ids=lambda path: path.stem)
def test_a_page_for_those_who_only_want_the_desktop_is_short_and_has_no_word_of_the_cluster(path: Path) -> None:
    words = [word for word in path.read_text().split() if re.search(r"\w", word)]
    assert len(words) <= 600
    cluster = {"kubernetes", "pod", "pods", "namespace", "kubectl", "helm", "operator", "gateway", "selkies", "crd"}
    assert cluster & {word.strip(".,:;()`*").lower() for word in words} == set()


def test_the_messages_page_quotes_sentences_of_the_product() -> None:
    """`…` stands for what the product fills in; strings that Python joins are read as one."""
    files = [path for path in (ROOT / "src/vdi").rglob("*") if path.suffix in {".py", ".html", ".js"}]
    product = re.sub(r'"\s*\n\s*f?"', "", "\n".join(path.read_text() for path in files))
    quoted = re.findall(r"^\| ([^|]+) \|", (DOCS / "use/messages.md").read_text(), re.MULTILINE)
    sentences = [sentence for sentence in quoted if sentence != "you read"]
    assert len(sentences) > 25
    parts = [part.strip() for sentence in sentences for part in sentence.split("…")]
    assert [part for part in parts if part not in product] == []
