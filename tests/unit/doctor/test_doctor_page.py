"""docs/doctor.md and docs/doctor/ are what the catalogue says."""

import re

import pytest

from tools.generate.doctor_pages import INDEX, PAGES, render
from vdi.diagnosis.check import code_page
from vdi.doctor.codes import CODES


def test_the_pages_are_the_catalogue() -> None:
    files = render()
    assert {path: path.read_text() for path in files} == files, "run: make generate"
    assert {*PAGES.iterdir()} == {*files} - {INDEX}, "a page of a layer that is gone"


@pytest.mark.parametrize("layer", sorted({code.layer for code in CODES.values()}))
def test_every_code_has_its_own_heading_on_the_page_that_findings_name(layer: str) -> None:
    codes = [code for code in CODES.values() if code.layer == layer]
    page = INDEX.parents[1] / code_page(codes[0])
    assert re.findall(r"^## (\w+)$", page.read_text(), re.MULTILINE) == [code.code for code in codes]


def test_the_index_links_to_every_code() -> None:
    links = re.findall(r"\]\((doctor/[a-z-]+\.md)#(\w+)\)", INDEX.read_text())
    assert [(f"docs/{page}", code) for page, code in links] == [(code_page(CODES[code]), code) for _, code in links]
    assert {code for _, code in links} == {*CODES}
