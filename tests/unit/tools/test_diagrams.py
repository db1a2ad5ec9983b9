"""Diagrams of the documentation: drawn from a text, readable in light and dark, refused when a text does not fit."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tools.docs_site import ROOT, markdown_pages
from tools.generate.diagrams import FOLDER, DiagramError, draw, render

SVG = "{http://www.w3.org/2000/svg}"
SMALL = """
title: Two boxes
boxes:
  one: {at: [0, 0], lines: [One, first & last]}
  two: {at: [1, 0], lines: [Two], look: strong}
notes:
  - {at: [0, 1], lines: [a note]}
arrows:
  - {from: one, to: two, lines: [goes to]}
"""


def test_a_diagram_is_an_image_with_a_name_and_both_colour_schemes() -> None:
    root = ElementTree.fromstring(draw(SMALL, "small.yaml"))
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title") == "Two boxes"
    assert [text.text for text in root.iter(f"{SVG}text")] == ["One", "first & last", "Two", "a note", "goes to"]
    assert "prefers-color-scheme: dark" in (root.findtext(f"{SVG}style") or "")
    assert len(root.findall(f".//{SVG}rect")) == 3  # the background and two boxes
    assert len(root.findall(f"{SVG}path")) == 1


def test_an_arrow_ends_at_the_border_of_its_box() -> None:
    path = ElementTree.fromstring(draw(SMALL, "small.yaml")).find(f"{SVG}path")
    boxes = [rect for rect in ElementTree.fromstring(draw(SMALL, "small.yaml")).iter(f"{SVG}rect") if rect.get("x")]
    assert path is not None
    start, end = re.findall(r"([\d.]+) [\d.]+", path.get("d", ""))
    assert float(start) == float(boxes[0].get("x", 0)) + float(boxes[0].get("width", 0))
    assert float(end) == float(boxes[1].get("x", 0))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("to: two", "to: three", "arrows[0].to is 'three'; allowed: one, two"),
        ("[Two]", f"[{'x' * 40}]", "boxes.two.lines[0] has 40 characters; at most"),
        ("[goes to]", f"[{'x' * 40}]", "arrows[0].lines[0] has 40 characters; at most"),
        ("look: strong", "look: red", "red"),
        ("title: Two boxes", "name: Two boxes", "`name`"),
        ("at: [1, 0]", "at: [0, 0]", "boxes.two.at is [0, 0], where box one is"),
    ],
)
def test_a_wrong_source_is_refused_with_field_and_value(old: str, new: str, message: str) -> None:
    with pytest.raises(DiagramError, match=re.escape(message)) as refused:
        draw(SMALL.replace(old, new), "small.yaml")
    assert str(refused.value).startswith("small.yaml: ")


def test_every_diagram_is_used_with_a_description() -> None:
    pages = {page: page.read_text() for page in markdown_pages()}
    for path in render():
        uses = [
            text
            for page, content in pages.items()
            for text, link in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", content)
            if (page.parent / link).resolve() == path
        ]
        assert uses, path.name
        assert all(len(text) > 40 for text in uses), path.name


def test_no_diagram_is_left_without_its_source() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.svg")) == sorted(path.stem for path in FOLDER.glob("*.yaml"))
    assert Path(ROOT / "docs/diagrams") == FOLDER
