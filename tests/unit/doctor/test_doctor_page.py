"""docs/doctor.md is what the catalogue says."""

from pathlib import Path

from vdi.doctor.codes import CODES
from vdi.doctor.report.page import render_page

PAGE = Path(__file__).parents[3] / "docs/doctor.md"


def test_the_page_is_the_catalogue() -> None:
    assert PAGE.read_text() == render_page(), "run: make generate"


def test_every_code_has_its_own_heading() -> None:
    headings = [line.removeprefix("## ") for line in PAGE.read_text().splitlines() if line.startswith("## ")]
    assert headings == list(CODES)
